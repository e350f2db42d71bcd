"""One update of one parameter from its gradient, by the formulas of contract.OPTIMIZERS, as a device function."""

import functools
import math
from typing import Any

import numpy as np
from numba import cuda

from ..network import Optimizer
from .elementary import sqrt


@functools.cache
def rule(name: str, dtype: np.dtype, decays: bool) -> Any:
    """(w, g, state, place, settings) -> the new w; the memory of w is state[:, place], `settings` as `settings` gives.

    decays: L2 is part of the update, as it is for weights where it is not 0, and never for biases.
    """
    real, ahead = dtype.type, name == "nesterov"

    def sgd(w, g, state, place, settings):
        rate, l2 = real(settings[0]), real(settings[1])
        if decays:
            g = g + l2 * w
        return w - rate * g

    def momentum(w, g, state, place, settings):
        rate, l2, mu = real(settings[0]), real(settings[1]), real(settings[3])
        if decays:
            g = g + l2 * w
        v = mu * state[0, place] - rate * g
        state[0, place] = v
        return w + (mu * v - rate * g) if ahead else w + v

    def adam(w, g, state, place, settings):
        rate, l2, shrink = real(settings[0]), real(settings[1]), real(settings[2])
        beta1, rest1, beta2, rest2 = real(settings[4]), real(settings[5]), real(settings[6]), real(settings[7])
        if decays:
            g = g + l2 * w
            w = w - shrink * w
        m = beta1 * state[0, place] + rest1 * g
        v = beta2 * state[1, place] + rest2 * (g * g)
        state[0, place] = m
        state[1, place] = v
        return w - rate * (m / (sqrt(v) + real(settings[8])))

    functions = {"sgd": sgd, "momentum": momentum, "nesterov": momentum, "adam": adam, "adamw": adam}
    return cuda.jit(device=True)(functions[name])


def settings(optimizer: Optimizer, updates: int) -> tuple[float, ...]:
    """(rate, l2, shrink, mu, b1, 1 - b1, b2, 1 - b2, eps) of update t = `updates`, counted from 1.

    The rate holds Adam's bias corrections. AdamW's l2 shrinks the weight by lr l2, apart from the gradient.
    """
    rate, l2, shrink = optimizer.learning_rate, optimizer.l2, 0.0
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    if optimizer.name == "adamw":
        l2, shrink = 0.0, rate * l2
    if optimizer.name in ("adam", "adamw"):
        rate *= math.sqrt(1 - beta2**updates) / (1 - beta1**updates)
    numbers = rate, l2, shrink, optimizer.momentum, beta1, 1 - beta1, beta2, 1 - beta2, optimizer.epsilon
    return tuple(map(float, numbers))
