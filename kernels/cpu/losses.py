"""The losses: value and gradient over chunks of rows, partial sums added in the order of the rows."""

import math

import numpy as np
from numba import types

from ..contract import LOSSES
from .compile import Routine, jit
from .elementary import exp, log, log1p_exp_minus, sigmoid
from .simd import (
    VECTOR_BYTES,
    Pointer,
    address_of,
    element,
    float64_from,
    keep_first,
    lanes,
    largest_lane,
    load_first,
    select,
    store_first,
    sum_lanes,
    wide_add,
    wide_add_square,
    wide_total,
    wide_zeros,
)

MSE, HALF_MSE, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, LOG_LOSS, BINARY_LOG_LOSS = (
    LOSSES[name].code
    for name in ("mse", "half_mse", "cross_entropy", "binary_cross_entropy", "log_loss", "binary_log_loss")
)

CHUNK_ROWS, MOST_CHUNKS = 36, 1024
"""A chunk has so many rows or a multiple of it, whole tiles of every width of registers, and a batch at most so many
chunks: MOST_CHUNKS partial sums are enough."""


@jit
def chunk_rows(n):
    """Rows of a chunk, from the shape alone."""
    return CHUNK_ROWS * max(-(-n // (CHUNK_ROWS * MOST_CHUNKS)), 1)


RUN = 64
"""Vectors whose lanes are summed before they are added to the total: rounding errors grow with the length of a sum."""


@jit
def add_exactly(total, lost, part):
    """The new total, and what rounding has taken from it so far (A. Neumaier, 1974)."""
    new = total + part
    if abs(total) >= abs(part):
        return new, lost + ((total - new) + part)
    return new, lost + ((part - new) + total)


@jit
def corrected(total, lost):
    """The total with what it lost given back; where it has overflowed, what it lost means nothing."""
    return total + lost if abs(total) < math.inf else total


@jit
def epsilon(y):
    """The distance from 1 to the next number of y's element type."""
    return 2.0**-52 if VECTOR_BYTES // lanes(y) == 8 else 2.0**-23


@jit
def surprise_bounds(loss, eps):
    """The least and the largest -log p that count: of p = 1 - eps and p = eps for log_loss, else any."""
    if loss == LOG_LOSS:
        return -math.log1p(-eps), -math.log(eps)
    return -math.inf, math.inf


@jit
def clip(value, least, most):
    """A vector within bounds; NaN stays NaN."""
    value = select(value < least, least, value)
    return select(value > most, most, value)


@jit
def binary_surprise(loss, eps, logit, target):
    """-t log p - (1 - t) log(1 - p) of vectors, p = sigmoid(logit): (max(y, 0) - t y) + log(1 + e^-|y|).

    For binary_log_loss it is taken from p, with scikit-learn's roundings: 1 - p has few digits where p is near 1.
    """
    if loss == BINARY_LOG_LOSS:
        p = clip(sigmoid(logit), eps, 1.0 - eps)
        return -(target * log(p) + (1.0 - target) * log(1.0 - p))
    return (select(logit < 0.0, 0.0, logit) - target * logit) + log1p_exp_minus(logit)


@jit
def _squares(count, y, t, dy, wants_gradient, divisor):
    """Sum of (y - t)^2 over `count` elements; dy = (y - t) / divisor."""
    total, lost = 0.0, 0.0
    for start in range(0, count, RUN * lanes(y)):
        part = wide_zeros(y)
        for j in range(start, min(count, start + RUN * lanes(y)), lanes(y)):
            width = min(lanes(y), count - j)
            difference = load_first(y + j, width) - load_first(t + j, width)
            part = wide_add_square(part, difference)
            if wants_gradient:
                store_first(dy + j, difference / divisor, width)
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _binary(loss, count, y, t, dy, wants_gradient, divisor):
    """Sum of `binary_surprise` over `count` elements; dy = (sigmoid(y) - t) / divisor."""
    total, lost = 0.0, 0.0
    for start in range(0, count, RUN * lanes(y)):
        part = wide_zeros(y)
        for j in range(start, min(count, start + RUN * lanes(y)), lanes(y)):
            width = min(lanes(y), count - j)
            logit, target = load_first(y + j, width), load_first(t + j, width)
            part = wide_add(part, keep_first(binary_surprise(loss, epsilon(y), logit, target), width, 0.0))
            if wants_gradient:
                store_first(dy + j, (sigmoid(logit) - target) / divisor, width)
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _softmax_row(loss, m, y, t, label, dy, wants_gradient, divisor):
    """-sum of t log softmax(y) over one row of m; dy = (softmax(y) - t) / divisor. Shifted by the largest logit.

    t is 1 at `label` and 0 elsewhere, or where label is -1 it is read. A class of probability 0 contributes nothing.
    """
    largest = element(y, -math.inf)
    for j in range(0, m, lanes(y)):
        width = min(lanes(y), m - j)
        largest = max(largest, largest_lane(keep_first(load_first(y + j, width), width, -math.inf)))
    total, weight, product = 0.0, 0.0, 0.0
    for j in range(0, m, lanes(y)):
        width = min(lanes(y), m - j)
        shifted = load_first(y + j, width) - largest
        power = exp(shifted)
        total += sum_lanes(keep_first(power, width, 0.0))
        if label < 0:
            target = load_first(t + j, width)
            weight += sum_lanes(target)
            product += sum_lanes(select(target == 0.0, 0.0, target * shifted))
    if label >= 0:
        weight, product = 1.0, float(y[label] - largest)
    if wants_gradient:
        for j in range(0, m, lanes(y)):
            width = min(lanes(y), m - j)
            share = exp(load_first(y + j, width) - largest) / total
            store_first(dy + j, share if label >= 0 else share - load_first(t + j, width), width)
        if label >= 0:
            dy[label] -= element(dy, 1.0)
        for j in range(0, m, lanes(y)):
            width = min(lanes(y), m - j)
            store_first(dy + j, load_first(dy + j, width) / divisor, width)
    least, most = surprise_bounds(loss, epsilon(y))
    if loss == LOG_LOSS and label < 0:
        value = 0.0
        for j in range(0, m, lanes(y)):
            width = min(lanes(y), m - j)
            target = load_first(t + j, width)
            surprises = clip(math.log(total) - (load_first(y + j, width) - largest), least, most)
            value += sum_lanes(select(target == 0.0, 0.0, target * surprises))
        return value
    value = weight * math.log(total) - product
    return least if value < least else most if value > most else value


def _binary_rows(loss):
    def rows_loss(n, rows, m, y, t, labels, dy, wants_gradient):
        divisor = n * m if loss == BINARY_CROSS_ENTROPY else n
        return _binary(loss, rows * m, y, t, dy, wants_gradient != 0, divisor)

    return rows_loss


def _softmax_rows(loss):
    def rows_loss(n, rows, m, y, t, labels, dy, wants_gradient):
        total, lost = 0.0, 0.0
        for i in range(rows):
            label = labels[i] if address_of(labels) != 0 else -1
            part = _softmax_row(loss, m, y + i * m, t + i * m, label, dy + i * m, wants_gradient != 0, n)
            total, lost = add_exactly(total, lost, part)
        return corrected(total, lost)

    return rows_loss


def _rows_of(p):
    count = types.int64
    return types.float64(count, count, count, p, p, Pointer(types.int64), p, count)


ROUTINES = {
    loss: Routine(made_by(loss), _rows_of, f"rows_loss_{loss}")
    for loss, made_by in (
        (CROSS_ENTROPY, _softmax_rows),
        (LOG_LOSS, _softmax_rows),
        (BINARY_CROSS_ENTROPY, _binary_rows),
        (BINARY_LOG_LOSS, _binary_rows),
    )
}
"""Of the losses that are no part of every kernel, by their codes: `rows_loss` of rows as they lie."""


def routine_of(loss: int, routines: dict[int, Routine], dtype: np.dtype) -> int:
    """The address of a loss's routine among these, for this element type, compiled if need be; 0 where it has none."""
    return routines[loss].address(dtype) if loss in routines else 0


@jit
def rows_loss(loss, routine, n, rows, m, y, t, labels, dy, wants_gradient):
    """What these rows of y[rows, m] add to a batch's J, not yet divided by its size; dJ/dy to dy[rows, m] if wanted.

    The targets are t[rows, m], or for cross-entropy labels[rows] where that pointer is not 0.
    """
    if loss == MSE:
        return _squares(rows * m, y, t, dy, wants_gradient, n * m / 2)
    if loss == HALF_MSE:
        return _squares(rows * m, y, t, dy, wants_gradient, n * 1.0)
    return float64_from(routine, (n, rows, m, y, t, labels, dy, wants_gradient))


@jit
def mean_loss(loss, n, m, partial, chunks):
    """J of a batch of n from its chunks' sums, added first to last."""
    total, lost = 0.0, 0.0
    for chunk in range(chunks):
        total, lost = add_exactly(total, lost, partial[chunk])
    total = corrected(total, lost)
    if loss in (CROSS_ENTROPY, LOG_LOSS, BINARY_LOG_LOSS):
        return total / n
    return total / (2 * n) if loss == HALF_MSE else total / (n * m)
