"""Matrix products: C = A B by register tiles, the one routine behind matmul and every layer's passes.

A is read element by element, so any strides do: A(i, k) lies at a[i * a_row + k * a_step]. B is read by vectors:
B(k, j) lies at b[k * b_step + j]; either may be copied to where tiles read it best (packing.py). A tile of
C stays in registers while k runs over one block of at most BLOCK_DEPTH; longer sums are added block by block, which
also bounds their rounding error. In bfloat16 the elements of A and B are pairs of neighbours along the sum (pairs.py),
and depth counts those; where they are split, each part of A and B lies `depth` steps behind the one before it, and the
products of parts are summed one after another (parts_of_term).

Tiling after K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), and BLIS.
"""

import numpy as np

from ..timeline import EPILOGUE, PACK, WORK
from .ahead import ask_for, prefetch_tile
from .compile import jit
from .mending import RUN, mend
from .micro_kernels import AHEAD, BROAD, broad_kernel, copying_a, copying_b, multiply_tile, tile_rows
from .packing import (
    BLOCK_DEPTH,
    BLOCK_PANELS,
    BLOCK_TILES,
    BLOCK_VECTORS,
    L2,
    L2_PANELS,
    MOST_PACKED,
    PANEL,
    SPARE,
    TALL,
    TILE_ROOM,
    block_start,
    copy_rows,
    copying_a_pays,
    copying_b_pays,
    depth_blocks,
    pack_rows,
    pack_transposed,
    packing_rows_pays,
    panels_start,
    slab_end,
    slab_start,
)
from .pairs import parts_of_term, terms_of
from .phases import RANK, SIZE, claim, finish
from .product_by_column import MOST_UNSTREAMED, multiply_column, streamed_share
from .simd import (
    VECTOR_BYTES,
    address_of,
    element,
    lanes,
    parts_of,
    pointer_at,
    prefetch,
    specialised,
)
from .stamps import stamp


@jit
def multiply_block(
    me, rows, columns, slab, is_row, a, a_row, a_step, tile, a_is_far, b, b_step, transposed, b_is_far, panels,
    copies, is_kept, is_new, start, start_row, start_step, c, c_row, floor, ahead, i0, j0,
):  # fmt: skip
    """c[rows, columns] = max(a b + start, floor), the block of C at (i0, j0); `is_row` says that C is one row.

    `slab` is (depth, first, end): the blocks of steps, of those of a sum over `depth`, that a and b hold.
    Where `tile` is not 0 it is room for a copy of one tile's part of A; where `a_is_far`, beyond L2, the rows of the
    next tile are asked for panel by panel. Where `panels` is not 0 there is room for so many at `copies`: for those of
    every part and block of steps if they are kept for the next blocks of rows, else of one; `is_new` says that they are
    still to be made: by the first tiles, or before these of a B that is transposed or, where `b_is_far`, in memory. A
    panel that the last column cuts off is made of a transposed B alone.
    """
    specialised()
    group = PANEL * lanes(c)
    no_floor = element(c, -np.inf)
    whole, first_block, end_block = slab
    blocks, begin_k = depth_blocks(whole), slab_start(slab)
    depth, held, terms = slab_end(slab) - begin_k, end_block - first_block, terms_of(a)
    visits = held * terms
    for visit in range(visits):
        term = visit // held if terms > 1 else 0
        depth_block = first_block + visit - term * held
        k = block_start(whole, depth_block, blocks) - begin_k
        end = block_start(whole, depth_block + 1, blocks) - begin_k
        a_part, b_part = parts_of_term(term, a)
        a_k, b_k = k + a_part * depth, k + b_part * depth
        is_last = visit == visits - 1
        limit = floor if is_last else no_floor
        b_copy = copies + (panels_start(b_part, depth, k, panels, group) if is_kept else 0)
        packs_b = transposed or b_is_far
        if packs_b and panels > 0 and ((is_new and term < parts_of(a)) or not is_kept):
            stamp(me, WORK)
            if transposed:
                pack_transposed(end - k, columns, b + b_k, b_step, b_copy)
            else:
                pack_rows(end - k, columns, b + b_k * b_step, b_step, b_copy)
            stamp(me, PACK)
        i = 0
        while i < rows:
            count = tile_rows(rows - i)
            a_tile, tile_row, tile_step = a + (i * a_row + a_k * a_step), a_row, a_step
            copies_b = panels > 0 and is_new and i == 0 and not packs_b
            copies_a = address_of(tile) != 0 and count == TALL
            if copies_a and a_step == 1:
                tile_row = end - k + SPARE
                copy_rows(end - k, a_tile, a_row, tile, tile_row)
                a_tile = tile
            j = 0
            while j < columns:
                b_tile, b_tile_step = b + (b_k * b_step + j), b_step
                is_copied = panels > 0 and (transposed or columns - j >= group)
                if is_copied and not copies_b:
                    b_tile, b_tile_step = b_copy + j * (end - k), group
                c_tile = c + (i * c_row + j)
                begin, begin_row = c_tile, c_row
                if visit == 0:
                    begin, begin_row = start + (i * start_row + j * start_step), start_row
                is_broad = is_row and panels == 0 and columns - j >= BROAD * lanes(c)
                width = BROAD * lanes(c) if is_broad else min(group, columns - j)
                if is_last:
                    ask_for(ahead, i0 + i, j0 + j, count, width)
                if copies_a and a_step == 1 and a_is_far:
                    next_i, next_k = (i + TALL, a_k) if i + TALL < rows or is_last else (0, a_k + end - k)
                    first, past = TALL * j // columns, TALL * (j + width) // columns
                    next_rows = a + ((next_i + first) * a_row + next_k * a_step)
                    prefetch_tile(prefetch, past - first, end - k, next_rows, a_row)
                if is_broad:
                    few_steps = AHEAD // BROAD * b_step
                    broad_kernel(end - k, a_tile, tile_step, b_tile, b_step, few_steps, begin, c_tile, limit)
                elif copies_b and is_copied:
                    copying_b(
                        end - k, a_tile, tile_row, tile_step, b_tile, b_tile_step, begin, begin_row,
                        c_tile, c_row, limit, b_copy + j * (end - k),
                    )  # fmt: skip
                elif copies_a and a_step != 1 and j == 0 and width == group:
                    copying_a(
                        end - k, a_tile, tile_step, b_tile, b_tile_step, begin, begin_row, c_tile, c_row, limit, tile
                    )
                    a_tile, tile_row, tile_step = tile, 1, TALL
                else:
                    multiply_tile(
                        count, end - k, a_tile, tile_row, tile_step, b_tile, b_tile_step, width,
                        begin, begin_row, c_tile, c_row, limit,
                    )  # fmt: skip
                j += width
            i += count


CHUNKS = 32
"""Into so many chunks a product is cut if it can be: the members that are done wait for half of one on average."""

CHUNK_WORK = 65536
"""Multiply-adds of a chunk at least, about 300 ns: claiming one costs 10 to 100."""

FEW_PANELS = 4
"""Panels of all steps that L2_PANELS must hold to be kept there from chunk to chunk. Where fewer fit A would pass too
often, and so it does where each time it is copied from beyond L2: then they come from L3 for each chunk, and it has as
many as it can."""


@jit
def _chunk_shape(rows, columns, depth, group, shares, a_is_far, b_is_far):
    """(rows, panels) of a chunk: nearly the same number of tiles for each, and so wide that tiles of A are used often.

    Columns are cut into `shares` at least; A and B are far as `_division` says. What a row's sum depends on is the same
    for any shape, but for one row alone, whose tiles are broad where its chunks are: its shape is the product's own.
    """
    tiles, panels = max(-(-rows // TALL), 1), max(-(-columns // group), 1)
    most = max(tiles * panels // CHUNKS, -(-CHUNK_WORK // max(TALL * group * depth, 1)))
    fit = L2_PANELS // max(depth * PANEL * VECTOR_BYTES, 1)
    limit = min(fit, BLOCK_PANELS) if fit >= FEW_PANELS and not a_is_far else BLOCK_PANELS
    across = min(max(most, BLOCK_PANELS) if b_is_far else most, limit, panels)
    across = max(across, BROAD // PANEL) if rows == 1 else min(across, -(-panels // shares))
    down = min(-(-most // across), BLOCK_TILES, tiles)
    return TALL * -(-tiles // -(-tiles // down)), -(-panels // -(-panels // across))


MOST_OF_A = 3 * MOST_PACKED
"""Bytes of A between two uses of one element by neighbouring columns of chunks: rows beyond are another strip."""


SLAB_BY_COLUMNS, SLAB_BY_ROWS = 4, 8
"""Blocks of steps in a slab, where A is stored by columns, and where by rows. All of C reads a slab before the next:
what its blocks share stays in L3, where columns that lie far apart would else come from memory block by block, and
MOST_PACKED holds as many panels of its steps as make a wide chunk."""


@jit
def depth_slabs(columns, depth, a_step):
    """Into how many slabs the steps of a sum are cut; a single column of C reads A once in any case."""
    return -(-depth_blocks(depth) // (SLAB_BY_ROWS if a_step == 1 else SLAB_BY_COLUMNS)) if columns > 1 else 1


@jit
def chunks_of(rows, columns, block_rows, block_columns):
    """(down, across): how many chunks of at most [block_rows, block_columns] C[rows, columns] is; one without rows."""
    return max(-(-rows // block_rows), 1), -(-columns // block_columns)


@jit
def chunk_block(chunk, rows, columns, block_rows, block_columns, strip):
    """(i, j, rows, columns) of a chunk: they are counted down the columns of one strip, so many chunks high, of C."""
    down, across = chunks_of(rows, columns, block_rows, block_columns)
    above = chunk // (strip * across) * strip
    height = min(strip, down - above)
    place = chunk - above * across
    i, j = (above + place % height) * block_rows, place // height * block_columns
    return i, j, min(block_rows, rows - i), min(block_columns, columns - j)


@jit
def _division(me, rows, columns, depth, a, a_row, a_step, b, transposed, c, c_row, capacity):
    """(is_turned, copies_a, a_is_far, b_is_far, panels, is_kept, block_rows, block_columns, strip): copies and chunks.

    `is_turned` says that C, one row, is computed as the column C^T: where B takes more than MOST_UNSTREAMED, or its
    columns are contiguous. `a_is_far` to `is_kept` are those of `multiply_block`; a strip's height is in chunks.
    """
    group, size = PANEL * lanes(c), VECTOR_BYTES // lanes(c)
    held = depth * parts_of(b)
    copies_a = capacity > TILE_ROOM and copying_a_pays(rows, columns, depth, size, a_row, a_step)
    a_is_far = copies_a and rows * depth * size > L2
    b_is_far = not transposed and packing_rows_pays(rows, columns, held, size)
    room = capacity - (TILE_ROOM if copies_a else 0)
    by_rows = rows >= columns or c_row == 0
    shares = 1 if by_rows else me[SIZE]
    block_rows, block_panels = _chunk_shape(rows, columns, held, group, shares, a_is_far, b_is_far)
    fit = room // (group * max(held, 1))
    is_kept = fit > 0
    panels = 0
    if columns > 1 and (transposed or (is_kept and (b_is_far or copying_b_pays(rows, columns, held)))):
        panels = block_panels = min(block_panels, fit if is_kept else room // (group * BLOCK_DEPTH))
    streams = columns * held * size > MOST_UNSTREAMED
    is_turned = rows == 1 and columns > 1 and a_step == 1 and (transposed or streams)
    if is_turned:
        block_panels = streamed_share(columns, me[SIZE], lanes(c)) // group
    elif columns == 1 and a_step != 1 and c_row != 0:
        block_rows = streamed_share(rows, me[SIZE], lanes(c))
    strips = max(-(-rows * held * size // MOST_OF_A), me[SIZE] if by_rows else 1)
    down, _ = chunks_of(rows, columns, block_rows, block_panels * group)
    block_columns, strip = block_panels * group, -(-down // strips)
    return is_turned, copies_a, a_is_far, b_is_far, panels, is_kept, block_rows, block_columns, strip


@jit
def _multiply_chunk(
    me, rows, columns, slab, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ahead, division, chunk, last,
):  # fmt: skip
    """(i, j, rows, columns, block, block_row, last): this chunk of C, of `_slab`'s, multiplied.

    `last` is the column of C whose panels this member has copied, -1 at first.
    """
    specialised()
    is_turned, copies_a, a_is_far, b_is_far, panels, is_kept, block_rows, block_columns, strip = division
    depth = slab_end(slab) - slab_start(slab)
    copies = packed + me[RANK] * capacity
    tile = pointer_at(0, packed)
    if copies_a:
        tile, copies = copies, copies + TILE_ROOM
    limit = floor if parts_of(a) == 1 else element(c, -np.inf)
    i, j, count, width = chunk_block(chunk, rows, columns, block_rows, block_columns, strip)
    if c_row == 0:
        block, block_row = scratch + me[RANK] * (BLOCK_VECTORS * lanes(c)), width
    else:
        block, block_row = c + (i * c_row + j), c_row
    b_row, b_column = (1, b_step) if transposed else (b_step, 1)
    a_block, b_block = a + i * a_row, b + j * b_column
    start_block = start + (i * start_row + j * start_step)
    if columns == 1:
        multiply_column(count, depth, a_block, a_row, a_step, b_block, start_block, start_row, block, limit)
    elif is_turned:
        multiply_column(width, depth, b_block, b_column, b_row, a_block, start_block, start_step, block, limit)
    else:
        wanted = panels if transposed or b_is_far or j == last or count >= TALL else 0
        multiply_block(
            me, count, width, slab, rows == 1, a_block, a_row, a_step, tile, a_is_far, b_block, b_step, transposed,
            b_is_far, wanted, copies, is_kept, j != last, start_block, start_row, start_step, block, block_row,
            limit, ahead, i, j,
        )  # fmt: skip
        last = j if wanted > 0 else last
    a_walk, b_walk = (a_step, RUN * a_step, depth * a_step), (b_row, RUN * b_row, depth * b_row)
    mend(
        count, width, depth, a_block, a_row, a_walk, b_block, (b_column, RUN * b_column), b_walk, start_block,
        start_row, start_step, block, block_row, floor,
    )  # fmt: skip
    return i, j, count, width, block, block_row, last


@jit
def _slab(
    shared, me, rows, columns, slab, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ahead, after_block, is_last, extras,
):  # fmt: skip
    """A phase: as `product`, of one slab, as `multiply_block` has it; `after_block` is called where it `is_last`."""
    depth = slab_end(slab) - slab_start(slab)
    division = _division(me, rows, columns, depth, a, a_row, a_step, b, transposed, c, c_row, capacity)
    _, _, _, _, _, _, block_rows, block_columns, _ = division
    down, across = chunks_of(rows, columns, block_rows, block_columns)
    chunks = down * across
    last = -1
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i, j, count, width, block, block_row, last = _multiply_chunk(
            me, rows, columns, slab, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
            c, c_row, floor, packed, capacity, scratch, ahead, division, chunk, last,
        )  # fmt: skip
        stamp(me, WORK)
        if is_last:
            after_block(i, j, count, width, block, block_row, extras)
            stamp(me, EPILOGUE)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


@jit
def product(
    shared, me, rows, columns, depth, a, a_row, a_step, b, b_step, transposed, start, start_row, start_step,
    c, c_row, floor, packed, capacity, scratch, ahead, after_block, extras,
):  # fmt: skip
    """A phase, a whole product: C[rows, columns] = max(A B + start, floor), block by block.

    B is b[depth, columns] with `b_step` elements between rows; where `transposed` it is stored as b[columns, depth].
    start(i, j) lies at start[i * start_row + j * start_step]. `packed` has room for `capacity` elements of each member.
    A chunk's block goes to c, or where c_row is 0 to this member's part of `scratch`, and while it is in the cache
    after_block(i, j, rows, columns, block, block_row, extras) is called on it, once even where C has no rows. What it
    reads beside the block, `ahead`, is asked for before a tile's last steps.

    Chunks are counted down the columns, so that a member keeps to its part of B, or where C has no fewer rows than
    columns, within a strip of rows for each member. What is updated instead of written is cut so too: two cores that
    change two halves of every row of the weights would take lines from one another, those of a page being asked for
    before they are needed, and a core reads whole rows when the input gradient is next.
    """
    slabs, blocks = 1 if c_row == 0 or parts_of(a) > 1 else depth_slabs(columns, depth, a_step), depth_blocks(depth)
    for index in range(slabs):
        slab = depth, block_start(blocks, index, slabs), block_start(blocks, index + 1, slabs)
        is_last = index == slabs - 1
        k, limit = slab_start(slab), floor if is_last else element(c, -np.inf)
        begin, begin_row, begin_step = start, start_row, start_step
        if index > 0:
            begin, begin_row, begin_step = c, c_row, 1
        _slab(
            shared, me, rows, columns, slab, a + k * a_step, a_row, a_step, b + k * (1 if transposed else b_step),
            b_step, transposed, begin, begin_row, begin_step, c, c_row, limit, packed, capacity, scratch, ahead,
            after_block, is_last, extras,
        )  # fmt: skip


def scratch_size(itemsize: int) -> int:
    """Elements of one thread's block."""
    return BLOCK_VECTORS * VECTOR_BYTES // itemsize
