"""Training a whole network: K whole steps in one compiled call, minibatches gathered inside."""

import numpy as np

from ..contract import GRADIENT_CODE, OPTIMIZERS, step_flops
from ..network import Network, Optimizer
from .across import train_across
from .activations import copy_block, multiply_by_derivative, round_block
from .compile import entry, jit
from .layer import forward_layer, input_gradient, round_array, update_layer
from .losses import chunk_rows, mean_loss, rows_loss
from .simd import (
    address_of,
    float64_at,
    int64_at,
    lanes,
    load,
    load_first,
    pointer_at,
    prefetch,
    store,
    store_first,
)
from .tables import (
    ACTIVATION,
    BATCH_LABELS,
    BATCH_TARGET,
    BATCH_X,
    BIAS,
    CAPACITY,
    FACTOR,
    FACTOR0,
    GRADIENT0,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    OUTPUT,
    OUTPUTS,
    PACKED,
    PARTIAL,
    ROUNDED,
    SAVED,
    SCRATCH,
    WEIGHTS,
    ZEROS,
)
from .team import claim, finish, move_on, run
from .workspace import Workspace, address, quick_address

GATHER_ROWS, GATHER_AHEAD = 16, 2
"""Rows of a batch that one chunk gathers, and by how many a row is asked for before it is copied: they lie anywhere."""


@jit
def _copy_row(k, source, later, target):
    """target[k] = source[k]; asks for later[k] on the way."""
    count = lanes(source)
    whole = k // count * count
    for j in range(0, whole, count):
        prefetch(later + j)
        store(target + j, load(source + j))
    if whole < k:
        prefetch(later + whole)
        store_first(target + whole, load_first(source + whole, k - whole), k - whole)


@jit
def _gather(shared, me, n, order, x, k, batch_x, target, m, batch_target, labels, batch_labels):
    """A phase: rows order[0:n] of x[N, k] and of the targets to the batch's own buffers; labels 0 means target."""
    chunks = -(-n // GATHER_ROWS)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        for i in range(chunk * GATHER_ROWS, min(n, (chunk + 1) * GATHER_ROWS)):
            row = order[i]
            _copy_row(k, x + row * k, x + order[min(i + GATHER_AHEAD, n - 1)] * k, batch_x + i * k)
            if address_of(labels) != 0:
                batch_labels[i] = labels[row]
            else:
                copy_block(1, m, target + row * m, 0, batch_target + i * m, 0)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


@jit
def _loss(shared, me, plan, layer, n, target, labels, value):
    """Two phases: dJ/dz of the last layer to its gradient buffer, its factor, and J's partial sums; J to value[0]."""
    m, activation = layer[OUTPUTS], layer[ACTIVATION]
    y, saved = pointer_at(layer[OUTPUT], target), pointer_at(layer[SAVED], target)
    parity = (plan[LAYERS] - 1) % 2
    dz, factor = pointer_at(plan[GRADIENT0 + parity], target), pointer_at(plan[FACTOR0 + parity], target)
    rows = chunk_rows(n)
    chunks = -(-n // rows)
    partial = float64_at(plan[PARTIAL])
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i = chunk * rows
        count = min(rows, n - i)
        named = labels + i if address_of(labels) != 0 else labels
        partial[chunk] = rows_loss(plan[LOSS], n, count, m, y + i * m, target + i * m, named, dz + i * m, True)
        multiply_by_derivative(activation, count, m, dz + i * m, m, saved + i * m, m)
        if address_of(factor) != address_of(dz):
            round_block(count, m, dz + i * m, m, factor + i * m, m)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)
    # A phase of its own, done before the next step's sums overwrite these.
    if claim(shared, me, 1) == 0:
        value[0] = mean_loss(plan[LOSS], n, m, partial, chunks)
    move_on(shared, me, 1)


@jit
def _forward(shared, me, plan, layers, n, x, parameters, factors):
    """Every layer of n rows, from x to the last layer's buffer; products take the weights from `factors`."""
    below = x
    for index in range(plan[LAYERS]):
        layer = layers + index * LAYER_FIELDS
        y, factor, saved = pointer_at(layer[OUTPUT], x), pointer_at(layer[FACTOR], x), pointer_at(layer[SAVED], x)
        forward_layer(
            shared, me, n, layer[INPUTS], layer[OUTPUTS], below, factors + layer[WEIGHTS], parameters + layer[BIAS],
            y, factor, saved, layer[SAVED] != layer[OUTPUT], layer[ACTIVATION],
            pointer_at(plan[PACKED], x), plan[CAPACITY], pointer_at(plan[SCRATCH], x),
        )  # fmt: skip
        below = factor


@jit
def _backward(shared, me, plan, layers, n, x, parameters, factors, state, size, settings, updates):
    """Every layer from the last: dJ/dz of the layer below, by the weights as they were, then this layer's update."""
    packed, scratch, zeros = pointer_at(plan[PACKED], x), pointer_at(plan[SCRATCH], x), pointer_at(plan[ZEROS], x)
    for index in range(plan[LAYERS] - 1, -1, -1):
        layer = layers + index * LAYER_FIELDS
        k, m = layer[INPUTS], layer[OUTPUTS]
        w, b = parameters + layer[WEIGHTS], parameters + layer[BIAS]
        dz, factor = pointer_at(plan[GRADIENT0 + index % 2], x), pointer_at(plan[FACTOR0 + index % 2], x)
        below = x
        if index > 0:
            before = layers + (index - 1) * LAYER_FIELDS
            below = pointer_at(before[FACTOR], x)
            dx = pointer_at(plan[GRADIENT0 + (index - 1) % 2], x)
            dx_factor = pointer_at(plan[FACTOR0 + (index - 1) % 2], x)
            input_gradient(
                shared, me, n, k, m, factor, factors + layer[WEIGHTS], dx, dx_factor, before[ACTIVATION],
                pointer_at(before[SAVED], x), zeros, packed, plan[CAPACITY], scratch,
            )  # fmt: skip
        w0, b0 = state + layer[WEIGHTS], state + layer[BIAS]
        update_layer(
            shared, me, n, k, m, below, dz, factor, w, b, w0, w0 + size, b0, b0 + size, settings, updates,
            zeros, packed, plan[CAPACITY], scratch,
        )  # fmt: skip


@entry
def _train(
    shared, me, like, parameters, size, state_address, settings_address, losses_address, steps, layers_address,
    plan_address, x_address, target_address, label_address, order_address, rows, start, batch_size, updates,
):  # fmt: skip
    """All members run this; see kernels/README.md for what a step is."""
    plan, layers = int64_at(plan_address), int64_at(layers_address)
    losses, settings = float64_at(losses_address), float64_at(settings_address)
    w, state = pointer_at(parameters, like), pointer_at(state_address, like)
    x, target = pointer_at(x_address, like), pointer_at(target_address, like)
    labels, order = int64_at(label_address), int64_at(order_address)
    has_labels, gathers = label_address != 0, order_address != 0
    last = layers + (plan[LAYERS] - 1) * LAYER_FIELDS
    k, m = layers[INPUTS], last[OUTPUTS]
    batch_x, batch_target = pointer_at(plan[BATCH_X], like), pointer_at(plan[BATCH_TARGET], like)
    batch_labels = int64_at(plan[BATCH_LABELS] if has_labels else 0)
    rounds, factors = plan[ROUNDED] != 0, w
    if rounds:
        factors = pointer_at(plan[ROUNDED], like)
    position = start
    for step in range(steps):
        first = position % rows
        n = min(batch_size, rows - first)
        if gathers:
            step_x, step_target, step_labels = batch_x, batch_target, batch_labels
            _gather(shared, me, n, order + position, x, k, batch_x, target, m, batch_target, labels, batch_labels)
        else:
            step_x, step_target = x + first * k, target + first * m
            step_labels = labels + first if has_labels else labels
        if rounds:
            round_array(shared, me, size, w, factors)
            round_array(shared, me, n * k, step_x, batch_x)
            step_x = batch_x
        _forward(shared, me, plan, layers, n, step_x, w, factors)
        _loss(shared, me, plan, last, n, step_target, step_labels, losses + step)
        _backward(shared, me, plan, layers, n, step_x, w, factors, state, size, settings, updates + step)
        position += n


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
) -> None:
    target_at = quick_address(target)
    target_address, label_address = (0, target_at) if target.ndim == 1 else (target_at, 0)
    job = (
        workspace.kept("parameters", parameters), parameters.size, state_address,
        workspace.settings(optimizer, code), workspace.kept("losses", losses), len(losses),
        *(workspace.tables if workspace.across is None else workspace.across), quick_address(x), target_address,
        label_address, 0 if order is None else address(order), len(x), start, batch_size, updates,
    )  # fmt: skip
    run(
        _train if workspace.across is None else train_across,
        network.dtype,
        job,
        step_flops(network.widths, min(batch_size, len(x))),
        len(losses),
        workspace.most_members,
    )


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
) -> None:
    """len(losses) steps, as kernels/README.md says; writes parameters, state and losses."""
    code = OPTIMIZERS[optimizer.name].code
    _run(
        network, optimizer, code, parameters, workspace.kept("state", state), updates, x, target, order, start,
        batch_size, losses, workspace,
    )  # fmt: skip


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
        network, _NO_OPTIMIZER, GRADIENT_CODE, parameters, quick_address(gradient), 0, x, target, None, 0,
        len(x), workspace.value, workspace,
    )  # fmt: skip
    return float(workspace.value[0])
