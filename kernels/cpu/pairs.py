"""Pairs: bfloat16 as products read it, two neighbours along the sum in the place of one float32.

A matrix[rows, columns] has two such copies, and a product reads the one whose pairs lie along its sum:

    across[rows, ceil(columns / 2)]     neighbours in a row: A of x @ w and of dz @ w.T, and w.T itself
    down[ceil(rows / 2), columns]       neighbours in a column: w of x @ w, and both operands of x.T @ dz

An odd one out is paired with zero. Copies are made where the float32 values are in the cache anyway.

A split operand is as many such matrices as it has parts (contract.HIGH: two, HIGHEST: three), behind one another along
the sum, the highest first: rows of `across` are so many times as long, and `down` has so many times as many.
"""

from .compile import jit
from .simd import (
    address_of,
    high_part,
    lanes,
    load,
    load_first,
    pairs_of,
    parts_of,
    select,
    steps_of,
    store,
    store_first,
    store_first_pairs,
    store_pairs,
)


@jit
def terms_of(p):
    """How many products of two parts make up a product of split operands, at p: one, three or six."""
    return parts_of(p) * (parts_of(p) + 1) // 2


@jit
def parts_of_term(term, p):
    """(of A, of B): which parts a term multiplies, 0 being the highest.

    All terms whose numbers add up to less than there are parts, those with the largest sum, the smallest products,
    first: rounding then takes from sums that are still small. The first terms take each part of B once.
    """
    of_a, together = term, parts_of(p) - 1
    while of_a > together:
        of_a -= together + 1
        together -= 1
    return of_a, together - of_a


@jit
def steps_held(length, p):
    """Elements at p that operands of sums of this length take along the sum: the steps of every part."""
    return steps_of(length, p) * parts_of(p)


@jit
def part_of(x, part, pairs):
    """What is to be rounded: x, or where operands are split what the parts before this one have left of it."""
    rest = x
    for _ in range(part):
        rest = rest - high_part(rest)
        rest = select(rest == rest, rest, 0.0)
    return rest if part == parts_of(pairs) - 1 else high_part(rest)


@jit
def _pair_rows(columns, first, second, has_second, part, across, next_across, down):
    """A part of two rows, or of one alone, into both copies."""
    count = lanes(first)
    whole = columns // count * count
    for j in range(0, whole, count):
        upper, lower = part_of(load(first + j), part, down), load_first(first, 0)
        if has_second:
            lower = part_of(load(second + j), part, down)
        if address_of(across) != 0:
            store_pairs(across + j // 2, upper)
            if has_second:
                store_pairs(next_across + j // 2, lower)
        if address_of(down) != 0:
            store(down + j, pairs_of(upper, lower))
    if whole < columns:
        left = columns - whole
        upper = part_of(load_first(first + whole, left), part, down)
        lower = part_of(load_first(second + whole, left if has_second else 0), part, down)
        if address_of(across) != 0:
            store_first_pairs(across + whole // 2, upper, left)
            if has_second:
                store_first_pairs(next_across + whole // 2, lower, left)
        if address_of(down) != 0:
            store_first(down + whole, pairs_of(upper, lower), left)


@jit
def pair_block(side, i, j, rows, columns, block, block_row, height, width, across, down):
    """Round the block at (i, j) of a matrix[height, width] into its two copies, or those whose address is not 0.

    i and j are even, and so are rows and columns, but at the matrix's end.
    The copies are the same for any `side`.
    """
    across_row = steps_held(width, across)
    for ii in range(0, rows, 2):
        row = block + ii * block_row
        for part in range(parts_of(down)):
            across_at, down_at = across, down
            if address_of(across) != 0:
                across_at = across + ((i + ii) * across_row + part * steps_of(width, across) + j // 2)
            if address_of(down) != 0:
                down_at = down + ((part * steps_of(height, down) + (i + ii) // 2) * width + j)
            next_across = across_at + across_row
            _pair_rows(columns, row, row + block_row, ii + 1 < rows, part, across_at, next_across, down_at)
