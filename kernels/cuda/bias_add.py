"""out = x + b."""

from typing import Any

from numba import cuda

from .launch import THREADS, blocks_for, launch


@cuda.jit
def _bias_add(x, b, out, columns):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = x[i] + b[i % columns]


def bias_add(x: Any, b: Any, out: Any) -> None:
    """Add b[m] to every row of x[n, m]; `out` may be x itself."""
    launch(_bias_add, blocks_for(x.size), THREADS, x.reshape(-1), b, out.reshape(-1), x.shape[1])
