"""out[n, m] = a[n, k] @ b[k, m], or with a or b stored transposed."""

import numpy as np

from ..contract import OPERATIONS
from .activations import IDENTITY, floor_of
from .compile import called, entry
from .layer import nothing_after, nothing_ahead
from .product import product
from .simd import address_of, int64_at, pointer, pointer_at
from .team import LONG_FLOPS, conducted, members, threads_for
from .workspace import products_for


@entry
def _matmul(
    shared, me, like, zeros, packed, capacity, scratch, n, k, m, a, a_row, a_step, b, b_step, b_transposed, out
):
    product(
        shared, me, n, m, k, pointer_at(a, like), a_row, a_step, pointer_at(b, like), b_step, b_transposed != 0,
        pointer_at(zeros, like), 0, 0, pointer_at(out, like), m, floor_of(IDENTITY, like),
        pointer_at(packed, like), capacity, pointer_at(scratch, like), nothing_ahead, nothing_after, 0,
    )  # fmt: skip


@called
def _matmul_arrays(team, size, entry, job, a, b, out, transpose_a, transpose_b):
    """Complete the job with these arrays and run it; gives how many members it had.

    Python would take a microsecond for each array's address.
    """
    numbers = int64_at(job)
    n, m = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    numbers[4], numbers[5], numbers[6] = n, k, m
    numbers[7], numbers[10], numbers[13] = address_of(pointer(a)), address_of(pointer(b)), address_of(pointer(out))
    numbers[8], numbers[9] = (1, n) if transpose_a else (k, 1)
    numbers[11], numbers[12] = k if transpose_b else m, transpose_b
    return conducted(team, entry, job, size, 2 * n * k * m >= LONG_FLOPS)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """out[n, m] = a @ b; the stored arrays are a[n, k] or a[k, n], b[k, m] or b[m, k]."""
    (n, m), k = out.shape, a.shape[0 if transpose_a else 1]
    threads = threads_for(OPERATIONS["matmul"].flops(n, k, m))
    products = products_for(out.dtype, [(k, m)], threads)
    team, size = members(threads)
    _matmul_arrays(team, size, _matmul.address(out.dtype), products.job_address, a, b, out, transpose_a, transpose_b)
