"""Training a whole network: the gradients of one batch, and many steps in one call."""

from collections.abc import Callable, Iterator

import numpy as np

from ..network import Network, Optimizer
from ..timeline import EVERY_LAYER, Timeline
from . import optimizers
from .linear_backward_update import linear_backward
from .linear_forward import forward_layer
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
    batch = workspace.batch(len(x))
    return _backpropagate(network, *parameter_views, *gradient_views, x, target, batch, workspace.product)


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

    A `timeline` is told of the end of every part of a step.
    """
    note = None
    weights, biases = network.weights(parameters), network.biases(parameters)
    gradient, scratch = workspace.gradient, workspace.scratch
    weight_gradients, bias_gradients = network.weights(gradient), network.biases(gradient)
    weight_scratch = network.weights(scratch)
    batches = _batches(x, target, order, start, batch_size, workspace)
    for step in range(len(losses)):
        if timeline is not None:
            note = timeline.begin(updates + step, min(batch_size, len(x) - start % len(x)))
        batch_x, batch_target, batch = next(batches)
        start += len(batch_x)
        if note is not None:
            note("gather", 0)
        factors = network.weights(operand(parameters, workspace.parameters))
        losses[step] = _backpropagate(
            network,
            factors,
            biases,
            weight_gradients,
            bias_gradients,
            batch_x,
            batch_target,
            batch,
            workspace.product,
            note,
        )
        rule = optimizer
        if penalties is not None:
            rule = optimizer.shared(len(batch_x))
            penalties[step] = rule.l2 / 2 * sum(float(np.vdot(w, w)) for w in weights)
            if note is not None:
                note("penalty", EVERY_LAYER)
        for w, dw, spare in zip(weights, weight_gradients, weight_scratch, strict=True):
            optimizers.apply_l2(rule, w, dw, spare)
        # One pass over all parameters: the gaps between them are zero in every buffer, and every rule leaves them so.
        optimizers.step(rule, parameters, gradient, state, updates + step + 1, scratch)
        if note is not None:
            note("optimizer", EVERY_LAYER)


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


def _of_layer(note: Callable[[str, int], None] | None, layer: int) -> Callable[[str], None] | None:
    """What to tell of the end of one layer's parts."""
    return None if note is None else lambda phase: note(phase, layer)


def _backpropagate(
    network: Network,
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    weight_gradients: list[np.ndarray],
    bias_gradients: list[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    batch: Batch,
    product: Callable[..., None],
    note: Callable[[str, int], None] | None = None,
) -> float:
    """One batch forward and backward: J; overwrites the gradients and the buffers of `batch`.

    `weights` are as `product` takes them, rounded for a network of dtype bfloat16. `note` is told of each part's end.
    """
    inputs, below = [], x
    layers = zip(batch.inputs, weights, biases, batch.z, batch.y, network.activations, strict=True)
    for i, (rounded, w, b, z, y, activation) in enumerate(layers):
        inputs.append(operand(below, rounded))
        forward_layer(inputs[-1], w, b, y, z, activation, product, _of_layer(note, i))
        below = y

    value = loss(network, batch.y[-1], target, batch.dy[-1])
    if note is not None:
        note("loss", len(weights) - 1)

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
            product,
            _of_layer(note, i),
        )
    return value
