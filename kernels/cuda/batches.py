"""The rows of a training set that one step takes."""

from typing import Any

from numba import cuda

from .launch import THREADS, blocks_for, launch


@cuda.jit
def _gather(source, chosen, columns, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = source[chosen[i // columns] * columns + i % columns]


def rows(source: Any, chosen: Any, out: Any) -> Any:
    """The rows of `source` that chosen[n] names, gathered to `out`; where it is None all of them, as they lie."""
    if chosen is None:
        return source
    gathered = out[: len(chosen)]
    columns = gathered.size // len(chosen)
    launch(_gather, blocks_for(gathered.size), THREADS, source.reshape(-1), chosen, columns, gathered.reshape(-1))
    return gathered
