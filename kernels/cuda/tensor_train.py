"""Whole networks on tensor cores: forward, gradients and training of those whose products take elements of 16 bits.

float32 stays what it is elsewhere: weights, their optimiser, sums, activations and losses. Each product's epilogue
writes the operands of the next ones, so that no pass converts anything but the samples.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..network import Network, Optimizer
from .batches import rows
from .loss import loss_to
from .memory import empty
from .reduction import sum_of_squares
from .steps import places
from .tensor_layer import (
    input_gradient,
    linear_forward,
    load_kernels,
    output_delta,
    takes_sign,
    to_elements,
    weight_update,
)
from .tensor_workspace import TensorBuffers


def forward(network: Network, parameters: Any, x: Any, out: Any, workspace: Any) -> None:
    """Write the network's outputs for x[n, inputs] to out[n, outputs], `workspace.rows` rows at a time."""
    buffers, rows_at_once = workspace.tensor, workspace.rows
    _take_weights(network, parameters, buffers)
    for start in range(0, len(x), rows_at_once):
        block = x[start : start + rows_at_once]
        to_elements(block, None, len(block), buffers.inputs[0])
        _forward(network, parameters, len(block), out[start : start + rows_at_once], buffers)


def gradients(network: Network, parameters: Any, x: Any, target: Any, gradient: Any, workspace: Any) -> float:
    """J of one batch x[n, inputs], and dJ/dparameters to `gradient` in the flat layout, without the L2 term."""
    buffers = workspace.tensor
    value = empty(1, np.dtype(float))
    dw, db = network.weights(gradient), network.biases(gradient)
    n = len(x)
    _take_weights(network, parameters, buffers)
    to_elements(x, None, n, buffers.inputs[0])
    _forward(network, parameters, n, buffers.y[-1], buffers)
    loss_to(network, buffers.y[-1][:n], target, buffers.dy[:n], workspace.partials, value, 0)
    scale = network.delta_scale(n)
    for i, dz, partials in _backward(network, n, scale, buffers):
        weight_update(buffers.inputs[i], dz, n, scale, dw[i], db[i], (), None, partials, buffers.sums, None, None)
    return float(value[0])


def train(
    network: Network,
    optimizer: Optimizer,
    parameters: Any,
    state: Any,
    updates: int,
    x: Any,
    target: Any,
    order: Any,
    start: int,
    batch_size: int,
    losses: Any,
    workspace: Any,
    penalties: Any = None,
) -> None:
    """len(losses) steps, as kernels/README.md says; writes parameters, state, losses and, if given, penalties.

    An error has the attribute `steps`: how many whole steps were made before it, and are in parameters and state.
    """
    buffers = workspace.tensor
    weights, biases = network.weights(parameters), network.biases(parameters)
    memory = [tuple((slot[layer.w :], slot[layer.b :]) for slot in state) for layer in network.layers]
    steps = workspace.steps

    def launches(n: int, rule: Optimizer) -> None:
        chosen = steps.begin(len(x), order, n)
        to_elements(x, chosen, n, buffers.inputs[0])
        batch_target = rows(target, chosen, workspace.labels if target.ndim == 1 else workspace.target)
        _forward(network, parameters, n, buffers.y[-1], buffers)
        if penalties is not None:
            sum_of_squares(weights, rule.l2 / 2, workspace.partials, workspace.squares, steps.results, 1)
        loss_to(network, buffers.y[-1][:n], batch_target, buffers.dy[:n], workspace.partials, steps.results, 0)
        steps.end(n)
        # From here on nothing takes memory or a compiler: no step is left half made.
        scale = network.delta_scale(n)
        for i, dz, partials in _backward(network, n, scale, buffers):
            weight_update(
                buffers.inputs[i], dz, n, scale, weights[i], biases[i], memory[i], buffers.weights[i], partials,
                buffers.sums, rule, steps.numbers,
            )  # fmt: skip

    def ready(n: int) -> Any:
        buffers.ready(n)
        return buffers.maps()

    load_kernels(buffers.elements, network, workspace.rows, optimizer)
    _take_weights(network, parameters, buffers)
    given = places(parameters, state, x, target, order)
    steps.make(launches, given, optimizer, updates, len(x), start, batch_size, losses, penalties, ready)


def _take_weights(network: Network, parameters: Any, buffers: TensorBuffers) -> None:
    """The weights' operands, made anew at the start of every call, for the caller may have changed the weights."""
    for w, operand in zip(network.weights(parameters), buffers.weights, strict=True):
        to_elements(w, None, len(w), operand)


def _forward(network: Network, parameters: Any, n: int, out: Any, buffers: TensorBuffers) -> None:
    """All layers on the n rows in the first operand; the last layer's output to `out`, float32."""
    last = len(network.layers) - 1
    for i, (b, activation) in enumerate(zip(network.biases(parameters), network.activations, strict=True)):
        y = out if i == last else buffers.y[i]
        linear_forward(buffers.inputs[i], buffers.weights[i], n, b, activation, y, buffers.z[i], buffers.inputs[i + 1])


def _backward(network: Network, n: int, scale: float, buffers: TensorBuffers) -> Iterator[tuple[int, Any, Any]]:
    """Last layer first, (i, dz of layer i times `scale`, its partial sums).

    The delta below has been taken by the time that the caller steps w.
    """
    last = len(network.layers) - 1
    for i in range(last, -1, -1):
        dz, partials = buffers.delta(i)
        if i == last:
            activation = network.activations[i]
            output_delta(buffers.dy, scale, n, activation, _saved(i, activation, buffers), dz, partials)
        if i > 0:
            below = buffers.delta(i - 1)
            activation = network.activations[i - 1]
            saved = _saved(i - 1, activation, buffers)
            input_gradient(dz, buffers.weights[i], n, activation, saved, *below)
        yield i, dz, partials


def _saved(i: int, activation: str, buffers: TensorBuffers) -> Any:
    """What layer i's derivative is taken from."""
    if takes_sign(activation):
        return buffers.inputs[i + 1]
    return buffers.y[i] if buffers.z[i] is None else buffers.z[i]
