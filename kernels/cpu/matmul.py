"""out[n, m] = a[n, k] @ b[k, m], or with a or b stored transposed."""

import numpy as np

from ..contract import OPERATIONS
from .activations import IDENTITY, floor_of
from .compile import entry
from .layer import nothing_after, nothing_ahead
from .product import product
from .simd import pointer, pointer_at
from .team import enter, leave, private, run, threads_for
from .workspace import address, products_for


@entry
def _matmul(zeros, packed, scratch, n, k, m, a_address, a_row, a_step, b_address, b_step, b_transposed, out_address,
            shared_array, size, rank):  # fmt: skip
    shared = pointer(shared_array)
    me = private(shared, size, rank)
    if enter(shared, me):
        like = pointer(zeros)
        a, b, out = pointer_at(a_address, like), pointer_at(b_address, like), pointer_at(out_address, like)
        product(
            shared, me, n, m, k, a, a_row, a_step, b, b_step, b_transposed, like, 0, 0, out, m,
            floor_of(IDENTITY, like), pointer(packed), packed.size, pointer(scratch), nothing_ahead, nothing_after, 0,
        )  # fmt: skip
    leave(shared, me)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """out[n, m] = a @ b; the stored arrays are a[n, k] or a[k, n], b[k, m] or b[m, k]."""
    (n, m), k = out.shape, a.shape[0 if transpose_a else 1]
    a_row, a_step = (1, n) if transpose_a else (k, 1)
    products = products_for(out.dtype, [(k, m)])
    arguments = (
        products.zeros, products.packed, products.scratch, n, k, m, address(a), a_row, a_step,
        address(b), k if transpose_b else m, transpose_b, address(out),
    )  # fmt: skip
    run(_matmul, arguments, threads_for(OPERATIONS["matmul"].flops(n, k, m)))
