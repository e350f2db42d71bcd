"""Steps layer by layer, from Python: for what the compiled calls of steps.py have no place for.

Weighted samples, the Poisson loss and dropout stand between the layers' products, or after the last one. The products,
each with its activation or its optimiser's step, are our kernels'; the loss is scikit-learn's own function.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.neural_network._base import ACTIVATIONS as OUTPUT_ACTIVATIONS
from sklearn.neural_network._base import LOSS_FUNCTIONS

from ..kernels.network import Layer, Optimizer, aligned_zeros
from .engine import Engine
from .steps import Steps

DROPOUT_LEVELS = 2**16
"""A unit is dropped with a multiple of 1 / DROPOUT_LEVELS for its probability."""


class _LayerBuffers:
    """One layer's memory of the optimiser, and its arrays for a batch of up to so many rows."""

    def __init__(self, layer: Layer, slots: int, rows: int, dtype: np.dtype, dropout: bool) -> None:
        k, m = layer.inputs, layer.outputs
        self.activation = layer.activation
        self.state = aligned_zeros((slots, (k + 1) * m), dtype)
        self.w_slots = [slot[: k * m].reshape(k, m) for slot in self.state]
        self.b_slots = [slot[k * m :] for slot in self.state]
        self.y, self.dy = aligned_zeros((rows, m), dtype), aligned_zeros((rows, m), dtype)
        self.z = aligned_zeros((rows, m), dtype) if layer.saves_preactivation else None
        self.mask, self.dropped = (aligned_zeros((rows, m), dtype) if dropout else None for _ in range(2))


class Layers:
    """An engine's network layer by layer: a step at a time, on batches of up to `rows` rows.

    `loss` and `out_activation` are scikit-learn's names. `dropout` is the probability of a hidden unit to be left out
    of a step; what is left of a layer is scaled up (inverted dropout: N. Srivastava et al., "Dropout", 2014), by masks
    that `seed` determines. `memory` are live views of the optimiser's, for each slot an array a parameter.
    """

    def __init__(
        self,
        engine: Engine,
        slots: int,
        rows: int,
        loss: str,
        out_activation: str,
        dropout: float = 0.0,
        seed: Sequence[int] = (0,),
    ) -> None:
        network = engine.network
        self._engine = engine
        self._loss = LOSS_FUNCTIONS[loss]
        self._output_activation = OUTPUT_ACTIVATIONS[out_activation]
        self._threshold = min(round(dropout * DROPOUT_LEVELS), DROPOUT_LEVELS - 1)
        self._masks = np.random.PCG64(seed)
        last = network.layers[-1]
        self.buffers = [
            _LayerBuffers(layer, slots, rows, network.dtype, self._threshold > 0 and layer is not last)
            for layer in network.layers
        ]
        self.memory = [
            [each.w_slots[slot] for each in self.buffers] + [each.b_slots[slot] for each in self.buffers]
            for slot in range(slots)
        ]

    def step(
        self,
        x: np.ndarray,
        target: np.ndarray,
        weights: np.ndarray | None,
        total: float,
        rule: Optimizer,
        updates: int,
        penalised: bool,
    ) -> float:
        """One step on the rows of x and target, whose `weights`, or number, sum up to `total`; J before it.

        `rule` has this batch's share of L2, which is in J where `penalised`; `updates` counts from 1.
        """
        inputs = self._forward(x)
        output = inputs.pop()
        self._output_activation(output)
        loss = self._loss(target, output, weights)
        if penalised:
            loss += rule.l2 / 2 * sum(np.vdot(w, w) for w in self._engine.coefs)
        delta = np.subtract(output, target, out=self.buffers[-1].dy[: len(x)])
        if weights is not None:
            delta *= weights[:, np.newaxis]
        delta /= total
        self._backward(inputs, delta, rule, updates)
        return float(loss)

    def _forward(self, x: np.ndarray) -> list[np.ndarray]:
        """What each layer takes in, and the last layer's output."""
        n, inputs = len(x), [x]
        for layer, w, b in zip(self.buffers, self._engine.coefs, self._engine.intercepts, strict=True):
            y, z = layer.y[:n], None if layer.z is None else layer.z[:n]
            self._engine.backend.linear_forward(inputs[-1], w, b, y, z, layer.activation)
            if layer.mask is not None and layer.dropped is not None:
                self._draw(layer.mask[:n])
                y = np.multiply(y, layer.mask[:n], out=layer.dropped[:n])
            inputs.append(y)
        return inputs

    def _draw(self, mask: np.ndarray) -> None:
        """Write 0 to mask where a unit is dropped, and what scales up those that are kept elsewhere."""
        words = self._masks.random_raw(-(-mask.size // 4)).view(np.uint16)[: mask.size].reshape(mask.shape)
        kept = DROPOUT_LEVELS / (DROPOUT_LEVELS - self._threshold)
        np.multiply(words >= self._threshold, mask.dtype.type(kept), out=mask)

    def _backward(self, inputs: list[np.ndarray], delta: np.ndarray, rule: Optimizer, updates: int) -> None:
        """Step every layer, last one first, along what `delta`, dJ/dz of the last one, makes of its gradient."""
        n = len(delta)
        for i in reversed(range(len(self.buffers))):
            layer, below = self.buffers[i], self.buffers[i - 1] if i > 0 else None
            saved = (layer.y if layer.z is None else layer.z)[:n]
            dx = None if below is None else below.dy[:n]
            self._engine.backend.linear_backward_update(
                inputs[i], self._engine.coefs[i], self._engine.intercepts[i], saved, delta, delta, dx,
                layer.activation, rule, layer.state, updates,
            )  # fmt: skip
            if below is not None and dx is not None:
                delta = dx if below.mask is None else np.multiply(dx, below.mask[:n], out=dx)


class LayerSteps(Steps):
    """Minibatch steps made so."""

    def __init__(
        self,
        engine: Engine,
        optimizer: Any,
        alpha: float,
        decoupled: bool,
        X: np.ndarray,
        target: np.ndarray,
        batch_size: int,
        sample_weight: np.ndarray | None,
        loss: str,
        out_activation: str,
        dropout: float,
        seed: list[int],
    ) -> None:
        super().__init__(engine, optimizer, alpha, decoupled, len(X), batch_size)
        dtype = engine.network.dtype
        self._x, self._target = np.ascontiguousarray(X, dtype), np.ascontiguousarray(target, dtype)
        self._weights = sample_weight
        self._batch_x = aligned_zeros((batch_size, engine.network.widths[0]), dtype)
        names = ("ms", "vs") if self._is_adam else ("velocities",)
        self._layers = Layers(engine, len(names), batch_size, loss, out_activation, dropout, seed)
        for name, views in zip(names, self._layers.memory, strict=True):
            for view, value in zip(views, getattr(optimizer, name), strict=True):
                view[...] = value
            setattr(optimizer, name, views)

    def _train(self, start: int, losses: np.ndarray) -> None:
        for step in range(len(losses)):
            n = min(self._batch_size, self._samples - start % self._samples)
            losses[step] = self._step(self._order[start : start + n], self._updates + step + 1)
            start += n

    def _step(self, rows: np.ndarray, updates: int) -> float:
        # mode="clip" writes to `out` directly; the default would gather into a temporary first.
        x = np.take(self._x, rows, axis=0, out=self._batch_x[: len(rows)], mode="clip")
        weights = None if self._weights is None else self._weights[rows]
        total = len(rows) if weights is None else float(weights.sum())
        rule = self._rule(self._alpha)
        if not self._decoupled:
            rule = rule.shared(total or 1.0)  # of a batch without any weight the loss says what is wrong
        return self._layers.step(x, self._target[rows], weights, total, rule, updates, not self._decoupled)


def loss_name(loss: str, out_activation: str) -> str:
    """The name of scikit-learn's loss function for an estimator's `loss` and output activation."""
    return "binary_log_loss" if loss == "log_loss" and out_activation == "logistic" else loss
