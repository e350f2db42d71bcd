"""bias_add: out = x + b, over all backends."""

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
from fastmlp.kernels import bias_add, reference
from fastmlp.kernels.contract import OPERATIONS

SHAPES = [(1, 1), (1, 46), (45, 1), (13, 15), (16, 17), (31, 33), (100, 257)]


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_small_integers(backend, dtype, rng, canary, shape):
    x, b = small_integers(rng, shape, dtype), small_integers(rng, shape[1], dtype)
    out = canary(shape, dtype)
    backend.bias_add(x, b, out)
    np.testing.assert_array_equal(out, x.astype(np.int64) + b.astype(np.int64))


@pytest.mark.parametrize("shape", SHAPES)
def test_bounded_and_no_worse_than_numpy(backend, dtype, rng, canary, shape):
    x, b = rng.normal(size=shape).astype(dtype), rng.normal(size=shape[1]).astype(dtype)
    out = canary(shape, dtype, offset=1)
    backend.bias_add(x, b, out)
    exact = x.astype(np.longdouble) + b
    assert_bounded(out, exact, OPERATIONS["bias_add"].error_factor, 1, abs(x) + abs(b))
    assert_no_worse(out, x + b, exact)


def test_in_place(backend, dtype, rng, canary):
    x, b = rng.normal(size=(45, 46)).astype(dtype), rng.normal(size=46).astype(dtype)
    out = canary((45, 46), dtype, content=x)
    backend.bias_add(out, b, out)
    np.testing.assert_array_equal(out, x + b)


def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng):
    x, b = with_special_values(rng, (45, 46), dtype), with_special_values(rng, 46, dtype)
    out, expected = np.empty_like(x), np.empty_like(x)
    backend.bias_add(x, b, out)
    reference.bias_add(x, b, expected)
    assert_same_special_values(out, expected)


def test_subnormal_numbers_survive(backend, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    out = np.empty((3, 40), dtype)
    backend.bias_add(np.full((3, 40), tiny), np.full(40, tiny), out)
    assert (out == 2 * tiny).all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 40), m=st.integers(0, 40), offset=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_any_shape_at_any_place(backend, dtype, n, m, offset, seed):
    rng = np.random.default_rng(seed)
    x, b = rng.normal(size=(n, m)).astype(dtype), rng.normal(size=m).astype(dtype)
    out = Canary((n, m), dtype, offset)
    backend.bias_add(x, b, out.array)
    assert_same_bits(out.array, x + b)
    out.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(backend_name, dtype, rng, layout):
    x, b = rng.normal(size=(46, 17)).astype(dtype), rng.normal(size=17).astype(dtype)
    change = LAYOUTS[layout]
    assert_same_bits(bias_add(change(x), change(b), backend=backend_name), x + b)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_out_may_be_x_itself_in_any_layout(backend_name, dtype, rng, layout):
    x, b = rng.normal(size=(46, 17)).astype(dtype), rng.normal(size=17).astype(dtype)
    out = WRITABLE_LAYOUTS[layout](x)
    assert bias_add(out, b, out, backend=backend_name) is out
    np.testing.assert_array_equal(out, x + b)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_dimensions_as_numpy(backend_name, dtype, shape):
    out = bias_add(np.ones(shape, dtype), np.ones(shape[1], dtype), backend=backend_name)
    assert out.shape == shape


def test_bad_input_is_named():
    x, b = np.ones((3, 4), np.float32), np.ones(4, np.float32)
    with pytest.raises(fastmlp.ShapeError, match=r"b must have shape \(4,\).*got \(3,\)"):
        bias_add(x, b[:3], backend="numpy")
    with pytest.raises(fastmlp.ShapeError, match=r"b must have 1 dimension; got shape \(1, 4\)"):
        bias_add(x, b[None], backend="numpy")
    with pytest.raises(fastmlp.ArgumentError, match="out overlaps x"):
        bias_add(x, b, x[::-1], backend="numpy")
    with pytest.raises(fastmlp.ArgumentError, match="out overlaps b"):
        bias_add(x, x[0], x, backend="numpy")
