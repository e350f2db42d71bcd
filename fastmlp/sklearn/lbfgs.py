"""scikit-learn's L-BFGS: the loss and its gradient by our kernels, every decision by SciPy's code as there."""

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

from ..kernels.network import Optimizer, aligned_zeros
from .engine import Engine
from .layerwise import Layers, loss_name


class Objective:
    """J of all samples, L2's part included, and its gradient, as functions of a network's parameters."""

    def __init__(
        self,
        activations: Sequence[str],
        out_activation: str,
        loss: str,
        alpha: float,
        X: np.ndarray,
        target: np.ndarray,
        sample_weight: np.ndarray | None,
    ) -> None:
        """`activations`, one a hidden layer, `out_activation` and `loss` are scikit-learn's names."""
        self._names, self._out_activation, self._loss = activations, out_activation, loss
        self._alpha, self._data, self._weights = alpha, (X, target), sample_weight
        self._way: _Way | None = None

    def __call__(self, coefs: list[np.ndarray], intercepts: list[np.ndarray]) -> tuple[float, np.ndarray]:
        """J, and its gradient in one array: that of the coefficients, layer by layer, then of the intercepts.

        All is computed in the parameters' dtype, which SciPy chooses, and not every version of it alike.
        """
        if self._way is None or self._way.engine.network.dtype != coefs[0].dtype:
            engine = Engine(self._names, self._out_activation, coefs, intercepts)
            if self._weights is None and self._out_activation != "exp":
                self._way = _Whole(engine, self._alpha, *self._data)
            else:
                loss = loss_name(self._loss, self._out_activation)
                self._way = _ByLayers(engine, self._alpha, *self._data, self._weights, loss, self._out_activation)
        else:
            self._way.engine.assign(coefs, intercepts)
        return self._way.evaluate()


class _Way(ABC):
    """A way to compute the objective at its engine's parameters."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def evaluate(self) -> tuple[float, np.ndarray]:
        """J and its gradient, in one array."""


class _Whole(_Way):
    """In one compiled call, where every sample counts alike."""

    def __init__(self, engine: Engine, alpha: float, X: np.ndarray, target: np.ndarray) -> None:
        super().__init__(engine)
        network = engine.network
        self._x, self._target, self._share = engine.samples(X, target)
        self._l2 = network.dtype.type(alpha / len(X))
        self._gradient = aligned_zeros(network.size, network.dtype)
        self._coefs, self._intercepts = network.weights(self._gradient), network.biases(self._gradient)

    def evaluate(self) -> tuple[float, np.ndarray]:
        loss = self._share * self.engine.gradients(self._x, self._target, self._gradient)
        for w, dw in zip(self.engine.coefs, self._coefs, strict=True):
            loss += float(self._l2) / 2 * float(np.vdot(w, w))
            dw += self._l2 * w
        return loss, _packed([*self._coefs, *self._intercepts])


class _ByLayers(_Way):
    """Layer by layer, with weights of samples or the Poisson loss: minus the velocity of a step of rate 1."""

    def __init__(
        self,
        engine: Engine,
        alpha: float,
        X: np.ndarray,
        target: np.ndarray,
        sample_weight: np.ndarray | None,
        loss: str,
        out_activation: str,
    ) -> None:
        super().__init__(engine)
        dtype = engine.network.dtype
        self._x, self._target = np.ascontiguousarray(X, dtype), np.ascontiguousarray(target, dtype)
        self._weights, self._total = sample_weight, float(len(X) if sample_weight is None else sample_weight.sum())
        self._rule = Optimizer("momentum", learning_rate=1.0, l2=alpha / (self._total or 1.0), momentum=0.0)
        self._layers = Layers(engine, 1, len(X), loss, out_activation)

    def evaluate(self) -> tuple[float, np.ndarray]:
        (velocities,) = self._layers.memory
        for velocity in velocities:
            velocity[...] = 0  # momentum 0 forgets any number but what was not finite
        loss = self._layers.step(self._x, self._target, self._weights, self._total, self._rule, 1, True)
        return loss, -_packed(velocities)


def _packed(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])


_controller = functools.cache(ThreadpoolController)
_limited = threading.Lock()


@contextmanager
def one_threaded_blas() -> Iterator[None]:
    """A context in which this process's BLAS computes on one thread, as in scikit-learn's KMeans.

    SciPy's steps work on a few vectors as long as the parameters: two threads of OpenBLAS took ten times as long for
    those of 40,000 as one (Zen 5, two virtual cores), and kept the cores from our kernels. The limit is the whole
    process's and has to be lifted by the thread that set it, so where another one is inside nothing is done.
    """
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limited.release()
