"""The nine activations over their whole range, in every backend, and the reference's error function."""

import math

import numpy as np
import oracles
import pytest
from rulings import assert_bounded, assert_no_worse, assert_same_special_values

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, LEAKY_SLOPE, OPERATIONS
from fastmlp.kernels.network import Optimizer
from fastmlp.kernels.reference import normal

FACTOR = OPERATIONS["linear_forward"].error_factor
AT_INFINITY = {  # at -Inf and at Inf; where the formula is 0 * Inf or sin(Inf), NaN
    "identity": (-np.inf, np.inf),
    "relu": (0, np.inf),
    "leaky_relu": (-np.inf, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "gelu": (np.nan, np.inf),
    "silu": (np.nan, np.inf),
    "softplus": (0, np.inf),
    "sine": (np.nan, np.nan),
}
FAR = {  # at -10000 and at 10000, where a careless formula overflows
    "identity": (-1e4, 1e4),
    "relu": (0, 1e4),
    "leaky_relu": (-1e4 * LEAKY_SLOPE, 1e4),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "gelu": (0, 1e4),
    "silu": (0, 1e4),
    "softplus": (0, 1e4),
    "sine": (math.sin(-1e4), math.sin(1e4)),
}


def activate(backend, activation, z):
    """f(z) through a layer of one weight, 1, and no bias."""
    y = np.empty((len(z), 1), z.dtype)
    backend.linear_forward(z[:, None], np.ones((1, 1), z.dtype), np.zeros(1, z.dtype), y, None, activation)
    return y[:, 0]


def slope(backend, activation, saved):
    """The slope f' through the backward pass of a layer of one weight, dy being 1."""
    n, dtype = len(saved), saved.dtype
    dz = np.ones((n, 1), dtype)
    backend.linear_backward_update(
        np.zeros((n, 1), dtype), np.ones((1, 1), dtype), np.zeros(1, dtype), saved[:, None], dz, dz, None, activation,
        Optimizer("sgd", 0.0), np.empty((0, 2), dtype), 1,
    )  # fmt: skip
    return dz[:, 0]


def sweep(dtype, reach):
    """Evenly from -reach to reach, and ever closer to 0 from both sides."""
    near = np.geomspace(1e-30, 1, 500)
    return np.concatenate([np.linspace(-reach, reach, 20001), near, -near]).astype(dtype)


@pytest.mark.parametrize("reach", [1, 12, 80])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(backend, dtype, activation, reach):
    z = sweep(dtype, reach)
    y = activate(backend, activation, z)
    exact = oracles.ACTIVATION[activation](z.astype(np.longdouble))
    assert_bounded(y, exact, FACTOR, 1, abs(z) + abs(exact))
    assert_no_worse(y, oracles.ACTIVATION[activation](z), exact)


@pytest.mark.parametrize("reach", [1, 12, 80])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes(backend, dtype, activation, reach):
    z = sweep(dtype, reach)
    saved = z if ACTIVATIONS[activation].saved == "preactivation" else oracles.ACTIVATION[activation](z)
    got = slope(backend, activation, saved)
    evaluate = oracles.SLOPE_FROM_SAVED[activation]
    exact = evaluate(saved.astype(np.longdouble))
    assert_bounded(got, exact, FACTOR, 1, 1 + abs(exact))
    assert_no_worse(got, evaluate(saved), exact)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_out_and_at_infinity(backend, dtype, activation):
    far = activate(backend, activation, np.array([-1e4, 1e4], dtype))
    np.testing.assert_allclose(far, FAR[activation], rtol=2 * np.finfo(dtype).eps)
    special = activate(backend, activation, np.array([-np.inf, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(special, [*AT_INFINITY[activation], np.nan])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_far_out_and_at_infinity(backend, dtype, activation):
    saved = np.array([-1e4, 1e4, -np.inf, np.inf, np.nan, 0.0, -0.0], dtype)
    got, expected = slope(backend, activation, saved), slope(reference, activation, saved)
    assert_same_special_values(got, expected)
    if ACTIVATIONS[activation].saved == "preactivation":
        limits = {"sine": (math.cos(1e4), math.cos(1e4))}.get(activation, (0, 1))
        np.testing.assert_allclose(got[:2], limits, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_column_of_any_length(backend, dtype, activation):
    """The same element gives the same bits wherever it stands, in a vector's body or in its tail."""
    z = np.linspace(-4, 4, 131).astype(dtype)
    whole = activate(backend, activation, z)
    for n in (1, 2, 7, 15, 16, 17, 33, 130):
        np.testing.assert_array_equal(activate(backend, activation, z[:n].copy()), whole[:n])


def test_erfc_against_the_standard_library(dtype):
    """Cody claims a relative error below 1e-16 before rounding; a few roundings in `dtype` come on top."""
    x = np.linspace(-6, 26 if dtype == np.float64 else 9, 5001).astype(dtype)
    truth = np.array([math.erfc(value) for value in x])
    error = np.abs(normal.erfc(x) - truth) / truth
    assert error.max() <= 8 * np.finfo(dtype).eps
    special = normal.erfc(np.array([np.nan, np.inf, -np.inf, 0.0], dtype))
    np.testing.assert_array_equal(special, [np.nan, 0, 2, 1])
