"""Training a whole network: the gradients of one batch, and many steps in one call.

A step is launches alone, in the order of one stream; the host waits for none of them, and repeats them as one graph.
"""

from typing import Any

import numpy as np

from ..network import Network, Optimizer
from . import forward_backward_fused, tensor_train, train_resident
from .batches import rows
from .linear_backward_update import differentiate, input_gradient, parameter_gradients, update
from .linear_forward import linear_forward
from .loss import loss_to
from .memory import empty
from .reduction import sum_of_squares
from .steps import places
from .workspace import Workspace


def gradients(network: Network, parameters: Any, x: Any, target: Any, gradient: Any, workspace: Workspace) -> float:
    """J of one batch x[n, inputs], and dJ/dparameters written to `gradient` in the flat layout, without the L2 term.

    Waits for the device.
    """
    if workspace.tensor is not None:
        return tensor_train.gradients(network, parameters, x, target, gradient, workspace)
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
    penalties: Any = None,
) -> None:
    """len(losses) steps, as kernels/README.md says; writes parameters, state, losses and, if given, penalties.

    An error has the attribute `steps`: how many whole steps were made before it, and are in parameters and state.
    """
    fused = forward_backward_fused.choice(network, min(batch_size, len(x)), target.ndim == 1)
    if fused is not None:
        forward_backward_fused.train(
            fused, network, optimizer, parameters, state, updates, x, target, order, start, batch_size, losses,
            workspace, penalties,
        )  # fmt: skip
        return
    if workspace.tensor is not None:
        tensor_train.train(
            network, optimizer, parameters, state, updates, x, target, order, start, batch_size, losses, workspace,
            penalties,
        )  # fmt: skip
        return
    how = train_resident.choice(network, optimizer, min(batch_size, len(x)), target.ndim == 1)
    if how is not None:
        train_resident.train(
            how, optimizer, parameters, state, updates, x, target, order, start, batch_size, losses, penalties
        )
        return
    weights, biases, steps = network.weights(parameters), network.biases(parameters), workspace.steps

    def launches(n: int, rule: Optimizer) -> None:
        chosen = steps.begin(len(x), order, n)
        batch_x = rows(x, chosen, workspace.x)
        batch_target = rows(target, chosen, workspace.labels if target.ndim == 1 else workspace.target)
        inputs = _forward(network, weights, biases, batch_x, workspace)
        if penalties is not None:
            sum_of_squares(weights, rule.l2 / 2, workspace.partials, workspace.squares, steps.results, 1)
        # The whole way back before the first update: what fails, for want of memory say, leaves no step half made.
        deltas = list(_backward(network, weights, inputs, batch_target, workspace, steps.results, 0))
        steps.end(n)
        for i, dz in deltas:
            layer = network.layers[i]
            update(inputs[i], dz, weights[i], biases[i], state, layer.w, layer.b, rule, steps.numbers)

    given = places(parameters, state, x, target, order)
    steps.make(launches, given, optimizer, updates, len(x), start, batch_size, losses, penalties)


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
