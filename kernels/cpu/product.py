"""Matrix products: C = A B by register tiles, the one routine behind matmul and every layer's passes.

A is read element by element, so any strides do: A(i, k) lies at a[i * a_row + k * a_step]. B is read by vectors:
B(k, j) lies at b[k * b_step + j], or, packed, in panels of PANEL vectors' width that are contiguous along k. A tile of
C stays in registers while k runs over one block of at most BLOCK_DEPTH; longer sums are added block by block, which
also bounds their rounding error.

Tiling after K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), and BLIS.
"""

import numpy as np

from ..caches import cache_bytes
from .compile import jit
from .simd import (
    VECTOR_BYTES,
    element,
    fma,
    lanes,
    load,
    load_first,
    prefetch,
    splat,
    store,
    sum_lanes,
    tile_add,
    tile_at_least,
    tile_multiply_add,
    tile_store,
    tile_sum,
    tile_zeros,
    transpose_square,
)
from .team import RANK, claim, finish

PANEL = 2
"""Vectors across a tile: two, so that each element of A that is loaded feeds two multiply-adds."""

TALL, MEDIUM, SHORT = (12, 8, 4) if VECTOR_BYTES == 64 else (6, 4, 2)
"""Rows of a tile. rows * PANEL accumulators, PANEL vectors of B and one of A must fit the registers: 32 with AVX-512,
else 16; 12 and its remainders 8 and 4 leave no slow rest for multiples of 4. Tiles of 1 row do the rest."""

BROAD = 8
"""Vectors across a tile of one row: B is then read once, and in long pieces where its rows lie side by side."""

BLOCK_DEPTH = 256
"""Steps of k between visits to C: a panel of B (256 x 32 float32 = 32 KiB) comes from L2, the tile's A stays in L1."""

AHEAD = 32
"""Vectors of B by which it is asked for before it is used: 16 steps of a wide tile are 200 cycles, four times what L3
takes to answer."""


def _tile_kernel(rows, columns):
    """The micro-kernel for tiles of `rows` rows and `columns` vectors; `width` counts its columns, None is all."""

    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
        tile = tile_zeros(rows, columns, c)
        for _ in range(depth):
            for column in range(columns):
                prefetch(b + (AHEAD // columns * b_step + column * lanes(c)))
            tile = tile_multiply_add(tile, a, a_row, b, width)
            a += a_step
            b += b_step
        tile = tile_at_least(tile_add(tile, start, start_row, width), floor)
        tile_store(tile, c, c_row, width)

    return multiply


def _chained_kernel(rows, columns):
    """The micro-kernel for small tiles: four chains of sums along k, for a multiply-add waits 4 cycles for the last."""

    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor):
        first, second = tile_zeros(rows, columns, c), tile_zeros(rows, columns, c)
        third, fourth = tile_zeros(rows, columns, c), tile_zeros(rows, columns, c)
        for _ in range(depth // 4):
            first = tile_multiply_add(first, a, a_row, b, width)
            second = tile_multiply_add(second, a + a_step, a_row, b + b_step, width)
            third = tile_multiply_add(third, a + 2 * a_step, a_row, b + 2 * b_step, width)
            fourth = tile_multiply_add(fourth, a + 3 * a_step, a_row, b + 3 * b_step, width)
            a += 4 * a_step
            b += 4 * b_step
        for _ in range(depth % 4):
            first = tile_multiply_add(first, a, a_row, b, width)
            a += a_step
            b += b_step
        tile = tile_sum(tile_sum(first, second), tile_sum(third, fourth))
        tile_store(tile_at_least(tile_add(tile, start, start_row, width), floor), c, c_row, width)

    return multiply


micro_kernel, _tall_narrow = _tile_kernel(TALL, 2), _tile_kernel(TALL, 1)
_medium_wide, _medium_narrow = _tile_kernel(MEDIUM, 2), _tile_kernel(MEDIUM, 1)
_short_wide, _short_narrow = _tile_kernel(SHORT, 2), _chained_kernel(SHORT, 1)
_single_wide, _single_narrow = _chained_kernel(1, 2), _chained_kernel(1, 1)
_broad = _tile_kernel(1, BROAD)


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
    """c[rows, width] = max(a b + start, floor) for one tile; start_row 0 adds one row of start values to all."""
    if rows == TALL and width == PANEL * lanes(c):
        micro_kernel(depth, a, a_row, a_step, b, b_step, None, start, start_row, c, c_row, floor)
    elif width > lanes(c):
        if rows == TALL:
            micro_kernel(depth, a, a_row, a_step, b, b_step, width, start, start_row, c, c_row, floor)
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
def _dot(depth, a, b):
    """The sum of a[k] b[k], both contiguous: four vectors of chains."""
    count = lanes(a)
    first, second, third, fourth = splat(a, 0.0), splat(a, 0.0), splat(a, 0.0), splat(a, 0.0)
    for k in range(0, depth, 4 * count):
        left = depth - k
        first = fma(load_first(a + k, left), load_first(b + k, left), first)
        k, left = k + count, left - count
        second = fma(load_first(a + k, left), load_first(b + k, left), second)
        k, left = k + count, left - count
        third = fma(load_first(a + k, left), load_first(b + k, left), third)
        k, left = k + count, left - count
        fourth = fma(load_first(a + k, left), load_first(b + k, left), fourth)
    return sum_lanes((first + second) + (third + fourth))


@jit
def _multiply_column(rows, depth, a, a_row, a_step, b, start, start_row, c, floor):
    """c[rows] = max(a b + start, floor) for one contiguous column of B, whose tiles would use one lane in each vector.

    Contiguous rows of A take dot products; else A's columns are contiguous, and C is the row C^T = B^T A^T.
    """
    if a_step == 1:
        for i in range(rows):
            total = element(c, _dot(depth, a + i * a_row, b)) + start[i * start_row]
            c[i] = floor if total < floor else total
        return
    group = PANEL * lanes(c)
    for i in range(0, rows, group):
        width = min(group, rows - i)
        blocks = max(-(-depth // BLOCK_DEPTH), 1)
        for block in range(blocks):
            k, end = depth * block // blocks, depth * (block + 1) // blocks
            limit = floor if end == depth else element(c, -np.inf)
            begin = start + i * start_row if k == 0 else c + i
            _multiply_tile(1, end - k, b + k, 0, 1, a + (i + k * a_step), a_step, width, begin, 0, c + i, 0, limit)


@jit
def prefetch_tile(rows, columns, p, p_row):
    """Ask for p[rows, columns]."""
    for _ in range(rows):
        for j in range(0, columns, lanes(p)):
            prefetch(p + j)
        p += p_row


@jit
def _multiply_block(
    rows, columns, depth, a, a_row, a_step, b, b_step, b_panel, start, start_row, start_step, c, c_row, floor,
    ask_for, i0, j0, extras,
):  # fmt: skip
    """c[rows, columns] = max(a b + start, floor), the block of C at (i0, j0); B's panels lie b_panel apart."""
    group = PANEL * lanes(c)
    no_floor = element(c, -np.inf)
    depth_blocks = max(-(-depth // BLOCK_DEPTH), 1)
    for depth_block in range(depth_blocks):
        k, end = depth * depth_block // depth_blocks, depth * (depth_block + 1) // depth_blocks
        limit = floor if end == depth else no_floor
        i = 0
        while i < rows:
            count = _tile_rows(rows - i)
            a_tile = a + (i * a_row + k * a_step)
            j = 0
            while j < columns:
                b_tile = b + (j // group * b_panel + k * b_step)
                c_tile = c + (i * c_row + j)
                begin, begin_row = (start + (i * start_row + j * start_step), start_row) if k == 0 else (c_tile, c_row)
                is_broad = count == 1 and b_panel == group and columns - j >= BROAD * lanes(c)
                width = BROAD * lanes(c) if is_broad else min(group, columns - j)
                if end == depth:
                    ask_for(i0 + i, j0 + j, count, width, extras)
                if is_broad:
                    _broad(end - k, a_tile, a_row, a_step, b_tile, b_step, None, begin, begin_row, c_tile, c_row, limit)
                else:
                    _multiply_tile(
                        count, end - k, a_tile, a_row, a_step, b_tile, b_step, width,
                        begin, begin_row, c_tile, c_row, limit,
                    )  # fmt: skip
                j += width
            i += count


BLOCK_TILES = 5
BLOCK_PANELS = min(max(cache_bytes("L2") // (4 * BLOCK_DEPTH * PANEL * VECTOR_BYTES), 2), 16)
"""Tall tiles and panels in a chunk, at most: BLOCK_DEPTH rows of so many panels fill a quarter of L2, 8 x 32 KiB of one
MiB, and what a chunk reads of A, 60 x 1 KiB, lies beside them."""

CHUNKS = 32
"""Into so many chunks a product is cut if it can be: the members that are done wait for half of one on average."""

CHUNK_WORK = 65536
"""Multiply-adds of a chunk at least, about 300 ns: claiming one costs 10 to 100."""


@jit
def _chunk_shape(rows, columns, depth, group):
    """(rows, panels) of a chunk, from the product's shape alone: nearly the same number of tiles for each."""
    tiles, panels = max(-(-rows // TALL), 1), max(-(-columns // group), 1)
    most = max(tiles * panels // CHUNKS, -(-CHUNK_WORK // max(TALL * group * depth, 1)))
    down = min(most, BLOCK_TILES, tiles)
    across = min(max(most // down, BROAD // PANEL if rows == 1 else 1), BLOCK_PANELS, panels)
    return TALL * -(-tiles // -(-tiles // down)), -(-panels // -(-panels // across))


@jit
def _pack_rows(rows, columns, b, b_step, packed, panel):
    """Bring b[rows, columns] to its places in the panels, `panel` elements apart; zeros beyond the last column."""
    count = lanes(b)
    group = PANEL * count
    for k in range(rows):
        row, target = b + k * b_step, packed + k * group
        whole = columns // group * group
        for j in range(0, whole, group):
            store(target, load(row + j))
            store(target + count, load(row + (j + count)))
            target += panel
        if whole < columns:
            store(target, load_first(row + whole, columns - whole))
            store(target + count, load_first(row + (whole + count), columns - whole - count))


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


PANEL_GAP = 5
"""Rows left out between two panels: at distances of powers of two they would share few sets of the caches."""


@jit
def _panel_size(depth, group):
    """Elements from one panel of `group` columns to the next."""
    return group * (depth + PANEL_GAP)


PACK_DEPTH = 32
"""Rows of B that one chunk packs, if it need not transpose them: whole rows, as they lie in memory."""


@jit
def _pack(shared, me, depth, columns, b, b_step, transposed, packed):
    """A phase: panels of B[depth, columns] side by side at `packed`."""
    group = PANEL * lanes(b)
    panel = _panel_size(depth, group)
    chunks = -(-columns // group) if transposed else -(-depth // PACK_DEPTH)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        if transposed:
            j = chunk * group
            _pack_panel_transposed(depth, min(group, columns - j), b + j * b_step, b_step, packed + chunk * panel)
        else:
            k = chunk * PACK_DEPTH
            _pack_rows(min(PACK_DEPTH, depth - k), columns, b + k * b_step, b_step, packed + k * group, panel)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


PACK_ROWS, PACK_SIZE = 4 * TALL, 1 << 15
"""Rows of A and elements of B from which on copying B pays if its rows lie far apart, as measured at widths from 1000:
1024 x 100 x 1024 gains a quarter. Rows that lie close need CLOSE times as many of both: 128 x 784 x 256 loses 3 %."""

FAR, CLOSE = 2048, 4
"""Bytes between rows of B beyond which they take about a TLB entry each, and at powers of two share few cache sets."""


@jit
def _packing_pays(rows, columns, depth, b, b_step):
    """Whether to copy B[depth, columns], stored by rows, to panels for `rows` rows of A."""
    times = 1 if b_step * (VECTOR_BYTES // lanes(b)) > FAR else CLOSE
    return rows >= times * PACK_ROWS and depth * columns >= times * PACK_SIZE


@jit
def product(
    shared, me, rows, columns, depth, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ask_for, after_block, extras,
):  # fmt: skip
    """Phases of a whole product: C[rows, columns] = max(A B + start, floor), block by block.

    B is b[depth, columns] with `b_step` elements between rows; where `transposed` it is stored as b[columns, depth].
    start(i, j) lies at start[i * start_row + j * start_step]. `packed` has room for `capacity` elements of panels.
    Chunks are counted down the columns, so that a member keeps to its part of B and of the weights that it updates.
    A chunk's block goes to c, or where c_row is 0 to this member's part of `scratch`, and while it is in the cache
    after_block(i, j, rows, columns, block, block_row, extras) is called on it, once even where C has no rows. Before a
    tile's last steps ask_for(i, j, rows, columns, extras) may prefetch what after_block will read there.
    """
    group = PANEL * lanes(c)
    panel = _panel_size(depth, group)
    pays = panel <= capacity and _packing_pays(rows, columns, depth, b, b_step)
    packs = columns > 1 and (transposed or pays)
    slab = max(capacity // panel, 1) * group if packs else max(columns, 1)
    block_rows, block_panels = _chunk_shape(rows, min(slab, columns), depth, group)
    block_columns = block_panels * group
    for slab_start in range(0, columns, slab):
        slab_columns = min(slab, columns - slab_start)
        if packs:
            b_slab = b + slab_start * (b_step if transposed else 1)
            _pack(shared, me, depth, slab_columns, b_slab, b_step, transposed, packed)
        across = -(-slab_columns // block_columns)
        down = max(-(-rows // block_rows), 1)
        chunks = down * across
        chunk = claim(shared, me, chunks)
        while chunk >= 0:
            i, j = chunk % down * block_rows, chunk // down * block_columns
            count, width = min(block_rows, rows - i), min(block_columns, slab_columns - j)
            column = slab_start + j
            if c_row == 0:
                block, block_row = scratch + me[RANK] * BLOCK_TILES * TALL * BLOCK_PANELS * group, width
            else:
                block, block_row = c + (i * c_row + column), c_row
            if packs:
                b_block, b_next, b_panel = packed + j // group * panel, group, panel
            else:
                b_block, b_next, b_panel = b + column, b_step, group
            a_block, start_block = a + i * a_row, start + (i * start_row + column * start_step)
            if columns == 1:
                _multiply_column(count, depth, a_block, a_row, a_step, b, start_block, start_row, block, floor)
            else:
                _multiply_block(
                    count, width, depth, a_block, a_row, a_step, b_block, b_next, b_panel,
                    start_block, start_row, start_step, block, block_row, floor,
                    ask_for, i, column, extras,
                )  # fmt: skip
            after_block(i, column, count, width, block, block_row, extras)
            chunk = claim(shared, me, chunks)
        finish(shared, me, chunks)


MOST_PACKED = min(max(cache_bytes("L3") // 8, 1 << 20), 16 << 20)
"""Bytes of packed panels at most, so that they stay in L3, which others use too: wider products are done in slabs of
columns."""


def pack_capacity(shapes: list[tuple[int, int]], itemsize: int) -> int:
    """Elements of panels that products with B of these (depth, columns) can use."""
    group = PANEL * VECTOR_BYTES // itemsize
    most = MOST_PACKED // itemsize
    panels = [(_panel_size.py_func(depth, group), -(-columns // group)) for depth, columns in shapes]
    return max((panel * max(min(count, most // panel), 1) for panel, count in panels), default=0)


def scratch_size(itemsize: int) -> int:
    """Elements of one thread's block."""
    return BLOCK_TILES * TALL * BLOCK_PANELS * PANEL * VECTOR_BYTES // itemsize
