"""loss: the four objectives and their gradients dJ/dy, over all backends."""

import math

import numpy as np
import oracles
import pytest
import scipy.special
from networks import network
from rulings import assert_no_worse, assert_same_bits, assert_same_special_values

from fastmlp.kernels import reference
from fastmlp.kernels.contract import LOSSES

SHAPES = [(1, 2), (1, 46), (45, 2), (13, 15), (16, 32), (100, 257), (300, 200)]
KINDS = [(loss, labels) for loss in LOSSES for labels in ((True, False) if loss in oracles.CLASS_LOSSES else (False,))]


def problem(loss, labels, rng, shape, dtype):
    net = network((1, shape[1]), "identity", loss, dtype)
    # Smaller ones where a probability near eps would be clipped, which has a test of its own.
    y = ((1 if loss.endswith("log_loss") else 3) * rng.normal(size=shape)).astype(dtype)
    t = oracles.target(loss, rng, *shape, labels)
    return net, y, t if t.ndim == 1 else t.astype(dtype)


@pytest.mark.parametrize(("loss", "labels"), KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bounded(backend, dtype, rng, canary, loss, labels, shape):
    net, y, t = problem(loss, labels, rng, shape, dtype)
    dy, eps = canary(shape, dtype, offset=1), np.finfo(dtype).eps
    y_before, t_before = y.copy(), t.copy()
    value = backend.loss(net, y, t, dy)
    assert isinstance(value, float)
    assert value == backend.loss(net, y, t)
    assert_same_bits(y, y_before)
    assert_same_bits(t, t_before)

    y64, t64 = y.astype(np.longdouble), t if t.ndim == 1 else t.astype(np.longdouble)
    exact, gradient = oracles.LOSS[loss](y64, t64), oracles.LOSS_GRADIENT[loss](y64, t64)
    n, m = shape
    if loss in ("mse", "half_mse"):
        # Three roundings of an element: the difference, the scale and their product.
        size = (abs(y64) + abs(t64)) ** 2
        value_bound = y.size * eps * (np.mean(size) if loss == "mse" else np.sum(size) / (2 * n))
        gradient_bound = 2 * eps * (abs(y64) + abs(t64)) * (2 / y.size if loss == "mse" else 1 / n)
    elif loss in oracles.CLASS_LOSSES:
        # exp(y - max y) is off by the rounding of its argument, the sum of m of them by m roundings.
        reach = np.ptp(y64, axis=1, keepdims=True)
        each = (m + reach + 2) * eps
        value_bound = np.mean(each * (1 + reach))
        gradient_bound = each * (oracles.softmax(y64) + oracles.one_hot(t64, y64)) / n
    else:
        # Each element is a sum of |y|, t y and a logarithm of at most log 2; or log p and log(1 - p), whose argument
        # has been rounded to a whole eps: |y| is small there.
        count = y.size if loss == "binary_cross_entropy" else n
        value_bound = eps * y.size / count * np.sum(2 * abs(y64) + 1)
        gradient_bound = 4 * eps * (1 + t64) / count
    assert abs(value - exact) <= value_bound
    assert (abs(dy - gradient) <= gradient_bound).all()


@pytest.mark.parametrize(("loss", "labels"), KINDS)
def test_no_worse_than_numpy(backend, dtype, rng, loss, labels):
    """Over 20 draws: of a single value NumPy's own may be off by nothing, by chance."""
    values, gradients = [], []
    for _ in range(20):
        net, y, t = problem(loss, labels, rng, (100, 50), dtype)
        dy, y64 = np.empty_like(y), y.astype(np.longdouble)
        t64 = t if labels else t.astype(np.longdouble)
        values.append([backend.loss(net, y, t, dy), oracles.LOSS[loss](y, t), oracles.LOSS[loss](y64, t64)])
        gradients.append([dy, oracles.LOSS_GRADIENT[loss](y, t), oracles.LOSS_GRADIENT[loss](y64, t64)])
    for drawn in (values, gradients):
        assert_no_worse(*(np.array(column) for column in zip(*drawn, strict=True)))


def test_mse_is_mse(backend, dtype, rng):
    net, y, t = problem("mse", False, rng, (45, 46), dtype)
    by_loss, by_mse = np.empty_like(y), np.empty_like(y)
    assert backend.loss(net, y, t, by_loss) == backend.mse(y, t, by_mse)
    assert_same_bits(by_loss, by_mse)


def test_labels_and_one_hot_rows_are_the_same_target(backend, dtype, rng):
    net, y, labels = problem("cross_entropy", True, rng, (45, 46), dtype)
    by_label, by_row = np.empty_like(y), np.empty_like(y)
    value = backend.loss(net, y, labels, by_label)
    eps = float(np.finfo(dtype).eps)
    assert backend.loss(net, y, np.eye(46, dtype=dtype)[labels], by_row) == pytest.approx(value, rel=4 * eps)
    np.testing.assert_allclose(by_label, by_row, rtol=4 * eps, atol=4 * eps / 45)


def test_huge_logits_neither_overflow_nor_warn(backend, dtype):
    net = network((1, 2), "identity", "cross_entropy", dtype)
    y, dy = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), np.empty((2, 2), dtype)
    assert backend.loss(net, y, np.array([0, 0]), dy) == 1e4
    np.testing.assert_array_equal(dy, [[0, 0], [-0.5, 0.5]])

    net = network((1, 2), "identity", "binary_cross_entropy", dtype)
    assert backend.loss(net, y, np.array([[1, 0], [1, 0]], dtype), dy) == 5e3
    np.testing.assert_array_equal(dy, [[0, 0], [-0.25, 0.25]])


@pytest.mark.parametrize("labels", [True, False])
def test_log_losses_clip_probabilities_as_scikit_learn_does(backend, dtype, rng, labels):
    """In the value alone: of p below eps, and of p above 1 - eps; by scikit-learn's own functions."""
    base = pytest.importorskip("sklearn.neural_network._base")
    eps, y = float(np.finfo(dtype).eps), (40 * rng.normal(size=(45, 7))).astype(dtype)
    y[0], y[1] = -200, 200
    t = rng.integers(0, 7, 45)
    rows = np.eye(7, dtype=dtype)[t]
    p = scipy.special.softmax(y.astype(np.float64), axis=1).astype(dtype)
    net = network((1, 7), "identity", "log_loss", dtype)
    value = backend.loss(net, y, t if labels else rows)
    plain = backend.loss(network((1, 7), "identity", "cross_entropy", dtype), y, t)
    assert value < 0.9 * plain
    # Of p next to 1, log p is as coarse as p.
    assert value == pytest.approx(float(base.log_loss(rows, p)), rel=100 * eps)

    net = network((1, 7), "identity", "binary_log_loss", dtype)
    y, p = y[:2], scipy.special.expit(y[:2])
    assert backend.loss(net, y, rows[:2]) == pytest.approx(float(base.binary_log_loss(rows[:2], p)), rel=100 * eps)


def test_a_small_binary_loss_keeps_its_digits(backend, dtype):
    """At y = 20 and t = 1, J = log(1 + exp(-20)): softplus(y) - t y would cancel to 0 in float32."""
    net = network((1, 1), "identity", "binary_cross_entropy", dtype)
    value = backend.loss(net, np.array([[20.0]], dtype), np.array([[1.0]], dtype))
    assert value == pytest.approx(math.log1p(math.exp(-20)), rel=4 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize(("loss", "labels"), KINDS)
def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng, loss, labels):
    for special in (np.nan, np.inf, -np.inf):
        net, y, t = problem(loss, labels, rng, (13, 15), dtype)
        y[4, 5] = special
        dy, expected = np.empty_like(y), np.empty_like(y)
        value, expected_value = backend.loss(net, y, t, dy), reference.loss(net, y, t, expected)
        assert_same_special_values(np.array(value), np.array(expected_value))
        assert_same_special_values(dy, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_nothing_is_nan_without_a_warning(backend, dtype, loss):
    net = network((1, 3), "identity", loss, dtype)
    empty = np.empty((0, 3), dtype)
    assert math.isnan(backend.loss(net, empty, empty, empty.copy()))


@pytest.mark.parametrize(("loss", "labels"), KINDS)
def test_same_bits_from_run_to_run(backend, dtype, rng, loss, labels):
    net, y, t = problem(loss, labels, rng, (300, 200), dtype)
    assert backend.loss(net, y, t) == backend.loss(net, y, t)
