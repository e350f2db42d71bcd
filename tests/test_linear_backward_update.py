"""linear_backward_update: one layer backward, its parameters stepped by the optimiser, over all backends."""

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
from fastmlp.kernels import linear_backward_update, reference
from fastmlp.kernels.contract import ACTIVATIONS, OPERATIONS, OPTIMIZERS
from fastmlp.kernels.network import Optimizer

SHAPES = [(1, 1, 1), (1, 45, 46), (45, 1, 46), (46, 45, 1), (13, 14, 15), (31, 32, 33), (100, 257, 46), (5000, 3, 5)]
FACTOR = OPERATIONS["linear_backward_update"].error_factor
SGD = Optimizer("sgd", learning_rate=0.5)  # a power of two: multiplying by it is exact


class Layer:
    """The operands of one call, those that are written with canary margins."""

    def __init__(self, x, w, b, saved, dy, slots=0, offset=0, in_place=False, want_dx=True):
        (n, k), m, dtype = x.shape, len(b), x.dtype
        self.x, self.saved = x, saved
        self.w = Canary((k, m), dtype, offset, w)
        self.b = Canary(m, dtype, offset, b)
        self.dy = Canary((n, m), dtype, offset, dy)
        self.dz = self.dy if in_place else Canary((n, m), dtype, offset)
        self.dx = Canary((n, k), dtype, offset) if want_dx else None
        self.state = Canary((slots, (k + 1) * m), dtype, offset, 0)

    def run(self, backend, activation="identity", optimizer=SGD, updates=1):
        x, saved, dy = self.x.copy(), self.saved.copy(), self.dy.array.copy()
        backend.linear_backward_update(
            self.x, self.w.array, self.b.array, self.saved, self.dy.array, self.dz.array,
            None if self.dx is None else self.dx.array, activation, optimizer, self.state.array, updates,
        )  # fmt: skip
        for canary in (self.w, self.b, self.dy, self.dz, self.dx, self.state):
            if canary is not None:
                canary.check()
        assert_same_bits(self.x, x)
        assert_same_bits(self.saved, saved)
        if self.dz is not self.dy:
            assert_same_bits(self.dy.array, dy)
        return self


def operands(rng, n, k, m, dtype, activation="identity"):
    """Random x, w, b, saved and dy; `saved` is what the activation gives, or z."""
    x, w, b, dy, z = (rng.normal(size=s).astype(dtype) for s in ((n, k), (k, m), m, (n, m), (n, m)))
    saved = z if ACTIVATIONS[activation].saved == "preactivation" else oracles.ACTIVATION[activation](z)
    return x, w, b, saved.astype(dtype), dy


def integers(rng, n, k, m, dtype):
    return (small_integers(rng, s, dtype) for s in ((n, k), (k, m), m, (n, m), (n, m)))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_small_integers(backend, dtype, rng, shape, activation, in_place):
    x, w, b, saved, dy = integers(rng, *shape, dtype)
    layer = Layer(x, w, b, saved, dy, in_place=in_place).run(backend, activation)
    dz = np.where(saved > 0, dy, 0) if activation == "relu" else dy
    np.testing.assert_array_equal(layer.dz.array, dz)
    np.testing.assert_array_equal(layer.dx.array, dz @ w.T)  # the w before the step
    np.testing.assert_array_equal(layer.w.array, w - 0.5 * (x.T @ dz))
    np.testing.assert_array_equal(layer.b.array, b - 0.5 * dz.sum(axis=0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_contracts_bound(backend, dtype, rng, shape, activation):
    n, k, m = shape
    x, w, b, saved, dy = operands(rng, n, k, m, dtype, activation)
    layer = Layer(x, np.zeros_like(w), np.zeros_like(b), saved, dy, offset=1)
    layer.run(backend, activation)
    x, w, saved, dy = (a.astype(np.longdouble) for a in (x, w, saved, dy))
    slope = oracles.SLOPE_FROM_SAVED[activation](saved)
    # A slope is a difference or a sum of terms of the order of 1.
    dz, size = dy * slope, abs(dy) * (1 + abs(slope))
    assert_bounded(layer.dz.array, dz, FACTOR, 1, size)
    assert_bounded(layer.w.array, -0.5 * (x.T @ dz), FACTOR, n, 0.5 * (abs(x).T @ size))
    assert_bounded(layer.b.array, -0.5 * dz.sum(axis=0), FACTOR, n, 0.5 * size.sum(axis=0))
    np.testing.assert_array_equal(layer.dx.array, 0)  # w was zero


@pytest.mark.parametrize("shape", SHAPES)
def test_input_gradient_within_the_contracts_bound(backend, dtype, rng, shape):
    x, w, b, saved, dy = operands(rng, *shape, dtype)
    layer = Layer(x, w, b, saved, dy).run(backend)
    dy, w = dy.astype(np.longdouble), w.astype(np.longdouble)
    assert_bounded(layer.dx.array, dy @ w.T, FACTOR, shape[2], abs(dy) @ abs(w).T)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_worse_than_numpy(backend, dtype, rng, activation):
    x, w, b, saved, dy = operands(rng, 257, 100, 46, dtype, activation)
    zero = np.zeros_like(w)
    layer = Layer(x, w, b, saved, dy).run(backend, activation)
    gradient = Layer(x, zero, np.zeros_like(b), saved, dy).run(backend, activation)
    slope = oracles.SLOPE_FROM_SAVED[activation]
    own = (dy * slope(saved)).astype(dtype)
    exact = dy * slope(saved.astype(np.longdouble))
    assert_no_worse(layer.dx.array, own @ w.T, exact @ w.astype(np.longdouble).T)
    assert_no_worse(gradient.w.array, -0.5 * (x.T @ own), -0.5 * (x.astype(np.longdouble).T @ exact))
    assert_no_worse(gradient.b.array, -0.5 * own.sum(axis=0), -0.5 * exact.sum(axis=0))


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_follow_the_rule(backend, dtype, rng, name, l2):
    """Three updates by formulas of plain float64: half of the digits must agree; another rule would agree in none."""
    rule = Optimizer(name, learning_rate=0.1, l2=l2, momentum=0.8, beta1=0.7, beta2=0.6, epsilon=1e-3)
    x, w, b, saved, dy = operands(rng, 13, 9, 17, dtype, "tanh")
    layer = Layer(x, w, b, saved, dy, slots=rule.slots)
    arrays = [w.astype(np.float64), b.astype(np.float64)]
    memory = [[np.zeros_like(a), np.zeros_like(a)] for a in arrays]
    for updates in (1, 2, 3):
        layer.run(backend, "tanh", rule, updates)
        dz = dy.astype(np.float64) * (1 - saved.astype(np.float64) ** 2)
        for i, g in enumerate((x.T @ dz, dz.sum(axis=0))):
            arrays[i], memory[i] = oracles.updated(rule, arrays[i], g, memory[i], updates, decays=i == 0)
    digits = np.sqrt(np.finfo(dtype).eps)
    np.testing.assert_allclose(layer.w.array, arrays[0], rtol=digits, atol=digits)
    np.testing.assert_allclose(layer.b.array, arrays[1], rtol=digits, atol=digits)
    for slot in range(rule.slots):
        flat = np.concatenate([memory[0][slot].ravel(), memory[1][slot]])
        np.testing.assert_allclose(layer.state.array[slot], flat, rtol=digits, atol=digits)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng, activation):
    x, w, b, saved, dy = integers(rng, 45, 14, 33, dtype)
    x[3, 4], w[2, 5] = np.nan, np.inf
    saved, dy = with_special_values(rng, saved.shape, dtype), with_special_values(rng, dy.shape, dtype)
    got, expected = (Layer(x, w, b, saved, dy).run(each, activation) for each in (backend, reference))
    for name in ("dz", "dx", "w", "b"):
        assert_same_special_values(getattr(got, name).array, getattr(expected, name).array)


def test_relu_passes_no_gradient_where_its_output_is_nan_or_zero(backend, dtype):
    saved = np.array([[np.nan, 0.0, -0.0, 1.0]], dtype)
    dy = np.array([[np.inf, np.nan, 5.0, 6.0]], dtype)
    layer = Layer(np.ones((1, 1), dtype), np.ones((1, 4), dtype), np.ones(4, dtype), saved, dy)
    layer.run(backend, "relu")
    np.testing.assert_array_equal(layer.dz.array, [[0, 0, 0, 6]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_bits_from_run_to_run_in_place_and_without_dx(backend, dtype, rng, name):
    rule = Optimizer(name)
    given_ = operands(rng, 100, 45, 46, dtype, "gelu")
    first = Layer(*given_, slots=rule.slots).run(backend, "gelu", rule)
    for options in ({}, {"in_place": True}, {"want_dx": False}):
        again = Layer(*given_, slots=rule.slots, **options).run(backend, "gelu", rule)
        for name_ in ("w", "b", "dz", "state"):
            assert_same_bits(getattr(again, name_).array, getattr(first, name_).array)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    k=st.integers(0, 40),
    m=st.integers(0, 40),
    in_place=st.booleans(),
    want_dx=st.booleans(),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_at_any_place(backend, dtype, n, k, m, in_place, want_dx, offset, seed):
    x, w, b, saved, dy = integers(np.random.default_rng(seed), n, k, m, dtype)
    layer = Layer(x, w, b, saved, dy, offset=offset, in_place=in_place, want_dx=want_dx).run(backend, "relu")
    dz = np.where(saved > 0, dy, 0)
    np.testing.assert_array_equal(layer.w.array, w - 0.5 * (x.T @ dz))
    np.testing.assert_array_equal(layer.b.array, b - 0.5 * dz.sum(axis=0))
    if want_dx:
        np.testing.assert_array_equal(layer.dx.array, dz @ w.T)


def public(backend_name, x, w, b, saved, dy, **settings_):
    return linear_backward_update(
        x, w, b, saved, dy, activation="tanh", optimizer="adam", backend=backend_name, **settings_
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout_give_the_same_bits(backend_name, dtype, rng, layout):
    x, w, b, saved, dy = operands(rng, 17, 9, 11, dtype, "tanh")
    results = []
    for change in (np.copy, LAYOUTS[layout]):
        w_, b_, state = w.copy(), b.copy(), np.zeros((2, 110), dtype)
        dx = public(backend_name, change(x), w_, b_, change(saved), change(dy), state=state)
        results.append((dx, w_, b_, state))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_updated_arrays_may_have_any_layout(backend_name, dtype, rng, layout):
    x, w, b, saved, dy = operands(rng, 17, 9, 11, dtype, "tanh")
    results = []
    for change in (np.copy, WRITABLE_LAYOUTS[layout]):
        w_, b_, state, dx = (change(a) for a in (w, b, np.zeros((2, 110), dtype), np.zeros_like(x)))
        assert public(backend_name, x, w_, b_, saved, dy, state=state, dx=dx) is dx
        results.append((dx, w_, b_, state))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(results[1][1], w)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_dimensions_as_numpy(backend_name, dtype, shape):
    n, k, m = shape
    x, w, b, dy = (np.ones(s, dtype) for s in ((n, k), (k, m), m, (n, m)))
    dx = linear_backward_update(x, w, b, dy, dy, learning_rate=1.0, backend=backend_name)
    np.testing.assert_array_equal(dx, np.full((n, k), m))
    np.testing.assert_array_equal(w, np.full((k, m), 1 - n))
    np.testing.assert_array_equal(b, np.full(m, 1 - n))


BAD = [
    ({"optimizer": "adm"}, fastmlp.ArgumentError, "Did you mean 'adam'"),
    ({"activation": "Relu"}, fastmlp.ArgumentError, "Did you mean 'relu'"),
    ({"learning_rate": np.nan}, fastmlp.ArgumentError, "learning_rate must be a finite number.*nan"),
    ({"learning_rate": -1.0}, fastmlp.ArgumentError, "learning_rate.*at least 0 and.*; got -1.0"),
    ({"l2": np.inf}, fastmlp.ArgumentError, "l2 must be a finite number"),
    ({"momentum": 1.5}, fastmlp.ArgumentError, "momentum.*at least 0 and at most 1; got 1.5"),
    ({"beta1": 1.0}, fastmlp.ArgumentError, "beta1.*below 1; got 1.0"),
    ({"epsilon": 0.0}, fastmlp.ArgumentError, "epsilon"),
    ({"updates": 0}, fastmlp.ArgumentError, "updates must be an integer of at least 1; got 0"),
    ({"optimizer": "adam"}, fastmlp.ArgumentError, r"needs a state.*np.zeros\(\(2, 20\), np.float32\)"),
    ({"optimizer": "adam", "state": np.zeros((1, 20), np.float32)}, fastmlp.ShapeError, r"state.*\(2, 20\)"),
    ({"optimizer": "adam", "state": [[0.0] * 20] * 2}, fastmlp.DTypeError, "state must be a NumPy array; got list"),
    ({"saved": np.ones((3, 4), np.float32)}, fastmlp.ShapeError, r"saved must have shape \(3, 5\)"),
    ({"dx": np.ones((3, 4), np.float32), "want_dx": False}, fastmlp.ArgumentError, "want_dx is False"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_named_and_nothing_written(change, error, message):
    arguments = {"x": (3, 3), "w": (3, 5), "b": (5,), "saved": (3, 5), "dy": (3, 5)}
    arguments = {name: np.ones(shape, np.float32) for name, shape in arguments.items()}
    w, b = arguments["w"], arguments["b"]
    with pytest.raises(error, match=message):
        linear_backward_update(**{**arguments, **change}, backend="numpy")
    assert (w == 1).all()
    assert (b == 1).all()


def test_written_arrays_must_be_writable_and_apart():
    x, w, b, dy = (np.ones(shape, np.float32) for shape in ((5, 5), (5, 5), 5, (5, 5)))
    frozen = w.copy()
    frozen.flags.writeable = False
    for arrays, message in [
        ((x, frozen, b, dy, dy), "w is read-only"),
        ((w, w, b, dy, dy), "w overlaps x"),
        ((x, w, w[0], dy, dy), "w overlaps b"),
        ((x, w, dy[1], dy, dy), "b overlaps saved"),
        ((x, np.broadcast_to(b, (5, 5)), b, dy, dy), "read-only"),
    ]:
        with pytest.raises(fastmlp.ArgumentError, match=message):
            linear_backward_update(*arrays, backend="numpy")
    with pytest.raises(fastmlp.ArgumentError, match="dx overlaps x"):
        linear_backward_update(x, w, b, dy, dy, dx=x, backend="numpy")
