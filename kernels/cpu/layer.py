"""One layer's three products, each with the work that follows it done on every block while it is in the cache.

What a later product reads of a result, its factor, is the result itself, or for dtype bfloat16 its rounded copy, which
is made here too.
"""

from .activations import IDENTITY, RELU, activate, copy_block, floor_of, multiply_by_derivative, round_block
from .compile import jit
from .optimizers import L2, update
from .product import prefetch_tile, product
from .simd import address_of, lanes, load_first, store_first
from .team import claim, finish

ROUND_CHUNK = 1 << 14
"""Elements that one chunk rounds: 64 KiB, a few microseconds."""


@jit
def round_array(shared, me, size, source, target):
    """A phase: target[size] = source rounded to bfloat16; it may be source."""
    chunks = -(-size // ROUND_CHUNK)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        first = chunk * ROUND_CHUNK
        round_block(1, min(ROUND_CHUNK, size - first), source + first, 0, target + first, 0)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


@jit
def nothing_ahead(i, j, rows, columns, extras):
    """What follows the product reads nothing but its block."""


@jit
def nothing_after(i, j, rows, columns, block, block_row, extras):
    """The plain product: a block is finished as it is."""


@jit
def _after_forward(i, j, rows, columns, block, block_row, extras):
    activation, keeps, saved, y_row, y, factor = extras
    if keeps:
        copy_block(rows, columns, block, block_row, saved + (i * y_row + j), y_row)
    if keeps or activation != RELU:
        activate(activation, rows, columns, block, block_row)
    if address_of(factor) != address_of(y):
        round_block(rows, columns, block, block_row, factor + (i * y_row + j), y_row)


@jit
def forward_layer(shared, me, n, k, m, x, w, b, y, factor, z, keeps_z, activation, packed, capacity, scratch):
    """y[n, m] = activation(x[n, k] w[k, m] + b[m]), and its factor; keeps x w + b in z[n, m] where keeps_z."""
    floor = floor_of(IDENTITY if keeps_z else activation, y)
    product(
        shared, me, n, m, k, x, k, 1, w, m, False, b, 0, 1, y, m, floor, packed, capacity, scratch,
        nothing_ahead, _after_forward, (activation, keeps_z, z, m, y, factor),
    )  # fmt: skip


@jit
def _ahead_of_input_gradient(i, j, rows, columns, extras):
    _, saved, saved_row, _, _ = extras
    prefetch_tile(rows, columns, saved + (i * saved_row + j), saved_row)


@jit
def _after_input_gradient(i, j, rows, columns, block, block_row, extras):
    activation, saved, row, dx, factor = extras
    if activation != IDENTITY:
        multiply_by_derivative(activation, rows, columns, block, block_row, saved + (i * row + j), row)
    if address_of(factor) != address_of(dx):
        round_block(rows, columns, block, block_row, factor + (i * row + j), row)


@jit
def input_gradient(shared, me, n, k, m, dz, w, dx, factor, activation, saved, zeros, packed, capacity, scratch):
    """dx[n, k] = dz[n, m] w[k, m]^T * activation'(saved[n, k]), dJ/dz of the layer before, and its factor."""
    product(
        shared, me, n, k, m, dz, m, 1, w, m, True, zeros, 0, 0, dx, k, floor_of(IDENTITY, dx),
        packed, capacity, scratch, _ahead_of_input_gradient, _after_input_gradient, (activation, saved, k, dx, factor),
    )  # fmt: skip


@jit
def _sum_rows(n, columns, dz, dz_row, total):
    """total[columns] = sum of the n rows of dz, four rows apart added together first."""
    for j in range(0, columns, lanes(dz)):
        count = min(lanes(dz), columns - j)
        zero = load_first(dz + j, 0)
        first, second, third, fourth = zero, zero, zero, zero
        row = dz + j
        for _ in range(n // 4):
            first += load_first(row, count)
            second += load_first(row + dz_row, count)
            third += load_first(row + 2 * dz_row, count)
            fourth += load_first(row + 3 * dz_row, count)
            row += 4 * dz_row
        for _ in range(n % 4):
            first += load_first(row, count)
            row += dz_row
        store_first(total + j, (first + second) + (third + fourth), count)


@jit
def _ahead_of_weight_gradient(i, j, rows, columns, extras):
    _, m, _, w, _, _, _, _, _, _, _ = extras
    prefetch_tile(rows, columns, w + (i * m + j), m)


@jit
def _after_weight_gradient(i, j, rows, columns, block, block_row, extras):
    n, m, dz, w, b, w0, w1, b0, b1, settings, updates = extras
    offset = i * m + j
    update(settings, updates, settings[L2], rows, columns, block, block_row, w + offset, m, w0 + offset, w1 + offset)
    if i == 0:
        _sum_rows(n, columns, dz + j, m, block)
        update(settings, updates, 0.0, 1, columns, block, m, b + j, m, b0 + j, b1 + j)


@jit
def update_layer(
    shared, me, n, k, m, x, dz, factor, w, b, w0, w1, b0, b1, settings, updates, zeros, packed, capacity, scratch
):
    """Step w[k, m] along x[n, k]^T dz[n, m] and b[m] along the sum of dz; no gradient leaves the cache.

    x and `factor`, dz's, are as products take them. w0 and w1, b0 and b1 are the optimiser's slots of w and b.
    """
    product(
        shared, me, k, m, n, x, 1, k, factor, m, False, zeros, 0, 0, w, 0, floor_of(IDENTITY, w), packed, capacity,
        scratch,
        _ahead_of_weight_gradient, _after_weight_gradient, (n, m, dz, w, b, w0, w1, b0, b1, settings, updates),
    )  # fmt: skip
