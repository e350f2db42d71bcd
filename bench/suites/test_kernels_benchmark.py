"""Single kernels on every backend that can run here: `pytest bench --benchmark-only`.

Each figure is one call on checked, aligned float32 arrays; GFLOP/s, as the contract counts them, stand in extra_info
(`--benchmark-json FILE` keeps them). One table holds one kernel and shape, its backends side by side.
"""

import numpy as np
import pytest

from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import OPERATIONS, step_flops
from fastmlp.kernels.network import Network, Optimizer, aligned_zeros

READY = [name for name, reason in backends.status().items() if reason is None]

SHAPES = [(100, 10, 5), (128, 64, 64), (128, 784, 256), (512, 512, 512), (1024, 1024, 1024)]
"""(n, k, m) as in the contract: the article's first layer, a small one, MNIST's first, and two square ones."""

NETWORKS = [(10, 5, 2), (64, 64, 64, 64, 1), (784, 256, 128, 10)]


@pytest.fixture(params=READY)
def backend(request, benchmark):
    benchmark.group = request.node.name.replace(f"[{request.param}-", "[")  # the backends of one kernel side by side
    return backends.load(request.param)


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request):
    return request.param


def gaussian(*shape):
    array = aligned_zeros(shape, np.float32)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


def report(benchmark, flops):
    if benchmark.stats:  # None under --benchmark-disable
        benchmark.extra_info["GFLOP/s"] = round(flops / benchmark.stats.stats.median * 1e-9, 2)


@pytest.mark.parametrize("form", ["ab", "atb", "abt"])
def test_matmul(benchmark, backend, shape, form):
    n, k, m = shape
    a, b = gaussian(*((k, n) if form == "atb" else (n, k))), gaussian(*((m, k) if form == "abt" else (k, m)))
    benchmark(backend.matmul, a, b, gaussian(n, m), transpose_a=form == "atb", transpose_b=form == "abt")
    report(benchmark, OPERATIONS["matmul"].flops(n, k, m))


def test_bias_add(benchmark, backend, shape):
    n, k, m = shape
    benchmark(backend.bias_add, gaussian(n, m), gaussian(m), gaussian(n, m))
    report(benchmark, OPERATIONS["bias_add"].flops(n, k, m))


def test_mse(benchmark, backend, shape):
    n, k, m = shape
    benchmark(backend.mse, gaussian(n, m), gaussian(n, m)[::-1].copy(), gaussian(n, m))
    report(benchmark, OPERATIONS["mse"].flops(n, k, m))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_linear_forward(benchmark, backend, shape, activation):
    n, k, m = shape
    z = gaussian(n, m) if activation == "gelu" else None
    benchmark(backend.linear_forward, gaussian(n, k), gaussian(k, m), gaussian(m), gaussian(n, m), z, activation)
    report(benchmark, OPERATIONS["linear_forward"].flops(n, k, m))


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_linear_backward_update(benchmark, backend, shape, rule):
    n, k, m = shape
    optimizer = Optimizer(rule, learning_rate=1e-6)
    x, w, b, saved, dy, dz, dx = (gaussian(*s) for s in ((n, k), (k, m), (m,), (n, m), (n, m), (n, m), (n, k)))
    state = optimizer.new_state((k + 1) * m, np.dtype(np.float32))
    benchmark(backend.linear_backward_update, x, w, b, saved, dy, dz, dx, "relu", optimizer, state, 1)
    report(benchmark, OPERATIONS["linear_backward_update"].flops(n, k, m))


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
    workspace = backend.Workspace(network, batch_size, True)
    benchmark(backend.train, network, optimizer, parameters, state, 0, x, t, order, 0, batch_size, losses, workspace)
    report(benchmark, steps * step_flops(widths, batch_size))
