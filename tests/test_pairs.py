"""Pairs of bfloat16: the layouts that products read, and what the micro-kernel becomes on them."""

import guarded
import numpy as np
import pytest
from pairing import NOTHING, assert_copied, assert_copied_by_blocks, ways

from fastmlp.kernels.cpu.pairs import pair_block
from fastmlp.kernels.cpu.squares import BOTH


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


def layouts_of(parts):
    """Lower parts behind the high ones, along the sum."""
    across, down = zip(*map(layouts, parts), strict=True)
    return np.concatenate(across, axis=1), np.concatenate(down)


WAYS = ways(pair_block)


@guarded.needs_mprotect
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (3, 5), (12, 32), (13, 47), (6, 100), (5, 16)])
@WAYS
def test_both_layouts_of_a_whole_matrix(pair, parts_of, shape, rng):
    matrix = rng.standard_normal(shape, dtype=np.float32)
    expected = layouts_of(parts_of(matrix))
    got = [guarded.ending(np.full_like(layout, np.nan)) for layout in expected]
    assert_copied(pair, BOTH, guarded.ending(matrix), got, expected)


@pytest.mark.parametrize("wanted", ["across", "down"])
@WAYS
def test_one_layout_alone(pair, parts_of, wanted, rng):
    matrix = rng.standard_normal((7, 21), dtype=np.float32)
    across, down = layouts_of(parts_of(matrix))
    got = (np.full_like(across, np.nan), NOTHING) if wanted == "across" else (NOTHING, np.full_like(down, np.nan))
    assert_copied(pair, BOTH, matrix, got, (across, down))


@WAYS
def test_a_block_goes_to_its_place_and_nowhere_else(pair, parts_of, rng):
    """Blocks of even rows and columns, the last ones odd."""
    matrix = rng.standard_normal((29, 75), dtype=np.float32)
    assert_copied_by_blocks(pair, BOTH, matrix, layouts_of(parts_of(matrix)), 12, 32, 40)
