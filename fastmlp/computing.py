"""What computes for a network: its backend, the workspaces, and one call of the kernels at a time."""

import functools
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .buffers import Buffers
from .errors import ShapeError
from .kernels import arrays
from .kernels import backend as backends
from .kernels.contract import EMULATED
from .kernels.gpu_arrays import home_of
from .kernels.network import Network, Optimizer
from .turns import Turns

BLOCK_ELEMENTS = 2**22
"""How many layer outputs predictions and losses hold at a time: 1365 rows of 1024-1024-1024-1024, so that copying each
weight to panels once a block costs little (4096 rows took 5 % longer in blocks of 341, Zen 4; one of 2048 x 3 7 %)."""


def inference_rows(network: Network) -> int:
    """Rows of a workspace for inference."""
    return max(1, min(4096, BLOCK_ELEMENTS // sum(network.widths[1:])))


class Computing:
    """A network on its backend: `MLP` sets its structure, optimiser, buffers and counts, `_use` all the rest."""

    _structure: Network
    _optimizer: Optimizer
    _buffers: Buffers
    _turns: Turns
    _training: Any
    _inference: threading.local
    _direct_step: "_DirectStep"
    _direct_gradients: "_DirectGradients"

    def _chosen(self, backend: str) -> tuple[str, ModuleType]:
        """The backend's name and module, judged."""
        name, module = backends.resolve(backend, self._structure)
        backends.require_dtype(name, self._structure.dtype_name, self._structure.precision)
        structure = self._structure
        if (structure.bfloat16 and module.BFLOAT16 == EMULATED) or (structure.float16 and module.FLOAT16 == EMULATED):
            announce_emulation(name, structure.dtype_name)
        return name, module

    def _use(self, asked: str, name: str, module: ModuleType) -> None:
        """Compute by this backend from now on, in workspaces made when first needed, for inference one a thread."""
        self._buffers.move(module)
        self._backend_asked, self._backend_name, self._backend = asked, name, module
        self._forget_training()
        self._inference = threading.local()

    def _inputs(self, name: str, x: Any) -> Any:
        """Inputs, judged."""
        with self._buffers.device():
            return arrays.as_samples(name, x, self._structure.widths[0], self._structure.dtype, self._buffers.gpu)

    def _samples(self, x: Any, y: Any, prefix: str = "") -> tuple[Any, Any]:
        """Inputs and targets, judged and apart from the parameters in memory; one row at least, to take a mean over."""
        x = self._inputs(prefix + "x", x)
        if len(x) == 0:
            raise ShapeError(f"{prefix}x must hold at least one row; got shape {x.shape}.")
        with self._buffers.device():
            y = arrays.as_target(prefix + "y", y, len(x), self._structure, self._buffers.gpu)
        return self._buffers.apart(x), self._buffers.apart(y)

    def _direct_prediction(self) -> tuple["_Predictor", int, "_Predictor", int, np.dtype]:
        """The backend's `predictor` for this thread; the outputs' width and dtype."""
        try:
            return self._inference.direct
        except AttributeError:
            make = getattr(self._backend, "predictor", None)
            offer = make and make(self._structure, self._buffers.here[0], self._inference_workspace())
            self._inference.direct = (
                *(offer or (no_step, 0, no_step)),
                self._structure.widths[-1],
                self._structure.dtype,
            )
            return self._inference.direct

    def _predict_on_gpu(self, x: Any) -> Any:
        samples, home = self._inputs("x", x), home_of("x", x)
        out = home.new((len(samples), self._structure.widths[-1]), self._structure.dtype)
        self._backend.forward(self._structure, self._buffers.operands()[0], samples, out, self._inference_workspace())
        return home.give(out)

    def _training_workspace(self, rows: int) -> Any:
        if self._training is None or self._training.rows < rows:
            self._forget_training()  # give the old one back before the new one is made
            self._training = self._workspace(rows, True)
        return self._training

    def _forget_training(self) -> None:
        self._training = None
        self._direct_step = self._direct_gradients = _UNBOUND

    def _inference_workspace(self) -> Any:
        """The thread's own, whose buffers no stream uses before those that used them are done."""
        if self._buffers.gpu is not None:
            with self._buffers.device():
                self._inference.stream = self._backend.follow(getattr(self._inference, "stream", None))
        try:
            return self._inference.workspace
        except AttributeError:
            self._inference.workspace = self._workspace(inference_rows(self._structure), False)
            return self._inference.workspace

    def _workspace(self, rows: int, training: bool) -> Any:
        with self._buffers.device():
            return self._backend.Workspace(self._structure, rows, training)

    def _mean_loss(self, x: Any, target: Any) -> float:
        """The loss in blocks of rows, each weighted by its share: every loss is a mean over the samples."""
        workspace, near = self._inference_workspace(), self._buffers.near
        out = self._buffers.room((min(len(x), workspace.rows), self._structure.widths[-1]), self._structure.dtype)
        total = 0.0
        for start in range(0, len(x), workspace.rows):
            rows = near(x[start : start + workspace.rows])
            y = out[: len(rows)]
            self._backend.forward(self._structure, self._buffers.operands()[0], rows, y, workspace)
            share = len(rows) / len(x)
            total += share * self._backend.loss(self._structure, y, near(target[start : start + len(rows)]))
        return total

    def _outputs_and_target(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The outputs for x and what y wants of them, both where the network computes."""
        samples, target = self._samples(x, y)
        out = self._buffers.room((len(samples), self._structure.widths[-1]), self._structure.dtype)
        samples, target = self._buffers.near(samples), self._buffers.near(target)
        self._backend.forward(self._structure, self._buffers.operands()[0], samples, out, self._inference_workspace())
        return out, target

    def _train(self, x: Any, y: Any, order: Any, start: int, batch_size: int, losses: np.ndarray) -> None:
        """Make len(losses) steps, as the backend's `train` says, and count those made, though it may fail.

        An error has the attribute `steps`, as the backend's.
        """
        with self._turns.taken():
            workspace = self._training_workspace(batch_size)
            parameters, state = self._buffers.operands(writes=True)
            made = 0
            try:
                self._backend.train(
                    self._structure, self._optimizer, parameters, state, self._turns.updates, x, y, order, start,
                    batch_size, losses, workspace,
                )  # fmt: skip
                made = len(losses)
            except Exception as error:
                made = getattr(error, "steps", 0)
                raise
            finally:
                self._turns.updates += made
                self._buffers.written()

    def _step_directly(self) -> "_DirectStep":
        """The stepper for the workspace of now."""
        if self._direct_step[1] is self._training:
            return self._direct_step
        return self._stepper(self._optimizer), self._training

    def _gradients_directly(self) -> "_DirectGradients":
        """A function (x, y), for the workspace of now: what `gradients` returns, nothing for a batch to be judged."""
        if self._direct_gradients[1] is self._training:
            return self._direct_gradients
        step = self._stepper(None)
        if step is no_step:
            return no_step, self._training
        return self._structure.gradients_by(step), self._training

    def _stepper(self, rule: Optimizer | None) -> Callable[..., float]:
        """The backend's stepper for the workspace of now; without a rule it is for `gradients`."""
        make = getattr(self._backend, "stepper", None)
        if make is None:
            return no_step
        parameters, state = self._buffers.here
        slots = None if rule is None else state
        return make(self._structure, rule, parameters, slots, self._turns.counts, self._training) or no_step


def no_step(*arguments: Any) -> int:
    """The stepper, or predictor, of a backend without one."""
    return 0


_DirectStep = tuple[Callable[..., float], Any]
"""A backend's stepper, and the workspace that it is for."""

_DirectGradients = tuple[Callable[..., Any], Any]
"""What `_gradients_directly` gives."""

_UNBOUND: _DirectStep = (no_step, None)


_Predictor = Callable[[np.ndarray, np.ndarray], int]


@functools.cache
def announce_emulation(backend: str, dtype: str = "bfloat16") -> None:
    """Warn, once a process for each backend, that this dtype saves no time there."""
    warnings.warn(
        f"dtype {dtype!r} is emulated on backend {backend!r}: operands are rounded to {dtype} and multiplied in "
        f"float32, which is slower than dtype='float32'. It shows how a network trains where {dtype} is fast.",
        RuntimeWarning,
        stacklevel=4,
    )
