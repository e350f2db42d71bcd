"""What each loss adds up and the gradient it writes, by the formulas of contract.LOSSES, as device functions.

Each is a term of the sum J = (sum of the terms) / divisor: of one element, or of one row for cross-entropy. With
`gradient` it also writes dJ/dy there. extra = (y, t, dy, scale), where dy is y itself without a gradient.
"""

import functools
from typing import Any

import numpy as np
from numba import cuda, float64

from .elementary import exp, log, log1p


@functools.cache
def squared_error(dtype: np.dtype, gradient: bool) -> Any:
    """(y - t)^2 of one element of flat arrays; the gradient is (y - t) / scale."""
    real = dtype.type

    @cuda.jit(device=True)
    def term(i, extra):
        y, t, dy, scale = extra
        difference = y[i] - t[i]
        if gradient:
            dy[i] = difference / real(scale)
        return float64(difference) * float64(difference)

    return term


def _clip(least: np.floating, most: np.floating) -> Any:
    """A number within bounds, as a device function; NaN stays NaN."""

    @cuda.jit(device=True)
    def clip(value):
        if value < least:
            return least
        return most if value > most else value

    return clip


@functools.cache
def binary_cross_entropy(dtype: np.dtype, gradient: bool, clips: bool) -> Any:
    """log(1 + exp(y)) - t y of one element of flat arrays, as (max(y, 0) - t y) + log(1 + exp(-|y|)).

    With `clips`, binary_log_loss's: -t log p - (1 - t) log(1 - p), p = sigmoid(y) being within eps and 1 - eps.
    """
    real = dtype.type
    zero, one, eps = real(0), real(1), np.finfo(dtype).eps
    clip = _clip(eps, real(1 - eps))

    @cuda.jit(device=True)
    def term(i, extra):
        y, t, dy, scale = extra
        z = y[i]
        target = t[i]
        sigmoid = one / (one + exp(-z))
        if gradient:
            dy[i] = (sigmoid - target) / real(scale)
        if clips:
            p = clip(sigmoid)
            return float64(-(target * log(p) + (one - target) * log(one - p)))
        loss = (zero if z < zero else z) - target * z
        return float64(loss + log1p(exp(-abs(z))))

    return term


@functools.cache
def cross_entropy(dtype: np.dtype, gradient: bool, labels: bool, clips: bool) -> Any:
    """-sum of t log softmax(y) of one row of y[n, m]; t is a row of probabilities, or a label.

    With `clips`, log_loss's: a probability counts as at least eps and at most 1 - eps.
    """
    real = dtype.type
    zero, one, eps = real(0), real(1), np.finfo(dtype).eps
    clip = _clip(-np.log1p(-eps), -np.log(eps))

    @cuda.jit(device=True)
    def term(row, extra):
        y, t, dy, scale = extra
        columns = y.shape[1]
        top = y[row, 0]
        for j in range(1, columns):
            if y[row, j] > top or y[row, j] != y[row, j]:  # NaN is the largest
                top = y[row, j]
        exact = float64(0)
        for j in range(columns):
            exact += float64(exp(y[row, j] - top))
        total = real(exact)
        rest = log(total)
        loss = float64(0)
        for j in range(columns):
            shifted = y[row, j] - top
            surprise = rest - shifted
            if clips:
                surprise = clip(surprise)
            if labels:
                target = one if t[row] == j else zero
                if t[row] == j:
                    loss += float64(surprise)
            else:
                target = t[row, j]
                loss += float64(surprise * target)
            if gradient:
                dy[row, j] = (exp(shifted) / total - target) / real(scale)
        return loss

    return term
