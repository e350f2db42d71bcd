"""Squares: pairs of bfloat16 as AMX's tiles read them, against the layout written down in NumPy."""

import guarded
import numpy as np
import pytest
from pairing import NOTHING, assert_copied, assert_copied_by_blocks, ways

from fastmlp.kernels.cpu.simd import VECTOR_BYTES
from fastmlp.kernels.cpu.squares import BOTH, LEFT, PANEL_GAP, RIGHT, SIDE, pair_block

pytestmark = pytest.mark.skipif(VECTOR_BYTES != 64, reason="tiles go with registers of 64 bytes")


WAYS = ways(pair_block)
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
    expected = layouts(parts_of(matrix), side)
    got = [guarded.ending(np.full_like(layout, np.nan)) for layout in expected]
    assert_copied(pair, side, guarded.ending(matrix), got, expected)


@pytest.mark.parametrize("wanted", ["across", "down"])
@SIDES
@WAYS
def test_one_copy_alone(pair, parts_of, side, wanted, rng):
    matrix = rng.standard_normal((40, 21), dtype=np.float32)
    across, down = layouts(parts_of(matrix), side)
    got = (np.full_like(across, np.nan), NOTHING) if wanted == "across" else (NOTHING, np.full_like(down, np.nan))
    assert_copied(pair, side, matrix, got, (across, down))


@SIDES
@WAYS
def test_a_block_goes_to_its_place_and_nowhere_else(pair, parts_of, side, rng):
    """Blocks of whole squares, the last ones cut off."""
    matrix = rng.standard_normal((93, 139), dtype=np.float32)
    assert_copied_by_blocks(pair, side, matrix, layouts(parts_of(matrix), side), 32, 64, 70)
