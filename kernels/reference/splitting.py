"""Products of precision "high", of operands split in two bfloat16, as contract.HIGH defines them."""

import numpy as np

from ..network import Network, aligned_zeros
from .blocks import blocks
from .rounding import round_bfloat16

_UPPER_HALF = np.uint32(0xFFFF0000)


def split(x: np.ndarray, high: np.ndarray, low: np.ndarray) -> None:
    """Write both parts of each float32 of x to the float32 arrays `high` and `low`; all C-contiguous, of one shape."""
    for x_, high_, low_ in blocks(x, high, low):
        round_bfloat16(x_, high_)
        toward_zero = (x_.view(np.uint32) & _UPPER_HALF).view(np.float32)
        np.copyto(high_, toward_zero, where=np.isinf(high_) & np.isfinite(x_))
        np.subtract(x_, high_, out=low_)
        np.copyto(low_, 0, where=np.isnan(low_))
        round_bfloat16(low_, low_)


class SplitProducts:
    """Room for the parts of a product's operands, and the product."""

    def __init__(self, a_size: int, b_size: int, out_size: int):
        """Elements of the largest operands and of the largest result."""
        self._a, self._b = aligned_zeros((2, a_size), np.float32), aligned_zeros((2, b_size), np.float32)
        self._term = aligned_zeros(out_size, np.float32)
        self.nbytes = self._a.nbytes + self._b.nbytes + self._term.nbytes

    def matmul(
        self, a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool = False, transpose_b: bool = False
    ) -> None:
        """As matmul.matmul, of the parts of a and b."""
        a_high, a_low = (room[: a.size].reshape(a.shape) for room in self._a)
        b_high, b_low = (room[: b.size].reshape(b.shape) for room in self._b)
        split(a, a_high, a_low)
        split(b, b_high, b_low)
        if transpose_a:
            a_high, a_low = a_high.T, a_low.T
        if transpose_b:
            b_high, b_low = b_high.T, b_low.T
        term = self._term[: out.size].reshape(out.shape)
        np.matmul(a_high, b_high, out=out)
        for left, right in ((a_high, b_low), (a_low, b_high)):
            np.matmul(left, right, out=term)
            np.add(out, term, out=out)
        finite = np.isfinite(out)
        if not finite.all():
            np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=term)
            np.copyto(out, term, where=~finite)


def products_of(network: Network, rows: int, training: bool) -> SplitProducts:
    """Room for all the products of a network on up to `rows` rows."""
    return SplitProducts(*largest_operands(network, rows, training))


def largest_operands(network: Network, rows: int, training: bool) -> tuple[int, int, int]:
    """Elements of the largest first and second operand, and result, of a network's products on up to `rows` rows."""
    pairs = [(layer.inputs, layer.outputs) for layer in network.layers]
    weights = max(k * m for k, m in pairs)
    inputs, outputs = (rows * max(sizes) for sizes in zip(*pairs, strict=True))
    if not training:
        return inputs, weights, outputs
    widest = max(inputs, outputs)
    return widest, max(weights, outputs), max(weights, widest)
