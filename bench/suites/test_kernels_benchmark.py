"""Single kernels on every backend that can run here: `pytest bench --benchmark-only`.

Each figure is one call on checked, aligned float32 arrays. In extra_info (`--benchmark-json FILE` keeps it) stand
GFLOP/s, as the contract counts them; their share of the ceiling that binds (efficiency.py); and joules a call, gross
and of the whole processor, or why there are none. One table holds one kernel and shape, its backends side by side.
"""

from functools import partial

import numpy as np
import pytest

from fastmlp.bench.efficiency import efficiency
from fastmlp.energy import Meter
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import OPERATIONS, step_flops
from fastmlp.kernels.network import Network, Optimizer, aligned_zeros

READY = [name for name, reason in backends.status().items() if reason is None]

SHAPES = [(100, 10, 5), (128, 64, 64), (128, 784, 256), (512, 512, 512), (1024, 1024, 1024)]
"""(n, k, m) as in the contract: the article's first layer, a small one, MNIST's first, and two square ones."""

NETWORKS = [(10, 5, 2), (64, 64, 64, 64, 1), (784, 256, 128, 10)]

ENERGY_S = 0.5
"""Seconds of calls behind a figure of joules: 500 updates of a processor's counter."""

METER = Meter()


@pytest.fixture(params=READY)
def backend(request, benchmark):
    benchmark.group = request.node.name.replace(f"[{request.param}-", "[")  # the backends of one kernel side by side
    return request.param


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request):
    return request.param


def gaussian(*shape):
    array = aligned_zeros(shape, np.float32)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


def measure(benchmark, backend, flops, moved, function, *arguments, **settings):
    """Time the call; the reference runs on the same processor as the CPU backend, whose ceilings are its own."""
    call = partial(function, *arguments, **settings)
    benchmark(call)
    if not benchmark.stats:  # under --benchmark-disable
        return
    ceilings = backends.ceilings("cpu" if backend == "numpy" and "cpu" in READY else backend)
    benchmark.extra_info.update(efficiency(benchmark.stats.stats.median, flops, moved, "float32", ceilings))
    benchmark.extra_info["energy"] = f"{METER.source} ({METER.detail})"
    if METER.source != "unavailable" and backend != "cuda":
        reading = METER.per_call(call, ENERGY_S)
        benchmark.extra_info["joules"] = None if reading.joules is None else reading.joules / reading.calls


def moved_by(operation, n, k, m, *absent):
    return OPERATIONS[operation].bytes(n, k, m, 4, absent)


@pytest.mark.parametrize("form", ["ab", "atb", "abt"])
def test_matmul(benchmark, backend, shape, form):
    n, k, m = shape
    a, b = gaussian(*((k, n) if form == "atb" else (n, k))), gaussian(*((m, k) if form == "abt" else (k, m)))
    work = OPERATIONS["matmul"].flops(n, k, m), moved_by("matmul", n, k, m)
    matmul = partial(backends.load(backend).matmul, transpose_a=form == "atb", transpose_b=form == "abt")
    measure(benchmark, backend, *work, matmul, a, b, gaussian(n, m))


def test_bias_add(benchmark, backend, shape):
    n, k, m = shape
    work = OPERATIONS["bias_add"].flops(n, k, m), moved_by("bias_add", n, k, m)
    measure(benchmark, backend, *work, backends.load(backend).bias_add, gaussian(n, m), gaussian(m), gaussian(n, m))


def test_mse(benchmark, backend, shape):
    n, k, m = shape
    work = OPERATIONS["mse"].flops(n, k, m), moved_by("mse", n, k, m)
    arrays = gaussian(n, m), gaussian(n, m)[::-1].copy(), gaussian(n, m)
    measure(benchmark, backend, *work, backends.load(backend).mse, *arrays)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_linear_forward(benchmark, backend, shape, activation):
    n, k, m = shape
    keeps_z = activation == "gelu"
    absent = () if keeps_z else ("z",)
    work = OPERATIONS["linear_forward"].flops(n, k, m), moved_by("linear_forward", n, k, m, *absent)
    arrays = gaussian(n, k), gaussian(k, m), gaussian(m), gaussian(n, m), gaussian(n, m) if keeps_z else None
    measure(benchmark, backend, *work, backends.load(backend).linear_forward, *arrays, activation)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_linear_backward_update(benchmark, backend, shape, rule):
    n, k, m = shape
    optimizer = Optimizer(rule, learning_rate=1e-6)
    arrays = [gaussian(*s) for s in ((n, k), (k, m), (m,), (n, m), (n, m), (n, m), (n, k))]
    state = optimizer.new_state((k + 1) * m, np.dtype(np.float32))
    work = OPERATIONS["linear_backward_update"].flops(n, k, m), moved_by("linear_backward_update", n, k, m)
    function = backends.load(backend).linear_backward_update
    measure(benchmark, backend, *work, function, *arrays, "relu", optimizer, state, 1)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("widths", NETWORKS, ids=lambda widths: "-".join(map(str, widths)))
def test_train(benchmark, backend, widths, rule):
    batch_size, steps = 128, 16
    network = Network(widths, ("relu",) * (len(widths) - 2) + ("identity",), "mse", np.dtype(np.float32))
    optimizer = Optimizer(rule, learning_rate=1e-6)
    parameters = aligned_zeros(network.size, network.dtype)
    for w in network.weights(parameters):
        w[...] = gaussian(*w.shape) / np.sqrt(len(w))
    state = optimizer.new_state(network.size, network.dtype)
    x, t = gaussian(steps * batch_size, widths[0]), gaussian(steps * batch_size, widths[-1])
    order, losses = np.random.default_rng(0).permutation(len(x)), np.zeros(steps)
    module = backends.load(backend)
    workspace = module.Workspace(network, batch_size, True)
    arguments = network, optimizer, parameters, state, 0, x, t, order, 0, batch_size, losses, workspace
    # Whole steps keep what one operation leaves in registers for the next: their traffic is not the operations'.
    measure(benchmark, backend, steps * step_flops(widths, batch_size), 0, module.train, *arguments)
