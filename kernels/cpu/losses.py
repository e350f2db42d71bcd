"""The four losses: value and gradient over chunks of rows, partial sums added in the order of the rows."""

import math

from ..contract import LOSSES
from .compile import jit
from .elementary import exp, sigmoid, softplus
from .simd import address_of, element, fma, keep_first, lanes, largest_lane, load_first, select, store_first, sum_lanes

MSE, HALF_MSE, CROSS_ENTROPY, BINARY_CROSS_ENTROPY = (
    LOSSES[name].code for name in ("mse", "half_mse", "cross_entropy", "binary_cross_entropy")
)

LEAST_ROWS, MOST_CHUNKS = 32, 1024
"""A chunk has at least so many rows, and a batch at most so many chunks: room for MOST_CHUNKS partial sums is enough."""


@jit
def chunk_rows(n):
    """Rows of a chunk, from the shape alone."""
    return max(LEAST_ROWS, -(-n // MOST_CHUNKS))


@jit
def _squares(count, y, t, dy, wants_gradient, scale):
    """Sum of (y - t)^2 over `count` elements; dy = scale (y - t)."""
    total = 0.0
    for j in range(0, count, lanes(y)):
        width = min(lanes(y), count - j)
        difference = load_first(y + j, width) - load_first(t + j, width)
        total += sum_lanes(difference * difference)
        if wants_gradient:
            store_first(dy + j, difference * scale, width)
    return total


@jit
def _binary(count, y, t, dy, wants_gradient, scale):
    """Sum of log(1 + e^y) - t y over `count` elements; dy = scale (sigmoid(y) - t)."""
    total = 0.0
    for j in range(0, count, lanes(y)):
        width = min(lanes(y), count - j)
        logit, target = load_first(y + j, width), load_first(t + j, width)
        total += sum_lanes(keep_first(fma(-target, logit, softplus(logit)), width, 0.0))
        if wants_gradient:
            store_first(dy + j, (sigmoid(logit) - target) * scale, width)
    return total


@jit
def _softmax_row(m, y, t, label, dy, wants_gradient, scale):
    """-sum of t log softmax(y) over one row of m; dy = scale (softmax(y) - t). Shifted by the largest logit.

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
            share = exp(load_first(y + j, width) - largest) * (1.0 / total)
            if label < 0:
                share -= load_first(t + j, width)
            store_first(dy + j, share * scale, width)
        if label >= 0:
            dy[label] -= element(dy, scale)
    return weight * math.log(total) - product


@jit
def rows_loss(loss, n, rows, m, y, t, labels, dy, wants_gradient):
    """The part of J, over a batch of n, that these rows of y[rows, m] contribute; dJ/dy to dy[rows, m] if wanted.

    The targets are t[rows, m], or for cross-entropy labels[rows] where that pointer is not 0.
    """
    if loss == MSE:
        return _squares(rows * m, y, t, dy, wants_gradient, 2.0 / (n * m)) / (n * m)
    if loss == HALF_MSE:
        return _squares(rows * m, y, t, dy, wants_gradient, 1.0 / n) / (2.0 * n)
    if loss == BINARY_CROSS_ENTROPY:
        return _binary(rows * m, y, t, dy, wants_gradient, 1.0 / (n * m)) / (n * m)
    total = 0.0
    for i in range(rows):
        label = labels[i] if address_of(labels) != 0 else -1
        total += _softmax_row(m, y + i * m, t + i * m, label, dy + i * m, wants_gradient, 1.0 / n)
    return total / n


@jit
def add_up(partial, chunks):
    """The partial sums, first to last."""
    total = 0.0
    for chunk in range(chunks):
        total += partial[chunk]
    return total
