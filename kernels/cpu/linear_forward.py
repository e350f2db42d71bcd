"""y[n, m] = activation(z), z = x[n, k] @ w[k, m] + b[m], in one pass over y."""

import numpy as np

from ..contract import ACTIVATIONS, OPERATIONS
from .compile import entry
from .layer import forward_layer
from .simd import pointer, pointer_at
from .team import enter, leave, private, run, threads_for
from .workspace import address, products_for


@entry
def _linear_forward(zeros, packed, scratch, n, k, m, x, w, b, y, z, activation, shared_array, size, rank):
    shared = pointer(shared_array)
    me = private(shared, size, rank)
    if enter(shared, me):
        like = pointer(zeros)
        forward_layer(
            shared, me, n, k, m, pointer_at(x, like), pointer_at(w, like), pointer_at(b, like), pointer_at(y, like),
            pointer_at(z, like), z != 0, activation, pointer(packed), packed.size, pointer(scratch),
        )  # fmt: skip
    leave(shared, me)


def linear_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, z: np.ndarray | None, activation: str
) -> None:
    """y[n, m] = activation(x @ w + b); the sum itself is written to z[n, m] if it is not None."""
    (n, k), m = x.shape, w.shape[1]
    products = products_for(y.dtype, [(k, m)])
    arguments = (
        products.zeros, products.packed, products.scratch, n, k, m, address(x), address(w), address(b), address(y),
        0 if z is None else address(z), ACTIVATIONS[activation].code,
    )  # fmt: skip
    run(_linear_forward, arguments, threads_for(OPERATIONS["linear_forward"].flops(n, k, m)))
