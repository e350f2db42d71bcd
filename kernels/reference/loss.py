"""The losses J of a network's outputs and their gradients dJ/dy, by the formulas of contract.LOSSES."""

import numpy as np

from ..network import Network
from .activations import sigmoid
from .blocks import blocks, row_blocks
from .mse import mse, squared_error


def loss(network: Network, y: np.ndarray, target: np.ndarray, dy: np.ndarray | None = None) -> float:
    """J of outputs y[n, m] against the target; writes dJ/dy to dy[n, m] if given. NaN where there is no element."""
    if y.size == 0:
        return float("nan")
    match network.loss:
        case "mse":
            return mse(y, target, dy)
        case "half_mse":
            total = squared_error(y, target, dy)
            if dy is not None:
                np.divide(dy, len(y), out=dy)
            return total / (2 * len(y))
        case "cross_entropy" | "log_loss":
            return _cross_entropy(y, target, dy, network.loss == "log_loss")
        case "binary_cross_entropy":
            return _binary_cross_entropy(y, target, dy)
        case _:
            return _binary_log_loss(y, target, dy)


def _clip(surprises: np.ndarray) -> np.ndarray:
    """-log p of probabilities p, as if they were at least eps and at most 1 - eps."""
    eps = np.finfo(surprises.dtype).eps
    return np.clip(surprises, -np.log1p(-eps), -np.log(eps))


def _cross_entropy(y: np.ndarray, target: np.ndarray, dy: np.ndarray | None, clips: bool) -> float:
    """-1/n sum of t log softmax(y), with log softmax(y) = (y - max y) - log(sum of exp(y - max y)) of each row."""
    n, m = y.shape
    labels = target.ndim == 1
    total = 0.0
    for rows in row_blocks(n, m):
        shifted = y[rows] - np.maximum.reduce(y[rows], axis=1, keepdims=True)
        e = np.exp(shifted, out=None if dy is None else dy[rows])
        sums = np.add.reduce(e, axis=1, keepdims=True)
        if labels:
            here = np.arange(len(e)), target[rows]
            surprises = np.log(sums[:, 0]) - shifted[here]
        else:
            surprises = np.log(sums) - shifted
        losses = _clip(surprises) if clips else surprises
        if not labels:
            losses = losses * target[rows]
        total += float(np.add.reduce(losses, axis=None, dtype=np.float64))
        if dy is not None:
            np.divide(e, sums, out=e)
            if labels:
                e[here] -= 1
            else:
                np.subtract(e, target[rows], out=e)
            np.divide(e, n, out=e)
    return total / n


def _binary_cross_entropy(y: np.ndarray, target: np.ndarray, dy: np.ndarray | None) -> float:
    """Mean of log(1 + exp(y)) - t y, taken as (max(y, 0) - t y) + log(1 + exp(-|y|))."""
    total = 0.0
    for y_, t_ in blocks(y, target):
        losses = np.maximum(y_, 0) - t_ * y_
        losses += np.log1p(np.exp(-np.abs(y_)))
        total += float(np.add.reduce(losses, dtype=np.float64))
    if dy is not None:
        sigmoid(y, dy)
        np.subtract(dy, target, out=dy)
        np.divide(dy, y.size, out=dy)
    return total / y.size


def _binary_log_loss(y: np.ndarray, target: np.ndarray, dy: np.ndarray | None) -> float:
    """-1/n sum of t log p + (1 - t) log(1 - p), p = sigmoid(y) being at least eps and at most 1 - eps."""
    eps, total = np.finfo(y.dtype).eps, 0.0
    for y_, t_ in blocks(y, target):
        p = np.clip(sigmoid(y_, np.empty_like(y_)), eps, 1 - eps)
        losses = t_ * np.log(p) + (1 - t_) * np.log(1 - p)
        total -= float(np.add.reduce(losses, dtype=np.float64))
    if dy is not None:
        sigmoid(y, dy)
        np.subtract(dy, target, out=dy)
        np.divide(dy, len(y), out=dy)
    return total / len(y)
