"""Training narrow networks: vectors run across the batch, a whole step stays in the cache.

A layer of 5 outputs fills 5 of 16 lanes if vectors run along its outputs. Here every buffer is feature-major,
y[features, rows of the batch], so that lanes are full whatever the widths, and a member takes a block of rows through
all layers, forward and backward, before it touches the next. What a chunk of rows adds to the gradients it sums into
its own copy; the copies are added in the order of the rows, so that no bit depends on the threads.

After C. Elrod et al., SimpleChains.jl (2022).
"""

import numpy as np

from ..network import Layer, Network
from ..timeline import EPILOGUE, EVERY_LAYER, WORK
from .across_losses import block_loss
from .across_products import COLUMNS, add_gradient, multiply, multiply_rows, takes_rows
from .activations import IDENTITY, RELU, activate, copy_block, floor_of, multiply_by_derivative
from .compile import entry, jit
from .gathering import gather_rows, transpose_labels, transpose_rows
from .losses import mean_loss
from .optimizers import L2, update
from .penalty import sum_of_squares
from .phases import RANK, claim, finish
from .simd import (
    VECTOR_BYTES,
    address_of,
    float64_at,
    int64_at,
    kept_apart,
    lanes,
    load,
    load_first,
    pointer_at,
    splat,
    store,
    store_first,
)
from .stamps import (
    IN_FORWARD,
    IN_GATHER,
    IN_INPUT_GRADIENT,
    IN_LOSS,
    IN_OPTIMIZER,
    IN_PENALTY,
    IN_WEIGHT_GRADIENT,
    begin_step,
    mark,
    stamp,
)
from .tables import (
    ACTIVATION,
    ARENA_SIZE,
    ARENAS,
    BATCH_TARGET,
    BATCH_X,
    BIAS,
    BLOCK,
    COPIES,
    COPY_SIZE,
    DERIVATIVE,
    GRADIENT,
    GRADIENT0,
    GRADIENT_ROW,
    INPUTS,
    JOINED,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    LOSS_ROUTINE,
    OUTPUT,
    OUTPUTS,
    PARTIAL,
    SAVED,
    SCRATCH,
    SHARED_ROWS,
    WEIGHTS,
    ZEROS,
)

WIDEST = 128
"""No layer may be wider. At 128, a batch of 128 takes one thread as long as row-major (Zen 5), in half the phases."""

LARGEST_BLOCK, BLOCK_PRODUCTS = 256, 2**18
"""Rows of a block, and multiply-adds of its forward pass at most: with the way back some 5 us, enough to share out."""

MOST_CHUNKS = 32
"""Chunks of a batch at most, each with its own copy of the gradients."""

SHARES = 4
"""Shares of a layer's update where there is more than one chunk: the members get nearly equal work."""


def runs_across(network: Network) -> bool:
    """Whether the network is narrow enough: by itself alone, so that equal steps give equal bits.

    Those whose products take pairs of bfloat16 are not trained so: pairs are made by row-major passes.
    """
    return max(network.widths) <= WIDEST


def block_rows(network: Network) -> int:
    """Rows of a block at most, by the network's widths alone: whole tiles and, so that no rest is left, one vector."""
    count = VECTOR_BYTES // network.dtype.itemsize
    rows = COLUMNS * count
    products = sum(layer.inputs * layer.outputs for layer in network.layers)
    while 2 * rows <= LARGEST_BLOCK and 2 * rows * products <= BLOCK_PRODUCTS:
        rows *= 2
    return rows + count


def gradient_row(layer: Layer, dtype: np.dtype) -> int:
    """Elements between the rows of a layer's gradient in a copy: whole vectors where `multiply` makes it."""
    count = VECTOR_BYTES // dtype.itemsize
    return layer.outputs if 2 * layer.outputs <= count else padded(layer.outputs, count)


def padded(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-n // unit) * unit


@jit
def chunks_of(n, block, shared, count):
    """Chunks of a batch of n rows, from its size alone: one or an even number, which two members share evenly.

    From `shared` rows on, enough work for two, there are two where each has two vectors of `count` lanes.
    """
    chunks = -(-n // block)
    if chunks == 1 and (n < shared or n <= 3 * count):
        return 1
    return min(-(-chunks // 2) * 2, MOST_CHUNKS)


@jit
def groups_of(chunks):
    """Groups of neighbouring chunks, whose gradients are added up before those of the groups are."""
    return min(chunks, 2 if chunks < 8 else 4)


@jit
def group_head(chunk, chunks):
    """The first chunk of this one's group."""
    groups, head = groups_of(chunks), 0
    for group in range(1, groups):
        if chunks * group // groups <= chunk:
            head = chunks * group // groups
    return head


@jit
def part_start(n, part, parts, count):
    """The first of n rows in this part: parts are multiples of `count` rows, which differ by one `count` at most."""
    if parts == 1:
        return n * part
    return min(n, -(-n // count) * part // parts * count)


@jit
def _fill_ones(columns, target):
    """target[columns] = 1."""
    for i in range(0, columns, lanes(target)):
        store(target + i, splat(target, 1.0))


@jit
def _block(me, plan, layers, batch, n, columns, x, by_rows, t, has_labels, w, total, adds, arena):
    """Take n rows through all layers and back; give their part of J, their gradients to `total`.

    They are x[n, inputs] where `by_rows`, else x[inputs + 1, columns], the last of which is ones.
    """
    last = plan[LAYERS] - 1
    below = x
    for index in range(last + 1):
        layer = layers + index * LAYER_FIELDS
        k, m, activation = layer[INPUTS], layer[OUTPUTS], layer[ACTIVATION]
        y, saved, keeps = arena + layer[OUTPUT], arena + layer[SAVED], layer[SAVED] != layer[OUTPUT]
        floor = floor_of(IDENTITY if keeps else activation, y)
        weights, bias = w + layer[WEIGHTS], w + layer[BIAS]
        mark(me, IN_FORWARD, index)
        if index == 0 and by_rows:
            multiply_rows(n, k, x, weights, bias, y, columns, floor)
        else:
            multiply(m, columns, k, weights, 1, m, below, columns, bias, 1, y, columns, floor, False)
        stamp(me, WORK)
        if keeps:
            copy_block(1, m * columns, y, 0, saved, 0)
        if keeps or activation != RELU:
            activate(activation, 1, m * columns, y, 0)
        if index < last:
            _fill_ones(columns, y + m * columns)
        stamp(me, EPILOGUE)
        below = y
    layer = layers + last * LAYER_FIELDS
    m, g = layer[OUTPUTS], arena + plan[GRADIENT0 + last % 2]
    mark(me, IN_LOSS, last)
    value = block_loss(plan[LOSS], plan[LOSS_ROUTINE], batch, n, m, columns, below, t, has_labels, g)
    multiply_by_derivative(layer[DERIVATIVE], 1, m * columns, g, 0, arena + layer[SAVED], 0)
    stamp(me, WORK)
    for index in range(last, -1, -1):
        layer = layers + index * LAYER_FIELDS
        k, m = layer[INPUTS], layer[OUTPUTS]
        g, turned, zeros = arena + plan[GRADIENT0 + index % 2], arena + plan[SCRATCH], arena + plan[ZEROS]
        before = layers + (index - 1) * LAYER_FIELDS
        below = arena + before[OUTPUT] if index > 0 else x
        mark(me, IN_WEIGHT_GRADIENT, index)
        add_gradient(layer, n, columns, below, index == 0 and by_rows, g, turned, zeros, total + layer[GRADIENT], adds)
        stamp(me, WORK)
        if index > 0:
            dx = arena + plan[GRADIENT0 + (index - 1) % 2]
            floor = floor_of(IDENTITY, dx)
            mark(me, IN_INPUT_GRADIENT, index)
            multiply(k, columns, m, w + layer[WEIGHTS], m, 1, g, columns, zeros, 0, dx, columns, floor, False)
            stamp(me, WORK)
            multiply_by_derivative(before[DERIVATIVE], 1, k * columns, dx, 0, arena + before[SAVED], 0)
            stamp(me, EPILOGUE)
    return value


@jit
def _chunk(me, plan, layers, batch, start, n, first, order, x, target, labels, fresh, w, total, adds, arena):
    """Rows start .. start + n of the batch, block by block; `first` is the batch's first position."""
    k, m = layers[INPUTS], layers[(plan[LAYERS] - 1) * LAYER_FIELDS + OUTPUTS]
    has_labels, block = address_of(labels) != 0, plan[BLOCK]
    picks = int64_at(address_of(arena + plan[SCRATCH]))
    value = 0.0
    blocks = 1 if n <= block else -(-n // (block - lanes(w)))
    for part in range(blocks):
        begin = start + part_start(n, part, blocks, COLUMNS * lanes(w))
        count = start + part_start(n, part + 1, blocks, COLUMNS * lanes(w)) - begin
        columns = -(-count // lanes(w)) * lanes(w)
        batch_x, batch_t = pointer_at(plan[BATCH_X], w) + begin * (k + 1), pointer_at(plan[BATCH_TARGET], w) + begin * m
        mark(me, IN_GATHER, 0)
        by_rows = takes_rows(layers, count, w)
        if by_rows and address_of(order) == 0:
            batch_x = x + (first + begin) * k
        elif by_rows:
            gather_rows(count, start + n - begin, order + (first + begin), x, k, batch_x)
        elif fresh:
            transpose_rows(count, columns, first + begin, order, x, k, picks, batch_x)
            _fill_ones(columns, batch_x + k * columns)
        if fresh:
            if has_labels:
                transpose_labels(count, first + begin, order, labels, batch_t)
            else:
                transpose_rows(count, columns, first + begin, order, target, m, picks, batch_t)
            stamp(me, WORK)
        value += _block(
            me, plan, layers, batch, count, columns, batch_x, by_rows, batch_t, has_labels, w, total, adds or part > 0,
            arena,
        )  # fmt: skip
    return value


@jit
def _add_copy(count, total, copy):
    """total[count] += copy[count]."""
    for j in range(0, count, lanes(total)):
        width = min(lanes(total), count - j)
        store_first(total + j, load_first(total + j, width) + load_first(copy + j, width), width)


@jit
def _close_up(rows, m, g, row):
    """Move the rows of g[rows, m], which lie `row` apart, whole vectors, up to one another.

    One long row has one vector that is not whole: a load behind a masked store waits until that has reached the cache.
    """
    kept_apart()
    for i in range(1, rows):
        for j in range(0, row, lanes(g)):
            store(g + (i * m + j), load(g + (i * row + j)))


@jit
def _update_layer(copies, size, joined, chunks, layer, share, shares, settings, l2, updates, w, state, slot):
    """Step a share of one layer's rows, the biases being the last, along the sum of the chunks' gradients.

    They are added in order, group by group; those that are `joined` to the first of their group have been.
    """
    k, m, row = layer[INPUTS], layer[OUTPUTS], layer[GRADIENT_ROW]
    first, after = (k + 1) * share // shares, (k + 1) * (share + 1) // shares
    total = copies + (layer[GRADIENT] + first * row)
    end = (after - first) * row
    groups = groups_of(chunks)
    for group in range(groups):
        head, beyond = chunks * group // groups, chunks * (group + 1) // groups
        for chunk in range(head + 1, beyond):
            if not joined[chunk]:
                _add_copy(end, total + head * size, total + chunk * size)
        if head > 0:
            _add_copy(end, total, total + head * size)
    for part in range(2):
        if part == 0:
            rows, columns, g, place, decay = min(after, k) - first, m, total, layer[WEIGHTS] + first * m, l2
            if row > m:
                _close_up(rows, m, total, row)
            rows, columns = min(rows, 1), rows * m
        else:
            rows, columns, g, place, decay = after // (k + 1), m, copies + (layer[GRADIENT] + k * row), layer[BIAS], 0.0
        slots = state + place
        update(settings, updates, decay, rows, columns, g, row, w + place, m, slots, slots + slot)


@jit
def _squares_of_weights(plan, layers, w):
    """The sum of the squares of all weights, biases apart."""
    total = 0.0
    for index in range(plan[LAYERS]):
        layer = layers + index * LAYER_FIELDS
        total += sum_of_squares(layer[INPUTS] * layer[OUTPUTS], w + layer[WEIGHTS])
    return total


@entry
def train_across(
    shared, me, like, parameters, size, state_address, settings_address, losses_address, steps, layers_address,
    plan_address, x_address, target_address, label_address, order_address, rows, start, batch_size, updates,
    penalties_address,
):  # fmt: skip
    """The steps of train._train, by the same job, for a network that runs across the batch."""
    plan, layers = int64_at(plan_address), int64_at(layers_address)
    losses, settings = float64_at(losses_address), float64_at(settings_address)
    penalties = float64_at(penalties_address)
    w, state = pointer_at(parameters, like), pointer_at(state_address, like)
    x, target = pointer_at(x_address, like), pointer_at(target_address, like)
    labels, order = int64_at(label_address), int64_at(order_address)
    arena = pointer_at(plan[ARENAS], like) + me[RANK] * plan[ARENA_SIZE]
    copies, partial = pointer_at(plan[COPIES], like), float64_at(plan[PARTIAL])
    joined = int64_at(plan[JOINED])
    m = layers[(plan[LAYERS] - 1) * LAYER_FIELDS + OUTPUTS]
    position, held = start, 0
    for step in range(steps):
        n = min(batch_size, rows - position % rows)
        first = position if order_address != 0 else position % rows
        fresh = order_address != 0 or n < rows or held < rows  # else all rows lie there from the step before
        held = n
        begin_step(me, updates + step, n)
        chunks = chunks_of(n, plan[BLOCK], plan[SHARED_ROWS], lanes(w))
        l2, work = settings[L2], chunks
        if penalties_address != 0:
            l2, work = l2 / n, chunks + 1
        run = -1  # the last of the chunks that this member has added up, a group's first ones
        chunk = claim(shared, me, work)
        while chunk >= 0:
            if chunk < chunks:
                head = group_head(chunk, chunks)
                joins = chunk > head and run == chunk - 1
                if joins or chunk == head:
                    run = chunk
                joined[chunk] = joins
                copy = head if joins else chunk
                begin, end = part_start(n, chunk, chunks, lanes(w)), part_start(n, chunk + 1, chunks, lanes(w))
                partial[chunk] = _chunk(
                    me, plan, layers, n, begin, end - begin, first, order, x, target, labels, fresh,
                    w, copies + copy * plan[COPY_SIZE], joins, arena,
                )  # fmt: skip
            else:
                mark(me, IN_PENALTY, EVERY_LAYER)
                penalties[step] = 0.5 * l2 * _squares_of_weights(plan, layers, w)
                stamp(me, WORK)
            chunk = claim(shared, me, work)
        finish(shared, me, work)
        # The losses are added up by whoever claims that: a member that runs ahead overwrites them in the next step.
        shares = 1 if chunks == 1 else SHARES
        work = plan[LAYERS] * shares + 1
        index = claim(shared, me, work)
        while index >= 0:
            if index < work - 1:
                mark(me, IN_OPTIMIZER, index // shares)
                _update_layer(
                    copies, plan[COPY_SIZE], joined, chunks, layers + index // shares * LAYER_FIELDS, index % shares,
                    shares, settings, l2, updates + step, w, state, size,
                )  # fmt: skip
            else:
                mark(me, IN_LOSS, plan[LAYERS] - 1)
                losses[step] = mean_loss(plan[LOSS], n, m, partial, chunks)
            stamp(me, WORK)
            index = claim(shared, me, work)
        finish(shared, me, work)
        position += n
