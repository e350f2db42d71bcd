"""out[n, m] = x[n, m] + b[m]."""

import numpy as np

from .compile import entry
from .direct import address
from .simd import lanes, load_first, pointer_at, store_first
from .team import run


@entry
def _bias_add(shared, me, like, n, m, x_address, b_address, out_address):
    x, b, out = pointer_at(x_address, like), pointer_at(b_address, like), pointer_at(out_address, like)
    for i in range(n):
        for j in range(0, m, lanes(x)):
            count = min(lanes(x), m - j)
            store_first(out + (i * m + j), load_first(x + (i * m + j), count) + load_first(b + j, count), count)


def bias_add(x: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """out[n, m] = x[n, m] + b[m]; out may be x itself. One thread: it runs at memory speed."""
    run(_bias_add, out.dtype, (*x.shape, address(x), address(b), address(out)), 0)
