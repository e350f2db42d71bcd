"""C = A B by tiles in shared memory: the one routine behind every dense operation.

A block computes a square tile of C, each thread `each` x `each` elements of it in registers, strided so that
neighbouring threads read and write neighbouring columns. Tails are masked: elements beyond A and B count as zero along
the sum, those beyond C are not written. What follows a product is an epilogue: a device function of one finished
element, so that bias, activation, derivative and optimiser cost no pass of their own over memory.

Every element is summed by one thread in ascending order, in stretches of SUMMED that are then added up, which keeps the
rounding error at that of blocked sums: the same bits on every run and in every grid.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, from_dtype

from .elementary import SIMULATED
from .launch import launch


class Tile(NamedTuple):
    """threads x threads threads, each with each x each elements of C, and `depth` steps of the sum at a time."""

    threads: int
    each: int
    depth: int


TILE = Tile(2, 2, 3) if SIMULATED else Tile(16, 4, 16)
"""Small in the simulator, which takes a Python thread for each thread of a block."""

SUMMED = (2 if SIMULATED else 16) * TILE.depth
"""Steps of the sum after which a partial sum is added to the total."""


@functools.cache
def product_kernel(dtype: np.dtype, transpose_a: bool, transpose_b: bool, ones_row: bool, epilogue: Any) -> Any:
    """The kernel (a, b, rows, length, columns, extra) of one kind of product.

    ones_row: A has a last row of ones that is not stored, so that C's last row holds the sums of B's columns.
    epilogue: (value, row, column, extra) -> None, for every element of C.
    """
    threads, each, depth = TILE
    edge, block, summed = threads * each, threads * threads, SUMMED
    element = from_dtype(dtype)
    zero, one = dtype.type(0), dtype.type(1)
    a_shape, b_shape, held = (depth, edge + 1), (depth, edge), each * each

    @cuda.jit
    def kernel(a, b, rows, length, columns, extra):
        a_tile = cuda.shared.array(a_shape, element)
        b_tile = cuda.shared.array(b_shape, element)
        partial = cuda.local.array(held, element)
        total = cuda.local.array(held, element)
        thread = cuda.threadIdx.x
        top, left = thread // threads, thread % threads
        stored = rows - 1 if ones_row else rows
        across = (columns + edge - 1) // edge
        tiles = (rows + edge - 1) // edge * across
        for tile in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first_row, first_column = tile // across * edge, tile % across * edge
            for e in range(held):
                partial[e] = zero
                total[e] = zero
            for start in range(0, length, depth):
                for e in range(thread, edge * depth, block):
                    # Neighbouring threads read neighbouring elements, whichever way the operand is stored.
                    d, r = (e // edge, e % edge) if transpose_a else (e % depth, e // depth)
                    step, row = start + d, first_row + r
                    value = zero
                    if step < length:
                        if row < stored:
                            value = a[step, row] if transpose_a else a[row, step]
                        elif ones_row:
                            value = one
                    a_tile[d, r] = value

                    d, c = (e % depth, e // depth) if transpose_b else (e // edge, e % edge)
                    step, column = start + d, first_column + c
                    value = zero
                    if step < length and column < columns:
                        value = b[column, step] if transpose_b else b[step, column]
                    b_tile[d, c] = value
                cuda.syncthreads()
                for d in range(depth):
                    for i in range(each):
                        for j in range(each):
                            partial[i * each + j] += a_tile[d, top + i * threads] * b_tile[d, left + j * threads]
                cuda.syncthreads()
                if (start + depth) % summed == 0:
                    for e in range(held):
                        total[e] += partial[e]
                        partial[e] = zero
            for i in range(each):
                for j in range(each):
                    row, column = first_row + top + i * threads, first_column + left + j * threads
                    if row < rows and column < columns:
                        epilogue(total[i * each + j] + partial[i * each + j], row, column, extra)

    return kernel


def product(
    a: Any,
    b: Any,
    epilogue: Any,
    extra: tuple[Any, ...],
    transpose_a: bool = False,
    transpose_b: bool = False,
    ones_row: bool = False,
) -> None:
    """epilogue(c, row, column, extra) for every element c of A B; `transpose_a` says a is stored as A's transpose."""
    rows, length = a.shape[::-1] if transpose_a else a.shape
    columns = b.shape[0] if transpose_b else b.shape[1]
    rows += ones_row
    edge = TILE.threads * TILE.each
    blocks = -(-rows // edge) * -(-columns // edge)
    kernel = product_kernel(np.dtype(a.dtype), transpose_a, transpose_b, ones_row, epilogue)
    launch(kernel, blocks, TILE.threads**2, a, b, rows, length, columns, extra)
