"""Training a whole network: K whole steps in one compiled call, minibatches gathered inside."""

import numpy as np

from ..contract import GRADIENT_CODE, OPTIMIZERS, step_flops
from ..network import Network, Optimizer
from ..timeline import EVERY_LAYER, Timed, Timeline
from .across import train_across
from .activations import copy_block, multiply_by_derivative
from .compile import Entry, entry, jit
from .direct import address
from .gathering import GATHER_ROWS, gather_rows
from .layer import (
    forward_layer,
    forward_layer_to_update,
    input_gradient,
    input_gradient_in_pairs,
    parts_of_batch,
    sum_tiles,
    update_layer,
)
from .losses import chunk_rows, mean_loss, rows_loss
from .operands import ROWS_UNIT, pair_block, pair_matrix, whole_units
from .optimizers import L2
from .packing import block_start
from .penalty import penalty
from .phases import RANK, claim, finish, move_on
from .simd import (
    address_of,
    float64_at,
    int64_at,
    pointer_at,
)
from .squares import BOTH, LEFT, RIGHT
from .stamps import (
    HAS_CLOCK,
    IN_FORWARD,
    IN_GATHER,
    IN_INPUT_GRADIENT,
    IN_LOSS,
    IN_PENALTY,
    IN_ROUNDING,
    IN_WEIGHT_GRADIENT,
    begin_step,
    mark,
    stamp_ticks,
    ticks,
)
from .tables import (
    ACTIVATION,
    BATCH_LABELS,
    BATCH_TARGET,
    BATCH_X,
    BIAS,
    CAPACITY,
    DERIVATIVE,
    DZ_ACROSS0,
    DZ_DOWN0,
    GRADIENT0,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    LOSS_ROUTINE,
    OUTPUT,
    OUTPUTS,
    PACKED,
    PARTIAL,
    SAVED,
    SCRATCH,
    SUMMING,
    SUMS0,
    TOTAL,
    W_ACROSS,
    W_DOWN,
    WEIGHTS,
    X_ACROSS,
    X_DOWN,
    Y_ACROSS,
    Y_DOWN,
    ZEROS,
)
from .team import ALONE, conduct_by, is_shared
from .workspace import Workspace


@jit
def _gather(
    shared, me, n, order, x, k, batch_x, across, down, target, m, batch_target, labels, batch_labels
):  # fmt: skip
    """A phase: rows order[0:n] of x[N, k] and of the targets to the batch's own buffers; labels 0 means target.

    Of x in pairs only these are kept: each member's rows pass through its own part of `batch_x`.
    """
    mark(me, IN_GATHER, 0)
    rows = GATHER_ROWS if across is None else whole_units(GATHER_ROWS)
    chunks = -(-n // rows)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        first, end = chunk * rows, min(n, (chunk + 1) * rows)
        gathered = batch_x + (first if across is None else me[RANK] * rows) * k
        gather_rows(end - first, n - first, order + first, x, k, gathered)
        for i in range(first, end):
            row = order[i]
            if address_of(labels) != 0:
                batch_labels[i] = labels[row]
            else:
                copy_block(1, m, target + row * m, 0, batch_target + i * m, 0)
        if across is not None:
            pair_block(LEFT, first, 0, end - first, k, gathered, k, n, k, across, down)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


@jit
def _loss(shared, me, pairs, plan, layer, batch, n, target, labels, value, is_first):
    """Two phases: dJ/dz of the last layer to its gradient buffer, or only its pairs, and J's partial sums.

    What these n rows add to J of a batch of `batch` is added to value[0], or where they are its first put there.
    """
    mark(me, IN_LOSS, plan[LAYERS] - 1)
    m = layer[OUTPUTS]
    y, saved = pointer_at(layer[OUTPUT], target), pointer_at(layer[SAVED], target)
    index = plan[LAYERS] - 1
    dz = pointer_at(plan[GRADIENT0 + index % 2], target)
    rows = chunk_rows(n) if pairs is None else whole_units(chunk_rows(n))
    chunks = -(-n // rows)
    partial = float64_at(plan[PARTIAL])
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i = chunk * rows
        count = min(rows, n - i)
        named = labels + i if address_of(labels) != 0 else labels
        dz_rows = dz + (i if pairs is None else me[RANK] * rows) * m
        partial[chunk] = rows_loss(
            plan[LOSS], plan[LOSS_ROUTINE], batch, count, m, y + i * m, target + i * m, named, dz_rows, 1
        )
        multiply_by_derivative(layer[DERIVATIVE], count, m, dz_rows, m, saved + i * m, m)
        if pairs is not None:
            sum_tiles(i, 0, count, m, dz_rows, m, m, pointer_at(plan[SUMS0 + index % 2], target))
            across, down = _dz_across(plan, index, pairs), pointer_at(plan[DZ_DOWN0 + index % 2], pairs)
            pair_block(BOTH, i, 0, count, m, dz_rows, m, n, m, across, down)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)
    # A phase of its own, done before the next step's sums overwrite these.
    if claim(shared, me, 1) == 0:
        value[0] = (0.0 if is_first else value[0]) + mean_loss(plan[LOSS], batch, m, partial, chunks)
    move_on(shared, me, 1)


@jit
def _dz_across(plan, index, pairs):
    """Where the pairs across of dJ/dz of a layer go; no product reads the first layer's."""
    return pointer_at(plan[DZ_ACROSS0 + index % 2] if index > 0 else 0, pairs)


@jit
def _pair_weights(shared, me, pairs, plan, layers, w):
    """Phases: the pairs of every layer's weights."""
    for index in range(plan[LAYERS]):
        layer = layers + index * LAYER_FIELDS
        across, down = pointer_at(layer[W_ACROSS], pairs), pointer_at(layer[W_DOWN], pairs)
        mark(me, IN_ROUNDING, index)
        pair_matrix(shared, me, RIGHT, layer[INPUTS], layer[OUTPUTS], w + layer[WEIGHTS], across, down)


@jit
def _forward(shared, me, pairs, plan, layers, n, x, w):
    """Every layer of n rows, from x, which with `pairs` lies in X_ACROSS too, to the last layer's buffer."""
    below = x if pairs is None else pointer_at(plan[X_ACROSS], pairs)
    for index in range(plan[LAYERS]):
        layer = layers + index * LAYER_FIELDS
        y, saved = pointer_at(layer[OUTPUT], x), pointer_at(layer[SAVED], x)
        mark(me, IN_FORWARD, index)
        packed, scratch = pointer_at(plan[PACKED], below), pointer_at(plan[SCRATCH], x)
        k, m, bias, keeps_z = layer[INPUTS], layer[OUTPUTS], w + layer[BIAS], layer[SAVED] != layer[OUTPUT]
        if pairs is None:
            forward_layer_to_update(
                shared, me, n, k, m, below, w + layer[WEIGHTS], bias, y, saved, keeps_z, layer[ACTIVATION],
                pointer_at(plan[ZEROS], x), packed, plan[CAPACITY], scratch,
            )  # fmt: skip
        else:
            forward_layer(
                shared, me, n, k, m, below, pointer_at(layer[W_DOWN], pairs), bias, y,
                pointer_at(layer[Y_ACROSS], pairs), pointer_at(layer[Y_DOWN], pairs), saved, keeps_z,
                layer[ACTIVATION], packed, plan[CAPACITY], scratch,
            )  # fmt: skip
        below = y if pairs is None else pointer_at(layer[Y_ACROSS], pairs)


@jit
def _backward(shared, me, plan, layers, n, x, parameters, state, size, settings, l2, updates, total, adds):
    """Every layer from the last: dJ/dz of the layer below, by the weights as they were, then this layer's update.

    Where `adds`, its gradient is that of these n rows and what lies in `total`.
    """
    packed, scratch, zeros = pointer_at(plan[PACKED], x), pointer_at(plan[SCRATCH], x), pointer_at(plan[ZEROS], x)
    for index in range(plan[LAYERS] - 1, -1, -1):
        layer = layers + index * LAYER_FIELDS
        k, m = layer[INPUTS], layer[OUTPUTS]
        w, b = parameters + layer[WEIGHTS], parameters + layer[BIAS]
        dz, below = pointer_at(plan[GRADIENT0 + index % 2], x), x
        if index > 0:
            before = layers + (index - 1) * LAYER_FIELDS
            below, dx = pointer_at(before[OUTPUT], x), pointer_at(plan[GRADIENT0 + (index - 1) % 2], x)
            mark(me, IN_INPUT_GRADIENT, index)
            input_gradient(
                shared, me, n, k, m, dz, w, dx, before[DERIVATIVE], pointer_at(before[SAVED], x), zeros, packed,
                plan[CAPACITY], scratch,
            )  # fmt: skip
        w0, b0 = state + layer[WEIGHTS], state + layer[BIAS]
        mark(me, IN_WEIGHT_GRADIENT, index)
        update_layer(
            shared, me, n, k, m, below, dz, n, dz, w, b, None, None, w0, w0 + size, b0, b0 + size, settings, l2,
            updates, adds, total + layer[WEIGHTS], total + layer[BIAS], zeros, packed, plan[CAPACITY], scratch,
        )  # fmt: skip


@jit
def _backward_in_pairs(
    shared, me, pairs, plan, layers, n, parameters, state, size, settings, l2, updates, total, adds, renews
):  # fmt: skip
    """As `_backward`; where it `renews` them, the weights' pairs too."""
    packed, scratch = pointer_at(plan[PACKED], pairs), pointer_at(plan[SCRATCH], state)
    zeros, parts = pointer_at(plan[ZEROS], state), -(-n // ROWS_UNIT)
    for index in range(plan[LAYERS] - 1, -1, -1):
        layer = layers + index * LAYER_FIELDS
        k, m = layer[INPUTS], layer[OUTPUTS]
        w, b = parameters + layer[WEIGHTS], parameters + layer[BIAS]
        below = pointer_at(plan[X_DOWN], pairs)
        if index > 0:
            before = layers + (index - 1) * LAYER_FIELDS
            below = pointer_at(before[Y_DOWN], pairs)
            mark(me, IN_INPUT_GRADIENT, index)
            input_gradient_in_pairs(
                shared, me, n, k, m, pointer_at(plan[DZ_ACROSS0 + index % 2], pairs),
                pointer_at(layer[W_ACROSS], pairs),
                _dz_across(plan, index - 1, pairs), pointer_at(plan[DZ_DOWN0 + (index - 1) % 2], pairs),
                pointer_at(plan[SUMS0 + (index - 1) % 2], state), before[DERIVATIVE],
                pointer_at(before[SAVED], state), pointer_at(before[Y_ACROSS], pairs), zeros, packed, plan[CAPACITY],
                scratch,
            )  # fmt: skip
        w0, b0 = state + layer[WEIGHTS], state + layer[BIAS]
        mark(me, IN_WEIGHT_GRADIENT, index)
        update_layer(
            shared, me, n, k, m, below, pointer_at(plan[DZ_DOWN0 + index % 2], pairs), parts,
            pointer_at(plan[SUMS0 + index % 2], state), w, b,
            pointer_at(layer[W_ACROSS] if renews else 0, pairs), pointer_at(layer[W_DOWN] if renews else 0, pairs),
            w0, w0 + size, b0, b0 + size, settings, l2, updates, adds, total + layer[WEIGHTS], total + layer[BIAS],
            zeros, packed, plan[CAPACITY], scratch,
        )  # fmt: skip


@entry
def _train(
    shared, me, like, pairs, parameters, size, state_address, settings_address, losses_address, steps, layers_address,
    plan_address, x_address, target_address, label_address, order_address, rows, start, batch_size, updates,
    penalties_address,
):  # fmt: skip
    """All members run this; see kernels/README.md for what a step is."""
    plan, layers = int64_at(plan_address), int64_at(layers_address)
    losses, settings = float64_at(losses_address), float64_at(settings_address)
    penalties = float64_at(penalties_address)
    w, state = pointer_at(parameters, like), pointer_at(state_address, like)
    x, target = pointer_at(x_address, like), pointer_at(target_address, like)
    labels, order = int64_at(label_address), int64_at(order_address)
    has_labels, gathers = label_address != 0, order_address != 0
    last = layers + (plan[LAYERS] - 1) * LAYER_FIELDS
    k, m = layers[INPUTS], last[OUTPUTS]
    batch_x, batch_target = pointer_at(plan[BATCH_X], like), pointer_at(plan[BATCH_TARGET], like)
    batch_labels = int64_at(plan[BATCH_LABELS] if has_labels else 0)
    across = None if pairs is None else pointer_at(plan[X_ACROSS], pairs)
    down = None if pairs is None else pointer_at(plan[X_DOWN], pairs)
    if pairs is not None:
        _pair_weights(shared, me, pairs, plan, layers, w)
    total, summing = pointer_at(plan[TOTAL], like), float64_at(plan[SUMMING])
    position = start
    for step in range(steps):
        batch = min(batch_size, rows - position % rows)
        begin_step(me, updates + step, batch)
        parts = parts_of_batch(batch)
        for part in range(parts):
            first, end = block_start(batch, part, parts), block_start(batch, part + 1, parts)
            n, is_last = end - first, part + 1 == parts
            first += position
            if gathers:
                step_x, step_target, step_labels = batch_x, batch_target, batch_labels
                _gather(
                    shared, me, n, order + first, x, k, batch_x, across, down, target, m, batch_target, labels,
                    batch_labels,
                )  # fmt: skip
            else:
                first %= rows
                step_x, step_target = x + first * k, target + first * m
                step_labels = labels + first if has_labels else labels
                if pairs is not None:
                    mark(me, IN_ROUNDING, 0)
                    pair_matrix(shared, me, LEFT, n, k, step_x, across, down)
            _forward(shared, me, pairs, plan, layers, n, step_x, w)
            _loss(shared, me, pairs, plan, last, batch, n, step_target, step_labels, losses + step, part == 0)
            l2 = settings[L2]
            if penalties_address != 0:
                l2 /= batch
                if is_last:
                    mark(me, IN_PENALTY, EVERY_LAYER)
                    penalty(shared, me, plan, layers, l2, w, penalties + step)
            rule, memory = (settings, state) if is_last else (summing, total)
            if pairs is None:
                _backward(
                    shared, me, plan, layers, n, step_x, w, memory, size, rule, l2, updates + step, total, part > 0
                )
            else:
                _backward_in_pairs(
                    shared, me, pairs, plan, layers, n, w, memory, size, rule, l2, updates + step, total, part > 0,
                    is_last and step + 1 < steps,
                )  # fmt: skip
        position += batch


def way_of(workspace: Workspace) -> tuple[Entry, tuple[int, int]]:
    """The entry that trains with this workspace, and the tables of its that it reads."""
    if workspace.across is None:
        return _train.in_parts(workspace.parts), workspace.tables
    return train_across, workspace.across


def _run(
    network: Network,
    optimizer: Optimizer,
    code: int,
    parameters: np.ndarray,
    state_address: int,
    updates: int,
    x: np.ndarray,
    target: np.ndarray,
    order: np.ndarray | None,
    start: int,
    batch_size: int,
    losses: np.ndarray,
    workspace: Workspace,
    penalties: np.ndarray | None = None,
    timeline: Timeline | None = None,
) -> None:
    target_at = address(target)
    target_address, label_address = (0, target_at) if target.ndim == 1 else (target_at, 0)
    entry, tables = way_of(workspace)
    job: tuple[int, ...] = (
        workspace.kept("parameters", parameters), parameters.size, state_address,
        workspace.settings(optimizer, code, network.dtype), workspace.kept("losses", losses), len(losses),
        *tables, address(x), target_address,
        label_address, 0 if order is None else address(order), len(x), start, batch_size, updates,
        0 if penalties is None else workspace.kept("penalties", penalties),
    )  # fmt: skip
    most = workspace.most_members
    if timeline is not None:
        entry, job = entry.timed, (timeline.address(0), timeline.row, *job)
        most = min(most, timeline.members)
    rows = min(batch_size, len(x))
    flops, steps = step_flops(network.widths, rows), len(losses)
    team, size = workspace.crew_for(rows)() if is_shared(flops, steps) else ALONE
    conduct_by((team, min(size, most)), entry.address(network.dtype), job, flops * steps)


def train(
    network: Network,
    optimizer: Optimizer,
    parameters: np.ndarray,
    state: np.ndarray,
    updates: int,
    x: np.ndarray,
    target: np.ndarray,
    order: np.ndarray | None,
    start: int,
    batch_size: int,
    losses: np.ndarray,
    workspace: Workspace,
    penalties: np.ndarray | None = None,
    timeline: Timeline | None = None,
) -> None:
    """len(losses) steps, as kernels/README.md says; writes parameters, state, losses and, if given, penalties.

    With a `timeline` the run is timed, by code of its own.
    """
    code = OPTIMIZERS[optimizer.name].code
    _run(
        network, optimizer, code, parameters, workspace.kept("state", state), updates, x, target, order, start,
        batch_size, losses, workspace, penalties, timeline,
    )  # fmt: skip


timed = Timed(train, ticks, stamp_ticks) if HAS_CLOCK else None
"""How training is profiled; None where a program may not read the processor's clock."""


_NO_OPTIMIZER = Optimizer()


def gradients(
    network: Network,
    parameters: np.ndarray,
    x: np.ndarray,
    target: np.ndarray,
    gradient: np.ndarray,
    workspace: Workspace,
) -> float:
    """J of one batch x[n, inputs], and dJ/dparameters written to `gradient` in the flat layout, without the L2 term."""
    if len(x) == 0:
        gradient[:] = np.nan
        return float("nan")
    _run(
        network, _NO_OPTIMIZER, GRADIENT_CODE, parameters, address(gradient), 0, x, target, None, 0,
        len(x), workspace.value, workspace,
    )  # fmt: skip
    return float(workspace.value[0])
