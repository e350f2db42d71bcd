"""How tiles lie in shared memory: what NumPy makes of the layouts, and that the kernels' own functions say the same.

A warp's access to shared memory goes through in as many turns as there are different words of one of the 32 banks; the
layouts are chosen so that it is one turn for every 128 bytes.
"""

import ctypes
from itertools import pairwise

import cuda_host
import numpy as np
import pytest
from host_compiler import compile_library, needs_compiler

from fastmlp.kernels.cuda_cpp.compile import SOURCES
from fastmlp.kernels.cuda_cpp.layers import BFLOAT16, BFLOAT16_HOPPER, EDGE, HIGHEST, KINDS, PER_CHUNK

DEPTH, CHUNK = 32, 16
LANES = np.arange(32)


def deep(row, chunk):
    """The byte where chunk 0..3 of row 0..127 lies, rows running along the sum."""
    return row * 64 + ((chunk ^ row >> 1) & 3) * CHUNK


def across(row, chunk):
    """The byte where chunk 0..15 of row 0..31 lies, rows running across the sum."""
    return row * 256 + (chunk ^ row & 7) * CHUNK


def resting(row, column):
    """The word where an element of a finished tile lies."""
    return row * EDGE + (column ^ (row & 3) << 3)


def turns(bytes_):
    """Turns of one access of 128 bytes or less: `bytes_` are the addresses of all its 4-byte words."""
    words = np.unique(bytes_ // 4)
    return np.bincount(words % 32, minlength=32).max()


def words_of(addresses, size):
    return (addresses[:, None] + np.arange(0, size, 4)).ravel()


@pytest.mark.parametrize(("place", "rows", "chunks"), [(deep, EDGE, 4), (across, DEPTH, 16)])
def test_a_layout_is_a_permutation_of_the_tile(place, rows, chunks):
    row, chunk = np.mgrid[:rows, :chunks]
    places = place(row, chunk).ravel()
    assert (np.sort(places) == np.arange(rows * chunks) * CHUNK).all()


def test_each_matrix_of_a_load_takes_one_turn():
    """Ldmatrix reads its four matrices one after the other: 8 rows of 16 bytes each."""
    for step in range(0, DEPTH, 16):
        for edge in range(0, EDGE, 16):
            for addresses in (
                deep(edge + LANES % 16, step // PER_CHUNK + LANES // 16),
                deep(edge + LANES // 16 * 8 + LANES % 8, step // PER_CHUNK + LANES // 8 % 2),
                across(step + LANES // 16 * 8 + LANES % 8, edge // PER_CHUNK + LANES // 8 % 2),
                across(step + LANES % 16, edge // PER_CHUNK + LANES // 16),
            ):
                for matrix in range(4):
                    assert turns(words_of(addresses[matrix * 8 : matrix * 8 + 8], CHUNK)) == 1


@pytest.mark.parametrize(("place", "chunks"), [(deep, 4), (across, 16)])
def test_asynchronous_copies_write_in_one_turn_each(place, chunks):
    """Eight neighbouring threads write 128 bytes."""
    for first in range(0, EDGE * 4, 8):
        thread = first + np.arange(8)
        assert turns(words_of(place(thread // chunks, thread % chunks), CHUNK)) == 1


def test_the_finished_tile_is_written_and_read_without_conflicts():
    for row in range(0, EDGE, 8):
        for column in range(0, EDGE, 8):
            for half in (LANES[:16], LANES[16:]):  # 8-byte accesses go through half a warp at a time
                assert turns(words_of(4 * resting(row + half // 4, column + half % 4 * 2), 8)) == 1
        for quarter in LANES.reshape(4, 8):  # and those of 16 bytes a quarter
            assert turns(words_of(4 * resting(row, 4 * quarter), CHUNK)) == 1


def test_the_plain_layouts_would_conflict():
    """What the permutations are for: without them the same loads take four and eight turns."""
    eight = np.arange(8)
    assert turns(words_of(eight * 64, CHUNK)) == 4
    assert turns(words_of(eight * 256, CHUNK)) == 8


def exported(kind, text, folder):
    """C functions of one kind of operands' headers, compiled for the processor."""
    source, target = folder / "source.cpp", folder / "library.so"
    source.write_text(f'#include "gemm{"_hopper" if kind.hopper else ""}.cuh"\n{text}')
    defines = [f"-D{name}={value}" for name, value in kind.defines]
    compile_library(source, target, f"-I{SOURCES}", "-include", cuda_host.HERE / "cuda_host.h", *defines)
    return ctypes.CDLL(str(target))


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_are_as_layers_has_them(kind, tmp_path):
    names = {"THREADS": kind.threads, "BLOCK_THREADS": kind.block_threads, "TILE_COLUMNS": kind.tile_columns}
    names |= {"SHARED_BYTES": kind.shared_bytes, "EDGE": EDGE, "CLUSTER": kind.cluster, "BLOCKS": kind.together}
    text = "".join(f'extern "C" int get_{name}() {{ return {name}; }}\n' for name in names)
    library = exported(kind, text, tmp_path)
    assert {name: getattr(library, f"get_{name}")() for name in names} == names


@needs_compiler
@pytest.mark.parametrize("kind", [BFLOAT16, HIGHEST])
def test_the_kernels_use_these_layouts(kind, tmp_path):
    text = (
        'extern "C" int deep(int r, int c) { return place<true>(r, c); }\n'
        'extern "C" int across(int r, int c) { return place<false>(r, c); }\n'
        'extern "C" int resting(int r, int c) { return resting_place(r, c); }\n'
    )
    library = exported(kind, text, tmp_path)
    for name, rows, columns in (("deep", EDGE, 4), ("across", DEPTH, 16), ("resting", EDGE, EDGE)):
        row, column = np.mgrid[:rows, :columns]
        mine = globals()[name](row, column)
        assert (mine == [[getattr(library, name)(r, c) for c in range(columns)] for r in range(rows)]).all()


@needs_compiler
@pytest.mark.parametrize("kind", [BFLOAT16, BFLOAT16_HOPPER])
def test_tiles_of_a_grid_cover_the_product_once(kind, tmp_path):
    """And a cluster's lie one above the other, the last one maybe beyond the product."""
    text = (
        'extern "C" int row(int block, int rows, int columns) { return tile_of(block, rows, columns).row; }\n'
        'extern "C" int column(int block, int rows, int columns) { return tile_of(block, rows, columns).column; }\n'
    )
    library = exported(kind, text, tmp_path)
    wide = kind.tile_columns
    for down, over in ((1, 1), (3, 5), (8, 2), (17, 4), (9, 1)):
        rows, columns = down * EDGE - 1, over * wide - 1
        blocks = range(kind.tiles(rows, columns))
        seen = [(library.row(b, rows, columns) // EDGE, library.column(b, rows, columns) // wide) for b in blocks]
        beyond = -down % kind.cluster
        assert sorted(seen) == [(i, j) for i in range(down + beyond) for j in range(over)]
        for first, second in zip(seen[:: kind.cluster], seen[kind.cluster - 1 :: kind.cluster], strict=True):
            assert second == (first[0] + kind.cluster - 1, first[1])


@pytest.mark.parametrize(
    ("rows", "columns", "tile_columns"),
    [
        (4096, 512, 128),  # 64 wide tiles or 128: both at once on 132 multiprocessors, so the smaller
        (4096, 1024, 256),  # 128 or 256, in one turn or two
        (8192, 4096, 256),
        (13, 100, 128),
    ],
)
def test_hopper_takes_the_tiles_that_end_sooner(rows, columns, tile_columns):
    assert BFLOAT16_HOPPER.tiled(rows, columns).tile_columns == tile_columns
    for kind in (BFLOAT16, HIGHEST):
        assert kind.tiled(rows, columns) is kind


def test_the_check_on_a_gpu_takes_every_kind_of_tile():
    """Each product in wide and in narrow ones."""
    from fastmlp.bench.gpu.checks import WIDE

    layers, n = list(pairwise(WIDE)), 2100
    forward = {BFLOAT16_HOPPER.tiled(n, m).tile_columns for _, m in layers}
    inputs = {BFLOAT16_HOPPER.tiled(n, k).tile_columns for k, _ in layers[1:]}
    weights = {BFLOAT16_HOPPER.tiled(k, m).tile_columns for k, m in layers}
    assert forward == inputs == weights == {128, 256}


def test_shared_memory_suffices_on_every_device():
    """99 KiB a block is what an RTX 30 gives, 227 Hopper; the finished tile must fit too."""
    for kind in KINDS:
        assert EDGE * kind.tile_columns * 4 <= kind.shared_bytes <= (227 if kind.hopper else 99) << 10
        if kind.hopper:
            assert kind.together * (kind.shared_bytes + 1024) <= 228 << 10
