"""out = a @ b, with either operand stored transposed."""

from typing import Any

from numba import cuda

from . import tensor_layer
from .product import product
from .tensor_cores import elements_of_matmul


@cuda.jit(device=True)
def store(value, row, column, extra):
    """The epilogue that writes C and nothing more."""
    extra[0][row, column] = value


def matmul(a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, parts: int = 0) -> None:
    """Write a[n, k] @ b[k, m] to out[n, m]; `transpose_a` says a is stored as [k, n], `transpose_b` b as [m, k].

    `parts`: of that many bfloat16 for each element, 1 rounds them, 2 is precision "high"; 0: of float32 as it is.
    """
    elements = elements_of_matmul(out.shape, a.size, parts)
    if elements is None:
        product(a, b, store, (out,), transpose_a, transpose_b)
    else:
        tensor_layer.matmul(elements, a, b, out, transpose_a, transpose_b)
