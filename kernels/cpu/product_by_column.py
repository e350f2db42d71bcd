"""Products with one column, or one row: elements of the larger operand are used once, so its reading is what counts."""

import numpy as np

from .compile import jit
from .micro_kernels import BROAD, broad_kernel, multiply_tile
from .packing import BLOCK_VECTORS, MOST_NEAR, PANEL, block_start, depth_blocks
from .pairs import parts_of_term, terms_of
from .simd import element, lanes, load_first, multiply_add, splat, sum_lanes


@jit
def _dot(depth, a, b, like):
    """The sum of a[k] b[k], both contiguous: four vectors of chains."""
    count = lanes(a)
    zero = splat(like, 0.0)
    first, second, third, fourth = zero, zero, zero, zero
    for k in range(0, depth, 4 * count):
        left = depth - k
        first = multiply_add(load_first(a + k, left), load_first(b + k, left), first)
        k, left = k + count, left - count
        second = multiply_add(load_first(a + k, left), load_first(b + k, left), second)
        k, left = k + count, left - count
        third = multiply_add(load_first(a + k, left), load_first(b + k, left), third)
        k, left = k + count, left - count
        fourth = multiply_add(load_first(a + k, left), load_first(b + k, left), fourth)
    return sum_lanes((first + second) + (third + fourth))


STREAMED = 8
"""Steps that a row of C takes in one pass: so many rows of B are read side by side from their beginnings to their ends,
as memory gives them best, and C, in L1, is loaded and stored once for them."""


@jit
def multiply_column(rows, depth, a, a_row, a_step, b, start, start_row, c, floor):
    """c[rows] = max(a b + start, floor) for one contiguous column of B, whose tiles would use one lane in each vector.

    Contiguous rows of A take dot products; else A's columns are contiguous, and C is the row C^T = B^T A^T. A row of C
    that begins at a multiple of BROAD vectors has the same bits whatever it is cut off from.
    """
    terms = terms_of(a)
    if a_step == 1:
        for i in range(rows):
            total = 0.0
            for term in range(terms):
                a_part, b_part = parts_of_term(term, a)
                total += _dot(depth, a + (i * a_row + a_part * depth), b + b_part * depth, c)
            value = element(c, total) + start[i * start_row]
            c[i] = floor if value < floor else value
        return
    no_floor = element(c, -np.inf)
    broad = BROAD * lanes(c)
    streamed = rows // broad * broad
    turns = max(-(-depth // STREAMED), 1)
    passes = turns * terms if streamed > 0 else 0
    for visit in range(passes):
        term = visit // turns if terms > 1 else 0
        a_part, b_part = parts_of_term(term, a)
        k = (visit - term * turns) * STREAMED
        a_k, b_k = k + a_part * depth, k + b_part * depth
        limit = floor if visit == passes - 1 else no_floor
        for i in range(0, streamed, broad):
            begin = start + i * start_row if visit == 0 else c + i
            a_tile = a + (i + a_k * a_step)
            broad_kernel(min(STREAMED, depth - k), b + b_k, 1, a_tile, a_step, broad, begin, c + i, limit)
    group = PANEL * lanes(c)
    for i in range(streamed, rows, group):
        width = min(group, rows - i)
        blocks = depth_blocks(depth)
        for visit in range(blocks * terms):
            term = visit // blocks if terms > 1 else 0
            a_part, b_part = parts_of_term(term, a)
            block = visit - term * blocks
            k, end = block_start(depth, block, blocks), block_start(depth, block + 1, blocks)
            a_k, b_k = k + a_part * depth, k + b_part * depth
            limit = floor if visit == blocks * terms - 1 else no_floor
            begin = start + i * start_row if visit == 0 else c + i
            multiply_tile(1, end - k, b + b_k, 0, 1, a + (i + a_k * a_step), a_step, width, begin, 0, c + i, 0, limit)


MOST_UNSTREAMED = MOST_NEAR // 2
"""Bytes of B, a quarter of L3, up to which a row of A meets it in tiles: beyond it is streamed."""

MOST_STREAMED = 2048
"""Elements of a chunk of a row of C: with the rows of B that are read side by side they stay in L1."""


@jit
def streamed_share(length, shares, count):
    """Elements of a chunk of a row of C, which `multiply_column` streams: a member's share, in whole broad tiles."""
    broad = BROAD * count
    most = min(MOST_STREAMED, BLOCK_VECTORS * count) // broad
    return broad * min(-(-length // (shares * broad)), most)
