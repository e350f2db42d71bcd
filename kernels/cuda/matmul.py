"""out = a @ b, with either operand stored transposed."""

from typing import Any

from numba import cuda

from .product import product


@cuda.jit(device=True)
def store(value, row, column, extra):
    """The epilogue that writes C and nothing more."""
    extra[0][row, column] = value


def matmul(a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """Write a[n, k] @ b[k, m] to out[n, m]; `transpose_a` says a is stored as [k, n], `transpose_b` b as [m, k]."""
    product(a, b, store, (out,), transpose_a, transpose_b)
