"""Products of a few rows with a wide layer's weights, in training: members share the steps of the sums."""

import numpy as np

from ..timeline import EPILOGUE, WORK
from .ahead import nothing_ahead
from .compile import jit
from .packing import BLOCK_PANELS, PANEL, block_start, depth_blocks
from .phases import SIZE, claim, finish
from .product import multiply_block
from .simd import element, lanes, load_first, pointer_at, select, store_first
from .stamps import stamp

MANY_STEPS, MUCH_OF_B = 32, 1 << 16
"""Steps of its sums for each row of A, and elements of B, from which on a product goes by depth: reading B from another
core's caches then takes longer than one phase more and the parts of the sums."""


@jit
def goes_by_depth(me, rows, columns, depth, capacity):
    """Whether `product_by_depth` is the way for so few rows of A, and for B[depth, columns] that is updated by rows.

    A single row always goes so where it can: its tiles are not those of `product`, and bits must not tell threads.
    """
    if MANY_STEPS * rows > depth or depth * columns < MUCH_OF_B:
        return False
    blocks = depth_blocks(depth)
    return blocks > 1 and blocks * rows * columns <= capacity and (me[SIZE] > 1 or rows == 1)


@jit
def product_by_depth(
    shared, me, rows, columns, depth, a, a_row, b, zeros, start, c, floor, packed, after_block, extras
):  # fmt: skip
    """Two phases, C[rows, columns] = max(A B + start, floor) for few rows, bit for bit as `product` gives them.

    Each block of steps is a product of its own, to its part of `packed`: a member that reads the same rows of B in
    every step, those that it updates, finds them in its own caches. Then the parts are summed, first to last.
    """
    group = PANEL * lanes(c)
    blocks, size = depth_blocks(depth), rows * columns
    width = BLOCK_PANELS * group
    across = -(-columns // width)
    chunk = claim(shared, me, blocks * across)
    while chunk >= 0:
        block, j = chunk // across, chunk % across * width
        k, end = block_start(depth, block, blocks), block_start(depth, block + 1, blocks)
        part = packed + (block * size + j)
        multiply_block(
            me, rows, min(width, columns - j), (end - k, 0, 1), rows == 1, a + k, a_row, 1, pointer_at(0, packed),
            False, b + (k * columns + j), columns, False, False, 0, packed, False, False, zeros, 0, 0, part, columns,
            element(c, -np.inf), nothing_ahead(c), 0, j,
        )  # fmt: skip
        stamp(me, WORK)
        chunk = claim(shared, me, blocks * across)
    finish(shared, me, blocks * across)
    pieces = -(-columns // group)
    piece = claim(shared, me, pieces)
    while piece >= 0:
        first = piece * group
        for i in range(rows):
            for j in range(first, min(first + group, columns), lanes(c)):
                left, place = columns - j, i * columns + j
                total = load_first(packed + place, left) + load_first(start + j, left)
                for block in range(1, blocks):
                    total = load_first(packed + (block * size + place), left) + total
                store_first(c + place, select(total < floor, floor, total), left)
        stamp(me, WORK)
        after_block(0, first, rows, min(group, columns - first), c + first, columns, extras)
        stamp(me, EPILOGUE)
        piece = claim(shared, me, pieces)
    finish(shared, me, pieces)
