"""Products of pairs of bfloat16 by the tiles of amx.py: the counterpart of product.py's `product`, which does the rest.

B is packed in panels of two tiles' width, as there, and so is A, by the member that needs it, two tiles' height at a
time: alignment and stride of its rows are the shape's where it lies, and a transposed A must be turned anyway. Both are
filled up with zeros along the sum, so that every tile is whole. Sums wait in a room of their own between two visits.
"""

import numpy as np
from numba import types

from ..timeline import EPILOGUE, PACK, WORK
from .ahead import ask_for
from .amx import EDGE, multiply_tiles
from .compile import PieceFor, jit
from .mending import mend
from .packing import BLOCK_DEPTH, MOST_PACKED, Shape
from .packing import pack_capacity as panel_capacity
from .pairs import parts_of_term, terms_of
from .phases import RANK, claim, finish
from .product import CHUNKS, MOST_OF_A, chunk_block, chunks_of
from .product import product as product_by_registers
from .product import scratch_size as block_size
from .simd import (
    Pair,
    Pointer,
    address_of,
    element,
    load,
    load_first,
    parts_of,
    pointer_at,
    select,
    store,
    store_first,
    transpose_square,
)
from .stamps import stamp
from .units import HAS_TILES

SIDE = 2 * EDGE
"""Rows and columns of the block of C that is multiplied at once: four tiles, for four that are loaded."""

UNIT_ROWS = 48
"""Chunks are so many rows, or twice as many: whole tiles, and whole sums of rows (layer.sum_tiles)."""

CHUNK_ROWS, CHUNK_PANELS = 2 * UNIT_ROWS, 16

TILE_WORK = 1 << 19
"""Multiply-adds of a chunk at least: some 500 ns at the tiles' peak."""

PANEL_GAP = 5
"""Rows left out between two panels: at distances of powers of two they would share few sets of the caches."""

_SUMS = CHUNK_ROWS * CHUNK_PANELS * SIDE
_BLOCK = CHUNK_ROWS * CHUNK_PANELS * SIDE
_A_PANEL = SIDE * BLOCK_DEPTH
_SCRATCH = _SUMS + _BLOCK + _A_PANEL + EDGE * EDGE
"""Float32 of one member: sums on their way, its block of C, its panel of A, a tile."""


@jit
def _whole(steps):
    """Steps filled up to whole tiles."""
    return -(-steps // EDGE) * EDGE


@jit
def _bring(rows, columns, source, source_row, target, target_row):
    """A tile at target = source[rows, columns], zeros beyond."""
    if rows >= EDGE and columns >= EDGE:
        for i in range(EDGE):
            store(target + i * target_row, load(source + i * source_row))
        return
    for i in range(EDGE):
        store(target + i * target_row, load_first(source + i * source_row, columns if i < rows else 0))


@jit
def _bring_transposed(rows, columns, source, source_row, target, target_row, tile):
    """A tile at target = the transpose of source[rows, columns], zeros beyond; `tile` is room for one."""
    if rows >= EDGE and columns >= EDGE:
        transpose_square(source, source_row, target, target_row)
        return
    _bring(rows, columns, source, source_row, tile, EDGE)
    transpose_square(tile, EDGE, target, target_row)


@jit
def _pack_panel(depth, columns, b, b_step, transposed, panel, tile):
    """panel[_whole(depth), SIDE] = B[depth, columns], zeros beyond; stored as b[columns, depth] where transposed."""
    for k in range(0, depth, EDGE):
        for j in range(0, SIDE, EDGE):
            target = panel + (k * SIDE + j)
            if transposed:
                _bring_transposed(columns - j, depth - k, b + (j * b_step + k), b_step, target, SIDE, tile)
            else:
                _bring(depth - k, columns - j, b + (k * b_step + j), b_step, target, SIDE)


@jit
def _pack(shared, me, depth, columns, b, b_step, transposed, packed, panel, tile):
    """A phase: panels of every part of B[depth, columns], `panel` elements apart, at `packed`."""
    panels = -(-columns // SIDE)
    chunks = panels * parts_of(b)
    part_step = 1 if transposed else b_step
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        part, j = chunk // panels, chunk % panels * SIDE
        source = b + (part * depth * part_step + j * (b_step if transposed else 1))
        target = packed + (chunk % panels * panel + part * _whole(depth) * SIDE)
        _pack_panel(depth, min(SIDE, columns - j), source, b_step, transposed, target, tile)
        chunk = claim(shared, me, chunks)
    stamp(me, PACK)
    finish(shared, me, chunks)


@jit
def _pack_rows_of_a(rows, depth, a, a_row, a_step, panel, tile):
    """panel[steps of 16, 2, 16, 16] = A[rows, depth], zeros beyond; A has contiguous rows, or contiguous columns."""
    for k in range(0, depth, EDGE):
        for i in range(0, min(rows, SIDE), EDGE):
            source, target = a + (i * a_row + k * a_step), panel + (k * SIDE + i * EDGE)
            if a_step == 1:
                _bring(rows - i, depth - k, source, a_row, target, EDGE)
            else:
                _bring_transposed(depth - k, rows - i, source, a_step, target, EDGE, tile)


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
    """c[rows, columns] = max(sums + start, floor), NaN where the sum is."""
    for i in range(min(rows, SIDE)):
        for j in range(0, min(columns, SIDE), EDGE):
            value = load(sums + (i * SIDE + j)) + load_first(start + (i * start_row + j), columns - j)
            store_first(c + (i * c_row + j), select(value < floor, floor, value), columns - j)


@jit
def _multiply_block(
    rows, columns, depth, a, a_row, a_step, b, b_panel, start, start_row, start_step, c, c_row, floor,
    ahead, i0, j0, sums, a_panel, tile,
):  # fmt: skip
    """c[rows, columns] = max(a b + start, floor), the block of C at (i0, j0); B's panels lie b_panel apart."""
    blocks, terms = max(-(-depth // BLOCK_DEPTH), 1), terms_of(a)
    for visit in range(blocks * terms):
        block, term = visit % blocks, visit // blocks
        # A block is whole tiles but at the end, where it is filled up.
        k = min(_whole(depth * block // blocks), depth)
        end = min(_whole(depth * (block + 1) // blocks), depth)
        a_part, b_part = parts_of_term(term, a)
        a_k, b_k = k + a_part * depth, k + b_part * _whole(depth)
        is_last = visit == blocks * terms - 1
        for i in range(0, rows, SIDE):
            _pack_rows_of_a(rows - i, end - k, a + (i * a_row + a_k * a_step), a_row, a_step, a_panel, tile)
            for j in range(0, columns, SIDE):
                if is_last:
                    ask_for(ahead, i0 + i, j0 + j, min(SIDE, rows - i), min(SIDE, columns - j))
                sum_at = sums + (i // SIDE * CHUNK_PANELS + j // SIDE) * (SIDE * SIDE)
                b_tile = b + (j // SIDE * b_panel + b_k * SIDE)
                _multiply(rows - i, columns - j, end - k, a_panel, b_tile, sum_at, visit == 0)
                if is_last:
                    begin = start + (i * start_row + j * start_step)
                    _deliver(rows - i, columns - j, sum_at, begin, start_row, c + (i * c_row + j), c_row, floor)


@jit
def _chunk_shape(rows, columns, depth):
    """(rows, panels) of a chunk, from the product's shape alone."""
    units, panels = max(-(-rows // UNIT_ROWS), 1), max(-(-columns // SIDE), 1)
    most = max(units * panels // CHUNKS, -(-TILE_WORK // max(UNIT_ROWS * SIDE * 2 * depth, 1)))
    down = min(most, CHUNK_ROWS // UNIT_ROWS, units)
    across = min(max(most // down, 1), CHUNK_PANELS, panels)
    return UNIT_ROWS * -(-units // -(-units // down)), -(-panels // -(-panels // across))


@jit
def _product_by_tiles(
    shared, me, rows, columns, depth, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ahead, after_block, extras,
):  # fmt: skip
    """As product.product, whose operands are pairs."""
    panel = SIDE * (_whole(depth) * parts_of(b) + PANEL_GAP)
    sums = scratch + me[RANK] * _SCRATCH
    own_block = sums + _SUMS
    a_panel = pointer_at(address_of(own_block + _BLOCK), a)
    tile = a_panel + _A_PANEL
    slab = max(capacity // panel, 1) * SIDE
    block_rows, block_panels = _chunk_shape(rows, min(slab, columns), depth)
    block_columns = block_panels * SIDE
    limit = floor if parts_of(a) == 1 else element(c, -np.inf)
    for slab_start in range(0, columns, slab):
        slab_columns = min(slab, columns - slab_start)
        b_slab = b + slab_start * (b_step if transposed else 1)
        _pack(shared, me, depth, slab_columns, b_slab, b_step, transposed, packed, panel, tile)
        down, across = chunks_of(rows, slab_columns, block_rows, block_columns)
        strip = -(-down // max(-(-4 * rows * depth * parts_of(a) // MOST_OF_A), 1))
        chunks = down * across
        chunk = claim(shared, me, chunks)
        while chunk >= 0:
            i, j, count, width = chunk_block(chunk, rows, slab_columns, block_rows, block_columns, strip)
            column = slab_start + j
            if c_row == 0:
                block, block_row = own_block, width
            else:
                block, block_row = c + (i * c_row + column), c_row
            a_block, start_block = a + i * a_row, start + (i * start_row + column * start_step)
            _multiply_block(
                count, width, depth, a_block, a_row, a_step, packed + j // SIDE * panel, panel,
                start_block, start_row, start_step, block, block_row, limit,
                ahead, i, column, sums, a_panel, tile,
            )  # fmt: skip
            b_block = b_slab + j * (b_step if transposed else 1)
            mend(
                count, width, depth, a_block, a_row, a_step, b_block, b_step, transposed, start_block, start_row,
                start_step, block, block_row, floor,
            )  # fmt: skip
            stamp(me, WORK)
            after_block(i, column, count, width, block, block_row, extras)
            stamp(me, EPILOGUE)
            chunk = claim(shared, me, chunks)
        finish(shared, me, chunks)


def _are_pairs(arguments: tuple[types.Type, ...]) -> bool:
    a = arguments[5]
    return isinstance(a, Pointer) and isinstance(a.dtype, Pair)


product = PieceFor(_are_pairs, _product_by_tiles, product_by_registers) if HAS_TILES else product_by_registers
"""product.product, which for pairs is that of this file where there are tiles."""


def pack_capacity(shapes: list[Shape], itemsize: int, parts: int) -> int:
    """Elements that products of these shapes, whose depth is the sum's length, can use for copies in so many parts.

    They are one member's, but where `shares_panels`.
    """
    if parts == 0:
        return panel_capacity(shapes, itemsize)
    steps = [shape._replace(depth=-(-shape.depth // 2)) for shape in shapes]
    if not HAS_TILES:
        return panel_capacity([shape._replace(depth=parts * shape.depth) for shape in steps], itemsize)
    panels = [
        (SIDE * (parts * _whole.py_func(shape.depth) + PANEL_GAP), max(-(-shape.columns // SIDE), 1)) for shape in steps
    ]
    return max((panel * max(min(count, MOST_PACKED // itemsize // panel), 1) for panel, count in panels), default=0)


def shares_panels(parts: int) -> bool:
    """Whether the members share one room for copies of operands in so many parts; else each has its own."""
    return parts > 0 and HAS_TILES


def scratch_size(itemsize: int, parts: int) -> int:
    """Elements of one thread's part of `scratch`."""
    return _SCRATCH if shares_panels(parts) else block_size(itemsize)
