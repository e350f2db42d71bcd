"""out = a @ b, with either operand stored transposed."""

import numpy as np

from .rounding import rounded
from .splitting import SplitProducts


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    transpose_a: bool = False,
    transpose_b: bool = False,
    parts: int = 0,
) -> None:
    """Write a[n, k] @ b[k, m] to out[n, m]; `transpose_a` says a is stored as [k, n], `transpose_b` b as [m, k].

    With `parts` of float32 arrays: 1, of a and b rounded (contract.BFLOAT16), 2, of both split (contract.HIGH).
    """
    if parts == 2:
        SplitProducts(a.size, b.size, out.size).matmul(a, b, out, transpose_a, transpose_b)
        return
    if parts == 1:
        a, b = rounded(a), rounded(b)
    np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)
