"""linear_forward: z = x @ w + b; y = activation(z), over all backends."""

import numpy as np
import oracles
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
from fastmlp.kernels import linear_forward, reference
from fastmlp.kernels.contract import ACTIVATIONS, OPERATIONS

SHAPES = [(1, 1, 1), (1, 45, 46), (45, 1, 46), (46, 45, 1), (13, 14, 15), (31, 32, 33), (100, 257, 46), (3, 5000, 5)]
EXACT = {"identity": lambda z: z, "relu": lambda z: np.maximum(z, 0)}


def layer(rng, n, k, m, dtype):
    """x, w and b such that z stays of the order of 1."""
    x, w, b = rng.normal(size=(n, k)), rng.normal(size=(k, m)) * 2 / np.sqrt(max(k, 1)), rng.normal(size=m)
    return x.astype(dtype), w.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("with_z", [False, True])
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_small_integers(backend, dtype, rng, canary, shape, activation, with_z):
    n, k, m = shape
    x, w, b = (small_integers(rng, s, dtype) for s in ((n, k), (k, m), m))
    y, z = canary((n, m), dtype), canary((n, m), dtype) if with_z else None
    backend.linear_forward(x, w, b, y, z, activation)
    exact = x.astype(np.int64) @ w.astype(np.int64) + b.astype(np.int64)
    np.testing.assert_array_equal(y, EXACT[activation](exact))
    if with_z:
        np.testing.assert_array_equal(z, exact)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_contracts_bound(backend, dtype, rng, canary, shape, activation):
    x, w, b = layer(rng, *shape, dtype)
    n, k, m = shape
    y, z = canary((n, m), dtype, offset=1), canary((n, m), dtype, offset=2)
    backend.linear_forward(x, w, b, y, z, activation)
    x, w, b = (a.astype(np.longdouble) for a in (x, w, b))
    magnitude = abs(x) @ abs(w) + abs(b)
    factor = OPERATIONS["linear_forward"].error_factor
    assert_bounded(z, x @ w + b, factor, k, magnitude)
    # The slope of an activation is at most 1.13; beside z's error there is the rounding of the result itself.
    exact = oracles.ACTIVATION[activation](x @ w + b)
    assert_bounded(y, exact, factor, k, magnitude + abs(exact))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(100, 257, 46), (257, 45, 100)])
def test_no_worse_than_numpy(backend, dtype, rng, shape, activation):
    x, w, b = layer(rng, *shape, dtype)
    y = np.empty((shape[0], shape[2]), dtype)
    backend.linear_forward(x, w, b, y, None, activation)
    evaluate = oracles.ACTIVATION[activation]
    own = evaluate(x @ w + b)
    assert own.dtype == dtype
    assert_no_worse(y, own, evaluate(x.astype(np.longdouble) @ w + b))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng, activation):
    x, w, b = with_special_values(rng, (45, 46), dtype), small_integers(rng, (46, 33), dtype), np.zeros(33, dtype)
    arrays = [np.empty((45, 33), dtype) for _ in range(4)]
    backend.linear_forward(x, w, b, arrays[0], arrays[1], activation)
    reference.linear_forward(x, w, b, arrays[2], arrays[3], activation)
    assert_same_special_values(arrays[0], arrays[2])
    assert_same_special_values(arrays[1], arrays[3])
    assert np.isnan(arrays[2]).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_writing_z_changes_no_bit_of_y(backend, dtype, rng, activation):
    x, w, b = layer(rng, 45, 46, 33, dtype)
    alone, beside, z = (np.empty((45, 33), dtype) for _ in range(3))
    backend.linear_forward(x, w, b, alone, None, activation)
    backend.linear_forward(x, w, b, beside, z, activation)
    assert_same_bits(alone, beside)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    k=st.integers(0, 40),
    m=st.integers(0, 40),
    activation=st.sampled_from(list(EXACT)),
    with_z=st.booleans(),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_at_any_place(backend, dtype, n, k, m, activation, with_z, offset, seed):
    rng = np.random.default_rng(seed)
    x, w, b = (small_integers(rng, s, dtype) for s in ((n, k), (k, m), m))
    y, z = Canary((n, m), dtype, offset), Canary((n, m), dtype, offset)
    backend.linear_forward(x, w, b, y.array, z.array if with_z else None, activation)
    np.testing.assert_array_equal(y.array, EXACT[activation](x @ w + b))
    np.testing.assert_array_equal(z.array, x @ w + b if with_z else np.nan)
    y.check()
    z.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(backend_name, dtype, rng, layout):
    x, w, b = layer(rng, 46, 45, 17, dtype)
    change = LAYOUTS[layout]
    z, z_expected = np.empty((46, 17), dtype), np.empty((46, 17), dtype)
    y = linear_forward(change(x), change(w), change(b), "gelu", preactivation=z, backend=backend_name)
    expected = linear_forward(x, w, b, "gelu", preactivation=z_expected, backend=backend_name)
    assert_same_bits(y, expected)
    assert_same_bits(z, z_expected)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_outputs_may_have_any_layout(backend_name, dtype, rng, layout):
    x, w, b = layer(rng, 46, 45, 17, dtype)
    out, z = (WRITABLE_LAYOUTS[layout](np.zeros((46, 17), dtype)) for _ in range(2))
    assert linear_forward(x, w, b, "tanh", out, z, backend=backend_name) is out
    z_expected = np.empty((46, 17), dtype)
    np.testing.assert_array_equal(out, linear_forward(x, w, b, "tanh", None, z_expected, backend=backend_name))
    np.testing.assert_array_equal(z, z_expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_dimensions_as_numpy(backend_name, dtype, shape):
    n, k, m = shape
    x, w, b = np.ones((n, k), dtype), np.ones((k, m), dtype), np.full(m, 2, dtype)
    np.testing.assert_array_equal(linear_forward(x, w, b, backend=backend_name), x @ w + b)


def test_bad_input_is_named():
    x, w, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), np.ones(5, np.float32)
    with pytest.raises(fastmlp.ArgumentError, match="Did you mean 'sigmoid'"):
        linear_forward(x, w, b, "sigmod", backend="numpy")
    with pytest.raises(fastmlp.ShapeError, match=r"x \(3, 4\) and w \(5, 4\)"):
        linear_forward(x, w.T, b, backend="numpy")
    with pytest.raises(fastmlp.ShapeError, match=r"b must have shape \(5,\)"):
        linear_forward(x, w, b[:4], backend="numpy")
    z = np.empty((3, 5), np.float32)
    with pytest.raises(fastmlp.ArgumentError, match="out overlaps preactivation"):
        linear_forward(x, w, b, out=z, preactivation=z, backend="numpy")
