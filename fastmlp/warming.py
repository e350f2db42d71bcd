"""Compile every kernel of the CPU backend now, so that no later call or process waits for it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import kernels
from .kernels.arrays import as_dtype
from .network import MLP


def calls(dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Something for every compiled function to do, with its name: what users call, on as little as possible."""
    # A network of narrow layers is trained in another way than one of wide ones.
    for name, widths in (("training", (80, 80)), ("training of narrow networks", (3, 2))):
        net = MLP(widths, dtype=dtype, backend="cpu")
        x, t = np.ones((2, widths[0]), dtype), np.ones((2, widths[1]), dtype)
        yield name, lambda net=net, x=x, t=t: (net.train_step(x, t), net.gradients(x, t))
    yield "prediction", lambda: (net.predict(x), net.predict(np.ones((100_000, 3), dtype)))
    yield "losses", lambda: net.loss(x, t)
    square, row, large = np.ones((2, 2), dtype), np.ones(2, dtype), np.ones((256, 256), dtype)
    yield "matmul", lambda: (kernels.matmul(square, square, backend="cpu"), kernels.matmul(large, large, backend="cpu"))
    yield "bias_add", lambda: kernels.bias_add(square, row, backend="cpu")
    yield "linear_forward", lambda: kernels.linear_forward(square, square, row, backend="cpu")
    yield (
        "linear_backward_update",
        lambda: kernels.linear_backward_update(square, square.copy(), row.copy(), square, square, backend="cpu"),
    )


def warmup(dtype: str = "float32", tell: Callable[[str], object] = lambda name: None) -> None:
    """Compile all kernels for elements of `dtype`, "float32" or "float64", and keep them for the next process.

    It takes some ten seconds, or less than one where the kernels have been kept. `tell` is called with the name of each
    group of kernels when its turn comes. Raises ArgumentError for another dtype, BackendUnavailable without Numba.
    """
    for name, call in calls(as_dtype("dtype", dtype).name):
        tell(name)
        call()
