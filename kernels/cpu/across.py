"""Training narrow networks: vectors run across the batch, a whole step stays in the cache.

A layer of 5 outputs fills 5 of 16 lanes if vectors run along its outputs. Here every buffer is feature-major,
y[features, rows of the batch], so that lanes are full whatever the widths, and a member takes a block of rows through
all layers, forward and backward, before it touches the next. What a chunk of rows adds to the gradients it sums into
its own copy; the copies are added in the order of the rows, so that no bit depends on the threads.

After C. Elrod et al., SimpleChains.jl (2022).
"""

from ..network import Network
from .activations import IDENTITY, RELU, activate, copy_block, floor_of, multiply_by_derivative
from .compile import entry, jit
from .elementary import exp, log, log1p_exp_minus, sigmoid
from .losses import CROSS_ENTROPY, HALF_MSE, MSE, add_exactly, corrected, mean_loss
from .optimizers import L2, update
from .simd import (
    VECTOR_BYTES,
    address_of,
    element,
    float64_at,
    int64_at,
    keep_first,
    lanes,
    load,
    pointer_at,
    select,
    splat,
    store,
    tile_at_least,
    tile_dot_add,
    tile_lane_sums,
    tile_multiply_add,
    tile_splat,
    tile_store,
    tile_zeros,
    wide_add,
    wide_add_square,
    wide_total,
    wide_zeros,
)
from .tables import (
    ACTIVATION,
    ARENA_SIZE,
    ARENAS,
    BATCH_TARGET,
    BATCH_X,
    BIAS,
    COPIES,
    GRADIENT0,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    ONES,
    OUTPUT,
    OUTPUTS,
    PARTIAL,
    SAVED,
    SCRATCH,
    WEIGHTS,
    ZEROS,
)
from .team import RANK, claim, finish

WIDEST = 64
"""No layer may be wider: one member's buffers, BLOCK_ROWS of every layer, must stay in L2."""

GAIN = 0.9
"""The share of vector operations that must be left for this way to be taken."""

BLOCK_ROWS = 256
"""Rows of a block: 16 vectors of float32, enough to fill the pipelines, few enough for L1."""

MOST_CHUNKS = 32
"""Chunks of a batch at most, each with its own copy of the gradients."""

SIDE = 4 if VECTOR_BYTES == 64 else 2
"""Rows and vectors of a tile: SIDE * SIDE accumulators and 2 * SIDE operands fit 32 registers, or 16."""


def runs_across(network: Network) -> bool:
    """Whether the network is narrow enough to gain: by its widths alone, so that equal steps give equal bits."""
    count = VECTOR_BYTES // network.dtype.itemsize
    pairs = [(layer.inputs, layer.outputs) for layer in network.layers]
    along = sum(k * -(-m // count) * count for k, m in pairs)
    return max(network.widths) <= WIDEST and sum(k * m for k, m in pairs) <= GAIN * along


@jit
def padded_rows(n, unit):
    """Columns of a feature-major buffer of n rows: whole tiles of `unit` elements."""
    return -(-n // unit) * unit


@jit
def chunk_rows(n):
    """Rows of a chunk, whole blocks, from the batch's size alone."""
    return BLOCK_ROWS * -(-n // (BLOCK_ROWS * MOST_CHUNKS))


def _product_kernel(rows):
    @jit
    def multiply(depth, a, a_row, a_step, b, b_step, start, start_row, c, c_row, floor):
        tile = tile_splat(rows, SIDE, start, start_row)
        width = SIDE * lanes(c)
        for _ in range(depth):
            tile = tile_multiply_add(tile, a, a_row, b, width)
            a += a_step
            b += b_step
        tile_store(tile_at_least(tile, floor), c, c_row, width)

    return multiply


_product_tall, _product_short = _product_kernel(SIDE), _product_kernel(SIDE // 2)


@jit
def _product(rows, columns, depth, a, a_row, a_step, b, start, start_row, c, floor):
    """c[rows, columns] = max(a b + start, floor), one start value a row; the columns are whole tiles.

    A short tile with one row left takes it twice and writes it twice.
    """
    i = 0
    while i < rows:
        count = _tile_features(rows - i)
        once = 0 if count < SIDE // 2 else 1
        a_i, start_i = a + i * a_row, start + i * start_row
        for j in range(0, columns, SIDE * lanes(c)):
            b_j, c_ij = b + j, c + (i * columns + j)
            if count == SIDE:
                _product_tall(depth, a_i, a_row, a_step, b_j, columns, start_i, start_row, c_ij, columns, floor)
            else:
                _product_short(
                    depth,
                    a_i,
                    once * a_row,
                    a_step,
                    b_j,
                    columns,
                    start_i,
                    once * start_row,
                    c_ij,
                    once * columns,
                    floor,
                )
        i += count


@jit
def _tile_features(left):
    """Features of the next tile when `left` are to do."""
    return SIDE if left >= SIDE else min(left, SIDE // 2)


def _dot_kernel(rows, columns):
    @jit
    def dot(n, a, a_row, b, b_row, sums):
        """sums[rows, columns] = the dot products of n elements of each row of a with each row of b."""
        tile = tile_zeros(rows, columns, a)
        for i in range(0, n, lanes(a)):
            tile = tile_dot_add(tile, a + i, a_row, b + i, b_row, n - i)
        tile_lane_sums(tile, sums)

    return dot


_dot_tall_tall, _dot_tall_short = _dot_kernel(SIDE, SIDE), _dot_kernel(SIDE, SIDE // 2)
_dot_short_tall, _dot_short_short = _dot_kernel(SIDE // 2, SIDE), _dot_kernel(SIDE // 2, SIDE // 2)


@jit
def _add_gradient(n, k, m, columns, x, g, total, sums):
    """total[k, m] += x[k, n] g[m, n]^T, both stored with `columns` elements a row."""
    i = 0
    while i < k:
        i_count = _tile_features(k - i)
        i_row = 0 if i_count < SIDE // 2 else columns
        j = 0
        while j < m:
            j_count = _tile_features(m - j)
            j_row = 0 if j_count < SIDE // 2 else columns
            a, b = x + i * columns, g + j * columns
            if i_count == SIDE:
                if j_count == SIDE:
                    _dot_tall_tall(n, a, i_row, b, j_row, sums)
                else:
                    _dot_tall_short(n, a, i_row, b, j_row, sums)
            elif j_count == SIDE:
                _dot_short_tall(n, a, i_row, b, j_row, sums)
            else:
                _dot_short_short(n, a, i_row, b, j_row, sums)
            across = SIDE if j_count == SIDE else SIDE // 2
            for row in range(i_count):
                for column in range(j_count):
                    total[(i + row) * m + j + column] += sums[row * across + column]
            j += j_count
        i += i_count


@jit
def _squares(n, m, columns, y, t, dy, divisor):
    """Sum of (y - t)^2 over n rows; dy = (y - t) / divisor, 0 beyond them."""
    total, lost = 0.0, 0.0
    for j in range(m):
        part = wide_zeros(y)
        for i in range(0, columns, lanes(y)):
            place = j * columns + i
            difference = keep_first(load(y + place) - load(t + place), n - i, 0.0)
            part = wide_add_square(part, difference)
            store(dy + place, difference / divisor)
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _binary(n, m, columns, y, t, dy, divisor):
    """Sum of (max(y, 0) - t y) + log(1 + e^-|y|) over n rows; dy = (sigmoid(y) - t) / divisor, 0 beyond them."""
    total, lost = 0.0, 0.0
    for j in range(m):
        part = wide_zeros(y)
        for i in range(0, columns, lanes(y)):
            place = j * columns + i
            logit, target = load(y + place), load(t + place)
            value = (select(logit < 0.0, 0.0, logit) - target * logit) + log1p_exp_minus(logit)
            part = wide_add(part, keep_first(value, n - i, 0.0))
            store(dy + place, keep_first((sigmoid(logit) - target) / divisor, n - i, 0.0))
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _softmax(n, m, columns, y, t, has_labels, dy, divisor):
    """Sum of -t log softmax(y) over n rows; dy = (softmax(y) - t) / divisor, 0 beyond them.

    Where has_labels, the first row of t holds labels. A class of probability 0 contributes nothing.
    """
    part = wide_zeros(y)
    for i in range(0, columns, lanes(y)):
        largest, labels = load(y + i), load(t + i)
        for j in range(1, m):
            logit = load(y + (j * columns + i))
            largest = select(logit > largest, logit, largest)
        total, weight, product = splat(y, 0.0), splat(y, 0.0), splat(y, 0.0)
        for j in range(m):
            shifted = load(y + (j * columns + i)) - largest
            total += exp(shifted)
            target = select(labels == j, splat(y, 1.0), 0.0) if has_labels else load(t + (j * columns + i))
            weight += target
            product += select(target == 0.0, 0.0, target * shifted)
        for j in range(m):
            place = j * columns + i
            target = select(labels == j, splat(y, 1.0), 0.0) if has_labels else load(t + place)
            share = exp(load(y + place) - largest) / total
            store(dy + place, keep_first((share - target) / divisor, n - i, 0.0))
        part = wide_add(part, keep_first(weight * log(total) - product, n - i, 0.0))
    return wide_total(part)


@jit
def _block_loss(loss, batch, n, m, columns, y, t, has_labels, dy):
    """What n rows of y[m, columns] add to a batch's J, not yet divided by its size; dJ/dy to dy[m, columns]."""
    if loss == MSE:
        return _squares(n, m, columns, y, t, dy, batch * m / 2)
    if loss == HALF_MSE:
        return _squares(n, m, columns, y, t, dy, batch)
    if loss == CROSS_ENTROPY:
        return _softmax(n, m, columns, y, t, has_labels, dy, batch)
    return _binary(n, m, columns, y, t, dy, batch * m)


@jit
def _transpose_rows(n, columns, first, order, source, k, target):
    """target[k, columns] = rows order[first : first + n] of source[N, k], without an order first ..; 0 beyond them."""
    for i in range(columns):
        if i < n:
            row = order[first + i] if address_of(order) != 0 else first + i
            for j in range(k):
                target[j * columns + i] = source[row * k + j]
        else:
            for j in range(k):
                target[j * columns + i] = element(target, 0.0)


@jit
def _transpose_labels(n, columns, first, order, labels, target):
    """target[columns] = the labels of these rows, as floats."""
    for i in range(columns):
        target[i] = element(target, 0.0)
        if i < n:
            target[i] = element(target, labels[order[first + i] if address_of(order) != 0 else first + i])


@jit
def _block(plan, layers, batch, n, columns, x, t, has_labels, w, total, arena):
    """Take n rows x[inputs, columns] through all layers and back; give their part of J, their gradients to `total`."""
    last = plan[LAYERS] - 1
    below = x
    for index in range(last + 1):
        layer = layers + index * LAYER_FIELDS
        k, m, activation = layer[INPUTS], layer[OUTPUTS], layer[ACTIVATION]
        y, saved, keeps = arena + layer[OUTPUT], arena + layer[SAVED], layer[SAVED] != layer[OUTPUT]
        floor = floor_of(IDENTITY if keeps else activation, y)
        _product(m, columns, k, w + layer[WEIGHTS], 1, m, below, w + layer[BIAS], 1, y, floor)
        if keeps:
            copy_block(1, m * columns, y, 0, saved, 0)
        if keeps or activation != RELU:
            activate(activation, 1, m * columns, y, 0)
        below = y
    layer = layers + last * LAYER_FIELDS
    m, g = layer[OUTPUTS], arena + plan[GRADIENT0 + last % 2]
    value = _block_loss(plan[LOSS], batch, n, m, columns, below, t, has_labels, g)
    multiply_by_derivative(layer[ACTIVATION], 1, m * columns, g, 0, arena + layer[SAVED], 0)
    for index in range(last, -1, -1):
        layer = layers + index * LAYER_FIELDS
        k, m = layer[INPUTS], layer[OUTPUTS]
        g, sums = arena + plan[GRADIENT0 + index % 2], arena + plan[SCRATCH]
        _add_gradient(n, 1, m, columns, arena + plan[ONES], g, total + layer[BIAS], sums)
        if index == 0:
            _add_gradient(n, k, m, columns, x, g, total + layer[WEIGHTS], sums)
        else:
            before = layers + (index - 1) * LAYER_FIELDS
            _add_gradient(n, k, m, columns, arena + before[OUTPUT], g, total + layer[WEIGHTS], sums)
            dx = arena + plan[GRADIENT0 + (index - 1) % 2]
            _product(k, columns, m, w + layer[WEIGHTS], m, 1, g, arena + plan[ZEROS], 0, dx, floor_of(IDENTITY, dx))
            multiply_by_derivative(before[ACTIVATION], 1, k * columns, dx, 0, arena + before[SAVED], 0)
    return value


@jit
def _chunk(plan, layers, batch, start, n, first, order, x, target, labels, fresh, w, total, arena):
    """Rows start .. start + n of the batch, block by block; `first` is the batch's first position."""
    k, m = layers[INPUTS], layers[(plan[LAYERS] - 1) * LAYER_FIELDS + OUTPUTS]
    value = 0.0
    for begin in range(start, start + n, BLOCK_ROWS):
        count = min(BLOCK_ROWS, start + n - begin)
        columns = padded_rows(count, SIDE * lanes(w))
        batch_x, batch_t = pointer_at(plan[BATCH_X], w) + begin * k, pointer_at(plan[BATCH_TARGET], w) + begin * m
        if fresh:
            _transpose_rows(count, columns, first + begin, order, x, k, batch_x)
            if address_of(labels) != 0:
                _transpose_labels(count, columns, first + begin, order, labels, batch_t)
            else:
                _transpose_rows(count, columns, first + begin, order, target, m, batch_t)
        value += _block(plan, layers, batch, count, columns, batch_x, batch_t, address_of(labels) != 0, w, total, arena)
    return value


@jit
def _update_layer(copies, size, chunks, layer, settings, updates, w, state):
    """Step one layer's weights and biases along the sum of the chunks' gradients, added first to last."""
    for part in range(2):
        offset = layer[WEIGHTS] if part == 0 else layer[BIAS]
        count = layer[INPUTS] * layer[OUTPUTS] if part == 0 else layer[OUTPUTS]
        total = copies + offset
        for chunk in range(1, chunks):
            for j in range(0, count, lanes(w)):
                store(total + j, load(total + j) + load(total + (chunk * size + j)))
        slot = state + offset
        l2 = settings[L2] if part == 0 else 0.0
        update(settings, updates, l2, 1, count, total, 0, w + offset, 0, slot, slot + size)


@entry
def train_across(
    shared, me, like, parameters, size, state_address, settings_address, losses_address, steps, layers_address,
    plan_address, x_address, target_address, label_address, order_address, rows, start, batch_size, updates,
):  # fmt: skip
    """The steps of train._train, by the same job, for a network that runs across the batch."""
    plan, layers = int64_at(plan_address), int64_at(layers_address)
    losses, settings = float64_at(losses_address), float64_at(settings_address)
    w, state = pointer_at(parameters, like), pointer_at(state_address, like)
    x, target = pointer_at(x_address, like), pointer_at(target_address, like)
    labels, order = int64_at(label_address), int64_at(order_address)
    arena = pointer_at(plan[ARENAS], like) + me[RANK] * plan[ARENA_SIZE]
    copies, partial = pointer_at(plan[COPIES], like), float64_at(plan[PARTIAL])
    m = layers[(plan[LAYERS] - 1) * LAYER_FIELDS + OUTPUTS]
    position, held = start, 0
    for step in range(steps):
        n = min(batch_size, rows - position % rows)
        first = position if order_address != 0 else position % rows
        fresh = order_address != 0 or n < rows or held < rows  # else all rows lie there from the step before
        held = n
        chunk_size = chunk_rows(n)
        chunks = -(-n // chunk_size)
        chunk = claim(shared, me, chunks)
        while chunk >= 0:
            begin = chunk * chunk_size
            total = copies + chunk * size
            for j in range(0, size, lanes(w)):
                store(total + j, splat(w, 0.0))
            partial[chunk] = _chunk(
                plan, layers, n, begin, min(chunk_size, n - begin), first, order, x, target, labels, fresh,
                w, total, arena,
            )  # fmt: skip
            chunk = claim(shared, me, chunks)
        finish(shared, me, chunks)
        # The losses are added up by whoever claims that: a member that runs ahead overwrites them in the next step.
        work = plan[LAYERS] + 1
        index = claim(shared, me, work)
        while index >= 0:
            if index < plan[LAYERS]:
                _update_layer(copies, size, chunks, layers + index * LAYER_FIELDS, settings, updates + step, w, state)
            else:
                losses[step] = mean_loss(plan[LOSS], n, m, partial, chunks)
            index = claim(shared, me, work)
        finish(shared, me, work)
        position += n
