"""Products of feature-major matrices: tiles of features times vectors of the batch's rows, and sums over those rows.

Networks are at most across.WIDEST wide, so that nothing is blocked and nothing copied.
"""

from .activations import IDENTITY, floor_of
from .compile import jit
from .simd import (
    VECTOR_BYTES,
    lanes,
    specialised,
    tile_add,
    tile_at_least,
    tile_dot_add,
    tile_lane_sums,
    tile_multiply_add,
    tile_splat,
    tile_square,
    tile_store,
    tile_transposed,
    tile_zeros,
    transpose_square,
)
from .tables import GRADIENT_ROW, INPUTS, OUTPUTS

COLUMNS = 4 if VECTOR_BYTES == 64 else 2
"""Vectors of a tile: with ROWS they leave room for the operands in 32 registers, or in 16."""

ROWS, PAIR_ROWS, THIN_ROWS = 4 if VECTOR_BYTES == 64 else 6, 4, 8
"""Features of a tile of COLUMNS vectors, of two, and of one, which needs more of them to fill the pipelines."""


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


def _strip_kernel(most, columns):
    tall, short = _product_kernel(most, columns), _product_kernel(2, columns)

    @jit
    def multiply_strip(rows, depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor, adds):
        """A strip of c as wide as a tile. A short tile with one row left takes it twice and writes it twice."""
        i = 0
        while i < rows:
            count = most if rows - i >= most else min(2, rows - i)
            once = 0 if count == 1 else 1
            a_i, a_next, start_i, start_next = a + i * a_row, once * a_row, start + i * start_row, once * start_row
            c_i, c_next = c + i * c_row, once * c_row
            if count == most:
                tall(depth, a_i, a_next, a_step, b, b_step, start_i, start_next, c_i, c_next, floor, adds)
            else:
                short(depth, a_i, a_next, a_step, b, b_step, start_i, start_next, c_i, c_next, floor, adds)
            i += count

    return multiply_strip


_wide, _pair, _thin = _strip_kernel(ROWS, COLUMNS), _strip_kernel(PAIR_ROWS, 2), _strip_kernel(THIN_ROWS, 1)


@jit
def multiply(rows, columns, depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor, adds):
    """c[rows, columns] = max(a b + start, floor), one start a row; `adds` adds c. The columns are whole vectors."""
    specialised()
    j = 0
    while j < columns:
        vectors = (columns - j) // lanes(c)
        if vectors >= COLUMNS:
            _wide(rows, depth, a, a_row, a_step, b + j, b_step, start, start_row, c + j, c_row, floor, adds)
            j += COLUMNS * lanes(c)
        elif vectors >= 2:
            _pair(rows, depth, a, a_row, a_step, b + j, b_step, start, start_row, c + j, c_row, floor, adds)
            j += 2 * lanes(c)
        else:
            _thin(rows, depth, a, a_row, a_step, b + j, b_step, start, start_row, c + j, c_row, floor, adds)
            j += lanes(c)


@jit
def takes_rows(layer, n, like):
    """Whether `multiply_rows` and `add_gradient` should have these n rows, a layer's inputs, as they are.

    With more outputs transposing them costs less than products of squares do; one of 4 lanes is too short a chain.
    """
    count = lanes(like)
    return count >= THIN_ROWS and layer[OUTPUTS] == count and layer[INPUTS] % count == 0 and n >= count


@jit
def multiply_rows(n, k, x, w, bias, y, columns, floor):
    """y[m, columns] = max((x[n, k] w[k, m] + bias)^T, floor), m being a vector's lanes and n not less.

    Squares are transposed in registers, so that x need not be. The last one overlaps the one before.
    """
    for i in range(0, n, lanes(x)):
        first = min(i, n - lanes(x))
        square, a, b = tile_square(bias), x + first * k, w
        for _ in range(k):
            square = tile_multiply_add(square, a, k, b, None)
            a += 1
            b += lanes(x)
        tile_store(tile_transposed(tile_at_least(square, floor)), y + first, columns, None)


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


def _sum_kernel(rows):
    @jit
    def sum_rows(n, g, g_row, target, target_row, adds):
        tile = tile_zeros(rows, 1, g)
        for i in range(0, n, lanes(g)):
            tile = tile_add(tile, g + i, g_row, n - i)
        tile_lane_sums(tile, target, target_row, 1, adds)

    return sum_rows


_sum_tall, _sum_short = _sum_kernel(4), _sum_kernel(2)


@jit
def _sum_features(n, m, columns, g, target, adds):
    """target[m] = the sums of n elements of each row of g[m, columns]; `adds` adds the old."""
    i = 0
    while i < m:
        count = 4 if m - i >= 4 else min(2, m - i)
        once = 0 if count == 1 else 1
        if count == 4:
            _sum_tall(n, g + i * columns, columns, target + i, 1, adds)
        else:
            _sum_short(n, g + i * columns, once * columns, target + i, once, adds)
        i += count


@jit
def add_gradient(layer, n, columns, x, by_rows, g, turned, zeros, total, adds):
    """The gradient of a layer's weights, and in the row after them of its biases, from n rows; `adds` adds the old.

    g[m, columns] are dJ/dz, and x[k + 1, columns] the layer's inputs with a row of ones below them. Few outputs, or few
    inputs and many rows: sums over the lanes. Else g is transposed, which k inputs share, and the lanes are the
    outputs. Where `by_rows`, as `takes_rows` says, x[n, k]: the lanes are the inputs, and what they sum is transposed.
    """
    k, m, row = layer[INPUTS], layer[OUTPUTS], layer[GRADIENT_ROW]
    if not by_rows and (2 * m <= lanes(x) or k * lanes(x) < n):
        _dots(n, k + 1, m, columns, x, g, total, row, adds)
        return
    if by_rows:
        rows, width, a, b, target = m, k, g, x, turned
    else:
        for i in range(0, n, lanes(x)):
            for j in range(0, m, lanes(x)):
                transpose_square(g + (j * columns + i), columns, turned + (i * row + j), row)
        rows, width, a, b, target = k, row, x, turned, total
    floor = floor_of(IDENTITY, x)
    multiply(rows, width, n, a, columns, 1, b, width, zeros, 0, target, width, floor, adds and not by_rows)
    if by_rows:
        for i in range(0, k, lanes(x)):
            square = tile_transposed(tile_add(tile_square(zeros), turned + i, k, None))
            place = total + i * row
            tile_store(tile_add(square, place, row, None) if adds else square, place, row, None)
    _sum_features(n, m, columns, g, total + k * row, adds)
