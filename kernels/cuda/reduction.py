"""Sums of float64 terms in a fixed order: the same bits on every run.

Thread t of a grid of T threads adds the terms t, t + T, ...; a block's threads are added as a tree, the blocks' sums by
the same kernel once more. The grid is chosen by the number of terms alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda, float64

from .elementary import SIMULATED
from .launch import THREADS, launch
from .memory import empty

BLOCKS = 2 if SIMULATED else 256
"""Blocks of the first pass at most, and length of the array of their sums."""


@functools.cache
def _sum_kernel(term: Any) -> Any:
    threads = THREADS

    @cuda.jit
    def kernel(count, extra, divisor, sums, place):
        shared = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        total = 0.0
        for i in range(cuda.grid(1), count, cuda.gridsize(1)):
            total += term(i, extra)
        shared[thread] = total
        cuda.syncthreads()
        width = threads // 2
        while width > 0:
            if thread < width:
                shared[thread] += shared[thread + width]
            cuda.syncthreads()
            width //= 2
        if thread == 0:
            sums[place + cuda.blockIdx.x] = shared[0] / divisor

    return kernel


@cuda.jit(device=True)
def _partial(i, extra):
    return extra[0][i]


@cuda.jit(device=True)
def _scaled_square(i, extra):
    values, scale = extra
    return scale * (float64(values[i]) * float64(values[i]))


def partial_sums() -> Any:
    """The array that `mean` needs beside its arguments."""
    return empty(BLOCKS, np.dtype(float))


def mean(term: Any, count: int, extra: tuple[Any, ...], divisor: float, partials: Any, out: Any, place: int) -> None:
    """Write the sum of term(i, extra) over i < count, divided by `divisor`, to out[place], a float64 array."""
    blocks = min(BLOCKS, -(-count // THREADS))
    launch(_sum_kernel(term), blocks, THREADS, count, extra, 1.0, partials, 0)
    launch(_sum_kernel(_partial), 1, THREADS, blocks, (partials,), float(divisor), out, place)


def sum_of_squares(arrays: Sequence[Any], scale: float, partials: Any, sums: Any, out: Any, place: int) -> None:
    """Write `scale` times the sum of all squared elements to out[place]; sums[len(arrays)] is overwritten."""
    for i, array in enumerate(arrays):
        mean(_scaled_square, array.size, (array.reshape(-1), float(scale)), 1.0, partials, sums, i)
    mean(_partial, len(arrays), (sums,), 1.0, partials, out, place)
