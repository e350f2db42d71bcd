"""The CUDA backend's portable kernels in Numba's simulator: every operation against the reference and plain NumPy.

The simulator runs kernels as Python, a Python thread for each thread of a block, so tiles, blocks and shapes are tiny.
It proves what is computed and where it is read and written; types, registers and the hardware's own memory it does not.
"""

import sys

import numba
import numpy as np
import oracles
import pytest
from cuda_host import Kernel
from host_compiler import needs_compiler
from networks import data, fill, network
from numba import cuda
from rulings import assert_bounded, assert_same_bits, assert_same_special_values, small_integers, with_special_values

import fastmlp
from fastmlp.errors import BackendUnavailable
from fastmlp.kernels import backend as backends
from fastmlp.kernels import linear_backward_update, matmul, reference
from fastmlp.kernels.contract import ACTIVATIONS, OPERATIONS, OPTIMIZERS
from fastmlp.kernels.network import Optimizer

if not numba.config.ENABLE_CUDASIM:
    pytest.skip(
        "the simulator takes the place of numba.cuda in the whole process: run this file alone, with "
        "NUMBA_ENABLE_CUDASIM=1, as .ci/run does",
        allow_module_level=True,
    )

from test_loss import KINDS, problem
from test_train import Run, an_order, compare, rule

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # in the simulator's threads NumPy warns of NaN and Inf

SHAPES = [(1, 1, 1), (4, 3, 4), (5, 14, 6), (9, 7, 2), (2, 13, 9)]
"""(n, k, m): one element, one whole tile, and tails in every dimension, over more tiles than a grid has blocks."""

TRANSPOSES = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(scope="module")
def backend():
    return backends.load("cuda")


def stored(a, transpose):
    return np.ascontiguousarray(a.T) if transpose else a


def assert_half_of_the_digits(got, expected):
    """A wrong formula agrees in one digit or two."""
    digits = np.sqrt(np.finfo(got.dtype).eps)
    np.testing.assert_allclose(got, expected, rtol=digits, atol=digits)


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matmul(backend, dtype, rng, canary, shape, transposes):
    n, k, m = shape
    a, b = small_integers(rng, (n, k), dtype), small_integers(rng, (k, m), dtype)
    out = canary((n, m), dtype)
    backend.matmul(stored(a, transposes[0]), stored(b, transposes[1]), out, *transposes)
    np.testing.assert_array_equal(out, a @ b)

    a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
    backend.matmul(stored(a, transposes[0]), stored(b, transposes[1]), out, *transposes)
    a64, b64 = a.astype(np.longdouble), b.astype(np.longdouble)
    assert_bounded(out, a64 @ b64, OPERATIONS["matmul"].error_factor, k, abs(a64) @ abs(b64))


def test_a_block_has_one_shared_array():
    """Whatever the order its threads run in: what every other test here rests on (see conftest.py)."""

    @cuda.jit
    def kernel(seen):
        shared = cuda.shared.array(1, numba.float64)
        seen[cuda.threadIdx.x] = shared.ctypes.data

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            seen = np.zeros(8, np.int64)
            kernel[1, 8](seen)
            assert len(set(seen)) == 1
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_matmul_nan_and_inf(backend, dtype, rng, transposes):
    a, b = with_special_values(rng, (9, 7), dtype), small_integers(rng, (7, 6), dtype)
    a[2, 3], a[8, 6], b[6, 5] = np.nan, np.inf, -np.inf
    out = np.empty((9, 6), dtype)
    backend.matmul(stored(a, transposes[0]), stored(b, transposes[1]), out, *transposes)
    expected = np.empty_like(out)
    reference.matmul(a, b, expected)
    assert_same_special_values(out, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_dimensions(dtype, shape):
    n, k, m = shape
    out = matmul(np.ones((n, k), dtype), np.ones((k, m), dtype), backend="cuda")
    np.testing.assert_array_equal(out, np.zeros((n, m)))
    x, w, b, dy = (np.ones(s, dtype) for s in ((n, k), (k, m), m, (n, m)))
    dx = linear_backward_update(x, w, b, dy, dy, learning_rate=1.0, backend="cuda")
    np.testing.assert_array_equal(dx, np.full((n, k), m))
    np.testing.assert_array_equal(w, np.full((k, m), 1 - n))
    np.testing.assert_array_equal(b, np.full(m, 1 - n))


def test_the_tile_of_real_hardware(backend, rng, monkeypatch):
    """Its constants are other than the simulator's: over the edge of a tile in every dimension."""
    product = sys.modules["fastmlp.kernels.cuda.product"]
    monkeypatch.setattr(product, "TILE", product.Tile(16, 4, 16))
    monkeypatch.setattr(product, "SUMMED", 16)
    product.product_kernel.cache_clear()
    try:
        a, b = small_integers(rng, (65, 17), np.float32), small_integers(rng, (17, 3), np.float32)
        out = np.empty((65, 3), np.float32)
        backend.matmul(a, b, out)
    finally:
        product.product_kernel.cache_clear()
    np.testing.assert_array_equal(out, a @ b)


def test_a_grid_is_bounded_whatever_the_size(monkeypatch):
    launch = sys.modules["fastmlp.kernels.cuda.launch"]
    started = []

    class Kernel:
        def __getitem__(self, configuration):
            started.append(configuration[:2])
            return lambda *args: None

    monkeypatch.setattr(launch, "MAX_BLOCKS", 65_535)
    for blocks in (0, 1, 65_536, 2**31, 2**40):
        launch.launch(Kernel(), blocks, 256)
    assert started == [(1, 256), (65_535, 256), (65_535, 256), (65_535, 256)]


@pytest.mark.parametrize("in_place", [False, True])
def test_bias_add(backend, dtype, rng, canary, in_place):
    x, b = small_integers(rng, (5, 7), dtype), small_integers(rng, 7, dtype)
    expected, out = x + b, canary((5, 7), dtype)
    if in_place:
        out = x
    backend.bias_add(x, b, out)
    np.testing.assert_array_equal(out, expected)


def test_mse(backend, dtype, rng, canary):
    y, t, gradient = small_integers(rng, (5, 7), dtype), small_integers(rng, (5, 7), dtype), canary((5, 7), dtype)
    expected = np.empty_like(y)
    assert backend.mse(y, t, gradient) == reference.mse(y, t, expected) == backend.mse(y, t)
    assert_same_bits(gradient, expected)
    y[2, 3] = np.inf
    assert backend.mse(y, t) == np.inf
    assert np.isnan(backend.mse(y[:0], t[:0]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_forward(backend, dtype, rng, canary, activation):
    x, w, b = rng.normal(size=(5, 7)).astype(dtype), rng.normal(size=(7, 6)).astype(dtype), rng.normal(size=6)
    b, y, z = b.astype(dtype), canary((5, 6), dtype), canary((5, 6), dtype)
    backend.linear_forward(x, w, b, y, z, activation)
    x64, w64, b64 = (a.astype(np.longdouble) for a in (x, w, b))
    operation = OPERATIONS["linear_forward"]
    assert_bounded(z, x64 @ w64 + b64, operation.error_factor, 7, abs(x64) @ abs(w64) + abs(b64))
    assert_half_of_the_digits(y, oracles.ACTIVATION[activation](z.astype(np.float64)))
    again = np.empty_like(y)
    backend.linear_forward(x, w, b, again, None, activation)
    assert_same_bits(again, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_special_values(backend, dtype, activation):
    z = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 100.0, -100.0, 1e30, -1e30]], dtype)
    got, expected, one = np.empty_like(z), np.empty_like(z), np.ones((1, 1), dtype)
    for each, y in ((backend, got), (reference, expected)):
        each.linear_forward(one, np.zeros_like(z), z[0], y, None, activation)
    assert_same_special_values(got, expected)
    digits = np.sqrt(np.finfo(dtype).eps)
    np.testing.assert_allclose(got, expected, rtol=digits, atol=digits)

    dy = np.array([[1, 1, 1, np.nan, np.inf, 1, 1, 1, 1]], dtype)
    for each, dz in ((backend, got), (reference, expected)):
        w, b = np.zeros_like(z), np.zeros(z.shape[1], dtype)
        state = np.empty((0, 2 * w.size), dtype)
        each.linear_backward_update(one, w, b, z, dy, dz, None, activation, Optimizer(), state, 1)
    assert_same_special_values(got, expected)


class Layer:
    """One call of linear_backward_update on copies, outputs with margins."""

    def __init__(self, backend, canary, arrays, activation, optimizer, *, in_place=False, want_dx=True):
        x, w, b, saved, dy = arrays
        dtype = x.dtype
        self.w, self.b = canary(w.shape, dtype), canary(b.shape, dtype)
        self.w[...], self.b[...] = w, b
        self.state = canary((optimizer.slots, w.size + b.size), dtype, content=0)
        self.dz = dy.copy() if in_place else canary(dy.shape, dtype)
        self.dx = canary(x.shape, dtype) if want_dx else None
        self.arguments = x, self.w, self.b, saved, self.dz if in_place else dy, self.dz, self.dx, activation, optimizer
        self.backend = backend

    def run(self, updates=1):
        self.backend.linear_backward_update(*self.arguments, self.state, updates)
        return self


def integers(rng, n, k, m, dtype):
    return [small_integers(rng, shape, dtype) for shape in ((n, k), (k, m), (m,), (n, m), (n, m))]


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"want_dx": False}])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_exact_on_small_integers(backend, dtype, rng, canary, shape, options):
    x, w, b, saved, dy = arrays = integers(rng, *shape, dtype)
    layer = Layer(backend, canary, arrays, "relu", Optimizer("sgd", learning_rate=0.5), **options).run()
    dz = np.where(saved > 0, dy, 0)
    np.testing.assert_array_equal(layer.dz, dz)
    np.testing.assert_array_equal(layer.w, w - 0.5 * (x.T @ dz))
    np.testing.assert_array_equal(layer.b, b - 0.5 * dz.sum(axis=0))
    if layer.dx is not None:
        np.testing.assert_array_equal(layer.dx, dz @ w.T)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives(backend, dtype, rng, canary, activation):
    x, w, b, saved, dy = ((a + rng.random(a.shape)).astype(dtype) / 4 for a in integers(rng, 5, 3, 4, dtype))
    layer = Layer(backend, canary, (x, w, b, saved, dy), activation, Optimizer()).run()
    slope = oracles.SLOPE_FROM_SAVED[activation](saved.astype(np.float64))
    assert_half_of_the_digits(layer.dz, dy * slope)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_follow_the_rule(backend, dtype, rng, canary, name, l2):
    settings = Optimizer(name, learning_rate=0.1, l2=l2, momentum=0.8, beta1=0.7, beta2=0.6, epsilon=1e-3)
    x, w, b, _, dy = arrays = [(a / 2).astype(dtype) for a in integers(rng, 5, 4, 3, dtype)]
    layer = Layer(backend, canary, arrays, "identity", settings, want_dx=False)
    stepped = [w.astype(np.float64), b.astype(np.float64)]
    memory = [[np.zeros_like(a), np.zeros_like(a)] for a in stepped]
    for updates in (1, 2, 3):
        layer.run(updates)
        for i, g in enumerate((x.T.astype(np.float64) @ dy, dy.sum(axis=0, dtype=np.float64))):
            stepped[i], memory[i] = oracles.updated(settings, stepped[i], g, memory[i], updates, decays=i == 0)
    assert_half_of_the_digits(layer.w, stepped[0])
    assert_half_of_the_digits(layer.b, stepped[1])
    for slot in range(settings.slots):
        flat = np.concatenate([memory[0][slot].ravel(), memory[1][slot]])
        assert_half_of_the_digits(layer.state[slot], flat)


def test_backward_nan_and_inf(backend, dtype, rng, canary):
    arrays = integers(rng, 9, 5, 6, dtype)
    arrays[0][3, 4], arrays[1][2, 5], arrays[4][8, 1] = np.nan, np.inf, np.nan
    arrays[3][...] = abs(arrays[3]) + 1
    layers = [Layer(each, canary, arrays, "relu", Optimizer()).run() for each in (backend, reference)]
    for name in ("dz", "dx", "w", "b"):
        assert_same_special_values(*(getattr(layer, name) for layer in layers))


@pytest.mark.parametrize(("loss", "labels"), KINDS)
def test_loss(backend, dtype, rng, canary, loss, labels):
    net, y, t = problem(loss, labels, rng, (5, 7), dtype)
    dy = canary((5, 7), dtype)
    value = backend.loss(net, y, t, dy)
    assert value == backend.loss(net, y, t)
    wide, target = y.astype(np.float64), t if t.ndim == 1 else t.astype(np.float64)
    assert value == pytest.approx(oracles.LOSS[loss](wide, target), rel=float(np.sqrt(np.finfo(dtype).eps)))
    assert_half_of_the_digits(dy, oracles.LOSS_GRADIENT[loss](wide, target))
    for special in (np.nan, np.inf, -np.inf):
        y[4, 5] = special
        expected = np.empty_like(y)
        values = np.array([backend.loss(net, y, t, dy), reference.loss(net, y, t, expected)])
        assert_same_special_values(values[:1], values[1:])
        assert_same_special_values(dy, expected)


def test_huge_logits(backend, dtype):
    dy = np.empty((2, 2), dtype)
    net = network((1, 2), "identity", "cross_entropy", dtype)
    assert backend.loss(net, np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), np.array([0, 0]), dy) == 1e4
    np.testing.assert_array_equal(dy, [[0, 0], [-0.5, 0.5]])


@pytest.mark.parametrize("labels", [True, False])
def test_log_loss_of_probabilities_that_are_clipped(backend, dtype, labels):
    y = np.array([[1e3, -1e3], [-1e3, 1e3], [0, 1]], dtype)
    t = np.array([0, 0, 1]) if labels else np.array([[1, 0], [1, 0], [0.25, 0.75]], dtype)
    for loss in ["log_loss"] if labels else ["log_loss", "binary_log_loss"]:
        net, gradients = network((1, 2), "identity", loss, dtype), np.empty((2, 3, 2), dtype)
        value, expected = backend.loss(net, y, t, gradients[0]), reference.loss(net, y, t, gradients[1])
        assert value == pytest.approx(expected, rel=4 * float(np.finfo(dtype).eps))
        assert_half_of_the_digits(*gradients)


def test_bfloat16_is_refused_without_tensor_cores():
    """The simulator has none; tests/test_cuda_tensor_train.py puts the kernels for them in their place."""
    net = fastmlp.MLP((3, 2), backend="numpy", dtype="bfloat16")
    with pytest.raises(BackendUnavailable, match=r"cannot run dtype 'bfloat16' here.*backend='cpu'"):
        net.to("cuda")
    assert net.backend == "numpy"
    with pytest.raises(BackendUnavailable, match="bfloat16"):
        fastmlp.MLP((3, 2), backend="cuda", dtype="bfloat16")


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_forward_in_blocks_of_any_size(backend, dtype, rng, canary, rows):
    net = network((3, 5, 2), ("relu", "identity"), "mse", dtype)
    parameters = canary(net.size, dtype, content=0)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, dtype)
    x, out, expected = small_integers(rng, (5, 3), dtype), canary((5, 2), dtype), np.empty((5, 2), dtype)
    backend.forward(net, parameters, x, out, backend.Workspace(net, rows, False))
    reference.forward(net, parameters, x, expected, reference.Workspace(net, rows, False))
    np.testing.assert_array_equal(out, expected)


TRAINED = [
    ("tanh", "sgd", "mse", False, 0.0),
    ("gelu", "momentum", "half_mse", False, 0.1),
    ("relu", "nesterov", "binary_cross_entropy", False, 0.0),
    ("silu", "adam", "cross_entropy", True, 0.1),
    ("sine", "adamw", "cross_entropy", False, 0.1),
]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("activation", "optimizer", "loss", "labels", "l2"), TRAINED)
def test_train(backend, rng, canary, activation, optimizer, loss, labels, l2, shuffled):
    """Ragged last batches, over the end of an epoch, in float64; float32 is the same code."""
    net = network((3, 5, 2), (activation, "identity"), loss, np.float64)
    run = Run(net, rule(optimizer, l2), rng, canary, labels)
    order = an_order(rng, 2) if shuffled else None
    compare(run, run.steps(backend, order, 0, 10, 4), order, 0, 10)


@pytest.mark.parametrize("l2", [0.0, 2.0])
def test_l2_shared_among_the_rows_of_a_batch(backend, rng, canary, l2):
    net = network((3, 5, 2), ("tanh", "identity"), "half_mse", np.float64)
    run, penalties = Run(net, rule("adam", l2), rng, canary), canary(4, np.float64, content=np.nan)
    compare(run, run.steps(backend, None, 0, 10, 4, penalties), None, 0, 10, penalties)


def test_one_call_or_many_give_the_same_bits(backend, dtype):
    net = network((3, 5, 2), ("gelu", "tanh"), "mse", dtype)
    whole, parts = (Run(net, rule("adam", 0.01), np.random.default_rng(7)) for _ in range(2))
    order = an_order(np.random.default_rng(8), 1)
    together = whole.steps(backend, order, 0, 9, 3)
    apart = np.concatenate([parts.steps(backend, order, 0, 9, 1), parts.steps(backend, order, 9, 9, 2)])
    assert_same_bits(together, apart)
    assert_same_bits(whole.parameters, parts.parameters)
    assert_same_bits(whole.state, parts.state)


def test_gradients(backend, rng, canary):
    net = network((3, 4, 5, 2), ("softplus", "sigmoid", "tanh"), "mse", np.float64)
    parameters, gradient = fill(net, np.empty(net.size), rng), canary(net.size, np.float64, content=0)
    x, t = data(net, rng, 5)
    value = backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, 6, True))
    exact = oracles.gradients(net.activations, "mse", net.weights(parameters), net.biases(parameters), x, t)
    assert value == pytest.approx(exact[0])
    for mine, theirs in zip([*net.weights(gradient), *net.biases(gradient)], [*exact[1], *exact[2]], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.fixture
def a_hopper(monkeypatch):
    """A device for CUDA C++, whose kernels the processor runs; lists what was started: (kernel, blocks together)."""
    started = []

    def kernel(program, name, shared_bytes):
        started.append((name, dict(program.defines).get("BLOCKS", 1)))
        return Kernel(program, name, started[-1][1])

    cubins, limits = (sys.modules[f"fastmlp.kernels.cuda.{name}"] for name in ("cubins", "limits"))
    monkeypatch.setattr(sys.modules["fastmlp.kernels.cuda_cpp.compile"], "why_not", lambda: None)
    monkeypatch.setattr(cubins, "architecture", lambda: "sm_90a")
    monkeypatch.setattr(cubins, "kernel", kernel)
    monkeypatch.setattr(limits, "shared_limit", lambda: 227 << 10)
    monkeypatch.setattr(limits, "multiprocessors", lambda: 2)
    return started


@needs_compiler
@pytest.mark.parametrize(("loss", "labels", "blocks"), [("mse", False, 1), ("cross_entropy", True, 4)])
def test_small_networks_train_on_chip(backend, rng, canary, monkeypatch, a_hopper, loss, labels, blocks):
    """The whole way from `train` to the kernel of CUDA C++, which the processor runs."""
    net = network((6, 9, 5), ("tanh", "identity"), loss, np.float32)
    monkeypatch.setattr(sys.modules["fastmlp.kernels.cuda_cpp.resident"], "CLUSTERS", (blocks,))
    run = Run(net, rule("adam"), rng, canary, labels)
    order = an_order(rng, 3)
    compare(run, run.steps(backend, order, 0, 10, 7), order, 0, 10)
    assert a_hopper == [("train_resident", blocks)]
    assert "train_resident: whole steps in" in backend.training_kernel(net, rule("adam"), 10, labels)
    compare(run := Run(net, rule("sgd"), rng, canary, labels), run.steps(backend, None, 0, 23, 3), None, 0, 23)


@needs_compiler
def test_networks_go_forward_in_one_launch(backend, rng, canary, a_hopper):
    net = network((6, 9, 5), ("tanh", "identity"), "mse", np.float32)
    parameters, x, out = fill(net, np.empty(net.size, np.float32), rng), data(net, rng, 150)[0], canary((150, 5), "f4")
    backend.forward(net, parameters, x, out, backend.Workspace(net, 32, False))
    expected = np.empty_like(out)
    reference.forward(net, parameters, x, expected, reference.Workspace(net, 32, False))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert a_hopper == [("forward_fused", 1)]


def test_a_network_trains_predicts_saves_and_loads(rng, tmp_path):
    x, labels = rng.normal(size=(11, 3)), rng.integers(0, 2, 11)
    nets = [
        fastmlp.MLP((3, 5, 2), "tanh", loss="cross_entropy", optimizer="adam", dtype="float64", backend=name)
        for name in ("cuda", "numpy")
    ]
    histories = [net.fit(x, labels, epochs=2, batch_size=4, validation_data=(x, labels)) for net in nets]
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)
    np.testing.assert_allclose(histories[0].validation_loss, histories[1].validation_loss, rtol=1e-12)
    assert nets[0].train_step(x, labels) == pytest.approx(nets[1].train_step(x, labels), rel=1e-12)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-10, atol=1e-14)

    nets[0].save(tmp_path / "net")
    loaded = fastmlp.MLP.load(tmp_path / "net", backend="cuda")
    assert loaded.backend == "cuda"
    assert_same_bits(loaded.predict(x), nets[0].predict(x))
    np.testing.assert_allclose(loaded.predict(x), fastmlp.MLP.load(tmp_path / "net", backend="numpy").predict(x))
    assert "backend cuda (asked for by name)\nthreads of the GPU\n" in str(nets[0].plan(4))


def test_a_network_moves_to_the_gpu_and_back(rng):
    x, t = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    moving, staying = (fastmlp.MLP((3, 4, 2), optimizer="momentum", dtype="float64", backend="cpu") for _ in range(2))
    weights = moving.weights
    for name in ("cuda", "cpu", "cuda"):
        assert moving.to(name) is moving
        assert moving.backend == name
        assert moving.train_step(x, t) == pytest.approx(staying.train_step(x, t), rel=1e-12)
    np.testing.assert_allclose(moving.predict(x), staying.predict(x), rtol=1e-10)
    np.testing.assert_allclose(weights[0], staying.weights[0], rtol=1e-10)
