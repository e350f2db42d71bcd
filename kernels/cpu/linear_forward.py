"""y[n, m] = activation(z), z = x[n, k] @ w[k, m] + b[m], in one pass over y."""

import numpy as np

from ..contract import ACTIVATIONS, DONE, JUDGED, OPERATIONS, REFUSED
from .activations import way_of
from .compile import entry, jit
from .direct import (
    ENTRIES,
    PLAIN,
    WRITABLE,
    Operation,
    address,
    data_of,
    direct,
    dtype_of,
    element_size,
    entry_for,
    integer_of,
    is_array,
    length_of,
    may_share,
    stack_integers,
)
from .layer import forward_layer
from .packing import Shape
from .phases import conducted_alone
from .simd import address_of, pointer_at
from .team import PARALLEL_FLOPS, conduct_by
from .workspace import products_for


@entry
def _linear_forward(shared, me, like, zeros, packed, capacity, scratch, n, k, m, x, w, b, y, z, activation):
    forward_layer(
        shared, me, n, k, m, pointer_at(x, like), pointer_at(w, like), pointer_at(b, like), pointer_at(y, like), None,
        None, pointer_at(z, like), z != 0, activation, pointer_at(packed, like), capacity, pointer_at(scratch, like),
    )  # fmt: skip


WAYS, UNKNOWN = ENTRIES + 2, -1
"""Where a direct function's table has the ways of all activations for float32, and then for float64."""

_CODES = len(ACTIVATIONS)


@jit
def _way_place(size, code):
    """Where it has that of the activation with this code, for elements of this size."""
    return WAYS + size // 8 * _CODES + code


@direct
def _linear_forward_directly(known, arguments, count):
    """(x, w, b, out, the activation's code) -> REFUSED, JUDGED or DONE, as matmul's: layers that one thread does.

    It knows the ways of the activations that were asked for before.
    """
    x, w, b, out = arguments[0], arguments[1], arguments[2], arguments[3]
    size, dtype = element_size(known, x), dtype_of(known, x)
    if size == 0:
        return REFUSED
    if not (is_array(known, x, dtype, 2, PLAIN) and is_array(known, w, dtype, 2, PLAIN)):
        return REFUSED
    if not (is_array(known, b, dtype, 1, PLAIN) and is_array(known, out, dtype, 2, WRITABLE)):
        return REFUSED
    n, k, m = length_of(x, 0), length_of(x, 1), length_of(b, 0)
    if length_of(w, 0) != k or length_of(w, 1) != m or length_of(out, 0) != n or length_of(out, 1) != m:
        return REFUSED
    written = n * m * size
    if may_share(out, written, x, n * k * size) or may_share(out, written, w, k * m * size):
        return REFUSED
    if may_share(out, written, b, m * size):
        return REFUSED
    flops = 2 * n * k * m
    entry, way = entry_for(known, size), known[_way_place(size, integer_of(arguments[4]))]
    if entry == 0 or way == UNKNOWN or flops >= PARALLEL_FLOPS:
        return JUDGED
    job = stack_integers(13)
    # No zeros, for sums start from b; no room for copies and no scratch, for which there is too little work.
    job[0], job[1], job[2], job[3] = 0, 0, 0, 0
    job[4], job[5], job[6] = n, k, m
    job[7], job[8], job[9], job[10] = data_of(x), data_of(w), data_of(b), data_of(out)
    job[11], job[12] = 0, way
    conducted_alone(entry, address_of(job), flops)
    return DONE


directly = Operation(_linear_forward_directly, *[UNKNOWN] * (2 * _CODES))
"""(x, w, b, out, code)."""


def linear_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, z: np.ndarray | None, activation: str
) -> None:
    """y[n, m] = activation(x @ w + b); the sum itself is written to z[n, m] if it is not None."""
    (n, k), m = x.shape, w.shape[1]
    flops, way = OPERATIONS["linear_forward"].flops(n, k, m), way_of(activation, y.dtype)
    products, crew = products_for(y.dtype, [Shape(k, m)], flops)
    job = (
        *products.addresses, n, k, m, address(x), address(w), address(b), address(y),
        0 if z is None else address(z), way,
    )  # fmt: skip
    conduct_by(crew, _linear_forward.address(y.dtype), job, flops)
    directly.learn(_linear_forward, y.dtype)
    directly.write(_way_place.py_func(y.dtype.itemsize, ACTIVATIONS[activation].code), way)
