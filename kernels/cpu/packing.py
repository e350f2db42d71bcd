"""Operands of a product copied to where its tiles read them best.

B goes to panels, PANEL vectors wide and contiguous along k. A, of which a tile reads TALL rows at a time, is copied
only where these would share sets of the caches, or a TLB entry a step: tile by tile, rows to rows, or columns to steps
of TALL elements. Both are cut into blocks of at most BLOCK_DEPTH steps of k, as the product is.
"""

from typing import NamedTuple

from ..caches import cache_bytes
from ..timeline import PACK
from .compile import jit
from .phases import claim, finish
from .simd import (
    VECTOR_BYTES,
    lanes,
    load,
    load_first,
    parts_of,
    store,
    transpose_square,
)
from .stamps import stamp

PANEL = 2
"""Vectors across a tile: two, so that each element of A that is loaded feeds two multiply-adds."""

TALL, MEDIUM, SHORT = (12, 8, 4) if VECTOR_BYTES == 64 else (6, 4, 2)
"""Rows of a tile. rows * PANEL accumulators, PANEL vectors of B and one of A must fit the registers: 32 with AVX-512,
else 16; 12 and its remainders 8 and 4 leave no slow rest for multiples of 4. Tiles of 1 row do the rest."""

BLOCK_DEPTH = 256
"""Steps of k between visits to C: a panel of B (256 x 32 float32 = 32 KiB) comes from L2, the tile's A stays in L1."""


@jit
def depth_blocks(depth):
    """Into how many blocks the steps of a sum are cut."""
    return max(-(-depth // BLOCK_DEPTH), 1)


@jit
def block_start(depth, block, blocks):
    """The first step of a block: their sizes differ by one at most."""
    return depth * block // blocks


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
        for j in range(whole, group, count):
            store(packed + (k * group + j), load_first(b, 0))
        for j in range(whole, columns):
            packed[k * group + j] = b[j * b_row + k]


PACK_DEPTH = 32
"""Rows of B that one chunk packs, if it need not transpose them: whole rows, as they lie in memory."""


@jit
def pack_b(shared, me, depth, columns, b, b_step, transposed, packed):
    """A phase: B[depth, columns], or its transpose if b is stored so, to panels at `packed`; each of its parts.

    Block of steps after block of steps, each with its panels side by side: what a chunk of C reads at a time is one
    piece, which takes an equal share of every set of L2.
    """
    group = PANEL * lanes(b)
    panels, blocks = -(-columns // group), depth_blocks(depth)
    deepest = -(-depth // blocks)
    pieces = panels if transposed else -(-deepest // PACK_DEPTH)
    chunks = parts_of(b) * blocks * pieces
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        part, block, piece = chunk // (blocks * pieces), chunk // pieces % blocks, chunk % pieces
        k, end = block_start(depth, block, blocks), block_start(depth, block + 1, blocks)
        source = b + (part * depth + k) * (1 if transposed else b_step)
        panel, target = group * (end - k), packed + panel_start(part, depth, k, end, panels, 0, group)
        if transposed:
            j = piece * group
            columns_left = min(group, columns - j)
            _pack_panel_transposed(end - k, columns_left, source + j * b_step, b_step, target + piece * panel)
        else:
            first = piece * PACK_DEPTH
            rows = min(PACK_DEPTH, end - k - first)
            _pack_rows(rows, columns, source + first * b_step, b_step, target + first * group, panel)
        chunk = claim(shared, me, chunks)
    stamp(me, PACK)
    finish(shared, me, chunks)


@jit
def panel_start(part, depth, k, end, panels, panel, group):
    """Where, behind the first, the steps from k to `end` of a panel lie that `pack_b` made of this part of B."""
    return group * ((part * depth + k) * panels + panel * (end - k))


PACK_ROWS, PACK_SIZE = 4 * TALL, 1 << 15
"""Rows of A and elements of B from which on copying B pays if its rows lie far apart, as measured at widths from 1000:
1024 x 100 x 1024 gains a quarter. Rows that lie close need CLOSE times as many of both: 128 x 784 x 256 loses 3 %."""

FAR, CLOSE = 2048, 4
"""Bytes between rows of an operand beyond which they take about a TLB entry each, and at powers of two share few sets
of the caches; and how many times as much use of B those need that lie closer, before copying it pays."""


@jit
def packing_b_pays(rows, columns, depth, b, b_step):
    """Whether to copy B[depth, columns], stored by rows, to panels for `rows` rows of A."""
    times = 1 if b_step * (VECTOR_BYTES // lanes(b)) > FAR else CLOSE
    return rows >= times * PACK_ROWS and depth * columns >= times * PACK_SIZE


MOST_PACKED = min(max(cache_bytes("L3") // 8, 1 << 20), 16 << 20)
"""Bytes of packed panels at most, so that they stay in L3, which others use too: wider products are done in slabs of
columns."""


SPARE = VECTOR_BYTES // 4
"""Elements left free in each row of a copied tile: at distances of powers of two they would share few sets of L1."""

PACK_TILES = 8
"""Tiles that one chunk copies: of float32 stored by columns 384 bytes a step, whole lines."""

WAY = 4096
"""Bytes of one way of L1: rows a multiple of this apart compete for as many lines as it has ways."""

MOST_COPIED = 4 * MOST_PACKED
"""Bytes of A that are copied at a time, at most."""


WIDE = 1024
"""Bytes of a row of B from which on copying A, 1 % of the product at 1024 columns, costs less than it gains."""

MUCH = cache_bytes("L2")
"""Bytes of A beyond which it does not stay in L2 from one panel of B to the next."""


@jit
def packing_a_pays(rows, columns, depth, size, a_row, a_step):
    """Whether to copy A[rows, depth], elements of `size` bytes, for so many columns of B.

    Columns over 2 KiB apart, where L2 does not hold them, take a TLB entry a step and share few of its sets: on Zen 4
    1024 x 1024 x 1024 gains a fifth, 512 x 4096 x 512 two thirds. Rows whose lines share one set of L1 compete for it
    (128 x 1024 x 1024 gains a tenth), but copying more of them than L2 holds costs as much.
    """
    if columns * size < WIDE:
        return False
    if a_step == 1:
        return rows > SHORT and a_row * size % WAY == 0 and rows * depth * size <= MUCH
    return a_step * size >= FAR and rows * depth * size > MUCH


@jit
def room_of_a(rows, depth):
    """Elements that a copy of A[rows, depth] takes."""
    return -(-rows // TALL) * TALL * (depth + max(-(-depth // BLOCK_DEPTH), 1) * SPARE)


@jit
def copied_rows(tiles, k, block, size):
    """Where, in a copy of so many tiles, the block of `size` steps from k on begins, and from row to row."""
    return tiles * TALL * (k + block * SPARE), size + SPARE


@jit
def pack_a(shared, me, rows, depth, a, a_row, a_step, packed):
    """A phase: A[rows, depth] to `packed`, block of steps after block of steps, each tile by tile.

    Where a_step is 1 a tile is its rows, SPARE elements apart, else its steps of TALL elements.
    """
    count = lanes(a)
    tiles, blocks = -(-rows // TALL), depth_blocks(depth)
    parts = -(-tiles // PACK_TILES)
    chunks = blocks * parts
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        block, first = chunk // parts, chunk % parts * PACK_TILES * TALL
        k, end = block_start(depth, block, blocks), block_start(depth, block + 1, blocks)
        start, row = copied_rows(tiles, k, block, end - k)
        height = min(PACK_TILES * TALL, rows - first)
        source, target = a + (first * a_row + k * a_step), packed + (start + first * row)
        if a_step == 1:
            _copy_rows(height, end - k, source, a_row, target, row)
        else:
            for _ in range(end - k):
                tile = target
                for i in range(0, height, TALL):
                    for j in range(i, i + TALL, count):
                        store(tile + (j - i), load_first(source + j, min(height, i + TALL) - j))
                    tile += TALL * row
                source += a_step
                target += TALL
        chunk = claim(shared, me, chunks)
    stamp(me, PACK)
    finish(shared, me, chunks)


@jit
def _copy_rows(rows, columns, a, a_row, target, row):
    """target[rows, columns] = a[rows, columns]."""
    count = lanes(a)
    whole = columns // count * count
    for _ in range(rows):
        for j in range(0, whole, count):
            store(target + j, load(a + j))
        if whole < columns:
            store(target + whole, load_first(a + whole, columns - whole))
        a += a_row
        target += row


class Shape(NamedTuple):
    """A product's C[rows, columns] = A[rows, depth] B[depth, columns], and whether A is stored transposed."""

    rows: int
    depth: int
    columns: int
    is_a_transposed: bool = False


def pack_capacity(shapes: list[Shape], itemsize: int) -> int:
    """Elements that products of these shapes, whose depth counts every part, can use for copies."""
    group = PANEL * VECTOR_BYTES // itemsize
    most = 0
    for rows, depth, columns, transposed in shapes:
        panel = group * depth
        size = panel * max(min(-(-columns // group), MOST_PACKED // itemsize // max(panel, 1)), 1)
        a_row, a_step = (1, rows) if transposed else (depth, 1)
        if packing_a_pays.py_func(rows, columns, depth, itemsize, a_row, a_step):
            size += min(room_of_a.py_func(rows, depth), MOST_COPIED // itemsize) + room_of_a.py_func(1, depth)
        most = max(most, size)
    return most
