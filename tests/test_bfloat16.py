"""dtype bfloat16: what is rounded and how, over all backends, against an oracle in float64."""

import importlib
import warnings
from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_exact_on_small_integers, copied, data, fill, gaps, network, wide
from rulings import (
    assert_bounded,
    assert_no_worse,
    assert_same_bits,
    assert_same_special_values,
    small_integers,
    with_special_values,
)

import fastmlp
from fastmlp import MLP, computing
from fastmlp.data import load_digits
from fastmlp.kernels import backend as backends
from fastmlp.kernels import matmul, reference
from fastmlp.kernels.contract import EMULATED, LOSSES, OPERATIONS, SMALLEST_NORMAL
from fastmlp.kernels.cpu import units
from fastmlp.kernels.network import Optimizer, aligned_zeros
from fastmlp.kernels.reference.rounding import round_bfloat16

pytestmark = pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")

LOWER_HALVES = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
EVERY_KIND = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | LOWER_HALVES).reshape(-1).view(np.float32)
"""Every sign, exponent and upper mantissa, exact, and just above, below and at the middle between two bfloat16."""


ROUNDING = [
    name for name, reason in backends.status().items() if reason is None and hasattr(backends.load(name), "BFLOAT16")
]


@pytest.fixture(scope="session", params=ROUNDING)
def backend_name(request):
    """The backends that run bfloat16; of the others it is refused by name."""
    return request.param


def bfloat16(widths, activations, loss):
    return replace(network(widths, activations, loss, np.float32), bfloat16=True)


def nearest(x):
    """The bfloat16 nearest to each float32, ties to the even one, in float64: by comparing the two neighbours."""
    bits = x.astype(np.float32).view(np.uint32)
    below = bits & np.uint32(0xFFFF0000)
    with np.errstate(all="ignore"):
        above = (below.astype(np.int64) + 0x10000).astype(np.uint32)  # the next one away from zero
        low, high = (b.view(np.float32).astype(np.float64) for b in (below, above))
        beyond = np.copysign(2.0**128, low)  # where it would be, if the exponent went on
        value = x.astype(np.float64)
        to_low, to_high = abs(value - low), abs(np.where(np.isfinite(high), high, beyond) - value)
    even = (below >> 16) % 2 == 0
    rounded = np.where((to_low < to_high) | ((to_low == to_high) & even), low, high)
    return np.where(np.isfinite(x), rounded, value)


def factor_of(module, x):
    """What a product by 1 makes of each float32: rounded, and zero for a subnormal where an instruction does it."""
    return nearest(x) if module.BFLOAT16 == EMULATED else np.where(abs(x) < SMALLEST_NORMAL, 0, nearest(x))


def subnormal_error(module, x, w):
    """By how much the contract's bound on x @ w is wider where an instruction does it."""
    if module.BFLOAT16 == EMULATED:
        return 0.0
    return SMALLEST_NORMAL * (x.shape[1] + abs(x).sum(axis=1, keepdims=True) + abs(w).sum(axis=0))


def rounded(x):
    out = np.empty_like(x)
    with np.errstate(invalid="ignore"):
        round_bfloat16(x, out)
    return out


def test_rounding_is_to_nearest_even_for_every_kind_of_number():
    got = rounded(EVERY_KIND)
    np.testing.assert_array_equal(got, nearest(EVERY_KIND).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(EVERY_KIND))
    assert not (got.view(np.uint32) & 0xFFFF).any(), "a bfloat16 has nothing in the lower half"


@given(st.integers(0, 2**32 - 1))
def test_rounding_of_any_bits(bits):
    x = np.array([bits], np.uint32).view(np.float32)
    np.testing.assert_array_equal(rounded(x), nearest(x).astype(np.float32))
    assert_same_bits(rounded(rounded(x)), rounded(x))


def test_rounding_in_place():
    x = EVERY_KIND.copy()
    round_bfloat16(x, x)
    assert_same_bits(x, rounded(EVERY_KIND))


def test_every_backend_rounds_the_samples_so(backend):
    """A network of one weight, 1, gives its input rounded."""
    net = bfloat16((1, 1), "identity", "mse")
    parameters = np.zeros(net.size, np.float32)
    net.weights(parameters)[0][...] = 1
    x = EVERY_KIND[:, None].copy()
    out = np.empty_like(x)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 1000, False))
    np.testing.assert_array_equal(out[:, 0], factor_of(backend, EVERY_KIND))
    assert_same_bits(x[:, 0], EVERY_KIND)


def test_every_backend_rounds_the_weights_so_and_no_bias(backend, rng):
    net = bfloat16((1, len(EVERY_KIND)), "identity", "mse")
    parameters = np.zeros(net.size, np.float32)
    net.weights(parameters)[0][...] = EVERY_KIND
    before = parameters.copy()
    out = np.empty((1, len(EVERY_KIND)), np.float32)
    workspace = backend.Workspace(net, 1, False)
    backend.forward(net, parameters, np.ones((1, 1), np.float32), out, workspace)
    np.testing.assert_array_equal(out[0], factor_of(backend, EVERY_KIND))
    assert_same_bits(parameters, before)
    net.weights(parameters)[0][...] = 0
    net.biases(parameters)[0][...] = EVERY_KIND
    backend.forward(net, parameters, np.ones((1, 1), np.float32), out, workspace)
    np.testing.assert_array_equal(out[0], EVERY_KIND)


def test_every_backend_rounds_the_deltas_so_but_for_the_biases(backend):
    """With y = 0, half_mse of one sample has dz = -t."""
    t = EVERY_KIND[np.isfinite(EVERY_KIND)][None, :].copy()
    net = bfloat16((1, t.size), "identity", "half_mse")
    gradient = np.zeros(net.size, np.float32)
    workspace = backend.Workspace(net, 1, True)
    x = np.ones((1, 1), np.float32)
    backend.gradients(net, np.zeros(net.size, np.float32), x, t, gradient, workspace)
    np.testing.assert_array_equal(net.weights(gradient)[0], -factor_of(backend, t))
    np.testing.assert_array_equal(net.biases(gradient)[0], -t[0])


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("widths", [(12, 40, 8), (12, 140, 1), (1, 3, 1), (13, 71, 33, 5), (1, 1, 1), (300, 65, 31)])
def test_exact_on_small_integers(backend, rng, widths, n):
    """Sums of integers beyond 256 are rounded on their way on; every sum is exact, so bits must be the reference's.

    Odd lengths leave a pair half empty, in each of the three products.
    """
    net = bfloat16(widths, (*["relu"] * (len(widths) - 2), "identity"), "half_mse")
    assert_exact_on_small_integers(backend, net, rng, n, 4)


@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (7, 33, 45), (1, 300, 70), (130, 513, 1), (200, 784, 130)])
def test_forward_within_the_contracts_bound_of_float64_on_rounded_operands(backend, rng, n, k, m):
    net = bfloat16((k, m), "identity", "mse")
    parameters = fill(net, np.empty(net.size, np.float32), rng)
    x, _ = data(net, rng, n)
    out = np.empty((n, m), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 64, False))
    (w,), (b,) = wide(net, parameters, np.float64)
    x_, w_ = nearest(x), nearest(w)
    magnitude = abs(x_) @ abs(w_) + abs(b)
    factor, wider = OPERATIONS["linear_forward"].error_factor, subnormal_error(backend, x_, w_)
    assert_bounded(out, x_ @ w_ + b, factor, k, magnitude, wider)


@pytest.mark.parametrize("way", [{"bfloat16": True}, {"high": True}], ids=["bfloat16", "high"])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 17])
def test_few_rows_of_weights_beyond_the_caches_are_predicted_as_others_are(monkeypatch, rng, n, way):
    """On backend cpu they are read without making pairs: small integers give the reference's bits all the same."""
    monkeypatch.setattr(importlib.import_module("fastmlp.kernels.cpu.workspace"), "cache_bytes", lambda name: 0)
    monkeypatch.setitem(units._WAYS, units.HIGH_PARTS, "split")
    net = replace(network((33, 70, 45, 1), ("relu", "relu", "identity"), "mse", np.float32), **way)
    parameters = np.zeros(net.size, np.float32)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, np.float32)
    x, results = small_integers(rng, (n, 33), np.float32), []
    for module in (backends.load("cpu"), reference):
        out = np.full((n, 1), np.nan, np.float32)
        module.forward(net, parameters, x, out, module.Workspace(net, 16, False))
        results.append(out)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-62, 2.0**-125])
def test_forward_within_the_contracts_bound_where_numbers_are_subnormal(backend, rng, scale):
    """Products of 2^-40 are not, those of 2^-124 and the operands at 2^-125 are, in part."""
    net = bfloat16((301, 33), "identity", "mse")
    parameters = np.zeros(net.size, np.float32)
    x, w = (rng.normal(size=shape).astype(np.float32) * np.float32(scale) for shape in ((5, 301), (301, 33)))
    net.weights(parameters)[0][...] = w
    out = np.empty((5, 33), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 5, False))
    x_, w_ = nearest(x), nearest(w)
    stored = np.finfo(np.float32).smallest_subnormal * 301
    wider = subnormal_error(backend, x_, w_) + stored
    assert_bounded(out, x_ @ w_, OPERATIONS["linear_forward"].error_factor, 301, abs(x_) @ abs(w_), wider)


@pytest.mark.parametrize(("n", "k", "h", "m"), [(1, 5, 70, 300), (33, 40, 130, 20), (256, 200, 1, 65)])
def test_gradients_within_the_contracts_bound_of_float64_on_rounded_operands(backend, rng, n, k, h, m):
    """With w1 = 0 and no biases y = 0, so that dz of the last layer is -t / n, exact for n a power of two times t."""
    net = bfloat16((k, h, m), "identity", "half_mse")
    parameters = np.zeros(net.size, np.float32)
    net.weights(parameters)[1][...] = rng.normal(size=(h, m))
    w = net.weights(parameters)[1].astype(np.float64)
    x, t = data(net, rng, n)
    dz = (-t / np.float32(n)).astype(np.float32)
    gradient = np.zeros(net.size, np.float32)
    backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, n, True))
    factor = OPERATIONS["linear_backward_update"].error_factor
    dx, magnitude = nearest(dz) @ nearest(w).T, abs(nearest(dz)) @ abs(nearest(w)).T
    wider = np.sum(subnormal_error(backend, nearest(dz), nearest(w).T) * np.ones((n, 1)), axis=0)
    assert_bounded(net.biases(gradient)[0], dx.sum(axis=0), factor, m + n, magnitude.sum(axis=0), wider)
    assert_bounded(net.biases(gradient)[1], dz.sum(axis=0, dtype=np.float64), factor, n, abs(dz).sum(axis=0))
    assert (net.weights(gradient)[1] == 0).all(), "of a layer that was given zeros"


@pytest.mark.parametrize(("n", "k", "m"), [(1, 5, 70), (33, 300, 20), (256, 200, 1), (500, 70, 65)])
def test_weight_gradient_within_the_contracts_bound_of_float64_on_rounded_operands(backend, rng, n, k, m):
    net = bfloat16((k, m), "identity", "half_mse")
    x, t = data(net, rng, n)
    dz = (-t / np.float32(n)).astype(np.float32)
    gradient = np.zeros(net.size, np.float32)
    backend.gradients(net, np.zeros(net.size, np.float32), x, t, gradient, backend.Workspace(net, n, True))
    x_, dz_ = nearest(x), nearest(dz)
    factor = OPERATIONS["linear_backward_update"].error_factor
    wider = subnormal_error(backend, x_.T, dz_)
    assert_bounded(net.weights(gradient)[0], x_.T @ dz_, factor, n, abs(x_).T @ abs(dz_), wider)


SHAPES = [
    (1, 1, 1),
    (5, 3, 2),
    (13, 71, 33),
    (60, 300, 7),
    (27, 9, 1),
    (1, 41, 31),
    (60, 401, 350),
    (0, 3, 2),
    (3, 0, 2),
]
"""Tails in rows, columns and depth, odd sums, one column, one row, a B that is packed, and nothing at all."""


@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_single_products(backend_name, backend, rng, canary, n, k, m, transpose_a, transpose_b):
    """Exact on small integers; on any numbers within the bound of float64 on rounded operands; a and b stay."""
    for draw in (small_integers, lambda rng, shape, dtype: rng.standard_normal(shape, dtype=dtype)):
        a, b = (
            draw(rng, shape, np.float32)
            for shape in ((k, n) if transpose_a else (n, k), (m, k) if transpose_b else (k, m))
        )
        kept = a.copy(), b.copy()
        out = canary((n, m), np.float32)
        got = matmul(
            a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, dtype="bfloat16", backend=backend_name
        )
        assert got is out
        assert_same_bits(a, kept[0])
        assert_same_bits(b, kept[1])
        a_, b_ = nearest(a.T if transpose_a else a), nearest(b.T if transpose_b else b)
        if draw is small_integers:
            np.testing.assert_array_equal(out, a_ @ b_)
        else:
            wider = subnormal_error(backend, a_, b_)
            assert_bounded(out, a_ @ b_, OPERATIONS["matmul"].error_factor, k, abs(a_) @ abs(b_), wider)


def test_single_products_are_no_worse_than_the_references(backend_name, rng):
    a, b = rng.standard_normal((2, 300, 300), dtype=np.float32)
    exact = nearest(a) @ nearest(b)
    got, own = (matmul(a, b, dtype="bfloat16", backend=name) for name in (backend_name, "numpy"))
    assert_no_worse(got, own, exact)


def test_nan_and_inf_in_single_products(backend_name, rng):
    a, b = (with_special_values(rng, shape, np.float32) for shape in ((40, 31), (31, 50)))
    got, expected = (matmul(a, b, dtype="bfloat16", backend=name) for name in (backend_name, "numpy"))
    assert_same_special_values(got, expected)


def test_single_products_have_the_same_bits_on_any_number_of_threads(backend_name, rng):
    a, b = rng.standard_normal((2, 401, 401), dtype=np.float32)
    results = []
    for threads in (1, 2, 3):
        with fastmlp.num_threads(threads):
            results.append(matmul(a, b, transpose_a=True, dtype="bfloat16", backend=backend_name))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_single_products_of_what_is_not_float32_are_refused(backend_name):
    a = np.ones((3, 3))
    with pytest.raises(fastmlp.DTypeError, match="dtype 'bfloat16' takes float32 arrays; got float64"):
        matmul(a, a, dtype="bfloat16", backend=backend_name)
    with pytest.raises(fastmlp.ArgumentError, match=r"dtype must be .*got 'float16'"):
        matmul(a, a, dtype="float16", backend=backend_name)


def oracle_gradients(net, weights, biases, x, t, round_):
    """J, [dW...], [db...] in float64, with `round_` on every operand of a product."""
    factors, outputs, inputs, preactivations = [round_(w) for w in weights], x, [], []
    for activation, w, b in zip(net.activations, factors, biases, strict=True):
        inputs.append(round_(outputs))
        preactivations.append(inputs[-1] @ w + b)
        outputs = oracles.ACTIVATION[activation](preactivations[-1])
    value, dy, dw, db = oracles.LOSS[net.loss](outputs, t), oracles.LOSS_GRADIENT[net.loss](outputs, t), [], []
    for i in reversed(range(len(weights))):
        dz = dy * oracles.SLOPE[net.activations[i]](preactivations[i])
        dw.insert(0, inputs[i].T @ round_(dz))
        db.insert(0, dz.sum(axis=0))
        dy = round_(dz) @ factors[i].T
    return value, dw, db


def oracle_train(net, rule, parameters, x, t, batches, round_):
    weights, biases = wide(net, parameters, np.float64)
    arrays, losses = [*weights, *biases], []
    memory = [[np.zeros_like(a), np.zeros_like(a)] for a in arrays]
    half = len(weights)
    for step, rows in enumerate(batches):
        value, dw, db = oracle_gradients(net, arrays[:half], arrays[half:], x[rows].astype(np.float64), t[rows], round_)
        losses.append(value)
        for i, g in enumerate([*dw, *db]):
            arrays[i], memory[i] = oracles.updated(rule, arrays[i], g, memory[i], step + 1, decays=i < half)
    return losses, arrays


SMOOTH = ("gelu", "silu", "softplus", "identity")
MIXED = ("relu", "tanh", "sine", "identity")
BENT = ("leaky_relu", "sigmoid", "identity", "identity")


@pytest.mark.parametrize(("samples", "batch_size"), [(80, 32), (1500, 1100)])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("activations", [MIXED, SMOOTH, BENT])
@pytest.mark.parametrize(("loss", "hidden"), list(zip(LOSSES, [20, 140, 20, 140, 20, 140], strict=True)))
def test_training_rounds_the_operands_of_every_product_and_nothing_else(
    backend, rng, canary, loss, hidden, activations, shuffled, samples, batch_size
):
    """The parameters are eight times nearer to the definition than the same steps without any rounding are.

    A last bit of float32 may turn the rounding of an element, so no bound of float32's eps holds through layers, and
    now and then a relu turns with it: the median of three draws counts. An operand that is rounded and should not be,
    or the other way, is a distance of the order of the whole effect, in each.
    """
    net = bfloat16((30, hidden, 50, hidden, 5), activations, loss)
    rule = Optimizer("momentum", learning_rate=0.05, l2=0.1, momentum=0.8)
    workspace = backend.Workspace(net, batch_size, True)
    shares = []
    for _ in range(3):
        parameters = fill(net, canary(net.size, np.float32, content=0), rng)
        initial = parameters.copy()
        x, t = data(net, rng, samples)
        kept = x.copy(), t.copy()
        state, losses = canary((1, net.size), np.float32, content=0), np.empty(-(-samples // batch_size))
        order = rng.permutation(samples) if shuffled else None
        backend.train(net, rule, parameters, state, 0, x, t, order, 0, batch_size, losses, workspace)
        assert_same_bits(x, kept[0])
        assert_same_bits(t, kept[1])
        assert (gaps(net, parameters) == 0).all()
        rows = np.arange(samples) if order is None else order
        batches = np.split(rows, range(batch_size, samples, batch_size))
        expected_losses, expected = oracle_train(net, rule, initial, x, t, batches, nearest)
        _, unrounded = oracle_train(net, rule, initial, x, t, batches, lambda a: a)
        np.testing.assert_allclose(losses, expected_losses, rtol=2**-8)
        got = [*net.weights(parameters), *net.biases(parameters)]
        mine, exact, other = (np.concatenate([a.reshape(-1) for a in arrays]) for arrays in (got, expected, unrounded))
        stored = len(batches) * np.finfo(np.float32).eps * np.linalg.norm(exact)
        shares.append(np.linalg.norm(mine - exact) / (np.linalg.norm(other - exact) / 8 + stored))
    assert np.median(shares) <= 1


def test_nan_and_inf_land_where_the_reference_has_them(backend, rng):
    net = bfloat16((9, 14, 5), ("relu", "identity"), "mse")
    parameters = fill(net, np.empty(net.size, np.float32), rng)
    x, t = data(net, rng, 30)
    x[3, 4], x[10, 0], x[20, 8], x[25, 1] = np.nan, np.inf, -np.inf, np.finfo(np.float32).max
    results = []
    for module in (backend, reference):
        out, gradient = np.empty((30, 5), np.float32), np.zeros(net.size, np.float32)
        module.forward(net, parameters, x, out, module.Workspace(net, 16, False))
        module.gradients(net, parameters, x, t, gradient, module.Workspace(net, 30, True))
        results.append((out, gradient))
    for got, expected in zip(*results, strict=True):
        assert_same_special_values(got, expected)
    assert not np.isfinite(results[0][0][25]).any(), "float32's largest number is beyond bfloat16's"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(backend_name, rng, threads):
    x, t = rng.standard_normal((1300, 150), dtype=np.float32), rng.integers(0, 70, 1300)
    results = []
    for count in (1, threads):
        with fastmlp.num_threads(count):
            net = MLP((150, 300, 200, 70), "gelu", loss="cross_entropy", dtype="bfloat16", backend=backend_name)
            losses = net.fit(x, t, epochs=2, batch_size=256, progress=False).loss
            losses += net.fit(x, t, epochs=2, batch_size=1200, progress=False).loss
            results.append((net.parameters.copy(), net.predict(x), np.array(losses)))
    for mine, others in zip(*results, strict=True):
        assert_same_bits(mine, others)


def test_all_that_a_user_sees_is_float32(backend_name, rng):
    net = MLP((4, 6, 3), dtype="bfloat16", optimizer="adam", backend=backend_name)
    x, t = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    before = net.parameters.copy()
    loss, dw, db = net.gradients(x, t)
    assert_same_bits(net.parameters, before)
    net.fit(x, t, epochs=2)
    seen = [net.predict(x), *net.weights, *net.biases, net.optimizer_state, *dw, *db]
    assert {array.dtype for array in seen} == {np.dtype(np.float32)}
    assert (net.parameters.view(np.uint32) & 0xFFFF).any(), "master weights keep all their bits"
    assert np.isfinite(loss)
    assert net.dtype == np.float32
    assert net.configuration["dtype"] == "bfloat16"
    assert "dtype='bfloat16'" in repr(net)
    net.weights[0] = np.full((4, 6), 1 + 2**-9)
    twin = MLP((4, 6, 3), dtype="bfloat16", backend=backend_name)
    twin.parameters[...] = net.parameters
    twin.weights[0] = np.ones((4, 6))
    assert_same_bits(net.predict(x), twin.predict(x))


def test_the_first_weights_are_those_of_float32():
    assert_same_bits(MLP((4, 6, 3), dtype="bfloat16").parameters, MLP((4, 6, 3)).parameters)


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_a_copy_trains_on_as_the_original(backend_name, rng, tmp_path, way):
    x, t = rng.standard_normal((40, 7)), rng.standard_normal((40, 2))
    net = MLP((7, 20, 2), "tanh", dtype="bfloat16", optimizer="adam", backend=backend_name)
    net.fit(x, t, epochs=2, batch_size=16)
    other = copied(net, way, tmp_path)
    assert other.configuration == net.configuration
    for each in (net, other):
        each.fit(x, t, epochs=2, batch_size=16)
    assert_same_bits(net.parameters, other.parameters)
    assert_same_bits(net.predict(x), other.predict(x))


def test_a_plan_says_what_runs(backend_name):
    for dtype in ("bfloat16", "float32"):
        text = str(MLP((4, 6, 3), dtype=dtype, backend=backend_name).plan())
        assert f", {dtype}, mse" in text
        assert (f"bfloat16 is {backends.load(backend_name).BFLOAT16}" in text) == (dtype == "bfloat16")


def test_only_where_no_instruction_is_at_work_is_it_emulated(backend):
    if backend is reference or units.UNIT == "emulated":
        assert backend.BFLOAT16.startswith(EMULATED)
        assert EMULATED == "emulated: rounded operands, float32 arithmetic"
    else:
        named = {"avx512": "vdpbf16ps", "amx": "tdpbf16ps", "modelled": "AMX's tiles as modelled"}[units.UNIT]
        assert named in backend.BFLOAT16


def test_emulation_is_announced_once(backend, backend_name):
    computing.announce_emulation.cache_clear()
    if backend.BFLOAT16 == EMULATED:
        with pytest.warns(RuntimeWarning, match=f"'bfloat16' is emulated on backend {backend_name!r}") as caught:
            MLP((4, 3), dtype="bfloat16", backend=backend_name)
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLP((4, 3), dtype="bfloat16", backend=backend_name)
        MLP((4, 3), backend=backend_name)


def test_what_bfloat16_is_not_taken_for(rng):
    with pytest.raises(fastmlp.ArgumentError, match=r"dtype must be one of .*Did you mean 'bfloat16'"):
        MLP((4, 3), dtype="bfloat")
    net = MLP((4, 3), dtype="bfloat16")
    with pytest.raises(fastmlp.DTypeError, match=r"x\[0, 0\] is 1e\+39, which float32 cannot hold"):
        net.predict(np.full((2, 4), 1e39))
    before = net.parameters.copy()
    with pytest.raises(fastmlp.ShapeError):
        net.train_step(np.ones((2, 5)), np.ones((2, 3)))
    assert_same_bits(net.parameters, before)


def mean_over_seeds(train):
    """The means over 5 seeds of what `train(dtype, seed)` returns, for float32 and for bfloat16."""
    return [np.mean([train(dtype, seed) for seed in range(5)], axis=0) for dtype in ("float32", "bfloat16")]


def test_digits_are_learnt_as_well_as_in_float32():
    """The README's margin: final loss within 5 % and accuracy within one percent point of float32's, over 5 seeds."""
    x, t, x_test, t_test = load_digits()

    def train(dtype, seed):
        net = MLP((64, 128, 10), loss="cross_entropy", optimizer="adam", learning_rate=3e-3, dtype=dtype, seed=seed)
        final = net.fit(x, t, epochs=30, batch_size=128).loss[-1]
        return final, net.loss(x_test, t_test), np.mean(net.predict(x_test).argmax(axis=1) == t_test)

    (loss, test_loss, accuracy), (loss_16, test_loss_16, accuracy_16) = mean_over_seeds(train)
    assert accuracy_16 >= 0.96
    assert abs(accuracy_16 - accuracy) <= 0.01
    assert loss_16 == pytest.approx(loss, rel=0.05)
    assert test_loss_16 == pytest.approx(test_loss, rel=0.05)


def test_a_regression_is_learnt_as_well_as_in_float32():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2000, 8))
    t = np.sin(3 * x[:, :1]) * x[:, 1:2] + x[:, 2:3] ** 2 - x[:, 3:4]

    def train(dtype, seed):
        net = MLP((8, 64, 64, 1), "tanh", optimizer="adam", learning_rate=3e-3, dtype=dtype, seed=seed)
        return net.fit(x[:1500], t[:1500], epochs=40, batch_size=50).loss[-1], net.loss(x[1500:], t[1500:])

    np.testing.assert_allclose(*mean_over_seeds(train)[::-1], rtol=0.05)


def test_zero_rows(backend):
    net = bfloat16((3, 4, 2), "relu", "mse")
    out = np.empty((0, 2), np.float32)
    parameters = aligned_zeros(net.size, np.float32)
    backend.forward(net, parameters, np.empty((0, 3), np.float32), out, backend.Workspace(net, 5, False))
