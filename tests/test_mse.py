"""mse: the mean squared error and its gradient, over all backends."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, WRITABLE_LAYOUTS, Canary
from rulings import (
    assert_bounded,
    assert_no_worse,
    assert_same_bits,
    assert_same_special_values,
    small_integers,
    with_special_values,
)

import fastmlp
from fastmlp.kernels import mse, reference
from fastmlp.kernels.contract import OPERATIONS

SHAPES = [(1, 1), (1, 46), (45, 1), (13, 15), (16, 32), (100, 257), (300, 200)]


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_small_integers(backend, dtype, rng, canary, shape):
    y, t = small_integers(rng, shape, dtype), small_integers(rng, shape, dtype)
    gradient, expected = canary(shape, dtype), np.empty(shape, dtype)
    value = backend.mse(y, t, gradient)
    assert isinstance(value, float)
    assert value == backend.mse(y, t) == int(np.sum((y - t).astype(np.int64) ** 2)) / y.size
    reference.mse(y, t, expected)
    assert_same_bits(gradient, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_contracts_bound(backend, dtype, rng, canary, shape):
    y, t = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    gradient = canary(shape, dtype, offset=1)
    value = backend.mse(y, t, gradient)
    exact = y.astype(np.longdouble) - t
    factor = OPERATIONS["mse"].error_factor
    size = abs(y) + abs(t)
    assert abs(value - np.mean(exact**2)) <= factor * y.size * np.finfo(dtype).eps * np.mean(size**2)
    # Of the gradient nothing is summed: its length is 1, and it takes two roundings and that of its scale.
    assert_bounded(gradient, 2 * exact / y.size, 2 * factor, 1, 2 * size / y.size)


@pytest.mark.parametrize("shape", [(100, 257), (300, 200)])
def test_no_worse_than_numpy(backend, dtype, rng, shape):
    """Over 20 draws: of a single value NumPy's own may be off by nothing, by chance."""
    values, gradients = [], []
    for _ in range(20):
        y, t = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
        gradient, exact = np.empty(shape, dtype), y.astype(np.longdouble) - t
        values.append([backend.mse(y, t, gradient), np.mean((y - t) ** 2), np.mean(exact**2)])
        gradients.append([gradient, 2 * (y - t) / y.size, 2 * exact / y.size])
    for drawn in (values, gradients):
        assert_no_worse(*(np.array(column) for column in zip(*drawn, strict=True)))


def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng):
    y, t = with_special_values(rng, (45, 46), dtype), with_special_values(rng, (45, 46), dtype)
    gradient, expected = np.empty_like(y), np.empty_like(y)
    assert math.isnan(backend.mse(y, t, gradient))
    reference.mse(y, t, expected)
    assert_same_special_values(gradient, expected)
    assert backend.mse(np.array([[np.inf, 1]], dtype), np.zeros((1, 2), dtype)) == math.inf


def test_large_differences_do_not_overflow_the_sum(backend):
    y = np.full((3, 50), 1e30, np.float32)
    assert backend.mse(y, -y) == pytest.approx(4e60, rel=1e-6)


def test_same_bits_from_run_to_run(backend, dtype, rng):
    y, t = rng.normal(size=(300, 200)).astype(dtype), rng.normal(size=(300, 200)).astype(dtype)
    assert backend.mse(y, t) == backend.mse(y, t)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 40), offset=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_any_shape_at_any_place(backend, dtype, n, m, offset, seed):
    rng = np.random.default_rng(seed)
    y, t = small_integers(rng, (n, m), dtype), small_integers(rng, (n, m), dtype)
    gradient, expected = Canary((n, m), dtype, offset), np.empty((n, m), dtype)
    assert backend.mse(y, t, gradient.array) == reference.mse(y, t, expected)
    assert_same_bits(gradient.array, expected)
    gradient.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(backend_name, dtype, rng, layout):
    y, t = rng.normal(size=(46, 17)).astype(dtype), rng.normal(size=(46, 17)).astype(dtype)
    change = LAYOUTS[layout]
    expected = np.empty_like(y)
    value = mse(y, t, expected, backend=backend_name)
    assert mse(change(y), change(t), backend=backend_name) == value
    for each in WRITABLE_LAYOUTS.values():
        gradient = each(np.empty_like(y))
        assert mse(change(y), change(t), gradient, backend=backend_name) == value
        np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_the_mean_of_nothing_is_nan_without_a_warning(backend_name, dtype, shape):
    empty = np.ones(shape, dtype)
    assert math.isnan(mse(empty, empty, empty.copy(), backend=backend_name))


def test_bad_input_is_named():
    y = np.ones((3, 4), np.float32)
    with pytest.raises(fastmlp.ShapeError, match=r"t must have shape \(3, 4\).*got \(3, 3\)"):
        mse(y, y[:, :3], backend="numpy")
    with pytest.raises(fastmlp.ArgumentError, match="gradient overlaps y"):
        mse(y, y.copy(), y, backend="numpy")
