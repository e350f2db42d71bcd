"""A scikit-learn MLP's parameters in fastmlp's flat buffer, and its minibatch steps and predictions on our kernels."""

import operator
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..kernels import backend as backends
from ..kernels.cores import get_num_threads, num_threads
from ..kernels.network import Network, Optimizer, aligned_zeros, new_array

ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
"""scikit-learn's names of hidden activations, and ours."""

LOSSES = {"softmax": "log_loss", "logistic": "binary_log_loss", "identity": "half_mse"}
"""By scikit-learn's output activation: what our kernels train. Their network ends in logits."""

BLOCK_ELEMENTS = 2**20
"""How many layer outputs a prediction holds at a time."""


def backend_name() -> str:
    """The backend asked for by FASTMLP_BACKEND: "cpu", "numpy", "cuda", or "auto", as by default."""
    return os.environ.get("FASTMLP_BACKEND") or "auto"


def threads() -> AbstractContextManager[None]:
    """Within the block take no more threads than OMP_NUM_THREADS grants, unless FASTMLP_NUM_THREADS says how many.

    scikit-learn keeps to that variable, by which joblib shares the cores among the processes that it starts.
    """
    granted = os.environ.get("OMP_NUM_THREADS", "")
    if os.environ.get("FASTMLP_NUM_THREADS") or not granted.isdecimal() or int(granted) < 1:
        return nullcontext()
    return num_threads(min(int(granted), get_num_threads()))


class Engine:
    """One network's parameters, optimiser state and workspaces; `coefs` and `intercepts` are live views.

    An estimator whose `coefs_` and `intercepts_` are these views may be run by it; assigning others leaves it behind.
    """

    def __init__(self, activation: str, out_activation: str, coefs: list[np.ndarray], intercepts: list[np.ndarray]):
        """Copies the parameters. `activation` and `out_activation` are scikit-learn's names.

        Raises BackendUnavailable or ArgumentError for a FASTMLP_BACKEND that cannot run here or is unknown.
        """
        _, self._backend = backends.resolve(backend_name())
        widths = (coefs[0].shape[0], *(len(b) for b in intercepts))
        activations = (*[ACTIVATIONS[activation]] * (len(coefs) - 1), "identity")
        self.network = Network(widths, activations, LOSSES[out_activation], coefs[0].dtype)
        self._parameters = aligned_zeros(self.network.size, self.network.dtype)
        self.coefs = self.network.weights(self._parameters)
        self.intercepts = self.network.biases(self._parameters)
        for view, value in zip([*self.coefs, *self.intercepts], [*coefs, *intercepts], strict=True):
            view[...] = value
        self._state: np.ndarray | None = None
        self._slots: list[list[np.ndarray]] = []
        self._training: Any = None
        self._inference = threading.local()
        self._loss = np.zeros(1)

    def owns(self, coefs: list[np.ndarray], intercepts: list[np.ndarray]) -> bool:
        """Whether these are this engine's own views, so that its buffer holds what they hold."""
        return _same([*coefs, *intercepts], [*self.coefs, *self.intercepts])

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

    def train_step(
        self,
        optimizer: Optimizer,
        updates: int,
        x: np.ndarray,
        target: np.ndarray,
        order: np.ndarray,
        first: int,
        n: int,
    ) -> float:
        """One update from rows order[first : first + n] of x and target; the loss before it, without the L2 penalty."""
        if self._training is None or self._training.rows < n:
            self._training = None
            self._training = self._backend.Workspace(self.network, n, True)
        self._backend.train(
            self.network, optimizer, self._parameters, self._state, updates, x, target, order, first, n,
            self._loss, self._training,
        )  # fmt: skip
        return float(self._loss[0])

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The last layer's outputs[n, m] before its activation, for C-contiguous x[n, k] of the network's dtype."""
        try:
            workspace = self._inference.workspace
        except AttributeError:
            rows = max(1, min(4096, BLOCK_ELEMENTS // sum(self.network.widths[1:])))
            workspace = self._inference.workspace = self._backend.Workspace(self.network, rows, False)
        out = new_array((len(x), self.network.widths[-1]), self.network.dtype)
        with threads():
            self._backend.forward(self.network, self._parameters, x, out, workspace)
        return out


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Whether two lists hold the same objects."""
    return len(a) == len(b) and all(map(operator.is_, a, b))
