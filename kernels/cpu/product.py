"""Matrix products: C = A B by register tiles, the one routine behind matmul and every layer's forward and backward pass.

A is read element by element, so any strides do: A(i, k) lies at a[i * a_row + k * a_step]. B is read by vectors: B(k, j) lies
at b[k * b_step + j], or, packed, in panels of PANEL vectors' width that are contiguous along k. A tile of C stays in registers
while k runs over one block of BLOCK_DEPTH; longer sums are added block by block, which also bounds their rounding error.

Tiling after K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), and BLIS.
"""

import numpy as np

from .compile import jit
from .simd import (
    VECTOR_BYTES,
    element,
    lanes,
    load_first,
    store,
    tile_at_least,
    tile_load,
    tile_multiply_add,
    tile_store,
    transpose_square,
)
from .team import RANK, claim, finish

PANEL = 2
"""Vectors across a tile: two, so that each element of A that is loaded feeds two multiply-adds."""

TALL, MEDIUM, SHORT = (12, 8, 4) if VECTOR_BYTES == 64 else (6, 4, 2)
"""Rows of a tile. rows * PANEL accumulators, PANEL vectors of B and one of A must fit the registers: 32 with AVX-512, else 16;
12 and its remainders 8 and 4 leave no slow rest for sizes that are multiples of 4. A last tile of 1 row does the rest."""

BLOCK_DEPTH = 384
"""Steps of k between visits to C: a panel of B (384 x 32 float32 = 48 KiB) streams from L2 while A's rows stay in L1."""


def _tile_kernel(rows, columns):
    """The micro-kernel for tiles of `rows` rows and `columns` vectors."""

    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
        tile = tile_load(rows, columns, start, start_row, width)
        for _ in range(depth):
            tile = tile_multiply_add(tile, a, a_row, b, width)
            a += a_step
            b += b_step
        tile_store(tile_at_least(tile, floor), c, c_row, width)

    return multiply


_tall_wide, _tall_narrow = _tile_kernel(TALL, 2), _tile_kernel(TALL, 1)
_medium_wide, _medium_narrow = _tile_kernel(MEDIUM, 2), _tile_kernel(MEDIUM, 1)
_short_wide, _short_narrow = _tile_kernel(SHORT, 2), _tile_kernel(SHORT, 1)
_single_wide, _single_narrow = _tile_kernel(1, 2), _tile_kernel(1, 1)


@jit
def _tile_rows(left):
    """Rows of the next tile when `left` rows are to do."""
    if left >= TALL:
        return TALL
    if left >= MEDIUM:
        return MEDIUM
    return SHORT if left >= SHORT else 1


@jit
def _multiply_tile(rows, depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
    """c[rows, width] = max(start + a b, floor) for one tile; start_row 0 repeats one row of start values."""
    if width > lanes(c):
        if rows == TALL:
            _tall_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        elif rows == MEDIUM:
            _medium_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        elif rows == SHORT:
            _short_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
        else:
            _single_wide(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == TALL:
        _tall_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == MEDIUM:
        _medium_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    elif rows == SHORT:
        _short_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
    else:
        _single_narrow(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)


@jit
def _multiply_block(
    rows, columns, depth, a, a_row, a_step, b, b_step, b_panel, start, start_row, start_step, c, c_row, floor
):
    """c[rows, columns] = max(start + a b, floor); b_panel elements lie between panels of B."""
    group = PANEL * lanes(c)
    no_floor = element(c, -np.inf)
    k = 0
    while True:
        block = min(BLOCK_DEPTH, depth - k)
        limit = floor if k + block == depth else no_floor
        i = 0
        while i < rows:
            count = _tile_rows(rows - i)
            a_tile = a + (i * a_row + k * a_step)
            for j in range(0, columns, group):
                b_tile = b + (j // group * b_panel + k * b_step)
                c_tile = c + (i * c_row + j)
                begin, begin_row = (start + (i * start_row + j * start_step), start_row) if k == 0 else (c_tile, c_row)
                width = min(group, columns - j)
                _multiply_tile(
                    count, block, a_tile, a_row, a_step, b_tile, b_step, width, begin, begin_row, c_tile, c_row, limit
                )
            i += count
        k += block
        if k == depth:
            break


BLOCK_TILES = 5
"""Tall tiles in a chunk's rows, at most: 60 rows x 384 x 4 B of A are 90 KiB of L2."""

BLOCK_PANELS = 8
"""Panels in a chunk's columns: 8 x 48 KiB of B fill under half of a 1 MiB L2."""

CHUNKS_OF_ROWS = 8
"""Fewer rows than this many chunks are cut finer, so that two to eight threads share a small product evenly."""


@jit
def _block_rows(rows):
    """Rows of a chunk, from the shape alone."""
    return TALL * min(max(-(-rows // TALL) // CHUNKS_OF_ROWS, 1), BLOCK_TILES)


@jit
def _pack_panel(depth, columns, b, b_step, packed):
    """packed[depth, PANEL vectors] = the first `columns` columns at b, zeros beyond them."""
    count = lanes(b)
    for k in range(depth):
        store(packed, load_first(b, columns))
        store(packed + count, load_first(b + count, columns - count))
        b += b_step
        packed += PANEL * count


@jit
def _pack_panel_transposed(depth, columns, b, b_row, packed):
    """packed[depth, PANEL vectors] = the transpose of `columns` rows of length `depth` at b, zeros beyond them."""
    count = lanes(b)
    group = PANEL * count
    whole = columns // count * count
    for j in range(0, whole, count):
        for k in range(0, depth // count * count, count):
            transpose_square(b + (j * b_row + k), b_row, packed + (k * group + j), group)
        for k in range(depth // count * count, depth):
            for jj in range(j, j + count):
                packed[k * group + jj] = b[jj * b_row + k]
    for k in range(depth):
        for j in range(whole, group):
            packed[k * group + j] = b[j * b_row + k] if j < columns else element(b, 0.0)


@jit
def _pack(shared, me, depth, columns, b, b_step, transposed, packed):
    """A phase: panels of B[depth, columns] side by side at `packed`, every panel made by one member."""
    group = PANEL * lanes(b)
    panels = -(-columns // group)
    panel = claim(shared, me, panels)
    while panel >= 0:
        first = panel * group
        width = min(group, columns - first)
        target = packed + panel * group * depth
        if transposed:
            _pack_panel_transposed(depth, width, b + first * b_step, b_step, target)
        else:
            _pack_panel(depth, width, b + first, b_step, target)
        panel = claim(shared, me, panels)
    finish(shared, me, panels)


@jit
def product(
    shared, me, rows, columns, depth, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, after_block, extras,
):  # fmt: skip
    """Phases of a whole product: C[rows, columns] = max(start + A B, floor), block by block.

    B is b[depth, columns] with `b_step` elements between rows, or where `transposed` is 1 it is stored as b[columns, depth].
    start(i, j) lies at start[i * start_row + j * start_step]. `packed` has room for `capacity` elements of panels.
    A chunk's block goes to c, or where c_row is 0 to this member's part of `scratch`, and while it is in the cache
    after_block(i, j, rows, columns, block, block_row, extras) is called on it.
    """
    group = PANEL * lanes(c)
    block_columns = BLOCK_PANELS * group
    block_rows = _block_rows(rows)
    packs = transposed or (rows >= PACK_ROWS and depth * columns >= PACK_SIZE and depth * group <= capacity)
    slab = max(capacity // max(depth, 1) // group * group, group) if packs else max(columns, 1)
    for slab_start in range(0, columns, slab):
        slab_columns = min(slab, columns - slab_start)
        if packs:
            _pack(
                shared,
                me,
                depth,
                slab_columns,
                b + slab_start * (b_step if transposed else 1),
                b_step,
                transposed,
                packed,
            )
        across = -(-slab_columns // block_columns)
        chunks = -(-rows // block_rows) * across
        chunk = claim(shared, me, chunks)
        while chunk >= 0:
            i, j = chunk // across * block_rows, chunk % across * block_columns
            count, width = min(block_rows, rows - i), min(block_columns, slab_columns - j)
            column = slab_start + j
            if c_row == 0:
                block, block_row = scratch + me[RANK] * BLOCK_TILES * TALL * block_columns, block_columns
            else:
                block, block_row = c + (i * c_row + column), c_row
            if packs:
                b_block, b_next, b_panel = packed + j * depth, group, group * depth
            else:
                b_block, b_next, b_panel = b + column, b_step, group
            _multiply_block(
                count, width, depth, a + i * a_row, a_row, a_step, b_block, b_next, b_panel,
                start + (i * start_row + column * start_step), start_row, start_step, block, block_row, floor,
            )  # fmt: skip
            after_block(i, column, count, width, block, block_row, extras)
            chunk = claim(shared, me, chunks)
        finish(shared, me, chunks)


PACK_ROWS = 4 * TALL
"""Fewer rows of A than this read a panel of B too seldom to pay for copying it."""

PACK_SIZE = 1 << 17
"""Elements of B up to which it is read where it lies: it stays in L2, and its rows are close enough together."""

MOST_PACKED = 16 << 20
"""Bytes of packed panels at most: wider products are done in slabs of columns."""


def pack_capacity(shapes: list[tuple[int, int]], itemsize: int) -> int:
    """Elements of panels that products with B of these (depth, columns) can use."""
    group = PANEL * VECTOR_BYTES // itemsize
    most = MOST_PACKED // itemsize
    wanted = [(depth * group, depth * -(-columns // group) * group) for depth, columns in shapes]
    return max((max(one, min(whole, most)) for one, whole in wanted), default=0)


def scratch_size(itemsize: int) -> int:
    """Elements of one thread's block."""
    return BLOCK_TILES * TALL * BLOCK_PANELS * PANEL * VECTOR_BYTES // itemsize
