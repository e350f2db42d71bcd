"""Operands in pairs of bfloat16, as this process's products read them: rows and columns of pairs, or squares of tiles.

A matrix that a product reads has up to two copies (pairs.py): `across`, for sums along its rows, and `down`, for sums
along its columns; `side` says which operand each is for (squares.LEFT, RIGHT, BOTH). Products are given both kinds in
the same way: where there are squares the strides that go with a copy do not count.
"""

from . import pairs, squares
from .ahead import nothing_ahead, reading_ahead
from .compile import jit
from .packing import TALL
from .pairs import steps_held
from .phases import claim, finish
from .squares import SIDE
from .units import HAS_TILES

ROWS_UNIT = SIDE if HAS_TILES else TALL
"""A block whose pairs are stored begins at a multiple of so many rows."""


@jit
def whole_units(rows):
    """So many rows filled up to whole units."""
    return -(-rows // ROWS_UNIT) * ROWS_UNIT


def operand_size(lines: int, length: int, parts: int) -> int:
    """Elements that so many rows of A or columns of B take, for sums of this length, in so many parts."""
    steps = -(-length // 2)
    if not HAS_TILES:
        return lines * steps * parts
    return -(-lines // SIDE) * squares.panel_size.py_func(squares.whole.py_func(steps), parts)


@jit
def _rows_across(i, j, width, across):
    row = steps_held(width, across)
    return across + (i * row + j // 2), row


@jit
def _square_across(i, j, width, across):
    return squares.square_at(i, j, 0, width, across), squares.EDGE


@jit
def _reading_rows_across(width, across, c):
    return reading_ahead(across, steps_held(width, across), 2, c)


@jit
def _reading_squares_across(width, across, c):
    return nothing_ahead(c)


pair_block = squares.pair_block if HAS_TILES else pairs.pair_block
"""Round the block at (i, j) of a matrix[height, width] into its copies, or those whose address is not 0."""

across_at = _square_across if HAS_TILES else _rows_across
"""Where `across` of a left operand has the first part of the block at (i, j), and from one of its rows to the next."""

reading_across = _reading_squares_across if HAS_TILES else _reading_rows_across
"""What follows a product to c reads the first part of `across`; squares lie one behind the other anyway."""

PAIR_CHUNK = 1 << 14
"""Elements that one chunk of `pair_matrix` rounds: 64 KiB, a few microseconds."""


@jit
def pair_matrix(shared, me, side, rows, columns, matrix, across, down):
    """A phase: both copies of matrix[rows, columns]."""
    most = whole_units(max(PAIR_CHUNK // max(columns, 1), 1))
    chunks = -(-rows // most)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i = chunk * most
        count = min(most, rows - i)
        pair_block(side, i, 0, count, columns, matrix + i * columns, columns, rows, columns, across, down)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)
