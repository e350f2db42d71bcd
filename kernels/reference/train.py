"""Training a whole network: the gradients of one batch, and many steps in one call."""

from collections.abc import Iterator

import numpy as np

from ..network import Network, Optimizer
from . import optimizers
from .linear_backward_update import linear_backward
from .linear_forward import linear_forward
from .loss import loss
from .rounding import operand
from .workspace import Batch, Workspace


def gradients(
    network: Network,
    parameters: np.ndarray,
    x: np.ndarray,
    target: np.ndarray,
    gradient: np.ndarray,
    workspace: Workspace,
) -> float:
    """J of one batch x[n, inputs], and dJ/dparameters written to `gradient` in the flat layout, without the L2 term."""
    parameter_views = network.weights(operand(parameters, workspace.parameters)), network.biases(parameters)
    gradient_views = network.weights(gradient), network.biases(gradient)
    return _backpropagate(network, *parameter_views, *gradient_views, x, target, workspace.batch(len(x)))


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
    weights, biases = network.weights(parameters), network.biases(parameters)
    gradient, scratch = workspace.gradient, workspace.scratch
    weight_gradients, bias_gradients = network.weights(gradient), network.biases(gradient)
    weight_scratch = network.weights(scratch)
    batches = _batches(x, target, order, start, batch_size, workspace)
    for step in range(len(losses)):
        batch_x, batch_target, batch = next(batches)
        factors = network.weights(operand(parameters, workspace.parameters))
        losses[step] = _backpropagate(
            network, factors, biases, weight_gradients, bias_gradients, batch_x, batch_target, batch
        )
        for w, dw, spare in zip(weights, weight_gradients, weight_scratch, strict=True):
            optimizers.apply_l2(optimizer, w, dw, spare)
        # One pass over all parameters: the gaps between them are zero in every buffer, and every rule leaves them so.
        optimizers.step(optimizer, parameters, gradient, state, updates + step + 1, scratch)


def _batches(
    x: np.ndarray, target: np.ndarray, order: np.ndarray | None, start: int, batch_size: int, workspace: Workspace
) -> Iterator[tuple[np.ndarray, np.ndarray, Batch]]:
    """The batches from position `start` on: slices of x and target, or the rows named by `order` gathered."""
    total = len(x)
    while True:
        first = start % total
        n = min(batch_size, total - first)
        batch = workspace.batch(n)
        if order is None:
            yield x[first : first + n], target[first : first + n], batch
        else:
            rows = order[start : start + n]
            gathered = batch.labels if target.ndim == 1 else batch.target
            # mode="clip" writes to `out` directly; the default would gather into a temporary first.
            np.take(x, rows, axis=0, out=batch.x, mode="clip")
            np.take(target, rows, axis=0, out=gathered, mode="clip")
            yield batch.x, gathered, batch
        start += n


def _backpropagate(
    network: Network,
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    weight_gradients: list[np.ndarray],
    bias_gradients: list[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    batch: Batch,
) -> float:
    """One batch forward and backward: J; overwrites the gradients and the buffers of `batch`.

    `weights` are as the products take them, rounded for a network of dtype bfloat16.
    """
    inputs, below = [], x
    for rounded, w, b, z, y, activation in zip(
        batch.inputs, weights, biases, batch.z, batch.y, network.activations, strict=True
    ):
        inputs.append(operand(below, rounded))
        linear_forward(inputs[-1], w, b, y, z, activation)
        below = y

    value = loss(network, batch.y[-1], target, batch.dy[-1])

    for i in reversed(range(len(weights))):
        z, dy = batch.z[i], batch.dy[i]
        saved = batch.y[i] if z is None else z
        dx = batch.dy[i - 1] if i > 0 else None
        linear_backward(
            inputs[i],
            weights[i],
            saved,
            dy,
            dy,
            dx,
            weight_gradients[i],
            bias_gradients[i],
            network.activations[i],
            batch.deltas[i],
        )
    return value
