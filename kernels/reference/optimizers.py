"""One update of parameters w from their gradient g, by the formulas of contract.OPTIMIZERS.

SGD, momentum, Nesterov and Adam are stepped as scikit-learn's neural networks step them (Adam: D. P. Kingma and J. Ba,
"Adam: a method for stochastic optimization", 2015, in the form of its section 2 with the bias corrections in the rate).
AdamW: I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", 2019.
"""

import math

import numpy as np

from ..network import Optimizer


def apply_l2(optimizer: Optimizer, w: np.ndarray, g: np.ndarray, scratch: np.ndarray) -> None:
    """Before `step`, for weights alone: add l2 w to the gradient; for AdamW shrink w itself by lr l2 w."""
    if optimizer.l2 == 0:
        return
    if optimizer.name == "adamw":
        np.multiply(w, optimizer.learning_rate * optimizer.l2, out=scratch)
        np.subtract(w, scratch, out=w)
    else:
        np.multiply(w, optimizer.l2, out=scratch)
        np.add(g, scratch, out=g)


def step(
    optimizer: Optimizer, w: np.ndarray, g: np.ndarray, state: np.ndarray, updates: int, scratch: np.ndarray
) -> None:
    """Step w in place, its `updates`-th time from 1 on. `state[slots]` is its memory; g and scratch are used up."""
    rate = optimizer.learning_rate
    match optimizer.name:
        case "sgd":
            np.multiply(g, rate, out=g)
            np.subtract(w, g, out=w)
        case "momentum":
            (v,) = state
            _velocity(optimizer, v, g)
            np.add(w, v, out=w)
        case "nesterov":
            (v,) = state
            _velocity(optimizer, v, g)
            np.multiply(v, optimizer.momentum, out=scratch)
            np.subtract(scratch, g, out=scratch)
            np.add(w, scratch, out=w)
        case "adam" | "adamw":
            m, v = state
            np.multiply(g, 1 - optimizer.beta1, out=scratch)
            np.multiply(m, optimizer.beta1, out=m)
            np.add(m, scratch, out=m)
            np.multiply(g, g, out=g)
            np.multiply(g, 1 - optimizer.beta2, out=g)
            np.multiply(v, optimizer.beta2, out=v)
            np.add(v, g, out=v)
            rate *= math.sqrt(1 - optimizer.beta2**updates) / (1 - optimizer.beta1**updates)
            np.sqrt(v, out=scratch)
            np.add(scratch, optimizer.epsilon, out=scratch)
            np.divide(m, scratch, out=scratch)
            np.multiply(scratch, rate, out=scratch)
            np.subtract(w, scratch, out=w)


def _velocity(optimizer: Optimizer, v: np.ndarray, g: np.ndarray) -> None:
    """Update v to momentum v - lr g; leaves lr g in g."""
    np.multiply(g, optimizer.learning_rate, out=g)
    np.multiply(v, optimizer.momentum, out=v)
    np.subtract(v, g, out=v)
