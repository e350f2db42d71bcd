"""One layer's three products, each with the work that follows it done on every block while it is in the cache.

In bfloat16 x, w and dz are pairs (pairs.py), and `across` and `down` are where those of a result go, else None.
"""

from .activations import (
    IDENTITY,
    LEAKY_RELU,
    RELU,
    activate,
    copy_block,
    floor_of,
    multiply_by_derivative,
    multiply_by_sign,
)
from .ahead import changing_ahead, nothing_ahead, reading_ahead
from .compile import jit
from .operands import ROWS_UNIT, across_at, pair_block, reading_across
from .optimizers import changed_by_update, update
from .pairs import steps_held
from .product_by_depth import goes_by_depth, product_by_depth
from .simd import (
    address_of,
    lanes,
    load_first,
    pointer_at,
    steps_of,
    store_first,
    tile_add,
    tile_store,
    tile_sum,
    tile_zeros,
)
from .squares import BOTH, LEFT, RIGHT
from .tiles import product


@jit
def nothing_after(i, j, rows, columns, block, block_row, extras):
    """The plain product: a block is finished as it is."""


@jit
def _after_forward(i, j, rows, columns, block, block_row, extras):
    activation, keeps, saved, _, width, _, _ = extras
    if keeps:
        copy_block(rows, columns, block, block_row, saved + (i * width + j), width)
    if keeps or activation != RELU:
        activate(activation, rows, columns, block, block_row)


@jit
def _after_forward_in_pairs(i, j, rows, columns, block, block_row, extras):
    _after_forward(i, j, rows, columns, block, block_row, extras)
    _, _, _, height, width, across, down = extras
    pair_block(LEFT, i, j, rows, columns, block, block_row, height, width, across, down)


@jit
def forward_layer(shared, me, n, k, m, x, w, b, y, across, down, z, keeps_z, activation, packed, capacity, scratch):
    """y[n, m] = activation(x[n, k] w[k, m] + b[m]), kept where y is not 0; keeps x w + b in z[n, m] where keeps_z."""
    floor = floor_of(IDENTITY if keeps_z else activation, y)
    after = _after_forward if across is None else _after_forward_in_pairs
    row, y_row = steps_held(k, x), m if address_of(y) != 0 else 0
    product(
        shared, me, n, m, steps_of(k, x), x, row, 1, w, m, False, b, 0, 1, y, y_row, floor, packed, capacity, scratch,
        nothing_ahead(y), after, (activation, keeps_z, z, n, m, across, down),
    )  # fmt: skip


@jit
def forward_layer_to_update(shared, me, n, k, m, x, w, b, y, z, keeps_z, activation, zeros, packed, capacity, scratch):
    """As `forward_layer` of a layer that `update_layer` changes in every step, which does so by rows of w."""
    if goes_by_depth(me, n, m, k, capacity):
        product_by_depth(
            shared, me, n, m, k, x, k, w, zeros, b, y, floor_of(IDENTITY if keeps_z else activation, y), packed,
            _after_forward, (activation, keeps_z, z, n, m, None, None),
        )  # fmt: skip
    else:
        forward_layer(shared, me, n, k, m, x, w, b, y, None, None, z, keeps_z, activation, packed, capacity, scratch)


SUMMED = 2
"""Vectors side by side that are summed in one pass down the rows."""


@jit
def _sum_rows(n, columns, dz, dz_row, total):
    """total[columns] = sum of the n rows of dz, four rows apart added together first."""
    for j in range(0, columns, SUMMED * lanes(dz)):
        width, row = columns - j, dz + j
        zeros = tile_zeros(1, SUMMED, dz)
        first, second, third, fourth = zeros, zeros, zeros, zeros
        for _ in range(n // 4):
            first = tile_add(first, row, 0, width)
            second = tile_add(second, row + dz_row, 0, width)
            third = tile_add(third, row + 2 * dz_row, 0, width)
            fourth = tile_add(fourth, row + 3 * dz_row, 0, width)
            row += 4 * dz_row
        for _ in range(n % 4):
            first = tile_add(first, row, 0, width)
            row += dz_row
        tile_store(tile_sum(tile_sum(first, second), tile_sum(third, fourth)), total + j, 0, width)


@jit
def sum_tiles(i, j, rows, columns, block, block_row, width, sums):
    """sums[ceil(n / U), width] = every U = ROWS_UNIT rows of a matrix added up, here of its block at (i, j)."""
    for ii in range(0, rows, ROWS_UNIT):
        total = sums + ((i + ii) // ROWS_UNIT * width + j)
        _sum_rows(min(ROWS_UNIT, rows - ii), columns, block + ii * block_row, block_row, total)


@jit
def _after_input_gradient(i, j, rows, columns, block, block_row, extras):
    derivative, saved, width = extras
    if derivative != IDENTITY:
        multiply_by_derivative(derivative, rows, columns, block, block_row, saved + (i * width + j), width)


@jit
def input_gradient(shared, me, n, k, m, dz, w, dx, derivative, saved, zeros, packed, capacity, scratch):
    """dx[n, k] = dz[n, m] w[k, m]^T * derivative(saved[n, k]), which is dJ/dz of the layer before."""
    ahead = reading_ahead(saved, k, 1, dx) if derivative != IDENTITY else nothing_ahead(dx)
    product(
        shared, me, n, k, m, dz, m, 1, w, m, True, zeros, 0, 0, dx, k, floor_of(IDENTITY, dx),
        packed, capacity, scratch, ahead, _after_input_gradient, (derivative, saved, k),
    )  # fmt: skip


@jit
def _after_input_gradient_in_pairs(i, j, rows, columns, block, block_row, extras):
    derivative, saved, y, height, width, sums, across, down = extras
    if derivative in (RELU, LEAKY_RELU):
        y_at, y_row = across_at(i, j, width, y)
        multiply_by_sign(derivative, rows, columns, block, block_row, y_at, y_row)
    elif derivative != IDENTITY:
        multiply_by_derivative(derivative, rows, columns, block, block_row, saved + (i * width + j), width)
    sum_tiles(i, j, rows, columns, block, block_row, width, sums)
    pair_block(BOTH, i, j, rows, columns, block, block_row, height, width, across, down)


@jit
def input_gradient_in_pairs(
    shared, me, n, k, m, dz, w, across, down, sums, derivative, saved, y, zeros, packed, capacity, scratch
):
    """As `input_gradient`, but what is kept of dx are its pairs, and sums of its rows for db (sum_tiles).

    y is `across` of the layer before.
    """
    row = steps_held(m, dz)
    if derivative in (RELU, LEAKY_RELU):
        ahead = reading_across(k, y, sums)
    elif derivative != IDENTITY:
        ahead = reading_ahead(saved, k, 1, sums)
    else:
        ahead = nothing_ahead(sums)
    product(
        shared, me, n, k, steps_of(m, dz), dz, row, 1, w, row, True, zeros, 0, 0, sums, 0, floor_of(IDENTITY, sums),
        packed, capacity, scratch, ahead, _after_input_gradient_in_pairs,
        (derivative, saved, y, n, k, sums, across, down),
    )  # fmt: skip


@jit
def _add_block(rows, columns, block, block_row, total, total_row):
    """block[rows, columns] += total."""
    for i in range(rows):
        for j in range(0, columns, lanes(block)):
            place, left = block + (i * block_row + j), columns - j
            store_first(place, load_first(total + (i * total_row + j), left) + load_first(place, left), left)


@jit
def _after_weight_gradient(i, j, rows, columns, block, block_row, extras):
    parts, _, m, sums, w, b, w0, w1, b0, b1, settings, l2, updates, adds, w_total, b_total, _, _ = extras
    offset = i * m + j
    # As in `activate`, one long row.
    height, width = (min(rows, 1), rows * m) if columns == m and block_row == m else (rows, columns)
    if adds:
        _add_block(height, width, block, block_row, w_total + offset, m)
    update(settings, updates, l2, height, width, block, block_row, w + offset, m, w0 + offset, w1 + offset)
    if i == 0:
        _sum_rows(parts, columns, sums + j, m, block)
        if adds:
            _add_block(1, columns, block, 0, b_total + j, 0)
        update(settings, updates, 0.0, 1, columns, block, m, b + j, m, b0 + j, b1 + j)


@jit
def _after_weight_gradient_in_pairs(i, j, rows, columns, block, block_row, extras):
    _after_weight_gradient(i, j, rows, columns, block, block_row, extras)
    _, k, m, _, w, _, _, _, _, _, _, _, _, _, _, _, across, down = extras
    pair_block(RIGHT, i, j, rows, columns, w + (i * m + j), m, k, m, across, down)


PART_ROWS = 1024
"""Rows of a batch whose gradients are summed in one product; in training they go forward and backward together. What a
part computes is read from the caches then, and so are a weight gradient's operands, by each of its blocks from the
first row to the last."""


@jit
def parts_of_batch(n):
    """Into how many parts, nearly equal, n rows are cut."""
    return max(-(-n // PART_ROWS), 1)


@jit
def update_layer(
    shared, me, n, k, m, x, dz, parts, sums, w, b, across, down, w0, w1, b0, b1, settings, l2, updates, adds, w_total,
    b_total, zeros, packed, capacity, scratch,
):  # fmt: skip
    """Step w[k, m] along x[n, k]^T dz[n, m] and b[m] along the sum of dz; no gradient leaves the cache.

    sums[parts, m] have the same sum as dz: they are dz itself where that is not pairs. w0 and w1, b0 and b1 are the
    optimiser's slots of w and b. Where `adds`, these n rows' gradients are added to w_total and b_total first.
    """
    after = _after_weight_gradient if across is None else _after_weight_gradient_in_pairs
    read = w_total if adds else pointer_at(0, w)
    ahead = changing_ahead(read, changed_by_update(settings, w, w0, w1), m)
    product(
        shared, me, k, m, steps_of(n, x), x, 1, k, dz, m, False, zeros, 0, 0, w, 0, floor_of(IDENTITY, w), packed,
        capacity, scratch, ahead, after,
        (parts, k, m, sums, w, b, w0, w1, b0, b1, settings, l2, updates, adds, w_total, b_total, across, down),
    )  # fmt: skip
