"""out = a @ b, with either operand stored transposed."""

import numpy as np


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """Write a[n, k] @ b[k, m] to out[n, m]; `transpose_a` says a is stored as [k, n], `transpose_b` b as [m, k]."""
    np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)
