"""What the tests of both layouts of pairs of bfloat16 share: matrices in parts, and copies made by compiled code."""

import numpy as np
import pytest
from rulings import assert_same_bits
from vectors import compiled

from fastmlp.kernels.cpu.simd import address_of, pairs_at, pairs_in_three_at, pairs_in_two_at, pointer, pointer_at
from fastmlp.kernels.reference.rounding import round_bfloat16
from fastmlp.kernels.reference.splitting import split

NOTHING = np.empty((0, 0), np.float32)
"""For a copy that is not wanted."""


def rounded(matrix):
    out = np.empty_like(matrix)
    round_bfloat16(matrix, out)
    return [out]


def in_two(matrix):
    high, low = np.empty_like(matrix), np.empty_like(matrix)
    split(matrix, high, low)
    return [high, low]


def in_three(matrix):
    """The third is what two parts leave."""
    high, middle = in_two(matrix)
    return [high, middle, matrix - high - middle]


def _pairing(pair_block, operand_at):
    """The copies are arrays of float32, whose bits are pairs."""

    @compiled
    def pair(side, i, j, rows, columns, block, block_row, height, width, across, down):
        like = operand_at(0)
        across_at = pointer_at(address_of(pointer(across)) if across.size else 0, like)
        down_at = pointer_at(address_of(pointer(down)) if down.size else 0, like)
        pair_block(side, i, j, rows, columns, pointer(block), block_row, height, width, across_at, down_at)

    return pair


def ways(pair_block):
    """Tests of a layout's `pair_block` take it, and what a matrix's parts are, as `pair` and `parts_of`."""
    kinds = {
        "rounded": (pairs_at, rounded),
        "split": (pairs_in_two_at, in_two),
        "in three": (pairs_in_three_at, in_three),
    }
    made = [(_pairing(pair_block, operand_at), parts_of) for operand_at, parts_of in kinds.values()]
    return pytest.mark.parametrize(("pair", "parts_of"), made, ids=list(kinds))


def assert_copied(pair, side, matrix, got, expected):
    """The whole matrix at once; `got` are where its copies go, or NOTHING."""
    pair(side, 0, 0, *matrix.shape, matrix, matrix.shape[1], *matrix.shape, *got)
    for copy, layout in zip(got, expected, strict=True):
        if copy is not NOTHING:
            assert_same_bits(copy, layout)


def assert_copied_by_blocks(pair, side, matrix, expected, rows, columns, block_row):
    """Blocks of so many rows and columns put together, the last ones cut off, make up the matrix's copies."""
    height, width = matrix.shape
    got = [np.full_like(layout, np.nan) for layout in expected]
    for i in range(0, height, rows):
        for j in range(0, width, columns):
            block = np.full((rows, block_row), np.nan, np.float32)
            part = matrix[i : i + rows, j : j + columns]
            block[: part.shape[0], : part.shape[1]] = part
            pair(side, i, j, *part.shape, block, block_row, height, width, *got)
    for copy, layout in zip(got, expected, strict=True):
        assert_same_bits(copy, layout)
