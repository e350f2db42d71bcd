"""precision "high": products of operands split in two bfloat16, over the backends that offer it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from networks import assert_exact_on_small_integers, copied, data, fill, gaps, network, wide
from rulings import (
    assert_bounded,
    assert_no_worse,
    assert_same_bits,
    assert_same_special_values,
    small_integers,
    with_special_values,
)
from test_bfloat16 import BENT, EVERY_KIND, MIXED, SHAPES, nearest

import fastmlp
from fastmlp import MLP
from fastmlp.kernels import backend as backends
from fastmlp.kernels import matmul, reference
from fastmlp.kernels.contract import HIGH_ERROR, HIGH_IN_FLOAT32, OPERATIONS, SMALLEST_NORMAL
from fastmlp.kernels.cpu import units
from fastmlp.kernels.network import Optimizer
from fastmlp.kernels.reference.splitting import split

OFFERING = [
    name for name, reason in backends.status().items() if reason is None and hasattr(backends.load(name), "HIGH")
]


@pytest.fixture(scope="session", params=OFFERING)
def backend_name(request):
    """The backends that offer it; by the others it is refused by name."""
    return request.param


@pytest.fixture
def splits(monkeypatch):
    """Operands are split on every backend, of any size, as FASTMLP_HIGH=split has it."""
    monkeypatch.setitem(units._WAYS, units.HIGH_PARTS, "split")


def high(widths, activations, loss):
    return replace(network(widths, activations, loss, np.float32), high=True)


def parts(x):
    """(high, low) of each float32 in float64, by the definition."""
    with np.errstate(all="ignore"):
        bits = x.astype(np.float32).view(np.uint32)
        toward_zero = (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
        upper = nearest(x)
        upper = np.where(np.isinf(upper) & np.isfinite(x), toward_zero, upper)
        lower = nearest((x - upper).astype(np.float32))
    return upper, np.where(np.isfinite(upper), lower, 0)


def terms(x, w):
    """What x @ w is of parts, and the magnitudes of what it leaves out, in float64."""
    (x_high, x_low), (w_high, w_low) = parts(x), parts(w)
    return x_high @ w_high + x_high @ w_low + x_low @ w_high


def absolute(x, w):
    """By how much the contract's bound is wider for parts that are subnormal."""
    k = x.shape[1]
    return 3 * SMALLEST_NORMAL * (k + abs(x).sum(axis=1, keepdims=True) + abs(w).sum(axis=0))


def assert_high(got, x, w, factor, start=0.0):
    """Within the contract's bound of float64, and within that of float32's sums of what the parts give."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    magnitude, length = abs(x) @ abs(w) + abs(start), 3 * x.shape[1]
    wider = absolute(x, w)
    assert_bounded(got, x @ w + start, factor, length, magnitude, HIGH_ERROR * magnitude + wider)
    assert_bounded(got, terms(x, w) + start, factor, length, magnitude, wider)


def test_the_parts_of_every_kind_of_number():
    got = np.empty_like(EVERY_KIND), np.empty_like(EVERY_KIND)
    with np.errstate(all="ignore"):
        split(EVERY_KIND, *got)
        x = EVERY_KIND.astype(np.float64)
    for mine, exact in zip(got, parts(EVERY_KIND), strict=True):
        np.testing.assert_array_equal(mine, exact)
    normal = np.isfinite(x) & (abs(x) >= 2.0**-117)
    rest = abs(x[normal] - got[0][normal].astype(np.float64) - got[1][normal])
    assert (rest <= 2.0**-17 * abs(x[normal])).all()
    assert (abs(got[1][normal].astype(np.float64)) <= (1 + 2.0**-23) * 2.0**-8 * abs(x[normal])).all()
    np.testing.assert_array_equal(got[0][~np.isfinite(x)], x[~np.isfinite(x)])
    assert (got[1][~np.isfinite(x)] == 0).all()


@pytest.mark.usefixtures("splits")
def test_every_backend_splits_so(backend_name):
    """A product by 1 gives the sum of the parts, which float32 holds, but of its largest number's, 2^128."""
    column = EVERY_KIND[:, None]
    exact = sum(parts(column))
    for a, b, way in ((column, np.ones((1, 1), np.float32), {}), (np.ones((1, 1), np.float32), column.T, {})):
        out = matmul(a, b, precision="high", backend=backend_name, **way)
        finite = abs(exact[:, 0]) < 2.0**128
        difference = abs(out.reshape(-1) - np.where(finite, exact[:, 0], 0))
        assert (difference[finite] <= 2 * SMALLEST_NORMAL).all()
        assert (difference[finite & (abs(column[:, 0]) >= 2.0**-100)] == 0).all()
        np.testing.assert_array_equal(out.reshape(-1)[~np.isfinite(column[:, 0])], column[~np.isfinite(column)])


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_single_products(backend_name, rng, canary, n, k, m, transpose_a, transpose_b):
    """Exact on small integers, on any numbers within the bounds; a and b stay."""
    for draw in (small_integers, lambda rng, shape, dtype: rng.standard_normal(shape, dtype=dtype)):
        a, b = (
            draw(rng, shape, np.float32)
            for shape in ((k, n) if transpose_a else (n, k), (m, k) if transpose_b else (k, m))
        )
        kept = a.copy(), b.copy()
        out = canary((n, m), np.float32)
        got = matmul(
            a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, precision="high", backend=backend_name
        )
        assert got is out
        assert_same_bits(a, kept[0])
        assert_same_bits(b, kept[1])
        a_, b_ = a.T if transpose_a else a, b.T if transpose_b else b
        if draw is small_integers:
            np.testing.assert_array_equal(out, a_ @ b_)
        else:
            assert_high(out, a_, b_, OPERATIONS["matmul"].error_factor)


@pytest.mark.usefixtures("splits")
def test_the_stated_error_holds_and_is_hardly_less_where_it_is_worst(backend_name):
    """Both parts of this number are rounded as far as they can be, down."""
    worst = np.full((5, 64), 1 + 2.0**-8 - 2.0**-17 - 2.0**-23, np.float32)
    exact = worst.astype(np.float64) @ worst.T.astype(np.float64)
    error = abs(matmul(worst, worst.T, precision="high", backend=backend_name) - exact) / exact
    assert (error <= HIGH_ERROR).all()
    assert (error >= 0.98 * HIGH_ERROR).all()


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-62, 2.0**-125])
def test_single_products_of_small_numbers(backend_name, rng, scale):
    x, w = (rng.normal(size=shape).astype(np.float32) * np.float32(scale) for shape in ((5, 301), (301, 33)))
    assert_high(matmul(x, w, precision="high", backend=backend_name), x, w, OPERATIONS["matmul"].error_factor)


@pytest.mark.usefixtures("splits")
def test_no_worse_than_the_references_and_far_better_than_bfloat16(backend_name, rng):
    a, b = rng.standard_normal((2, 300, 300), dtype=np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    got, own = (matmul(a, b, precision="high", backend=name) for name in (backend_name, "numpy"))
    assert_no_worse(got, own, exact)
    rounded = matmul(a, b, dtype="bfloat16", backend="numpy")
    assert abs(got - exact).max() <= abs(rounded - exact).max() / 64


@pytest.mark.usefixtures("splits")
def test_nan_and_inf_in_single_products(backend_name, rng):
    """They are where float32 has them."""
    a, b = (with_special_values(rng, shape, np.float32) for shape in ((40, 31), (31, 50)))
    assert_same_special_values(matmul(a, b, precision="high", backend=backend_name), matmul(a, b, backend="numpy"))


@pytest.mark.usefixtures("splits")
def test_the_largest_numbers_stay_finite(backend_name):
    """Rounded to nearest they would be beyond bfloat16's range."""
    x = np.array([[np.finfo(np.float32).max, 3.4e38, -3.4e38]], np.float32)
    out = matmul(np.full((1, 1), 0.5, np.float32), x, precision="high", backend=backend_name)
    assert (abs(out - x.astype(np.float64) / 2) <= HIGH_ERROR * abs(x.astype(np.float64)) / 2).all()


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("widths", [(12, 40, 8), (12, 140, 1), (1, 3, 1), (13, 71, 33, 5), (1, 1, 1), (300, 65, 31)])
def test_networks_are_exact_on_small_integers(backend, rng, widths, n):
    """Every sum is exact, and no operand has more bits than two parts hold, so bits must be the reference's."""
    net = high(widths, (*["relu"] * (len(widths) - 2), "identity"), "half_mse")
    assert_exact_on_small_integers(backend, net, rng, n)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (7, 33, 45), (1, 300, 70), (130, 513, 1), (200, 784, 130)])
def test_forward_within_the_bound(backend, rng, n, k, m):
    net = high((k, m), "identity", "mse")
    parameters = fill(net, np.empty(net.size, np.float32), rng)
    before = parameters.copy()
    x, _ = data(net, rng, n)
    out = np.empty((n, m), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 64, False))
    (w,), (b,) = wide(net, parameters, np.float32)
    assert_high(out, x, w, OPERATIONS["linear_forward"].error_factor, b)
    assert_same_bits(parameters, before)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("n", "k", "h", "m"), [(1, 5, 70, 300), (16, 40, 130, 20), (256, 200, 1, 65)])
def test_gradients_within_the_bound(backend, rng, n, k, h, m):
    """With w1 = 0 and no biases y = 0, so that dz of the last layer is -t / n, exact for n a power of two."""
    net = high((k, h, m), "identity", "half_mse")
    parameters = np.zeros(net.size, np.float32)
    w = net.weights(parameters)[1]
    w[...] = rng.normal(size=(h, m))
    x, t = data(net, rng, n)
    dz = (-t / np.float32(n)).astype(np.float32)
    gradient = np.zeros(net.size, np.float32)
    backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, n, True))
    factor = OPERATIONS["linear_backward_update"].error_factor
    magnitude = (abs(dz).astype(np.float64) @ abs(w).T.astype(np.float64)).sum(axis=0)
    assert_bounded(net.biases(gradient)[0], terms(dz, w.T).sum(axis=0), factor, 3 * m + n, magnitude)
    assert_bounded(net.biases(gradient)[1], dz.sum(axis=0, dtype=np.float64), factor, n, abs(dz).sum(axis=0))
    assert (net.weights(gradient)[1] == 0).all(), "of a layer that was given zeros"


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize(("n", "k", "m"), [(1, 5, 70), (32, 300, 20), (256, 200, 1), (512, 70, 65)])
def test_weight_gradient_within_the_bound(backend, rng, n, k, m):
    net = high((k, m), "identity", "half_mse")
    x, t = data(net, rng, n)
    dz = (-t / np.float32(n)).astype(np.float32)
    gradient = np.zeros(net.size, np.float32)
    backend.gradients(net, np.zeros(net.size, np.float32), x, t, gradient, backend.Workspace(net, n, True))
    assert_high(net.weights(gradient)[0], x.T, dz, OPERATIONS["linear_backward_update"].error_factor)


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("activations", [MIXED, BENT])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_training_splits_the_operands_of_every_product(backend, rng, canary, loss, activations, shuffled):
    """Three times nearer to the reference's splitting than the same steps without are.

    A product that is not split, or of which a term is lost, is a distance of the order of the whole effect, or more.
    The median of three draws counts.
    """
    net = high((30, 140, 50, 20, 5), activations, loss)
    rule = Optimizer("momentum", learning_rate=0.05, l2=0.1, momentum=0.8)
    shares = []
    for _ in range(3):
        initial = fill(net, np.empty(net.size, np.float32), rng)
        x, t = data(net, rng, 80)
        order = rng.permutation(80) if shuffled else None
        outcomes = []
        for module, structure in ((backend, net), (reference, net), (reference, replace(net, high=False))):
            parameters = canary(net.size, np.float32, content=0)
            parameters[...] = initial
            state, losses = canary((1, net.size), np.float32, content=0), np.empty(3)
            workspace = module.Workspace(structure, 32, True)
            module.train(structure, rule, parameters, state, 0, x, t, order, 0, 32, losses, workspace)
            assert (gaps(net, parameters) == 0).all()
            outcomes.append(parameters.astype(np.float64))
        mine, exact, whole = outcomes
        stored = 3 * np.finfo(np.float32).eps * np.linalg.norm(exact)
        shares.append(np.linalg.norm(mine - exact) / (np.linalg.norm(whole - exact) / 3 + stored))
    assert np.median(shares) <= 1


@pytest.mark.usefixtures("splits")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(backend_name, rng, threads):
    x, t = rng.standard_normal((600, 150), dtype=np.float32), rng.integers(0, 70, 600)
    results = []
    for count in (1, threads):
        with fastmlp.num_threads(count):
            net = MLP((150, 300, 200, 70), "gelu", loss="cross_entropy", precision="high", backend=backend_name)
            losses = net.fit(x, t, epochs=2, batch_size=256, progress=False).loss
            results.append((net.parameters.copy(), net.predict(x), np.array(losses), matmul(x, x.T, precision="high")))
    for mine, others in zip(*results, strict=True):
        assert_same_bits(mine, others)


def test_where_splitting_does_not_pay_it_is_float32_to_the_bit(rng, monkeypatch):
    x, w = rng.standard_normal((2, 300, 300), dtype=np.float32)
    cpu = backends.load("cpu")
    if cpu.HIGH == HIGH_IN_FLOAT32:
        assert_same_bits(matmul(x, w, precision="high", backend="cpu"), matmul(x, w, backend="cpu"))
        nets = [MLP((300, 300, 4), precision=precision, backend="cpu") for precision in ("high", "highest")]
        assert_same_bits(nets[0].predict(x), nets[1].predict(x))
    monkeypatch.setitem(units._WAYS, units.HIGH_PARTS, "large")
    kind, shapes = np.dtype(np.float32), ((256, 256, 256), (255, 256, 256))
    assert [units.parts_of_product(*shape, kind, 2) for shape in shapes] == [2, 0]
    assert [units.parts_of_operands(high((9, width, 3), "relu", "mse")) for width in (7281, 9999)] == [0, 2]
    assert units.parts_of_operands(network((9999, 9999), "relu", "mse", np.float32)) == 0
    assert units.parts_of_product(*shapes[0], kind, 0) == 0


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_a_copy_trains_on_as_the_original(backend_name, rng, tmp_path, way):
    x, t = rng.standard_normal((40, 7)), rng.standard_normal((40, 2))
    net = MLP((7, 20, 2), "tanh", precision="high", optimizer="adam", backend=backend_name)
    net.fit(x, t, epochs=2, batch_size=16)
    other = copied(net, way, tmp_path)
    assert other.configuration == net.configuration
    assert other.configuration["precision"] == "high"
    for each in (net, other):
        each.fit(x, t, epochs=2, batch_size=16)
    assert_same_bits(net.parameters, other.parameters)


def test_a_file_of_before_there_was_a_precision_is_highest(tmp_path):
    net = MLP((4, 3))
    net.save(tmp_path / "net")
    with safetensors.safe_open(tmp_path / "net", framework="numpy") as file:
        description = json.loads(file.metadata()["fastmlp"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del description["configuration"]["precision"]
    safetensors.numpy.save_file(tensors, tmp_path / "old", {"fastmlp": json.dumps(description)})
    old = MLP.load(tmp_path / "old")
    assert old.configuration == net.configuration
    assert_same_bits(old.parameters, net.parameters)


def test_a_plan_says_what_runs(backend_name):
    for precision in ("highest", "high"):
        text = str(MLP((4, 6, 3), precision=precision, backend=backend_name).plan())
        assert (f"precision high is {backends.load(backend_name).HIGH}" in text) == (precision == "high")


def test_what_is_not_a_precision(rng):
    with pytest.raises(fastmlp.ArgumentError, match=r"precision must be one of 'highest', 'high'; got 'higher'"):
        MLP((4, 3), precision="higher")
    for dtype in ("float64", "bfloat16"):
        with pytest.raises(
            fastmlp.ArgumentError, match=rf"precision 'high' is of dtype 'float32' alone; got .*{dtype}"
        ):
            MLP((4, 3), precision="high", dtype=dtype, backend="numpy")
    a = np.ones((3, 3), np.float32)
    with pytest.raises(fastmlp.ArgumentError, match=r"precision must be one of 'highest', 'high'; got 'low'"):
        matmul(a, a, precision="low")
    with pytest.raises(fastmlp.ArgumentError, match="precision 'high' does not go with dtype 'bfloat16'"):
        matmul(a, a, precision="high", dtype="bfloat16")
    with pytest.raises(fastmlp.DTypeError, match="precision 'high' takes float32 arrays; got float64"):
        matmul(a.astype(float), a.astype(float), precision="high")


def test_a_unit_that_was_asked_for_and_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(backends.load("cpu"), "UNAVAILABLE", "FASTMLP_BFLOAT16 asks for 'amx', but there is none")
    a = np.ones((3, 3), np.float32)
    for ask in (
        lambda: MLP((4, 3), dtype="bfloat16", backend="cpu"),
        lambda: MLP((4, 3), precision="high", backend="cpu"),
        lambda: matmul(a, a, dtype="bfloat16", backend="cpu"),
        lambda: matmul(a, a, precision="high", backend="cpu"),
    ):
        with pytest.raises(fastmlp.BackendUnavailable, match=r"'cpu' cannot multiply bfloat16 as told: .* none"):
            ask()
    MLP((4, 3), backend="cpu")
