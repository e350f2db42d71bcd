"""Products of pairs by the tiles of amx.py: the counterpart of product.py's `product`, which does the rest.

Both operands lie in squares (squares.py), filled up with zeros, so that every tile is whole and its rows are cache
lines: nothing is copied here. What follows a product is done on each block of four tiles while it is in L1. Between two
visits sums wait in a room of their own.
"""

import numpy as np
from numba import types

from ..timeline import EPILOGUE, WORK
from .ahead import ask_for
from .amx import EDGE, multiply_tiles
from .compile import PieceFor, jit
from .mending import mend
from .packing import BLOCK_DEPTH, Shape
from .packing import pack_capacity as panel_capacity
from .pairs import parts_of_term, terms_of
from .phases import RANK, claim, finish
from .product import CHUNKS, MOST_OF_A, chunk_block, chunks_of
from .product import product as product_by_registers
from .product import scratch_size as block_size
from .simd import (
    Pair,
    Pointer,
    element,
    load,
    load_first,
    parts_of,
    select,
    store_first,
)
from .squares import SIDE, panel_size, whole
from .stamps import stamp
from .units import HAS_TILES

CHUNK_ROWS, CHUNK_PANELS = 3 * SIDE, 16

GROUP = 4
"""Blocks of four tiles side by side that are multiplied before what follows is done on each: 16 KiB of sums."""

TILE_WORK = 1 << 19
"""Multiply-adds of a chunk at least: some 500 ns at the tiles' peak."""

_BLOCK = SIDE * SIDE
_SUMS = CHUNK_ROWS * CHUNK_PANELS * SIDE
"""Float32 of one member: a chunk's sums on their way."""


@jit
def _multiply(rows, columns, depth, a, b, sums, is_first):
    """sums[SIDE, SIDE] (+)= A B for a panel of each."""
    steps = -(-depth // EDGE)
    if rows > EDGE:
        if columns > EDGE:
            multiply_tiles(2, 2, steps, a, b, sums, is_first)
        else:
            multiply_tiles(2, 1, steps, a, b, sums, is_first)
    elif columns > EDGE:
        multiply_tiles(1, 2, steps, a, b, sums, is_first)
    else:
        multiply_tiles(1, 1, steps, a, b, sums, is_first)


@jit
def _deliver(rows, columns, sums, start, start_row, c, c_row, floor):
    """c[rows, columns] = max(sums + start, floor), NaN where the sum is; c may be the sums themselves."""
    for i in range(rows):
        for j in range(0, columns, EDGE):
            value = load(sums + (i * SIDE + j)) + load_first(start + (i * start_row + j), columns - j)
            store_first(c + (i * c_row + j), select(value < floor, floor, value), columns - j)


@jit
def _finish_block(
    i, j, rows, columns, depth, a, b, sums, start, start_row, start_step, c, c_row, floor, after_block, extras
):  # fmt: skip
    """The block of C at (i, j) from its sums, and what follows; where c_row is 0 it takes their place."""
    block, block_row = c, c_row
    if c_row == 0:
        block, block_row = sums, SIDE
    limit = floor if parts_of(a) == 1 else element(c, -np.inf)
    _deliver(rows, columns, sums, start, start_row, block, block_row, limit)
    step, part_step = EDGE * SIDE, whole(depth) * SIDE
    a_walk, b_walk = (1, step, part_step), (EDGE, step, part_step)
    mend(
        rows, columns, depth, a, EDGE, a_walk, b, (1, EDGE * EDGE), b_walk, start, start_row, start_step, block,
        block_row, floor,
    )  # fmt: skip
    after_block(i, j, rows, columns, block, block_row, extras)


@jit
def _multiply_block(
    me, rows, columns, depth, a, b, start, start_row, start_step, c, c_row, floor, ahead, i0, j0, sums, after_block,
    extras,
):  # fmt: skip
    """The block of C at (i0, j0), from panels of A and B on, and what follows it."""
    blocks, terms, held = max(-(-depth // BLOCK_DEPTH), 1), terms_of(a), whole(depth)
    panel = panel_size(held, parts_of(a))
    for visit in range(blocks * terms):
        block, term = visit % blocks, visit // blocks
        # A block is whole tiles but at the end, where it is filled up.
        k = min(whole(depth * block // blocks), depth)
        end = min(whole(depth * (block + 1) // blocks), depth)
        a_part, b_part = parts_of_term(term, a)
        a_k, b_k = (k + a_part * held) * SIDE, (k + b_part * held) * SIDE
        is_last = visit == blocks * terms - 1
        for i in range(0, rows, SIDE):
            a_panel, height = a + i // SIDE * panel, min(SIDE, rows - i)
            for group in range(0, columns, GROUP * SIDE):
                group_end = min(columns, group + GROUP * SIDE)
                for j in range(group, group_end, SIDE):
                    width, sum_at = min(SIDE, columns - j), sums + (i * CHUNK_PANELS + j) * SIDE
                    if is_last:
                        ask_for(ahead, i0 + i, j0 + j, height, width)
                    _multiply(height, width, end - k, a_panel + a_k, b + (j // SIDE * panel + b_k), sum_at, visit == 0)
                if is_last:
                    stamp(me, WORK)
                    for j in range(group, group_end, SIDE):
                        _finish_block(
                            i0 + i, j0 + j, height, min(SIDE, columns - j), depth, a_panel, b + j // SIDE * panel,
                            sums + (i * CHUNK_PANELS + j) * SIDE, start + (i * start_row + j * start_step), start_row,
                            start_step, c + (i * c_row + j), c_row, floor, after_block, extras,
                        )  # fmt: skip
                    stamp(me, EPILOGUE)


@jit
def _chunk_shape(rows, columns, depth):
    """(rows, columns) of a chunk, from the product's shape alone."""
    down_all, across_all = max(-(-rows // SIDE), 1), max(-(-columns // SIDE), 1)
    most = max(down_all * across_all // CHUNKS, -(-TILE_WORK // max(_BLOCK * 2 * depth, 1)))
    down = min(most, CHUNK_ROWS // SIDE, down_all)
    across = min(max(most // down, 1), CHUNK_PANELS, across_all)
    return SIDE * -(-down_all // -(-down_all // down)), SIDE * -(-across_all // -(-across_all // across))


@jit
def _product_by_tiles(
    shared, me, rows, columns, depth, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ahead, after_block, extras,
):  # fmt: skip
    """As product.product, of pairs in squares, whose strides follow from their depth; it needs no room for copies.

    `after_block` gets blocks of at most SIDE rows and columns.
    """
    panel = panel_size(whole(depth), parts_of(a))
    block_rows, block_columns = _chunk_shape(rows, columns, depth)
    down, across = chunks_of(rows, columns, block_rows, block_columns)
    strip = -(-down // max(-(-4 * rows * depth * parts_of(a) // MOST_OF_A), 1))
    chunks = down * across
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i, j, count, width = chunk_block(chunk, rows, columns, block_rows, block_columns, strip)
        _multiply_block(
            me, count, width, depth, a + i // SIDE * panel, b + j // SIDE * panel,
            start + (i * start_row + j * start_step), start_row, start_step, c + (i * c_row + j), c_row, floor,
            ahead, i, j, scratch + me[RANK] * _SUMS, after_block, extras,
        )  # fmt: skip
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


def _are_pairs(arguments: tuple[types.Type, ...]) -> bool:
    a = arguments[5]
    return isinstance(a, Pointer) and isinstance(a.dtype, Pair)


product = PieceFor(_are_pairs, _product_by_tiles, product_by_registers) if HAS_TILES else product_by_registers
"""product.product, which for pairs is that of this file where there are tiles."""


def pack_capacity(shapes: list[Shape], itemsize: int, parts: int) -> int:
    """Elements that products of these shapes, whose depth is the sum's length, can use for copies in so many parts."""
    if parts == 0:
        return panel_capacity(shapes, itemsize)
    if HAS_TILES:
        return 0
    steps = [shape._replace(depth=parts * -(-shape.depth // 2)) for shape in shapes]
    return panel_capacity(steps, itemsize)


def scratch_size(itemsize: int, parts: int) -> int:
    """Elements of one thread's part of `scratch`."""
    return _SUMS if parts > 0 and HAS_TILES else block_size(itemsize)
