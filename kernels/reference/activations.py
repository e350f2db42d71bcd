"""The activations y = f(z) and their derivatives f'(z), elementwise over one layer.

Each derivative is taken from what contract.ACTIVATIONS says is saved: the output y or the preactivation z. The forms
are those that neither overflow nor cancel. At -Inf gelu and silu are NaN, the 0 * Inf of their formulas.
"""

import numpy as np

from ..contract import LEAKY_SLOPE
from . import normal
from .blocks import blocks


def sigmoid(z: np.ndarray, out: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)); `out` may be z. Where exp(-z) is Inf the result is its limit, 0."""
    np.negative(z, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.reciprocal(out, out=out)


def activate(activation: str, z: np.ndarray, y: np.ndarray) -> None:
    """Write f(z) to y; both are C-contiguous, and y may be z."""
    match activation:
        case "identity":
            if y is not z:
                np.copyto(y, z)
        case "relu":
            np.maximum(z, 0, out=y)
        case "leaky_relu":
            for z_, y_ in blocks(z, y):
                np.maximum(z_, z_ * LEAKY_SLOPE, out=y_)
        case "tanh":
            np.tanh(z, out=y)
        case "sigmoid":
            sigmoid(z, y)
        case "gelu":
            for z_, y_ in blocks(z, y):
                np.multiply(z_, normal.cdf(z_), out=y_)
        case "silu":
            for z_, y_ in blocks(z, y):
                np.divide(z_, 1 + np.exp(-z_), out=y_)
        case "softplus":  # max(z, 0) + log(1 + exp(-|z|))
            for z_, y_ in blocks(z, y):
                small = np.log1p(np.exp(-np.abs(z_)))
                np.maximum(z_, 0, out=y_)
                np.add(y_, small, out=y_)
        case "sine":
            np.sin(z, out=y)


def differentiate(activation: str, saved: np.ndarray, dy: np.ndarray, dz: np.ndarray) -> None:
    """Write dy * f' to dz; `saved` is y or z as the contract says, all are C-contiguous, and dz may be dy."""
    if activation == "identity":
        if dz is not dy:
            np.copyto(dz, dy)
        return
    for s, dy_, dz_ in blocks(saved, dy, dz):
        match activation:
            case "relu":
                # The bits of dy times 1 or 0: as where(y > 0, dy, 0), Inf and NaN in dy included, but with no branch.
                bits = np.dtype(f"i{s.itemsize}")
                np.multiply(dy_.view(bits), s > 0, out=dz_.view(bits))
            case "leaky_relu":
                slopes = np.array([LEAKY_SLOPE, 1], s.dtype)
                np.multiply(dy_, slopes.take(s > 0), out=dz_)
            case "tanh":  # 1 - y^2
                np.multiply(dy_, 1 - s * s, out=dz_)
            case "sigmoid":  # y (1 - y)
                np.multiply(dy_, s * (1 - s), out=dz_)
            case "gelu":
                np.multiply(dy_, normal.cdf(s) + s * normal.density(s), out=dz_)
            case (
                "silu"
            ):  # g (1 + z (1 - g)), g = sigmoid(z); 1 - g as sigmoid(-z), which keeps its digits where g is near 1
                g, rest = sigmoid(s, np.empty_like(s)), sigmoid(-s, np.empty_like(s))
                np.multiply(dy_, g * (1 + s * rest), out=dz_)
            case "softplus":
                np.multiply(dy_, sigmoid(s, np.empty_like(s)), out=dz_)
            case "sine":
                np.multiply(dy_, np.cos(s), out=dz_)
