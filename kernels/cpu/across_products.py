"""Products of feature-major matrices: tiles of features times vectors of the batch's rows, and sums over those rows.

Networks are at most across.WIDEST wide, so that nothing is blocked and nothing copied.
"""

from .activations import IDENTITY, floor_of
from .compile import jit
from .simd import (
    VECTOR_BYTES,
    lanes,
    load,
    specialised,
    splat,
    store,
    tile_add,
    tile_at_least,
    tile_dot_add,
    tile_lane_sums,
    tile_multiply_add,
    tile_splat,
    tile_store,
    tile_zeros,
    transpose_square,
)
from .tables import GRADIENT_ROW, INPUTS, OUTPUTS

COLUMNS = 4 if VECTOR_BYTES == 64 else 2
"""Vectors of a tile: with ROWS they leave room for the operands in 32 registers, or in 16."""

ROWS, THIN_ROWS = 4 if VECTOR_BYTES == 64 else 6, 8
"""Features of a tile of COLUMNS vectors, and of one vector alone, which needs more of them to fill the pipelines."""


def _product_kernel(rows, columns):
    @jit
    def multiply_tile(depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor, adds):
        tile = tile_splat(rows, columns, start, start_row)
        width = columns * lanes(c)
        for _ in range(depth):
            tile = tile_multiply_add(tile, a, a_row, b, width)
            a += a_step
            b += b_step
        if adds:
            tile = tile_add(tile, c, c_row, width)
        tile_store(tile_at_least(tile, floor), c, c_row, width)

    return multiply_tile


_wide, _wide_short = _product_kernel(ROWS, COLUMNS), _product_kernel(2, COLUMNS)
_thin, _thin_short = _product_kernel(THIN_ROWS, 1), _product_kernel(2, 1)


@jit
def multiply(rows, columns, depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor, adds):
    """c[rows, columns] = max(a b + start, floor), one start value a row; `adds` adds c. The columns are whole vectors.

    A short tile with one row left takes it twice and writes it twice.
    """
    specialised()
    j = 0
    while j < columns:
        is_wide = columns - j >= COLUMNS * lanes(c)
        most = ROWS if is_wide else THIN_ROWS
        i = 0
        while i < rows:
            count = most if rows - i >= most else min(2, rows - i)
            once = 0 if count == 1 else 1
            a_i, a_next, start_i, start_next = a + i * a_row, once * a_row, start + i * start_row, once * start_row
            c_ij, c_next = c + (i * c_row + j), once * c_row
            if is_wide:
                if count == ROWS:
                    _wide(depth, a_i, a_next, a_step, b + j, b_step, start_i, start_next, c_ij, c_next, floor, adds)
                else:
                    _wide_short(
                        depth, a_i, a_next, a_step, b + j, b_step, start_i, start_next, c_ij, c_next, floor, adds
                    )
            elif count == THIN_ROWS:
                _thin(depth, a_i, a_next, a_step, b + j, b_step, start_i, start_next, c_ij, c_next, floor, adds)
            else:
                _thin_short(depth, a_i, a_next, a_step, b + j, b_step, start_i, start_next, c_ij, c_next, floor, adds)
            i += count
        j += (COLUMNS if is_wide else 1) * lanes(c)


def _dot_kernel(rows, columns):
    @jit
    def dot(n, a, a_row, b, b_row, c, c_row, width, adds):
        """c[rows, width] = the dot products of n elements of each row of a with each row of b; `adds` adds c."""
        tile = tile_zeros(rows, columns, a)
        for i in range(0, n, lanes(a)):
            tile = tile_dot_add(tile, a + i, a_row, b + i, b_row, n - i)
        tile_lane_sums(tile, c, c_row, width, adds)

    return dot


_dot_tall_wide, _dot_tall_thin = _dot_kernel(ROWS, COLUMNS), _dot_kernel(ROWS, 2)
_dot_short_wide, _dot_short_thin = _dot_kernel(2, COLUMNS), _dot_kernel(2, 2)


@jit
def _dots(n, rows, m, columns, x, g, c, row, adds):
    """c[rows, m] = x[rows, n] g[m, n]^T, both stored with `columns` elements a row; `adds` adds c."""
    j = 0
    while j < m:
        j_count = COLUMNS if m - j >= COLUMNS else min(2, m - j)
        b, b_row = g + j * columns, 0 if j_count == 1 else columns
        i = 0
        while i < rows:
            i_count = ROWS if rows - i >= ROWS else min(2, rows - i)
            once = 0 if i_count == 1 else 1
            a, a_row, c_ij, c_row = x + i * columns, once * columns, c + (i * row + j), once * row
            if i_count == ROWS:
                if j_count == COLUMNS:
                    _dot_tall_wide(n, a, a_row, b, b_row, c_ij, c_row, j_count, adds)
                else:
                    _dot_tall_thin(n, a, a_row, b, b_row, c_ij, c_row, j_count, adds)
            elif j_count == COLUMNS:
                _dot_short_wide(n, a, a_row, b, b_row, c_ij, c_row, j_count, adds)
            else:
                _dot_short_thin(n, a, a_row, b, b_row, c_ij, c_row, j_count, adds)
            i += i_count
        j += j_count


@jit
def _add_rows(n, row, p, target, adds):
    """target[row] = the sum of the n rows of whole vectors at p, in four chains; `adds` adds the old."""
    most = n // 4 * 4
    for j in range(0, row, lanes(p)):
        a, b, c, d = splat(p, 0.0), splat(p, 0.0), splat(p, 0.0), splat(p, 0.0)
        for i in range(0, most, 4):
            place = p + (i * row + j)
            a, b = a + load(place), b + load(place + row)
            c, d = c + load(place + 2 * row), d + load(place + 3 * row)
        for i in range(most, n):
            a += load(p + (i * row + j))
        sum_ = (a + b) + (c + d)
        store(target + j, sum_ + load(target + j) if adds else sum_)


@jit
def add_gradient(layer, n, columns, x, g, turned, zeros, total, adds):
    """The gradient of a layer's weights, and in the row after them of its biases, from n rows; `adds` adds the old.

    x[k + 1, columns] are its inputs with a row of ones below them. Few outputs, or few inputs and many rows: sums over
    the lanes. Else the gradients g[m, columns] are transposed, which k inputs share, and the lanes are the outputs.
    """
    k, m, row = layer[INPUTS], layer[OUTPUTS], layer[GRADIENT_ROW]
    if 2 * m <= lanes(x) or k * lanes(x) < n:
        _dots(n, k + 1, m, columns, x, g, total, row, adds)
    else:
        for i in range(0, n, lanes(x)):
            for j in range(0, m, lanes(x)):
                transpose_square(g + (j * columns + i), columns, turned + (i * row + j), row)
        floor = floor_of(IDENTITY, x)
        multiply(k, row, n, x, columns, 1, turned, row, zeros, 0, total, row, floor, adds)
        _add_rows(n, row, turned, total + k * row, adds)
