"""The micro-kernels of product.py: one tile of C, in registers while k runs over a block of steps."""

from .compile import jit
from .packing import MEDIUM, PANEL, SHORT, TALL
from .simd import (
    lanes,
    load,
    load_first,
    prefetch,
    store,
    tile_add,
    tile_at_least,
    tile_multiply_add,
    tile_store,
    tile_sum,
    tile_zeros,
)

BROAD = 8
"""Vectors across a tile of one row: B is then read once, and in long pieces where its rows lie side by side."""

AHEAD = 32
"""Vectors of B by which it is asked for before it is used: 16 steps of a wide tile are 200 cycles, four times what L3
takes to answer."""


def _tile_kernel(rows, columns):
    """The micro-kernel for tiles of `rows` rows and `columns` vectors; `width` counts its columns, None is all."""

    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
        tile = tile_zeros(rows, columns, c)
        for _ in range(depth):
            for column in range(columns):
                prefetch(b + (AHEAD // columns * b_step + column * lanes(c)))
            tile = tile_multiply_add(tile, a, a_row, b, width)
            a += a_step
            b += b_step
        tile = tile_at_least(tile_add(tile, start, start_row, width), floor)
        tile_store(tile, c, c_row, width)

    return multiply


@jit
def copying_a(depth, a, a_step, b, b_step, start, start_row, c, c_row, floor, copy):
    """The micro-kernel for a whole tile that copies its part of A, stored by columns, to steps of TALL elements.

    Loads and stores are free while the units multiply and add; lines that were waited for once are not asked for again.
    The next tile's lines, beside these, are asked for now, from memory; where they share few sets of the caches they
    are gone when that tile comes, and asked for again some steps before they are used.
    """
    tile = tile_zeros(TALL, PANEL, c)
    for _ in range(depth):
        for column in range(PANEL):
            prefetch(b + (AHEAD // PANEL * b_step + column * lanes(c)))
        for i in range(2 * TALL - 1, TALL, -lanes(c)):
            prefetch(a + i)
        later = a + AHEAD // PANEL * a_step
        prefetch(later + (TALL - 1))
        for i in range(0, TALL, lanes(c)):
            prefetch(later + i)
            store(copy + i, load_first(a + i, TALL - i))
        tile = tile_multiply_add(tile, a, 1, b, None)
        a += a_step
        b += b_step
        copy += TALL
    tile_store(tile_at_least(tile_add(tile, start, start_row, None), floor), c, c_row, None)


@jit
def copying_b(depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor, copy):
    """The micro-kernel for a whole tile that copies its part of B to a panel, as `copying_a` does with A."""
    tile = tile_zeros(TALL, PANEL, c)
    for _ in range(depth):
        for column in range(PANEL):
            prefetch(b + (AHEAD // PANEL * b_step + column * lanes(c)))
            store(copy + column * lanes(c), load(b + column * lanes(c)))
        tile = tile_multiply_add(tile, a, a_row, b, None)
        a += a_step
        b += b_step
        copy += PANEL * lanes(c)
    tile_store(tile_at_least(tile_add(tile, start, start_row, None), floor), c, c_row, None)


@jit
def broad_kernel(depth, a, a_step, b, b_step, ahead, start, c, floor):
    """The micro-kernel for one row and BROAD whole vectors; B is asked for so many elements ahead."""
    tile = tile_zeros(1, BROAD, c)
    for _ in range(depth):
        for column in range(BROAD):
            prefetch(b + (ahead + column * lanes(c)))
        tile = tile_multiply_add(tile, a, 0, b, None)
        a += a_step
        b += b_step
    tile_store(tile_at_least(tile_add(tile, start, 0, None), floor), c, 0, None)


def _chained_kernel(rows, columns):
    """The micro-kernel for small tiles: four chains of sums along k, for a multiply-add waits 4 cycles for the last."""

    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
        first, second = tile_zeros(rows, columns, c), tile_zeros(rows, columns, c)
        third, fourth = tile_zeros(rows, columns, c), tile_zeros(rows, columns, c)
        for _ in range(depth // 4):
            first = tile_multiply_add(first, a, a_row, b, width)
            second = tile_multiply_add(second, a + a_step, a_row, b + b_step, width)
            third = tile_multiply_add(third, a + 2 * a_step, a_row, b + 2 * b_step, width)
            fourth = tile_multiply_add(fourth, a + 3 * a_step, a_row, b + 3 * b_step, width)
            a += 4 * a_step
            b += 4 * b_step
        for _ in range(depth % 4):
            first = tile_multiply_add(first, a, a_row, b, width)
            a += a_step
            b += b_step
        tile = tile_sum(tile_sum(first, second), tile_sum(third, fourth))
        tile_store(tile_at_least(tile_add(tile, start, start_row, width), floor), c, c_row, width)

    return multiply


micro_kernel, _tall_narrow = _tile_kernel(TALL, 2), _tile_kernel(TALL, 1)
_medium_wide, _medium_narrow = _tile_kernel(MEDIUM, 2), _tile_kernel(MEDIUM, 1)
_short_wide, _short_narrow = _tile_kernel(SHORT, 2), _chained_kernel(SHORT, 1)
_single_wide, _single_narrow = _chained_kernel(1, 2), _chained_kernel(1, 1)


@jit
def tile_rows(left):
    """Rows of the next tile when `left` rows are to do."""
    if left >= TALL:
        return TALL
    if left >= MEDIUM:
        return MEDIUM
    return SHORT if left >= SHORT else 1


@jit
def multiply_tile(rows, depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
    """c[rows, width] = max(a b + start, floor) for one tile; start_row 0 adds one row of start values to all."""
    if rows == TALL and width == PANEL * lanes(c):
        micro_kernel(depth, a, a_row, a_step, b, b_step, None, start, start_row, c, c_row, floor)
    elif width > lanes(c):
        if rows == TALL:
            micro_kernel(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        elif rows == MEDIUM:
            _medium_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        elif rows == SHORT:
            _short_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        else:
            _single_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == TALL:
        _tall_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == MEDIUM:
        _medium_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == SHORT:
        _short_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    else:
        _single_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
