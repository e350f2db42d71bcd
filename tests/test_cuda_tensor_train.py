"""Networks on tensor cores, end to end on a processor: the backend's own launches of kernels compiled for the host.

What numba-cuda does beside them, losses and the gathering of targets, runs in its simulator.
"""

import functools

import cuda_host
import numba
import numpy as np
import oracles
import pytest
from host_compiler import needs_compiler
from networks import data, fill, gaps, network, wide
from rulings import assert_same_bits, small_integers

import fastmlp
from fastmlp.kernels import backend as backends
from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, HIGH_ERROR
from fastmlp.kernels.network import Network

if not numba.config.ENABLE_CUDASIM:
    pytest.skip("needs Numba's simulator: run with NUMBA_ENABLE_CUDASIM=1, as .ci/run does", allow_module_level=True)

from test_train import Run, an_order, rule

pytestmark = [
    needs_compiler,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # in the simulator's threads NumPy warns of NaN and Inf
    pytest.mark.filterwarnings("ignore:.*emulated"),
]


@pytest.fixture(scope="module")
def backend():
    return backends.load("cuda")


@pytest.fixture(autouse=True)
def _kernels_on_the_host(backend, monkeypatch):
    from fastmlp.kernels.cuda import cubins, limits, simulated

    def started(kernel, *args, **options):
        """As any launch: recorded where the stream records."""
        simulated.submit(lambda: kernel(*args, **options))

    @functools.cache
    def kernel(program, name, shared_bytes=0):
        defines = dict(program.defines)
        blocks = 2 if defines.get("HOPPER") == 256 else defines.get("BLOCKS", 1)
        return functools.partial(started, cuda_host.Kernel(program, name, blocks))

    monkeypatch.setattr(cubins, "kernel", kernel)
    monkeypatch.setattr(limits, "shared_limit", lambda: 163 << 10)
    monkeypatch.setattr(limits, "multiprocessors", lambda: 108)
    monkeypatch.setattr(cubins, "capability", lambda: (8, 0))


@pytest.fixture
def hopper(monkeypatch):
    """A device of compute capability 9.0, and maps for its copy engine in cuda_host_hopper.h's own form."""
    from fastmlp.kernels.cuda import cubins, tensor_maps

    def encoded(operand, box):
        sizes = operand.columns, operand.rows, operand.stride, tensor_maps.WIDE, box, operand.parts, operand.part
        return np.array([operand.address, *sizes, *[0] * 8], np.int64).view(np.uint8)

    monkeypatch.setattr(cubins, "capability", lambda: (9, 0))
    monkeypatch.setattr(tensor_maps, "encoded", encoded)


def bfloat16(widths, activations, loss="mse"):
    net = network(widths, activations, loss, np.float32)
    return Network(net.widths, net.activations, loss, net.dtype, True)


def float16(widths, activations, loss="mse"):
    net = network(widths, activations, loss, np.float32)
    return Network(net.widths, net.activations, loss, net.dtype, float16=True)


def gradients(backend, net, parameters, x, t, rows=None):
    gradient = np.zeros(net.size, np.float32)
    value = backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, rows or len(x), True))
    return value, gradient


@pytest.mark.parametrize("rounded", [bfloat16, float16])
@pytest.mark.parametrize("n", [1, 130, 300])
def test_small_integers_are_exact(backend, rng, n, rounded):
    net = rounded((5, 140, 9, 3), ("relu", "identity", "leaky_relu"), "half_mse")
    parameters = np.zeros(net.size, np.float32)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, np.float32)
    x = small_integers(rng, (n, 5), np.float32)
    out, expected = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 70, False))
    reference.forward(net, parameters, x, expected, reference.Workspace(net, 70, False))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_bfloat16(backend, rng, activation):
    """A rounding that a last bit turns is the only difference from the reference."""
    net = bfloat16((7, 150, 20, 3), (activation, activation, "identity"))
    parameters = fill(net, np.zeros(net.size, np.float32), rng)
    x, t = data(net, rng, 140)
    value, gradient = gradients(backend, net, parameters, x, t)
    expected, truth = gradients(reference, net, parameters, x, t)
    assert value == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(net.weights(gradient), net.weights(truth), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2**-8 * np.abs(theirs).max() / 4)
    assert (gaps(net, gradient) == 0).all()


NARROW_AND_WIDE = pytest.mark.parametrize("hidden", [30, 130])
"""A hidden layer's width: narrow networks train by forward_backward_fused, wide ones layer by layer."""


@NARROW_AND_WIDE
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_train_bfloat16(backend, rng, canary, optimizer, shuffled, hidden):
    """Ragged last batches, over the end of an epoch, with L2 and its penalty."""
    net = bfloat16((6, hidden, 4), ("tanh", "relu"), "half_mse")
    assert ("forward_backward_fused" in backend.training_kernel(net, rule(optimizer), 10, False)) == (hidden == 30)
    order = an_order(rng, 3) if shuffled else None
    runs = [Run(net, rule(optimizer, 0.1, hidden), np.random.default_rng(3), canary) for _ in range(2)]
    penalties = [canary(7, np.float64, content=np.nan) for _ in range(2)]
    losses = [
        run.steps(each, order, 0, 10, 7, penalty)
        for run, each, penalty in zip(runs, (backend, reference), penalties, strict=True)
    ]
    np.testing.assert_allclose(*losses, rtol=2**-8)
    np.testing.assert_allclose(*penalties, rtol=2**-8)
    moved = np.abs(runs[1].parameters - runs[1].initial).max()
    np.testing.assert_allclose(runs[0].parameters, runs[1].parameters, atol=2**-6 * moved)
    np.testing.assert_allclose(runs[0].state, runs[1].state, atol=2**-6 * np.abs(runs[1].state).max(initial=1e-9))
    assert (gaps(net, runs[0].parameters) == 0).all()
    assert (gaps(net, runs[0].state) == 0).all()


def high(widths, activations, loss="mse"):
    net = network(widths, activations, loss, np.float32)
    return Network(net.widths, net.activations, loss, net.dtype, high=True)


def highest(widths, activations, loss="mse"):
    return network(widths, activations, loss, np.float32)


@pytest.mark.parametrize(
    ("kind", "activation", "tiles"),
    [
        (bfloat16, "relu", 128),
        (bfloat16, "gelu", 256),
        (float16, "gelu", 128),
        (float16, "relu", 256),
        (high, "gelu", 128),
        (highest, "relu", 128),
    ],
)
def test_hopper_trains_as_others_do(backend, hopper, canary, monkeypatch, kind, activation, tiles):
    """The last and short batch of an epoch included; bias gradients alone are summed by other threads."""
    from fastmlp.kernels.cuda import cubins
    from fastmlp.kernels.cuda_cpp import layers

    monkeypatch.setattr(layers, "_NARROW_COST", 9 if tiles == 256 else 0.625)  # wide ones for so few rows
    net = kind((256, 256, 256), (activation, "identity"), "half_mse")
    runs = [Run(net, rule("adam", 0.1, 256), np.random.default_rng(3), canary) for _ in range(2)]
    order = an_order(np.random.default_rng(5), 1)
    elements = backend.Workspace(net, 13, True).tensor.elements
    assert elements.hopper
    assert elements.tiled(13, 256).tile_columns == tiles
    losses = [runs[0].steps(backend, order, 0, 13, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cubins, "capability", lambda: (8, 0))
        losses.append(runs[1].steps(backend, order, 0, 13, 2))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    moved = np.abs(runs[1].parameters - runs[1].initial).max()
    close = {bfloat16: 2**-7, float16: 2**-10, high: 2**-12, highest: 2**-16}[kind]
    np.testing.assert_allclose(runs[0].parameters, runs[1].parameters, atol=close * moved)
    np.testing.assert_allclose(runs[0].state, runs[1].state, atol=close * np.abs(runs[1].state).max())


def test_hopper_leaves_narrow_layers_to_smaller_tiles(backend, hopper):
    assert not backend.Workspace(bfloat16((64, 128, 10), "relu"), 9, True).tensor.weights[0].elements.hopper


def test_shares_of_a_large_batch(backend, rng):
    """A weight gradient cut into shares of the rows: exact on small integers."""
    from fastmlp.kernels.cuda.tensor_layer import shares
    from fastmlp.kernels.cuda_cpp.layers import BFLOAT16

    net = bfloat16((3, 4), "identity", "half_mse")
    n = 1300
    assert shares(BFLOAT16, n, 3, 4) == 2
    parameters = np.zeros(net.size, np.float32)
    x, t = small_integers(rng, (n, 3), np.float32), n * small_integers(rng, (n, 4), np.float32)
    _, gradient = gradients(backend, net, parameters, x, t)
    np.testing.assert_array_equal(net.weights(gradient)[0], -x.T @ (t / n))
    np.testing.assert_array_equal(net.biases(gradient)[0], -(t / n).sum(axis=0))


@pytest.mark.parametrize("width", [128, 256, 512])
def test_the_sums_have_room_for_the_shares_of_every_smaller_batch(width, hopper, backend, monkeypatch):
    from fastmlp.kernels.cuda import tensor_workspace
    from fastmlp.kernels.cuda.tensor_layer import shares

    monkeypatch.setattr(tensor_workspace, "empty", lambda shape, dtype: np.broadcast_to(dtype.type(0), shape))
    net, rows = bfloat16((width, width), "identity", "half_mse"), 8000
    elements = backend.Workspace(net, 1, True).tensor.elements
    counts = [shares(elements, n, width, width) for n in range(1, rows + 1)]
    assert max(counts) > counts[-1], "or the largest batch would say it all"
    assert tensor_workspace.TensorBuffers(elements, net, rows, True).sums.size >= max(counts) * width**2


def test_float32_of_wide_layers_runs_in_parts(backend, rng):
    """At float32's accuracy: no worse than twice what NumPy's own float32 makes of the same gradients."""
    net = network((128, 256, 128), ("gelu", "identity"), "mse", np.float32)
    parameters = fill(net, np.zeros(net.size, np.float32), rng)
    x, t = data(net, rng, 200)
    assert backend.Workspace(net, 200, True).tensor is not None
    value, gradient = gradients(backend, net, parameters, x, t)
    _, theirs = gradients(reference, net, parameters, x, t)
    exact = oracles.gradients(
        net.activations, "mse", *wide(net, parameters, np.longdouble), x.astype(np.longdouble), t.astype(np.longdouble)
    )
    assert value == pytest.approx(float(exact[0]), rel=1e-6)
    for mine, other, truth in zip(net.weights(gradient), net.weights(theirs), exact[1], strict=True):
        assert np.square(mine - truth).mean() <= 4 * np.square(other - truth).mean()


@pytest.mark.parametrize("transposes", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(5, 3, 4), (130, 70, 140), (4, 0, 3)])
def test_matmul_of_bfloat16(backend, rng, canary, shape, transposes):
    n, k, m = shape
    a, b = small_integers(rng, (n, k), np.float32), small_integers(rng, (k, m), np.float32)
    stored = [np.ascontiguousarray(x.T) if turned else x for x, turned in zip((a, b), transposes, strict=True)]
    out = canary((n, m), np.float32)
    backend.matmul(*stored, out, *transposes, 1)
    np.testing.assert_array_equal(out, a @ b)


def test_matmul_of_precision_high(backend, rng):
    a, b = rng.normal(size=(128, 100)).astype(np.float32), rng.normal(size=(100, 128)).astype(np.float32)
    out, rounded = np.empty((128, 128), np.float32), np.empty((128, 128), np.float32)
    backend.matmul(a, b, out, False, False, 2)
    backend.matmul(a, b, rounded, False, False, 1)
    exact, magnitude = a.astype(np.float64) @ b, abs(a).astype(np.float64) @ abs(b)
    assert (abs(out - exact) <= (HIGH_ERROR + 3 * 100 * 2.0**-23) * magnitude).all()
    assert abs(out - exact).max() < abs(rounded - exact).max() / 64


def test_narrow_float32_and_float64_stay_with_the_portable_kernels(backend):
    assert backend.Workspace(network((128, 256, 128), "relu", "mse", np.float64), 9, True).tensor is None
    assert backend.Workspace(network((64, 64, 64), "relu", "mse", np.float32), 9, True).tensor is None


@NARROW_AND_WIDE
def test_one_call_or_many_give_the_same_bits(backend, hidden):
    net = bfloat16((6, hidden, 4), ("gelu", "tanh"))
    whole, parts = (Run(net, rule("adam", 0.01, hidden), np.random.default_rng(7)) for _ in range(2))
    order = an_order(np.random.default_rng(8), 1)
    together = whole.steps(backend, order, 0, 9, 3)
    apart = np.concatenate([parts.steps(backend, order, 0, 9, 1), parts.steps(backend, order, 9, 9, 2)])
    assert_same_bits(together, apart)
    assert_same_bits(whole.parameters, parts.parameters)
    assert_same_bits(whole.state, parts.state)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_of_float16(backend, rng, activation):
    """A rounding that a last bit turns is the only difference from the reference: an eighth of bfloat16's."""
    net = float16((7, 150, 20, 3), (activation, activation, "identity"))
    parameters = fill(net, np.zeros(net.size, np.float32), rng)
    x, t = data(net, rng, 140)
    assert backend.Workspace(net, 140, True).tensor.elements.name == "float16"
    value, gradient = gradients(backend, net, parameters, x, t)
    expected, truth = gradients(reference, net, parameters, x, t)
    assert value == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(net.weights(gradient), net.weights(truth), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2**-11 * np.abs(theirs).max() / 4)
    for mine, theirs in zip(net.biases(gradient), net.biases(truth), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2**-11 * np.abs(theirs).max())
    assert (gaps(net, gradient) == 0).all()


def test_gradients_of_float16_are_scaled_over_what_is_lost(backend, rng):
    """Exact, though the mean over 256 rows takes them below the smallest float16; with one row they are lost."""
    net = float16((2, 3), "identity", "half_mse")
    parameters = np.zeros(net.size, np.float32)
    x = small_integers(rng, (256, 2), np.float32)
    t = small_integers(rng, (256, 3), np.float32) * np.float32(2**-22)
    _, gradient = gradients(backend, net, parameters, x, t)
    np.testing.assert_array_equal(net.weights(gradient)[0], -x.T @ (t / 256))
    np.testing.assert_array_equal(net.biases(gradient)[0], -(t / 256).sum(axis=0))
    _, single = gradients(backend, net, parameters, x[:1], t[:1] / 16)
    assert (net.weights(single)[0] == 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train_float16(backend, rng, canary, optimizer):
    net = float16((6, 130, 4), ("tanh", "relu"), "half_mse")
    order = an_order(rng, 3)
    runs = [Run(net, rule(optimizer, 0.1, 130), np.random.default_rng(3), canary) for _ in range(2)]
    losses = [run.steps(each, order, 0, 10, 7) for run, each in zip(runs, (backend, reference), strict=True)]
    np.testing.assert_allclose(*losses, rtol=2**-11)
    moved = np.abs(runs[1].parameters - runs[1].initial).max()
    np.testing.assert_allclose(runs[0].parameters, runs[1].parameters, atol=2**-9 * moved)
    np.testing.assert_allclose(runs[0].state, runs[1].state, atol=2**-9 * np.abs(runs[1].state).max(initial=1e-9))


@pytest.mark.parametrize("name", ["network mse sgd float16", "steps as a CUDA graph float16"])
def test_what_a_gpu_is_checked_for_holds_here(name):
    from fastmlp.bench.gpu.checks import checks

    checks()[name](True)


@pytest.mark.parametrize("shuffled", [False, True])
def test_steps_started_as_graphs_are_the_steps_launched_one_by_one(backend, monkeypatch, shuffled):
    """Bit for bit, over ends of epochs, with a penalty that depends on the batch's size."""
    net = bfloat16((6, 130, 4), ("gelu", "relu"), "half_mse")
    order = an_order(np.random.default_rng(8), 4) if shuffled else None
    runs, results = [], []
    for choice in ("on", "off"):
        monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", choice)
        run, penalties = Run(net, rule("adam", 0.1, 130), np.random.default_rng(7)), np.empty(9)
        results.append((run.steps(backend, order, 10, 10, 9, penalties), penalties, run.parameters, run.state))
        runs.append(run.workspace.steps.graphs.started)
    for mine, theirs in zip(*results, strict=True):
        assert_same_bits(mine, theirs)
    assert runs == [7, 0], "two sizes of batches, each launched once"


def test_hopper_keeps_the_maps_that_a_graph_needs(backend, hopper):
    """They are forgotten when there are many, and a graph refers to them by address."""
    net = bfloat16((256, 256, 256), ("relu", "identity"), "half_mse")
    run = Run(net, rule("adam", 0.1, 256), np.random.default_rng(3))
    run.steps(backend, None, 0, 23, 2)
    ((_, held),) = run.workspace.steps.graphs._kept.values()
    assert len(held) == 2 * (2 + 2 + 2), "two ways to take each operand of two layers"
    assert all(isinstance(each, backend.DeviceArray) for each in held)


def test_narrow_networks_need_no_buffers_of_layers_to_train(backend, rng, canary):
    """But have them for their gradients, and room for more clusters where a smaller batch takes more."""
    net = bfloat16((6, 30, 4), "tanh")
    workspace = backend.Workspace(net, 200, True)
    alone = workspace.nbytes
    x, t = data(net, rng, 200)
    parameters, state = fill(net, np.zeros(net.size, np.float32), rng), np.zeros((0, net.size), np.float32)
    for rows in (200, 20):
        arguments = net, rule("sgd"), parameters, state, 0, x, t, None, 0, rows, canary(1, np.float64), workspace
        backend.train(*arguments)
    assert workspace.nbytes == alone
    backend.gradients(net, parameters, x, t, np.zeros(net.size, np.float32), workspace)
    assert workspace.nbytes > alone + 200 * 30 * 4
    assert len(workspace.sums(300)[1]) == 300


def test_a_bfloat16_network_trains_and_says_how(rng):
    x, labels = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
    nets = [
        fastmlp.MLP((6, 20, 3), "relu", loss="cross_entropy", optimizer="adam", dtype="bfloat16", backend=name)
        for name in ("cuda", "numpy")
    ]
    histories = [net.fit(x, labels, epochs=2, batch_size=16, progress=False) for net in nets]
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=2**-8)
    plan = str(nets[0].plan(16))
    assert "tensor cores" in plan
    assert "forward_backward_fused: two launches a step, 16 rows at a time in a block" in plan
    np.testing.assert_allclose(nets[0].predict(x), nets[1].predict(x), atol=2**-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_refused_where_there_are_no_tensor_cores(monkeypatch, dtype):
    from fastmlp.errors import BackendUnavailable
    from fastmlp.kernels.cuda import cubins

    monkeypatch.setattr(cubins, "capability", lambda: (7, 5))
    with pytest.raises(BackendUnavailable, match=r"compute capability 7\.5.*dtype='float32'"):
        fastmlp.MLP((3, 2), backend="cuda", dtype=dtype)
