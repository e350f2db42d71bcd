"""A scikit-learn MLP's parameters in fastmlp's flat buffer, and its minibatch steps and predictions on our kernels."""

import operator
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..computing import announce_emulation, inference_rows
from ..kernels import backend as backends
from ..kernels.contract import ACTIVATIONS as OURS
from ..kernels.contract import EMULATED
from ..kernels.network import Network, Optimizer, aligned_zeros, new_array
from ..network import MLP
from ..turns import Turns
from .controls import backend_name, threads

ACTIVATIONS = {"logistic": "sigmoid"} | {name: name for name in OURS}
"""Names of hidden activations, scikit-learn's and ours, and by which of ours they run."""

LOSSES = {"softmax": "log_loss", "logistic": "binary_log_loss", "identity": "half_mse", "exp": "half_mse"}
"""By scikit-learn's output activation: what our kernels train. Their network ends in logits.

"exp", of the Poisson loss, is trained layer by layer (layerwise.py), where this loss is not asked for.
"""


class Engine:
    """One network's parameters, optimiser state and workspaces; `coefs` and `intercepts` are live views.

    An estimator whose `coefs_` and `intercepts_` are these views may be run by it; assigning others leaves it behind.
    """

    def __init__(
        self,
        activations: Sequence[str],
        out_activation: str,
        coefs: list[np.ndarray],
        intercepts: list[np.ndarray],
        bfloat16: bool = False,
    ):
        """Copies the parameters. `activations`, one a hidden layer, and `out_activation` are scikit-learn's names.

        With `bfloat16`, for float32 parameters, products round their operands, as contract.BFLOAT16 says.

        Raises BackendUnavailable or ArgumentError for a FASTMLP_BACKEND that cannot run here or is unknown.
        """
        name, self._backend = backends.resolve(backend_name())
        if bfloat16:
            backends.require_dtype(name, "bfloat16")
            if self._backend.BFLOAT16 == EMULATED:
                announce_emulation(name)
        widths = (coefs[0].shape[0], *(len(b) for b in intercepts))
        names = (*(ACTIVATIONS[activation] for activation in activations), "identity")
        self.network = Network(widths, names, LOSSES[out_activation], coefs[0].dtype, bfloat16)
        self.parameters = aligned_zeros(self.network.size, self.network.dtype)
        self.coefs = self.network.weights(self.parameters)
        self.intercepts = self.network.biases(self.parameters)
        self.assign(coefs, intercepts)
        self._state: np.ndarray | None = None
        self._slots: list[list[np.ndarray]] = []
        self._training: Any = None
        self._turns = Turns()
        self._inference = threading.local()

    def runs(self, activations: Sequence[str], bfloat16: bool) -> bool:
        """Whether the hidden layers have these activations, by scikit-learn's names, and products that round so."""
        names = self.network.activations[:-1]
        return names == tuple(ACTIVATIONS[name] for name in activations) and self.network.bfloat16 == bfloat16

    def owns(self, coefs: list[np.ndarray], intercepts: list[np.ndarray]) -> bool:
        """Whether these are this engine's own views, so that its buffer holds what they hold."""
        return _same([*coefs, *intercepts], [*self.coefs, *self.intercepts])

    def assign(self, coefs: list[np.ndarray], intercepts: list[np.ndarray]) -> None:
        """Copy these to the parameters. Raises ValueError unless they have the parameters' shapes."""
        views, values = [*self.coefs, *self.intercepts], [*coefs, *intercepts]
        ours, theirs = [view.shape for view in views], [np.shape(value) for value in values]
        if ours != theirs:
            raise ValueError(f"coefs_ and intercepts_ must have shapes {ours}, layer by layer; got {theirs}.")
        for view, value in zip(views, values, strict=True):
            view[...] = value

    def remember(self, slots: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """Take over the optimiser's memory, for each slot an array a parameter; gives it back as live views."""
        held = [view for slot in self._slots for view in slot]
        if not _same(held, [array for slot in slots for array in slot]):
            rule = Optimizer("adam" if len(slots) == 2 else "momentum")
            self._state = rule.new_state(self.network.size, self.network.dtype)
            self._slots = [[*self.network.weights(slot), *self.network.biases(slot)] for slot in self._state]
            for views, values in zip(self._slots, slots, strict=True):
                for view, value in zip(views, values, strict=True):
                    view[...] = value
        return self._slots

    @property
    def backend(self) -> Any:
        """The backend's module."""
        return self._backend

    def samples(self, X: np.ndarray, target: np.ndarray) -> tuple[Any, Any, float]:
        """X[n, k] and scikit-learn's target[n, m] as and where the kernels take them, for a fit to hand over.

        And the share of the kernels' loss that is scikit-learn's: its squared error is the mean over the outputs too,
        its gradient is not.
        """
        network = self.network
        if network.loss == "log_loss":
            target = target.argmax(axis=1)
        arrays = (
            np.ascontiguousarray(X, network.dtype),
            np.ascontiguousarray(target, target.dtype if target.ndim == 1 else network.dtype),
        )
        resident = getattr(self._backend, "resident", None)
        x, target = arrays if resident is None else map(resident, arrays)
        return x, target, 1 / network.widths[-1] if network.loss == "half_mse" else 1.0

    def train(
        self,
        optimizer: Optimizer,
        updates: int,
        x: Any,
        target: Any,
        order: np.ndarray,
        start: int,
        batch_size: int,
        losses: np.ndarray,
        penalties: np.ndarray | None,
    ) -> None:
        """len(losses) steps through the rows `order` of x and target; writes losses, and apart from them L2's part.

        As kernels/README.md says of `train`: with `penalties`, L2 is shared out among the rows of a batch.
        """
        with self._turns.taken():
            self._backend.train(
                self.network, optimizer, self.parameters, self._state, updates, x, target, order, start, batch_size,
                losses, self._workspace(batch_size), penalties,
            )  # fmt: skip

    def gradients(self, x: Any, target: Any, gradient: np.ndarray) -> float:
        """J of all rows of x and target, and its gradient without L2's part, to `gradient` as `parameters` lie."""
        with self._turns.taken():
            return self._backend.gradients(self.network, self.parameters, x, target, gradient, self._workspace(len(x)))

    def _workspace(self, rows: int) -> Any:
        if self._training is None or self._training.rows < rows:
            self._training = None
            self._training = self._backend.Workspace(self.network, rows, True)
        return self._training

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The last layer's outputs[n, m] before its activation, for C-contiguous x[n, k] of the network's dtype."""
        try:
            workspace = self._inference.workspace
        except AttributeError:
            workspace = self._backend.Workspace(self.network, inference_rows(self.network), False)
            self._inference.workspace = workspace
        out = new_array((len(x), self.network.widths[-1]), self.network.dtype)
        with threads():
            self._backend.forward(self.network, self.parameters, x, out, workspace)
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as it stands as a checkpoint that fastmlp.MLP.load reads; see `MLP.save`.

        It predicts what comes before the output activation, and its optimiser begins anew.
        """
        network = self.network
        net = MLP(network.widths, network.activations, loss=network.loss, dtype=network.dtype_name)
        net.parameters[...] = self.parameters
        net.save(path)


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Whether two lists hold the same objects."""
    return len(a) == len(b) and all(map(operator.is_, a, b))
