"""Squares: pairs of bfloat16 as AMX's tiles read them, against the layout written down in NumPy."""

import guarded
import numpy as np
import pytest
from rulings import assert_same_bits
from vectors import compiled

from fastmlp.kernels.cpu.compile import jit
from fastmlp.kernels.cpu.simd import (
    VECTOR_BYTES,
    address_of,
    pairs_at,
    pairs_in_three_at,
    pairs_in_two_at,
    pointer,
    pointer_at,
)
from fastmlp.kernels.cpu.squares import BOTH, LEFT, PANEL_GAP, RIGHT, SIDE, pair_block
from fastmlp.kernels.reference.rounding import round_bfloat16
from fastmlp.kernels.reference.splitting import split

pytestmark = pytest.mark.skipif(VECTOR_BYTES != 64, reason="tiles go with registers of 64 bytes")


@jit
def _pair(like, side, i, j, rows, columns, block, block_row, height, width, across, down):
    across_at = pointer_at(address_of(pointer(across)) if across.size else 0, like)
    down_at = pointer_at(address_of(pointer(down)) if down.size else 0, like)
    pair_block(side, i, j, rows, columns, pointer(block), block_row, height, width, across_at, down_at)


@compiled
def _pair_rounded(side, i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_at(0), side, i, j, rows, columns, block, block_row, height, width, across, down)


@compiled
def _pair_split(side, i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_in_two_at(0), side, i, j, rows, columns, block, block_row, height, width, across, down)


@compiled
def _pair_split_in_three(side, i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_in_three_at(0), side, i, j, rows, columns, block, block_row, height, width, across, down)


def rounded_parts(matrix):
    out = np.empty_like(matrix)
    round_bfloat16(matrix, out)
    return [out]


def split_parts(matrix):
    high, low = np.empty_like(matrix), np.empty_like(matrix)
    split(matrix, high, low)
    return [high, low]


def three_parts(matrix):
    high, middle = np.empty_like(matrix), np.empty_like(matrix)
    split(matrix, high, middle)
    return [high, middle, matrix - high - middle]


WAYS = pytest.mark.parametrize(
    ("pair", "parts_of"),
    [(_pair_rounded, rounded_parts), (_pair_split, split_parts), (_pair_split_in_three, three_parts)],
    ids=["rounded", "split", "in three"],
)
SIDES = pytest.mark.parametrize("side", [LEFT, RIGHT, BOTH], ids=["left", "right", "both"])


def squares(parts, is_b):
    """An operand of which every part is [lines, length]: tiles of A, or of B; NaN where there is nothing."""
    lines, length = parts[0].shape
    panels, steps = -(-lines // SIDE), -(-length // SIDE) * SIDE // 2
    full = np.zeros((len(parts), panels * SIDE, 2 * steps), np.float32)
    full[:, :lines, :length] = parts
    halves = (full.view(np.uint32) >> 16).astype(np.uint16)
    # parts, panels, tiles of lines, lines, tiles of pairs, pairs, the two of one
    halves = halves.reshape(len(parts), panels, 2, 16, steps // 16, 16, 2)
    order = (1, 0, 4, 2, 5, 3, 6) if is_b else (1, 0, 4, 2, 3, 5, 6)
    tiles = np.ascontiguousarray(halves.transpose(order)).reshape(panels, -1).view(np.float32)
    gap = np.full((panels, PANEL_GAP * SIDE), np.nan, np.float32)
    return np.concatenate((tiles, gap), axis=1)


def layouts(parts, side):
    """(across, down) of a matrix's parts."""
    return squares(parts, side == RIGHT), squares([part.T for part in parts], side != LEFT)


@guarded.needs_mprotect
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 33), (32, 32), (3, 70), (65, 31), (100, 97)])
@SIDES
@WAYS
def test_both_copies_of_a_whole_matrix(pair, parts_of, side, shape, rng):
    """Filled up with zeros; the gap between panels is left alone, and nothing beyond the matrix is read."""
    matrix = rng.standard_normal(shape, dtype=np.float32)
    across, down = layouts(parts_of(matrix), side)
    got = [guarded.ending(np.full_like(layout, np.nan)) for layout in (across, down)]
    pair(side, 0, 0, *shape, guarded.ending(matrix), shape[1], *shape, *got)
    assert_same_bits(got[0], across)
    assert_same_bits(got[1], down)


@pytest.mark.parametrize("wanted", ["across", "down"])
@SIDES
@WAYS
def test_one_copy_alone(pair, parts_of, side, wanted, rng):
    matrix, nothing = rng.standard_normal((40, 21), dtype=np.float32), np.empty((0, 0), np.float32)
    layout = layouts(parts_of(matrix), side)[wanted == "down"]
    got = np.full_like(layout, np.nan)
    pair(side, 0, 0, 40, 21, matrix, 21, 40, 21, *((got, nothing) if wanted == "across" else (nothing, got)))
    assert_same_bits(got, layout)


@SIDES
@WAYS
def test_a_block_goes_to_its_place_and_nowhere_else(pair, parts_of, side, rng):
    """Blocks of whole squares put together, the last ones cut off, make up the matrix's copies."""
    matrix = rng.standard_normal((93, 139), dtype=np.float32)
    across, down = layouts(parts_of(matrix), side)
    got = np.full_like(across, np.nan), np.full_like(down, np.nan)
    for i in (0, 32, 64):
        for j in (0, 64, 128):
            block = np.full((32, 70), np.nan, np.float32)
            rows, columns = min(32, 93 - i), min(64, 139 - j)
            block[:rows, :columns] = matrix[i : i + rows, j : j + columns]
            pair(side, i, j, rows, columns, block, 70, 93, 139, *got)
    assert_same_bits(got[0], across)
    assert_same_bits(got[1], down)
