"""Operands of a product copied to where its tiles read them best, by each member for itself.

B goes to panels, PANEL vectors wide and contiguous along k, which stay while chunk after chunk of rows passes by. A, of
which a tile reads TALL rows at a time, is copied only where these would share sets of the caches, or take a TLB entry a
step: one tile's part at a time, rows to rows, or columns to steps of TALL elements. Both are cut into blocks of at most
BLOCK_DEPTH steps of k, as the product is. What need not be turned is copied by the first tile that reads it, but for
a B that comes from memory.
"""

from typing import NamedTuple

from ..caches import cache_bytes
from .compile import jit
from .simd import (
    VECTOR_BYTES,
    lanes,
    load,
    load_first,
    prefetch,
    store,
    transpose_square,
)

PANEL = 2
"""Vectors across a tile: two, so that each element of A that is loaded feeds two multiply-adds."""

TALL, MEDIUM, SHORT = (12, 8, 4) if VECTOR_BYTES == 64 else (6, 4, 2)
"""Rows of a tile. rows * PANEL accumulators, PANEL vectors of B and one of A must fit the registers: 32 with AVX-512,
else 16; 12 and its remainders 8 and 4 leave no slow rest for multiples of 4. Tiles of 1 row do the rest."""

BLOCK_DEPTH = 256
"""Steps of k between visits to C: a panel of B (256 x 32 float32 = 32 KiB) comes from L2, the tile's A stays in L1."""


L1, L2 = cache_bytes("L1d"), cache_bytes("L2")

L2_PANELS = L2 // 2
"""Bytes of panels that stay in L2 beside what else a chunk reads and writes."""

BLOCK_PANELS = min(max(L2_PANELS // (BLOCK_DEPTH * PANEL * VECTOR_BYTES), 2), 16)
"""Panels in a chunk, at most: BLOCK_DEPTH rows of so many fill their half of L2, 16 x 32 KiB of one MiB. The wider a
chunk is the less often A is read, and copied, for it."""


BLOCK_TILES = 5
"""Tall tiles in a chunk, at most: what it reads of A beside half of L2 of panels, 60 x 1 KiB."""

BLOCK_VECTORS = BLOCK_TILES * TALL * BLOCK_PANELS * PANEL
"""Vectors of C in a chunk, at most."""


@jit
def depth_blocks(depth):
    """Into how many blocks the steps of a sum are cut."""
    return max(-(-depth // BLOCK_DEPTH), 1)


@jit
def block_start(depth, block, blocks):
    """The first step of a block: their sizes differ by one at most."""
    return depth * block // blocks


@jit
def slab_start(slab):
    """The first step of a slab (depth, first, end) of the blocks of a sum over `depth`."""
    depth, first, _ = slab
    return block_start(depth, first, depth_blocks(depth))


@jit
def slab_end(slab):
    """The step after a slab's last."""
    depth, _, end = slab
    return block_start(depth, end, depth_blocks(depth))


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


@jit
def pack_transposed(depth, columns, b, b_row, panels):
    """Panels of B[depth, columns], of which b[columns, depth] is the transpose; zeros beyond the last column."""
    group = PANEL * lanes(b)
    for j in range(0, columns, group):
        _pack_panel_transposed(depth, min(group, columns - j), b + j * b_row, b_row, panels + j * depth)


ROWS_AHEAD = 8
"""Rows by which `pack_rows` asks for B before it reads it: 4 to 32 of a KiB each did as well."""


@jit
def pack_rows(depth, columns, b, b_step, panels):
    """Panels of B[depth, columns], of those that are whole."""
    count = lanes(b)
    group = PANEL * count
    for k in range(depth):
        for j in range(0, columns - group + 1, group):
            for i in range(0, group, count):
                prefetch(b + (ROWS_AHEAD * b_step + j + i))
                store(panels + (j * depth + k * group + i), load(b + (j + i)))
        b += b_step


@jit
def panels_start(part, depth, k, panels, group):
    """Where, behind the first, the panels of the block of steps from k on of this part of B begin.

    Block of steps after block of steps, each with its panels side by side: what a chunk of C reads at a time is one
    piece, which takes an equal share of every set of L2.
    """
    return group * (part * depth + k) * panels


COPY_ROWS, COPY_SIZE = 3 * TALL, 1 << 12
"""Rows of A and elements of B from which on copying B, which the first tiles do on the way, pays."""


@jit
def copying_b_pays(rows, columns, depth):
    """Whether to copy B[depth, columns], stored by rows, to panels for `rows` rows of A."""
    return rows >= COPY_ROWS and depth * columns >= COPY_SIZE


MOST_NEAR = cache_bytes("L3") // 2
"""Bytes of B beyond which it is taken to come from memory."""


@jit
def packing_rows_pays(rows, columns, depth, size):
    """Whether to copy B[depth, columns], stored by rows of elements of `size` bytes, before its first tiles come.

    From memory rows as long as a chunk's come twice as fast as in the pieces that a tile reads: that pays from SHORT
    rows of A on.
    """
    return rows >= SHORT and depth * columns * size > MOST_NEAR


MOST_PACKED = min(max(cache_bytes("L3") // 8, 1 << 20), 16 << 20)
"""Bytes of one member's panels at most: chunks of deeper products are narrower, and beyond one panel it is made anew
for every chunk."""


SPARE = VECTOR_BYTES // 4
"""Elements left free in each row of a copied tile: at distances of powers of two they would share few sets of L1."""

TILE_ROOM = TALL * (BLOCK_DEPTH + SPARE)
"""Elements of a copy of one tile's part of A."""

WIDE = 1024
"""Bytes of a row of B from which on a copy of A is read often enough."""

WAY = 4096
"""Bytes of one way of L1: rows a multiple of this apart compete for as many lines as it has ways."""

FAR = 2048
"""Bytes between columns of A beyond which they take about a TLB entry each, and at powers of two share few sets of the
caches."""


@jit
def copying_a_pays(rows, columns, depth, size, a_row, a_step):
    """Whether to copy tiles of A[rows, depth], elements of `size` bytes, for so many columns of B.

    Rows that share sets of L1 are copied from L2, and from beyond where L1 has fewer ways than a tile has rows: there
    each element of a line would bring it anew.
    """
    if columns * size < WIDE or rows < TALL:
        return False
    if a_step == 1:
        return a_row * size % WAY == 0 and (L1 < TALL * WAY or rows * depth * size <= L2)
    return a_step * size >= FAR


@jit
def copy_rows(columns, a, a_row, target, row):
    """A tile target[TALL, columns] = a[TALL, columns]."""
    count = lanes(a)
    whole = columns // count * count
    for _ in range(TALL):
        for j in range(0, whole, count):
            store(target + j, load(a + j))
        if whole < columns:
            store(target + whole, load_first(a + whole, columns - whole))
        a += a_row
        target += row


class Shape(NamedTuple):
    """A product's second operand, B[depth, columns]: what its copies take room for, whatever the rows."""

    depth: int
    columns: int


def pack_capacity(shapes: list[Shape], itemsize: int) -> int:
    """Elements that a member of products of these shapes, whose depth counts every part, can use for copies."""
    group = PANEL * VECTOR_BYTES // itemsize
    panels = [shape.depth * group * min(-(-shape.columns // group), BLOCK_PANELS) for shape in shapes]
    return TILE_ROOM + min(max(panels), MOST_PACKED // itemsize) if shapes else 0
