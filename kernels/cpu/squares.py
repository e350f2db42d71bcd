"""Squares: pairs as AMX's tiles read them, the counterpart of the rows and columns of pairs.py.

An operand of a product is cut into panels of SIDE lines, rows of A or columns of B, and along the sum into steps of 16
pairs: squares of 32 lines and 32 numbers, two tiles each:

    panel[parts, steps, 2, 16, 16]    tiles of A: lines, then their pairs; tiles of B: pairs, then lines

Lines and pairs are filled up with zeros to whole squares. A matrix[rows, columns] has two such copies. Of `across` its
rows are the lines, of `down` its columns, and one of them may have its tiles turned: rows across are a tile of A as
they are, columns down one of B.
"""

from .amx import EDGE
from .compile import jit
from .pairs import part_of
from .simd import (
    address_of,
    load,
    load_first,
    neighbours_of,
    pairs_of,
    parts_of,
    steps_of,
    store,
    transpose_square,
)

SIDE = 2 * EDGE
"""Lines of a panel, and numbers along the sum of a square."""

PANEL_GAP = 5
"""Rows of SIDE left out between two panels: at distances of powers of two they would share few sets of the caches."""

LEFT, RIGHT, BOTH = range(3)
"""Which operand the copies of a matrix are for: A alone, so that `down` is turned, B alone, so that `across` is, or
`across` for A and `down` for B."""


@jit
def whole(steps):
    """Steps filled up to whole squares."""
    return -(-steps // EDGE) * EDGE


@jit
def panel_size(steps, parts):
    """Elements from one panel to the next, for sums of so many steps, whole squares, in each of so many parts."""
    return (steps * parts + PANEL_GAP) * SIDE


@jit
def square_at(line, number, part, length, p):
    """Where an operand at p, of sums of this length, has the square of a part that begins at a line and a number."""
    steps = whole(steps_of(length, p))
    return p + (line // SIDE * panel_size(steps, parts_of(p)) + (part * steps + number // 2) * SIDE)


@jit
def _load_all(p, count):
    return load(p)


def _square(load_counted):
    """Both copies, or those whose address is not 0, of a square of numbers: `load_counted(p, count)` reads them."""

    @jit
    def pair_square(rows, columns, numbers, row, part, across, down):
        right = columns - EDGE
        for i in range(0, SIDE, 2):
            upper, lower = numbers + i * row, numbers + (i + 1) * row
            has_upper, has_lower = i < rows, i + 1 < rows
            upper_left = part_of(load_counted(upper, columns if has_upper else 0), part, down)
            upper_right = part_of(load_counted(upper + EDGE, right if has_upper else 0), part, down)
            lower_left = part_of(load_counted(lower, columns if has_lower else 0), part, down)
            lower_right = part_of(load_counted(lower + EDGE, right if has_lower else 0), part, down)
            if address_of(across) != 0:
                store(across + i * EDGE, neighbours_of(upper_left, upper_right))
                store(across + (i + 1) * EDGE, neighbours_of(lower_left, lower_right))
            if address_of(down) != 0:
                place = down + i // 2 * EDGE
                store(place, pairs_of(upper_left, lower_left))
                store(place + EDGE * EDGE, pairs_of(upper_right, lower_right))

    return pair_square


_pair_whole, _pair_edge = _square(_load_all), _square(load_first)


@jit
def _turn(square):
    """Transpose both tiles."""
    for tile in range(2):
        place = square + tile * (EDGE * EDGE)
        transpose_square(place, EDGE, place, EDGE)


@jit
def pair_block(side, i, j, rows, columns, block, block_row, height, width, across, down):
    """Round the block at (i, j) of a matrix[height, width] into its two copies, or those whose address is not 0.

    i and j are multiples of SIDE, and so are rows and columns, but at the matrix's end.
    """
    for ii in range(0, rows, SIDE):
        for jj in range(0, columns, SIDE):
            numbers = block + (ii * block_row + jj)
            for part in range(parts_of(down)):
                across_at, down_at = across, down
                if address_of(across) != 0:
                    across_at = square_at(i + ii, j + jj, part, width, across)
                if address_of(down) != 0:
                    down_at = square_at(j + jj, i + ii, part, height, down)
                if rows - ii >= SIDE and columns - jj >= SIDE:
                    _pair_whole(rows - ii, columns - jj, numbers, block_row, part, across_at, down_at)
                else:
                    _pair_edge(rows - ii, columns - jj, numbers, block_row, part, across_at, down_at)
                if side == LEFT and address_of(down) != 0:
                    _turn(down_at)
                if side == RIGHT and address_of(across) != 0:
                    _turn(across_at)
