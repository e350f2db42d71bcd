"""Compile every kernel of the CPU backend now, so that no later call or process waits for it."""

from collections.abc import Callable, Iterator

import numpy as np

from . import kernels
from .kernels.arrays import as_network_dtype
from .kernels.contract import ACTIVATIONS, LOSSES, OPTIMIZERS
from .network import MLP


def warmup(
    dtype: str = "float32", tell: Callable[[str], object] = lambda name: None, *, precision: str = "highest"
) -> None:
    """Compile all kernels for networks of `dtype` and `precision`, and keep them for the next process.

    "bfloat16" shares all but training, prediction and matmul with "float32", and so does precision "high" where its
    operands are split. It takes some ten seconds, or less than one where the kernels have been kept. `tell` is called
    with the name of each group of kernels when its turn comes. Raises ArgumentError for another dtype or precision,
    BackendUnavailable without Numba.
    """
    for name in _stages(as_network_dtype("dtype", dtype), precision):
        tell(name)


def _stages(dtype: str, precision: str) -> Iterator[str]:
    """Let every compiled function do something, by the calls that users make; each group's name comes before it."""
    # A network of narrow layers is trained in another way than one of wide ones, whose operands "high" may split.
    for name, widths in (("training", (256, 256)), ("training of narrow networks", (3, 2))):
        yield name
        net = MLP(widths, dtype=dtype, backend="cpu", precision=precision)
        x, t = np.ones((2, widths[0]), net.dtype), np.ones((2, widths[1]), net.dtype)
        net.train_step(x, t)
        net.gradients(x, t)
        net.predict(x)
        net.predict(x[:1])
    yield "activations"
    for activation in ACTIVATIONS:
        MLP((3, 2, 2), activation, dtype=dtype, backend="cpu").train_step(x, t)
    yield "losses"
    for name, loss in LOSSES.items():
        for ins, outs in ((256, 256), (3, 2)):
            target = np.zeros(2, np.int64) if loss.target == "classes" else np.ones((2, outs), net.dtype)
            MLP((ins, outs), loss=name, dtype=dtype, backend="cpu").train_step(np.ones((2, ins), net.dtype), target)
    net.loss(x, t)
    yield "optimizers"
    for optimizer in OPTIMIZERS:
        MLP(widths, optimizer=optimizer, dtype=dtype, backend="cpu").train_step(x, t)
    yield "prediction"
    net.predict(np.ones((200_000, 3), net.dtype))
    x.flags.writeable = False  # another type to compiled code
    net.predict(x)
    small, row, large = (np.ones(shape, net.dtype) for shape in ((2, 2), 2, (256, 256)))
    yield "matmul"
    kernels.matmul(small, small, backend="cpu")
    kernels.matmul(large, large, backend="cpu")
    if dtype == "bfloat16":
        kernels.matmul(large, large, dtype="bfloat16", backend="cpu")
    if precision == "high":
        kernels.matmul(large, large, precision="high", backend="cpu")
    yield "bias_add"
    kernels.bias_add(small, row, backend="cpu")
    yield "linear_forward"
    kernels.linear_forward(small, small, row, backend="cpu")
    yield "linear_backward_update"
    kernels.linear_backward_update(small, small.copy(), row.copy(), small, small, backend="cpu")
