"""Training a whole network: the gradients of one batch, and many steps in one call.

A step is launches alone, in the order of one stream; the host waits for none of them.
"""

from typing import Any

import numpy as np
from numba import cuda

from ..network import Network, Optimizer
from .launch import THREADS, blocks_for, launch
from .linear_backward_update import differentiate, input_gradient, parameter_gradients, update
from .linear_forward import linear_forward
from .loss import loss_to
from .memory import empty
from .workspace import Workspace


def gradients(network: Network, parameters: Any, x: Any, target: Any, gradient: Any, workspace: Workspace) -> float:
    """J of one batch x[n, inputs], and dJ/dparameters written to `gradient` in the flat layout, without the L2 term.

    Waits for the device.
    """
    weights = network.weights(parameters)
    dw, db = network.weights(gradient), network.biases(gradient)
    value = empty(1, np.dtype(float))
    inputs = _forward(network, weights, network.biases(parameters), x, workspace)
    for i, dz in _backward(network, weights, inputs, target, workspace, value, 0):
        parameter_gradients(inputs[i], dz, dw[i], db[i])
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
    workspace: Workspace,
) -> None:
    """len(losses) steps, as kernels/README.md says; writes parameters, state and losses."""
    weights, biases = network.weights(parameters), network.biases(parameters)
    for step in range(len(losses)):
        n = min(batch_size, len(x) - start % len(x))
        batch_x, batch_target = _batch(x, target, order, start, n, workspace)
        inputs = _forward(network, weights, biases, batch_x, workspace)
        for i, dz in _backward(network, weights, inputs, batch_target, workspace, losses, step):
            layer = network.layers[i]
            update(inputs[i], dz, weights[i], biases[i], state, layer.w, layer.b, optimizer, updates + step + 1)
        start += n


@cuda.jit
def _gather(source, order, start, columns, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = source[order[start + i // columns] * columns + i % columns]


def _batch(x: Any, target: Any, order: Any, start: int, n: int, workspace: Workspace) -> tuple[Any, Any]:
    """The n rows from position `start` on: slices of x and target, or the rows named by `order` gathered."""
    if order is None:
        first = start % len(x)
        return x[first : first + n], target[first : first + n]
    gathered = workspace.x[:n], (workspace.labels if target.ndim == 1 else workspace.target)[:n]
    for source, out in zip((x, target), gathered, strict=True):
        launch(_gather, blocks_for(out.size), THREADS, source.reshape(-1), order, start, out.size // n, out.reshape(-1))
    return gathered


def _forward(network: Network, weights: list[Any], biases: list[Any], x: Any, workspace: Workspace) -> list[Any]:
    """Every layer's output to the workspace; the inputs of the layers, and the output of the last."""
    n = len(x)
    inputs = [x]
    for w, b, z, y, activation in zip(weights, biases, workspace.z, workspace.y, network.activations, strict=True):
        linear_forward(inputs[-1], w, b, y[:n], None if z is None else z[:n], activation)
        inputs.append(y[:n])
    return inputs


def _backward(
    network: Network, weights: list[Any], inputs: list[Any], target: Any, workspace: Workspace, losses: Any, place: int
) -> Any:
    """J to losses[place]; then, last layer first, (i, dz of layer i).

    The gradient below has been taken from a layer's weights by the time that the caller may step them.
    """
    n, last = len(inputs[0]), len(weights) - 1
    dy = [buffer[:n] for buffer in workspace.dy]
    saved = [y if z is None else z[:n] for z, y in zip(workspace.z, inputs[1:], strict=True)]
    loss_to(network, inputs[-1], target, dy[last], workspace.partials, losses, place)
    differentiate(network.activations[last], saved[last], dy[last], dy[last])
    for i in range(last, -1, -1):
        if i > 0:
            input_gradient(dy[i], weights[i], dy[i - 1], network.activations[i - 1], saved[i - 1])
        yield i, dy[i]
