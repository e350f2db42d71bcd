"""Pairs of bfloat16: the layouts that products read, and what the micro-kernel becomes on them."""

import guarded
import numpy as np
import pytest
from rulings import assert_same_bits
from vectors import compiled

from fastmlp.kernels.cpu.compile import jit
from fastmlp.kernels.cpu.pairs import pair_block
from fastmlp.kernels.cpu.simd import address_of, pairs_at, pairs_in_three_at, pairs_in_two_at, pointer, pointer_at
from fastmlp.kernels.reference.rounding import round_bfloat16
from fastmlp.kernels.reference.splitting import split


@jit
def _pair(like, i, j, rows, columns, block, block_row, height, width, across, down):
    """The copies are arrays of float32, whose bits are pairs; `like` is a pointer to such."""
    across_at = pointer_at(address_of(pointer(across)) if across.size else 0, like)
    down_at = pointer_at(address_of(pointer(down)) if down.size else 0, like)
    pair_block(i, j, rows, columns, pointer(block), block_row, height, width, across_at, down_at)


@compiled
def _pair_rounded(i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_at(0), i, j, rows, columns, block, block_row, height, width, across, down)


@compiled
def _pair_split(i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_in_two_at(0), i, j, rows, columns, block, block_row, height, width, across, down)


@compiled
def _pair_split_in_three(i, j, rows, columns, block, block_row, height, width, across, down):
    _pair(pairs_in_three_at(0), i, j, rows, columns, block, block_row, height, width, across, down)


def bits(matrix):
    """The upper halves of a matrix of bfloat16, as uint16, with zeros up to even rows and columns."""
    rows, columns = matrix.shape
    halves = np.zeros((rows + rows % 2, columns + columns % 2), np.uint16)
    halves[:rows, :columns] = matrix.view(np.uint32) >> 16
    return halves


def layouts(matrix):
    """(across, down) of a matrix of bfloat16 as float32 arrays of the same bits."""
    halves = bits(matrix)
    rows, columns = matrix.shape
    across = np.ascontiguousarray(halves[:rows]).view(np.float32)
    down = np.stack((halves[0::2, :columns], halves[1::2, :columns]), axis=-1).reshape(-1, 2 * columns)
    return across, np.ascontiguousarray(down).view(np.float32)


def rounded_layouts(matrix):
    out = np.empty_like(matrix)
    round_bfloat16(matrix, out)
    return layouts(out)


def split_layouts(matrix):
    """Low parts behind the high ones, along the sum."""
    high, low = np.empty_like(matrix), np.empty_like(matrix)
    split(matrix, high, low)
    across, down = zip(layouts(high), layouts(low), strict=True)
    return np.concatenate(across, axis=1), np.concatenate(down)


def layouts_in_three(matrix):
    """What two parts leave behind them, along the sum."""
    high, middle = np.empty_like(matrix), np.empty_like(matrix)
    split(matrix, high, middle)
    across, down = zip(*map(layouts, (high, middle, matrix - high - middle)), strict=True)
    return np.concatenate(across, axis=1), np.concatenate(down)


WAYS = pytest.mark.parametrize(
    ("pair", "layouts_of"),
    [
        (_pair_rounded, rounded_layouts),
        (_pair_split, split_layouts),
        (_pair_split_in_three, layouts_in_three),
    ],
    ids=["rounded", "split", "in three"],
)


@guarded.needs_mprotect
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (3, 5), (12, 32), (13, 47), (6, 100), (5, 16)])
@WAYS
def test_both_layouts_of_a_whole_matrix(pair, layouts_of, shape, rng):
    matrix = rng.standard_normal(shape, dtype=np.float32)
    across, down = layouts_of(matrix)
    got = [guarded.ending(np.full_like(layout, np.nan)) for layout in (across, down)]
    pair(0, 0, *shape, guarded.ending(matrix), shape[1], *shape, *got)
    assert_same_bits(got[0], across)
    assert_same_bits(got[1], down)


@pytest.mark.parametrize("wanted", ["across", "down"])
@WAYS
def test_one_layout_alone(pair, layouts_of, wanted, rng):
    matrix, nothing = rng.standard_normal((7, 21), dtype=np.float32), np.empty((0, 0), np.float32)
    layout = layouts_of(matrix)[wanted == "down"]
    got = np.full_like(layout, np.nan)
    pair(0, 0, 7, 21, matrix, 21, 7, 21, *((got, nothing) if wanted == "across" else (nothing, got)))
    assert_same_bits(got, layout)


@WAYS
def test_a_block_goes_to_its_place_and_nowhere_else(pair, layouts_of, rng):
    """Blocks of even rows and columns put together, the last ones odd, make up the matrix's layouts."""
    matrix = rng.standard_normal((29, 75), dtype=np.float32)
    across, down = layouts_of(matrix)
    got = np.full_like(across, np.nan), np.full_like(down, np.nan)
    for i in (0, 12, 24):
        for j in (0, 32, 64):
            block = np.full((12, 40), np.nan, np.float32)
            rows, columns = min(12, 29 - i), min(32, 75 - j)
            block[:rows, :columns] = matrix[i : i + rows, j : j + columns]
            pair(i, j, rows, columns, block, 40, 29, 75, *got)
    assert_same_bits(got[0], across)
    assert_same_bits(got[1], down)
