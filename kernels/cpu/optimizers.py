"""The optimisers' rules on a block of gradient that is still in the cache."""

import math

import numpy as np
from numba import types

from ..contract import GRADIENT_CODE, OPTIMIZERS
from ..network import Optimizer
from .activations import copy_block
from .compile import Routine, jit
from .simd import Pointer, address_of, call_at, fma, int64_at, lanes, load_first, pointer_at, square_root, store_first

SGD, MOMENTUM, NESTEROV, ADAM, ADAMW = (
    OPTIMIZERS[name].code for name in ("sgd", "momentum", "nesterov", "adam", "adamw")
)

RULE, LEARNING_RATE, L2, MOMENTUM_FACTOR, BETA1, BETA2, EPSILON, ROUTINE = range(8)
"""Places in `settings`, float64, but for ROUTINE, which holds the int64 address of the rule's routine."""


@jit
def _sgd_block(rows, columns, g, g_row, w, w_row, rate, l2):
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            place = w + (i * w_row + j)
            old = load_first(place, count)
            gradient = fma(old, l2, load_first(g + (i * g_row + j), count))
            store_first(place, fma(gradient, -rate, old), count)


def _momentum_block(settings, updates, l2, rows, columns, g, g_row, w, w_row, v, unused):
    rate, factor, looks_ahead = settings[LEARNING_RATE], settings[MOMENTUM_FACTOR], settings[RULE] == NESTEROV
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            place, velocity = w + (i * w_row + j), v + (i * w_row + j)
            old = load_first(place, count)
            step = fma(old, l2, load_first(g + (i * g_row + j), count)) * rate
            new = load_first(velocity, count) * factor - step
            store_first(velocity, new, count)
            store_first(place, old + (new * factor - step if looks_ahead else new), count)


def _adam_block(settings, updates, l2, rows, columns, g, g_row, w, w_row, m, v):
    t, is_coupled = updates + 1.0, settings[RULE] == ADAM
    beta1, beta2, epsilon = settings[BETA1], settings[BETA2], settings[EPSILON]
    rate = settings[LEARNING_RATE] * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
    coupled, decay = (l2, 0.0) if is_coupled else (0.0, settings[LEARNING_RATE] * l2)
    for i in range(rows):
        for j in range(0, columns, lanes(w)):
            count = min(lanes(w), columns - j)
            offset = i * w_row + j
            old = load_first(w + offset, count)
            gradient = fma(old, coupled, load_first(g + (i * g_row + j), count))
            mean = fma(load_first(m + offset, count), beta1, gradient * (1.0 - beta1))
            square = fma(load_first(v + offset, count), beta2, gradient * gradient * (1.0 - beta2))
            store_first(m + offset, mean, count)
            store_first(v + offset, square, count)
            step = mean * rate / (square_root(square) + epsilon)
            store_first(w + offset, fma(old, -decay, old - step), count)


def _block(p):
    count, settings = types.int64, Pointer(types.float64)
    return types.void(settings, count, types.float64, count, count, p, count, p, count, p, p)


_MOMENTUM, _ADAM = Routine(_momentum_block, _block, "momentum_block"), Routine(_adam_block, _block, "adam_block")
_ROUTINES = {MOMENTUM: _MOMENTUM, NESTEROV: _MOMENTUM, ADAM: _ADAM, ADAMW: _ADAM}


def settings_of(optimizer: Optimizer, code: int, dtype: np.dtype) -> np.ndarray:
    """`settings` for the rule with this code on elements of this dtype; its routine is compiled if need be."""
    o = optimizer
    settings = np.array((code, o.learning_rate, o.l2, o.momentum, o.beta1, o.beta2, o.epsilon, 0), np.float64)
    if code in _ROUTINES:
        settings.view(np.int64)[ROUTINE] = _ROUTINES[code].address(dtype)
    return settings


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
    rule = int(settings[RULE])
    if rule == SGD:
        _sgd_block(rows, columns, g, g_row, w, w_row, settings[LEARNING_RATE], l2)
    elif rule == GRADIENT_CODE:
        copy_block(rows, columns, g, g_row, slot0, w_row)
    else:
        routine = int64_at(address_of(settings))[ROUTINE]
        call_at(routine, (settings, updates, l2, rows, columns, g, g_row, w, w_row, slot0, slot1))
