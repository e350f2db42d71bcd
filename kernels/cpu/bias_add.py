"""out[n, m] = x[n, m] + b[m]."""

import numpy as np

from ..contract import DONE, JUDGED, REFUSED
from .compile import entry
from .direct import (
    PLAIN,
    WRITABLE,
    Operation,
    address,
    data_of,
    direct,
    dtype_of,
    element_size,
    entry_for,
    is_array,
    length_of,
    may_share,
    stack_integers,
)
from .phases import conducted_alone
from .simd import address_of, lanes, load_first, pointer_at, store_first
from .team import run


@entry
def _bias_add(shared, me, like, n, m, x_address, b_address, out_address):
    x, b, out = pointer_at(x_address, like), pointer_at(b_address, like), pointer_at(out_address, like)
    for i in range(n):
        for j in range(0, m, lanes(x)):
            count = min(lanes(x), m - j)
            store_first(out + (i * m + j), load_first(x + (i * m + j), count) + load_first(b + j, count), count)


@direct
def _bias_add_directly(known, arguments, count):
    """(x, b, out) -> REFUSED, JUDGED or DONE, as matmul's; out may be x itself."""
    x, b, out = arguments[0], arguments[1], arguments[2]
    size, dtype = element_size(known, x), dtype_of(known, x)
    if size == 0:
        return REFUSED
    if not (is_array(known, x, dtype, 2, PLAIN) and is_array(known, b, dtype, 1, PLAIN)):
        return REFUSED
    if not is_array(known, out, dtype, 2, WRITABLE):
        return REFUSED
    n, m = length_of(x, 0), length_of(x, 1)
    if length_of(b, 0) != m or length_of(out, 0) != n or length_of(out, 1) != m:
        return REFUSED
    is_in_place = data_of(out) == data_of(x)
    if may_share(out, n * m * size, b, m * size) or (not is_in_place and may_share(out, n * m * size, x, n * m * size)):
        return REFUSED
    entry = entry_for(known, size)
    if entry == 0:
        return JUDGED
    job = stack_integers(5)
    job[0], job[1], job[2], job[3], job[4] = n, m, data_of(x), data_of(b), data_of(out)
    conducted_alone(entry, address_of(job), n * m)
    return DONE


directly = Operation(_bias_add_directly)
"""(x, b, out)."""


def bias_add(x: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out[n, m] = x[n, m] + b[m]; out may be x itself. One thread: it runs at memory speed."""
    run(_bias_add, out.dtype, (*x.shape, address(x), address(b), address(out)), 0)
    directly.learn(_bias_add, out.dtype)
