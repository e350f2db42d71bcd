"""Products of a network of dtype float16, of operands rounded to that, as contract.FLOAT16 defines them."""

import numpy as np

from ..network import Network, aligned_zeros
from .matmul import matmul
from .rounding import round_float16
from .splitting import largest_operands


class HalfProducts:
    """Room for the rounded operands of a network's products on up to `rows` rows, and the product."""

    def __init__(self, network: Network, rows: int, training: bool):
        self._scale = network.delta_scale
        a_size, b_size, _ = largest_operands(network, rows, training)
        self._a, self._b = aligned_zeros(a_size, np.float32), aligned_zeros(b_size, np.float32)
        self.nbytes = self._a.nbytes + self._b.nbytes

    def matmul(
        self, a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool = False, transpose_b: bool = False
    ) -> None:
        """As matmul.matmul, of a and b rounded: x and w, or dz and w (transpose_b), or x and dz (transpose_a)."""
        a_, b_ = (room[: each.size].reshape(each.shape) for room, each in ((self._a, a), (self._b, b)))
        scale = self._scale(len(a)) if transpose_a or transpose_b else 1.0
        round_float16(a, scale if transpose_b else 1.0, a_)
        round_float16(b, scale if transpose_a else 1.0, b_)
        matmul(a_, b_, out, transpose_a, transpose_b)
        if scale != 1.0:
            np.divide(out, np.float32(scale), out=out)
