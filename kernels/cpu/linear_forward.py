"""y[n, m] = activation(z), z = x[n, k] @ w[k, m] + b[m], in one pass over y."""

import numpy as np

from ..contract import ACTIVATIONS, OPERATIONS
from .compile import entry
from .direct import address
from .layer import forward_layer
from .packing import Shape
from .simd import pointer_at
from .team import run
from .workspace import products_for


@entry
def _linear_forward(shared, me, like, zeros, packed, capacity, scratch, n, k, m, x, w, b, y, z, activation):
    forward_layer(
        shared, me, n, k, m, pointer_at(x, like), pointer_at(w, like), pointer_at(b, like), pointer_at(y, like), None,
        None, pointer_at(z, like), z != 0, activation, pointer_at(packed, like), capacity, pointer_at(scratch, like),
    )  # fmt: skip


def linear_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, z: np.ndarray | None, activation: str
) -> None:
    """y[n, m] = activation(x @ w + b); the sum itself is written to z[n, m] if it is not None."""
    (n, k), m = x.shape, w.shape[1]
    flops = OPERATIONS["linear_forward"].flops(n, k, m)
    products = products_for(y.dtype, [Shape(n, k, m)], flops)
    job = (
        *products.addresses, n, k, m, address(x), address(w), address(b), address(y),
        0 if z is None else address(z), ACTIVATIONS[activation].code,
    )  # fmt: skip
    run(_linear_forward, y.dtype, job, flops, most=products.threads)
