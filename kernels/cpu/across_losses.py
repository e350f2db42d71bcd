"""J and its gradient for feature-major outputs y[m, columns], of which n columns are rows of the batch."""

from numba import types

from .compile import Routine, jit
from .elementary import exp, log, sigmoid
from .losses import (
    BINARY_CROSS_ENTROPY,
    BINARY_LOG_LOSS,
    CROSS_ENTROPY,
    HALF_MSE,
    LOG_LOSS,
    MSE,
    add_exactly,
    binary_surprise,
    clip,
    corrected,
    epsilon,
    surprise_bounds,
)
from .simd import (
    float64_from,
    keep_first,
    lanes,
    load,
    select,
    specialised,
    splat,
    store,
    wide_add,
    wide_add_square,
    wide_total,
    wide_zeros,
)


@jit
def _squares(n, m, columns, y, t, dy, divisor):
    """Sum of (y - t)^2 over n rows; dy = (y - t) / divisor, 0 beyond them."""
    specialised()
    total, lost = 0.0, 0.0
    for j in range(m):
        part = wide_zeros(y)
        for i in range(0, columns, lanes(y)):
            place = j * columns + i
            difference = keep_first(load(y + place) - load(t + place), n - i, 0.0)
            part = wide_add_square(part, difference)
            store(dy + place, difference / divisor)
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _binary(loss, n, m, columns, y, t, dy, divisor):
    """Sum of `binary_surprise` over n rows; dy = (sigmoid(y) - t) / divisor, 0 beyond them."""
    total, lost = 0.0, 0.0
    for j in range(m):
        part = wide_zeros(y)
        for i in range(0, columns, lanes(y)):
            place = j * columns + i
            logit, target = load(y + place), load(t + place)
            value = binary_surprise(loss, epsilon(y), logit, target)
            part = wide_add(part, keep_first(value, n - i, 0.0))
            store(dy + place, keep_first((sigmoid(logit) - target) / divisor, n - i, 0.0))
        total, lost = add_exactly(total, lost, wide_total(part))
    return corrected(total, lost)


@jit
def _softmax(loss, n, m, columns, y, t, has_labels, dy, divisor):
    """Sum of -t log softmax(y) over n rows; dy = (softmax(y) - t) / divisor, 0 beyond them.

    Where has_labels, the first row of t holds labels. A class of probability 0 contributes nothing.
    """
    least, most = surprise_bounds(loss, epsilon(y))
    part = wide_zeros(y)
    for i in range(0, columns, lanes(y)):
        largest, labels = load(y + i), load(t + i)
        for j in range(1, m):
            logit = load(y + (j * columns + i))
            largest = select(logit > largest, logit, largest)
        total, weight, product = splat(y, 0.0), splat(y, 0.0), splat(y, 0.0)
        for j in range(m):
            shifted = load(y + (j * columns + i)) - largest
            total += exp(shifted)
            target = select(labels == j, splat(y, 1.0), 0.0) if has_labels else load(t + (j * columns + i))
            weight += target
            product += select(target == 0.0, 0.0, target * shifted)
        for j in range(m):
            place = j * columns + i
            target = select(labels == j, splat(y, 1.0), 0.0) if has_labels else load(t + place)
            share = exp(load(y + place) - largest) / total
            store(dy + place, keep_first((share - target) / divisor, n - i, 0.0))
        value = weight * log(total) - product
        if loss == LOG_LOSS:
            value = splat(y, 0.0)
            for j in range(m):
                place = j * columns + i
                target = select(labels == j, splat(y, 1.0), 0.0) if has_labels else load(t + place)
                surprises = clip(log(total) - (load(y + place) - largest), least, most)
                value += select(target == 0.0, 0.0, target * surprises)
        part = wide_add(part, keep_first(value, n - i, 0.0))
    return wide_total(part)


def _binary_block(loss):
    def block_loss(batch, n, m, columns, y, t, has_labels, dy):
        return _binary(loss, n, m, columns, y, t, dy, batch * m if loss == BINARY_CROSS_ENTROPY else batch)

    return block_loss


def _softmax_block(loss):
    def block_loss(batch, n, m, columns, y, t, has_labels, dy):
        return _softmax(loss, n, m, columns, y, t, has_labels != 0, dy, batch)

    return block_loss


def _block_of(p):
    count = types.int64
    return types.float64(count, count, count, count, p, p, count, p)


ROUTINES_ACROSS = {
    loss: Routine(made_by(loss), _block_of, f"block_loss_{loss}")
    for loss, made_by in (
        (CROSS_ENTROPY, _softmax_block),
        (LOG_LOSS, _softmax_block),
        (BINARY_CROSS_ENTROPY, _binary_block),
        (BINARY_LOG_LOSS, _binary_block),
    )
}
"""As losses.ROUTINES, of `block_loss`."""


@jit
def block_loss(loss, routine, batch, n, m, columns, y, t, has_labels, dy):
    """What n rows of y[m, columns] add to a batch's J, not yet divided by its size; dJ/dy to dy[m, columns]."""
    if loss == MSE:
        return _squares(n, m, columns, y, t, dy, batch * m * 0.5)
    if loss == HALF_MSE:
        return _squares(n, m, columns, y, t, dy, batch * 1.0)
    return float64_from(routine, (batch, n, m, columns, y, t, 1 if has_labels else 0, dy))
