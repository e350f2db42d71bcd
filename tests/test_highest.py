"""precision "highest" by six products of three bfloat16 parts, as FASTMLP_HIGHEST=split has it: contract.HIGHEST."""

import numpy as np
import pytest
from networks import assert_exact_on_small_integers, data, fill, network, wide
from rulings import (
    assert_bounded,
    assert_no_worse,
    assert_same_bits,
    assert_same_special_values,
    small_integers,
    with_special_values,
)
from test_bfloat16 import BENT, EVERY_KIND, MIXED, SHAPES

import fastmlp
from fastmlp import MLP
from fastmlp.kernels import backend as backends
from fastmlp.kernels import reference
from fastmlp.kernels.ceilings import Ceilings
from fastmlp.kernels.contract import HIGHEST_ERROR, HIGHEST_IN_FLOAT32, OPERATIONS, SMALLEST_NORMAL
from fastmlp.kernels.cpu import operations, units
from fastmlp.kernels.cpu.team import PARALLEL_FLOPS
from fastmlp.kernels.network import Optimizer

SMALL = (12, 40, 8), (1, 3, 1), (13, 71, 33, 5), (300, 65, 31)


@pytest.fixture(scope="session", params=["cpu"])
def backend_name(request):
    """The one that the variable is for; CUDA's own choice is tested in test_cuda_layer.py."""
    return request.param


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.setitem(units._WAYS, units.HIGHEST_PARTS, "split")


def product(backend, a, b, transpose_a=False, transpose_b=False):
    """A @ b by the backend, its operands stored as it is told."""
    stored_a, stored_b = (
        np.ascontiguousarray(a.T if transpose_a else a),
        np.ascontiguousarray(b.T if transpose_b else b),
    )
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    backend.matmul(stored_a, stored_b, out, transpose_a, transpose_b)
    return out


def assert_highest(got, x, w, factor, start=0.0):
    """Within the contract's bound of float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    magnitude, k = abs(x) @ abs(w) + abs(start), x.shape[1]
    subnormal = 6 * SMALLEST_NORMAL * (k + abs(x).sum(axis=1, keepdims=True) + abs(w).sum(axis=0))
    assert_bounded(got, x @ w + start, factor, k, magnitude, HIGHEST_ERROR * magnitude + subnormal)


@pytest.mark.usefixtures("splits")
def test_three_parts_are_the_number(backend):
    """A product by 1 gives it back, but where a part is subnormal; NaN and Inf are what they were."""
    column, one = EVERY_KIND[:, None], np.ones((1, 1), np.float32)
    for out in (product(backend, column, one), product(backend, one, column.T).T):
        normal = ~(abs(column) < 2.0**-100)
        np.testing.assert_array_equal(out[normal], column[normal])
        assert (abs(out[~normal] - column[~normal]) <= 3 * SMALLEST_NORMAL).all()


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_single_products(backend, rng, n, k, m, transpose_a, transpose_b):
    a, b = small_integers(rng, (n, k), np.float32), small_integers(rng, (k, m), np.float32)
    np.testing.assert_array_equal(product(backend, a, b, transpose_a, transpose_b), a @ b)
    a, b = rng.standard_normal((n, k), dtype=np.float32), rng.standard_normal((k, m), dtype=np.float32)
    assert_highest(product(backend, a, b, transpose_a, transpose_b), a, b, OPERATIONS["matmul"].error_factor)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("draw", ["normal", "positive", "wide", "cancelling"])
@pytest.mark.parametrize(("n", "k", "m"), [(64, 64, 64), (97, 1000, 130), (33, 5000, 48)])
def test_no_worse_than_twice_numpys_error(backend, rng, n, k, m, draw):
    a, b = rng.standard_normal((n, k)), rng.standard_normal((k, m))
    if draw == "positive":
        a, b = abs(a), abs(b)
    elif draw == "wide":
        a, b = (x * 2.0 ** rng.integers(-20, 20, x.shape) for x in (a, b))
    elif draw == "cancelling":
        a[:, 1::2], b[1::2] = a[:, : k // 2 * 2 : 2], -b[: k // 2 * 2 : 2]
        a, b = a + rng.standard_normal((n, k)) * 1e-3, b + rng.standard_normal((k, m)) * 1e-3
        order = rng.permutation(k)  # side by side they would favour a sum that takes one after another
        a, b = a[:, order], b[order]
    a, b = a.astype(np.float32), b.astype(np.float32)
    assert_no_worse(product(backend, a, b), a @ b, a.astype(np.float64) @ b.astype(np.float64))


@pytest.mark.usefixtures("splits")
def test_what_is_left_out_is_what_is_stated(backend):
    """With a single product a row only that and one rounding are off; the second number has all bits of three parts."""
    x = np.linspace(1, 2, 2**16, dtype=np.float32)[:, None]
    w = np.array([[1 + 2.0**-8 - 2.0**-17 - 2.0**-23]], np.float32)
    exact = x.astype(np.float64) * w.astype(np.float64)
    assert (abs(product(backend, x, w) - exact) <= (HIGHEST_ERROR + 2.0**-23) * exact).all()


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-62, 2.0**-125])
def test_small_numbers(backend, rng, scale):
    x, w = (rng.normal(size=shape).astype(np.float32) * np.float32(scale) for shape in ((5, 301), (301, 33)))
    assert_highest(product(backend, x, w), x, w, OPERATIONS["matmul"].error_factor)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("n", "k", "m"), [(40, 31, 50), (1, 31, 50), (40, 31, 1), (1, 700, 300)])
def test_nan_and_inf_are_where_float32_has_them(backend, rng, n, k, m):
    a, b = (with_special_values(rng, shape, np.float32) for shape in ((n, k), (k, m)))
    with np.errstate(invalid="ignore"):
        expected = a @ b
    for transpose_b in (False, True):
        assert_same_special_values(product(backend, a, b, transpose_b=transpose_b), expected)


@pytest.mark.usefixtures("splits")
def test_products_that_only_their_high_parts_leave_float32_with(backend):
    """The float32 below 2^64 is rounded up to it in bfloat16, whose square is beyond float32; its own square is not."""
    below = np.nextafter(np.float32(2.0**64), np.float32(0))
    a = np.full((3, 1), below)
    np.testing.assert_array_equal(product(backend, a, a.T), a @ a.T)
    np.testing.assert_array_equal(product(backend, a, -a.T), a @ -a.T)


@pytest.mark.usefixtures("splits")
def test_relu_of_a_sum_that_is_taken_once_more(backend):
    """The sum of high parts is -Inf, and the true one positive."""
    net = network((4, 20), "relu", "mse", np.float32)
    below, largest = np.nextafter(np.float32(2.0**64), np.float32(0)), np.finfo(np.float32).max
    parameters = np.zeros(net.size, np.float32)
    net.weights(parameters)[0][:] = np.array([[-below], [0], [largest], [0]])
    x, out = np.tile(np.array([below, 0, 1, 0], np.float32), (30, 1)), np.empty((30, 20), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 30, False))
    assert (out == largest - below * below).all()
    assert (out > 0).all()


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("n", [1, 8, 16])
@pytest.mark.parametrize("widths", SMALL)
def test_networks_are_exact_on_small_integers(backend, rng, widths, n):
    net = network(widths, (*["relu"] * (len(widths) - 2), "identity"), "half_mse", np.float32)
    assert_exact_on_small_integers(backend, net, rng, n)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("n", "k", "m"), [(1, 300, 70), (7, 33, 45), (9, 1, 1), (130, 513, 1), (200, 784, 130)])
def test_forward_within_the_bound(backend, rng, n, k, m):
    net = network((k, m), "identity", "mse", np.float32)
    parameters = fill(net, np.empty(net.size, np.float32), rng)
    x, _ = data(net, rng, n)
    out = np.empty((n, m), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 64, False))
    (w,), (b,) = wide(net, parameters, np.float32)
    assert_highest(out, x, w, OPERATIONS["linear_forward"].error_factor, b)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("activations", [MIXED, BENT])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_training_is_as_near_to_float64_as_numpys(backend, rng, loss, activations):
    """Twice NumPy's distance at most; without one of the six terms it is 20 times as far or more."""
    rule = Optimizer("momentum", learning_rate=0.05, l2=0.1, momentum=0.8)
    shares = []
    for _ in range(3):
        single, double = (network((30, 140, 50, 20, 5), activations, loss, kind) for kind in (np.float32, np.float64))
        initial = fill(single, np.empty(single.size, np.float32), rng)
        x, t = data(single, rng, 80)
        outcomes = []
        for module, structure in ((backend, single), (reference, single), (reference, double)):
            parameters = np.zeros(structure.size, structure.dtype)
            for of in ("weights", "biases"):
                for mine, given in zip(getattr(structure, of)(parameters), getattr(single, of)(initial), strict=True):
                    mine[...] = given
            state, losses = np.zeros((1, structure.size), structure.dtype), np.empty(3)
            own = [each if each.dtype.kind == "i" else each.astype(structure.dtype) for each in (x, t)]
            workspace = module.Workspace(structure, 32, True)
            module.train(structure, rule, parameters, state, 0, *own, None, 0, 32, losses, workspace)
            outcomes.append(np.concatenate([each.astype(float).reshape(-1) for each in structure.weights(parameters)]))
        mine, numpys, exact = outcomes
        shares.append(np.linalg.norm(mine - exact) / np.linalg.norm(numpys - exact))
    assert np.median(shares) <= 2


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_bits_for_any_number_of_threads(backend, rng, threads):
    x, t = rng.standard_normal((600, 150), dtype=np.float32), rng.integers(0, 70, 600)
    results = []
    for count in (1, threads):
        with fastmlp.num_threads(count):
            net = MLP((150, 300, 200, 70), "gelu", loss="cross_entropy", backend="cpu")
            losses = net.fit(x, t, epochs=2, batch_size=256, progress=False).loss
            results.append((net.parameters.copy(), net.predict(x), np.array(losses), product(backend, x, x.T)))
    for mine, others in zip(*results, strict=True):
        assert_same_bits(mine, others)


def test_nothing_is_split_unless_it_is_asked_for(monkeypatch):
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    wide_net = network((9, 9999, 3), "relu", "mse", np.float32)
    monkeypatch.setitem(units._WAYS, units.HIGHEST_PARTS, "float32")
    assert units.parts_of_operands(wide_net) == units.parts_of_product(256, 256, 256, single, 0) == 0
    assert operations.direct_operation("matmul") is not None
    monkeypatch.setitem(units._WAYS, units.HIGHEST_PARTS, "split")
    assert operations.direct_operation("matmul") is None
    monkeypatch.setitem(units._WAYS, units.HIGHEST_PARTS, "large")
    assert operations.direct_operation("matmul") is not None
    assert PARALLEL_FLOPS < 2 * units.LEAST_PRODUCT, "what it does itself is small"
    assert [units.parts_of_product(n, 256, 256, single, 0) for n in (256, 255)] == [3, 0]
    assert units.parts_of_product(256, 256, 256, double, 0) == 0
    assert units.parts_of_operands(wide_net) == 3
    assert units.parts_of_operands(network((9, 7281, 3), "relu", "mse", np.float32)) == 0
    assert units.parts_of_operands(network((9, 9999, 3), "relu", "mse", np.float64)) == 0


def test_a_plan_says_so(monkeypatch):
    cpu = backends.load("cpu")
    net = MLP((4, 6, 3), backend="cpu")
    monkeypatch.setattr(cpu, "HIGHEST", HIGHEST_IN_FLOAT32)
    assert "precision highest" not in str(net.plan())
    monkeypatch.setattr(cpu, "HIGHEST", "six products")
    assert "precision highest is six products" in str(net.plan())
    assert "precision highest" not in str(MLP((4, 6, 3), dtype="float64", backend="cpu").plan())


class Machine:
    """Whose bfloat16 unit is ten times as fast as that of float32."""

    def units(self, dtype):
        return ("unit",)

    def multiply_adds(self, dtype, unit, threads):
        return {"bfloat16": 10e9, "float32": 1e9, "float64": 0.5e9}[dtype]


def test_the_ceiling_of_float32_where_it_may_be_six_products():
    assert Ceilings(Machine()).peak("float32", 1) == 1e9
    ceilings = Ceilings(Machine(), terms={"high": 3, "float32": 6})
    assert ceilings.peak("float32", 1) == ceilings.probe("float32", 1) == pytest.approx(10e9 / 6)
    assert ceilings.peak("float32", 1, "unit") == 1e9
    assert ceilings.peak("high", 1) == pytest.approx(10e9 / 3)
    assert ceilings.peak("float64", 1) == 0.5e9
