"""The optimisers' rules on a block of gradient that is still in the cache."""

import math

import numpy as np

from ..contract import GRADIENT_CODE, OPTIMIZERS
from ..network import Optimizer
from .activations import copy_block
from .compile import jit
from .simd import fma, lanes, load_first, pointer_at, square_root, store_first

SGD, MOMENTUM, NESTEROV, ADAM, ADAMW = (
    OPTIMIZERS[name].code for name in ("sgd", "momentum", "nesterov", "adam", "adamw")
)

RULE, LEARNING_RATE, L2, MOMENTUM_FACTOR, BETA1, BETA2, EPSILON = range(7)
"""Places in `settings`, float64."""


def settings_of(optimizer: Optimizer, code: int) -> np.ndarray:
    """`settings` for the rule with this code."""
    o = optimizer
    return np.array((code, o.learning_rate, o.l2, o.momentum, o.beta1, o.beta2, o.epsilon), np.float64)


@jit
def _sgd_block(rows, columns, g, g_row, w, w_row, rate, l2):
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            place = w + (i * w_row + j)
            old = load_first(place, count)
            gradient = fma(old, l2, load_first(g + (i * g_row + j), count))
            store_first(place, fma(gradient, -rate, old), count)


@jit
def _momentum_block(rows, columns, g, g_row, w, w_row, v, rate, l2, factor, looks_ahead):
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            place, velocity = w + (i * w_row + j), v + (i * w_row + j)
            old = load_first(place, count)
            step = fma(old, l2, load_first(g + (i * g_row + j), count)) * rate
            new = load_first(velocity, count) * factor - step
            store_first(velocity, new, count)
            store_first(place, old + (new * factor - step if looks_ahead else new), count)


@jit
def _adam_block(rows, columns, g, g_row, w, w_row, m, v, rate, l2, decay, beta1, beta2, epsilon):
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            offset = i * w_row + j
            old = load_first(w + offset, count)
            gradient = fma(old, l2, load_first(g + (i * g_row + j), count))
            mean = fma(load_first(m + offset, count), beta1, gradient * (1.0 - beta1))
            square = fma(load_first(v + offset, count), beta2, gradient * gradient * (1.0 - beta2))
            store_first(m + offset, mean, count)
            store_first(v + offset, square, count)
            step = mean * rate / (square_root(square) + epsilon)
            store_first(w + offset, fma(old, -decay, old - step), count)


@jit
def changed_by_update(settings, w, slot0, slot1):
    """Those of the three that `update` will change, 0 for the others; the gradient's own rule changes slot0 alone."""
    rule, nothing = int(settings[RULE]), pointer_at(0, w)
    return (
        w if rule != GRADIENT_CODE else nothing,
        slot0 if rule != SGD else nothing,
        slot1 if rule in (ADAM, ADAMW) else nothing,
    )


@jit
def update(settings, updates, l2, rows, columns, g, g_row, w, w_row, slot0, slot1):
    """One update of w[rows, columns] from its gradient g; the slots have w's strides. `l2` is 0 for a bias.

    `updates` counts the updates before this one.
    """
    rule, rate = int(settings[RULE]), settings[LEARNING_RATE]
    if rule == SGD:
        _sgd_block(rows, columns, g, g_row, w, w_row, rate, l2)
    elif rule in (MOMENTUM, NESTEROV):
        _momentum_block(rows, columns, g, g_row, w, w_row, slot0, rate, l2, settings[MOMENTUM_FACTOR], rule == NESTEROV)
    elif rule in (ADAM, ADAMW):
        t = updates + 1.0
        beta1, beta2 = settings[BETA1], settings[BETA2]
        corrected = rate * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        coupled, decay = (l2, 0.0) if rule == ADAM else (0.0, rate * l2)
        _adam_block(
            rows, columns, g, g_row, w, w_row, slot0, slot1, corrected, coupled, decay, beta1, beta2, settings[EPSILON]
        )
    elif rule == GRADIENT_CODE:
        copy_block(rows, columns, g, g_row, slot0, w_row)
