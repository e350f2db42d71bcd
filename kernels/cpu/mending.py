"""Sums of split operands that are not finite, taken once more of whole numbers.

Inf has no other part: times one that is 0 it is NaN. And of two numbers whose product float32 just holds, the high
parts' may be beyond it.
"""

from numba import types

from .amx import EDGE
from .compile import PieceFor, jit
from .simd import (
    Pair,
    element,
    lanes,
    load_first,
    numbers_of_pair,
    parts_of,
    select,
    store_first,
    sum_lanes,
)

RUN = EDGE
"""Steps along a sum, or columns of B, that lie evenly wherever they do."""


@jit
def _numbers(p, walk, k, like):
    """Both numbers of a split pair, step k from p: its parts added from the smallest on."""
    step, run, part_step = walk
    pair = p + (k // RUN * run + k % RUN * step)
    first, second = element(like, 0.0), element(like, 0.0)
    for part in range(parts_of(pair) - 1, -1, -1):
        of_first, of_second = numbers_of_pair(pair + part * part_step)
        first, second = first + of_first, second + of_second
    return first, second


@jit
def _sum(depth, a, a_walk, b, b_walk, start, like):
    """Start and the products of the numbers at a and b, added one by one; once it is NaN it stays so."""
    total = start
    for k in range(depth):
        a_first, a_second = _numbers(a, a_walk, k, like)
        b_first, b_second = _numbers(b, b_walk, k, like)
        total = total + a_first * b_first + a_second * b_second
        if total != total:
            break
    return total


@jit
def _mend(
    rows, columns, depth, a, a_row, a_walk, b, b_columns, b_walk, start, start_row, start_step, c, c_row, floor
):  # fmt: skip
    b_column, b_run = b_columns
    for i in range(rows):
        for j in range(0, columns, lanes(c)):
            c_at, count = c + (i * c_row + j), min(lanes(c), columns - j)
            value = load_first(c_at, count)
            if sum_lanes(value - value) != 0:
                for lane in range(count):
                    if c_at[lane] - c_at[lane] != 0:
                        column = j + lane
                        begin = start[i * start_row + column * start_step]
                        b_at = b + (column // RUN * b_run + column % RUN * b_column)
                        c_at[lane] = _sum(depth, a + i * a_row, a_walk, b_at, b_walk, begin, c)
                value = load_first(c_at, count)
            store_first(c_at, select(value < floor, floor, value), count)


@jit
def _mend_nothing(
    rows, columns, depth, a, a_row, a_walk, b, b_columns, b_walk, start, start_row, start_step, c, c_row, floor
):  # fmt: skip
    pass


def _are_split(arguments: tuple[types.Type, ...]) -> bool:
    kind = arguments[3].dtype
    return isinstance(kind, Pair) and kind.parts > 1


mend = PieceFor(_are_split, _mend, _mend_nothing)
"""c[rows, columns] = max(c, floor) of split operands, and where c, a b + start, is not finite, that sum anew.

Steps of an operand lie walk[0] apart, RUN of them walk[1], and its parts walk[2]; columns of B, and RUN of them, lie
b_columns apart.
"""
