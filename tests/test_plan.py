"""The plan: what it says will run is what the contract says; the memory it states is what a fit takes."""

import tracemalloc

import numpy as np
import pytest

from fastmlp import MLP, plan
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import OPTIMIZERS, step_flops


def test_the_phases_are_the_layers_forward_and_back():
    phases = MLP((8, 16, 4), ("gelu",), backend="numpy").plan(10).phases
    assert [(phase.operation, phase.layer) for phase in phases] == [
        ("linear_forward", 0),
        ("linear_forward", 1),
        ("linear_backward_update", 1),
        ("linear_backward_update", 0),
    ]
    assert [(phase.n, phase.k, phase.m) for phase in phases] == [(10, 8, 16), (10, 16, 4), (10, 16, 4), (10, 8, 16)]
    assert phases[0].activation == "gelu"


@pytest.mark.parametrize("widths", [(8, 4), (8, 16, 4), (3, 1, 1, 7)])
def test_its_flops_are_the_contracts(widths):
    assert MLP(widths, backend="numpy").plan(10).flops == step_flops(widths, 10)


def test_its_bytes_count_just_the_operands_that_are_there():
    n, k, h, m = 10, 8, 16, 4
    relu, gelu = (MLP((k, h, m), name, backend="numpy").plan(n).phases for name in ("relu", "gelu"))
    first = n * k + k * h + h + n * h
    assert relu[0].bytes == 4 * first
    assert gelu[0].bytes == 4 * (first + n * h), "gelu keeps z beside y"
    assert relu[2].bytes == 4 * (n * h + 2 * (h * m + m) + 3 * n * m + n * h), "x, w, b, three of [n, m], and dx"
    assert relu[3].bytes == 4 * (n * k + 2 * (k * h + h) + 3 * n * h), "the first layer has no dx"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_memory_it_states_is_what_a_fit_takes(backend_name, dtype, optimizer, activation, rng):
    widths, batch = (200, 300, 250, 10), 300
    x, y = rng.standard_normal((900, 200)).astype(dtype), rng.standard_normal((900, 10)).astype(dtype)
    settings = {"optimizer": optimizer, "dtype": dtype.name, "backend": backend_name}
    MLP((200, 5, 10), activation, **settings).fit(x, y, 1, batch)  # what is imported or compiled once
    tracemalloc.start()
    try:
        net = MLP(widths, activation, **settings)
        tracemalloc.reset_peak()
        net.fit(x, y, epochs=2, batch_size=batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert net.plan(batch).nbytes == pytest.approx(peak, rel=0.1)


def test_memory_by_kind(backend_name, dtype):
    net = MLP((64, 128, 10), optimizer="adam", dtype=dtype.name, backend=backend_name)
    planned = net.plan(32)
    assert planned.memory["parameters"] == net.parameters.nbytes
    assert planned.memory["optimizer state"] == net.optimizer_state.nbytes
    workspace = backends.load(backend_name).Workspace(net.structure, 32, True)
    assert planned.memory["activations and gradients"] == workspace.nbytes
    assert planned.nbytes == sum(planned.memory.values())


def test_printed_it_tells_all(backend_name):
    text = str(MLP((64, 128, 10), optimizer="adam", loss="cross_entropy", backend=backend_name).plan())
    for setting in ("64-128-10", "float32", "cross_entropy", "adam", "batch 128", f"backend {backend_name}"):
        assert setting in text
    for part in ("asked for by name", "linear_backward_update", "128 x 64 x 128", "optimizer state", "total"):
        assert part in text
    assert "asked for by name" not in str(MLP((3, 2)).plan())


class Known:
    """Ceilings that the test says."""

    def __init__(self, flops, bandwidth):
        self.flops, self.bandwidth_on = flops, bandwidth

    def peak(self, dtype, threads):
        return self.flops

    def bandwidth(self, working_set, threads):
        return self.bandwidth_on(threads)


def test_threads_are_those_the_backend_takes(backend_name, monkeypatch):
    planned = MLP((64, 128, 10), backend=backend_name).plan()
    if backend_name == "numpy":
        assert planned.threads is None
        assert "threads as NumPy's BLAS decides" in str(planned)
    backend = backends.load(backend_name)
    monkeypatch.setattr(backend, "threads_for", lambda flops, steps: flops, raising=False)
    monkeypatch.setattr(backend, "ceilings", lambda: Known(1e12, lambda threads: threads), raising=False)
    planned = MLP((64, 128, 10), backend=backend_name).plan()
    assert planned.threads == planned.flops
    assert f"threads: {planned.flops}" in str(planned)
    assert planned.ceilings == (1e12, planned.flops)


def test_why_auto_chose_numpy(monkeypatch):
    attempt = backends._attempt
    monkeypatch.setattr(backends, "_attempt", lambda name: (None, "no Numba here") if name == "cpu" else attempt(name))
    chosen = plan.Plan(MLP((3, 2), backend="numpy").structure, plan.Optimizer(), "numpy", "auto", 1)
    assert "no Numba here" in str(chosen)


def test_the_time_the_machine_allows(monkeypatch):
    """One TFLOP/s and 1 GB/s, then the reverse: the longer of the two decides, phase by phase."""
    planned = MLP((8, 16, 4), backend="numpy").plan(10)
    backend = backends.load("numpy")
    for ceilings, expected in (((1e12, 1e9), planned.bytes / 1e9), ((1e9, 1e12), planned.flops / 1e9)):
        known = Known(ceilings[0], lambda threads, bandwidth=ceilings[1]: bandwidth)
        monkeypatch.setattr(backend, "ceilings", lambda known=known: known, raising=False)
        measured = MLP((8, 16, 4), backend="numpy").plan(10)
        assert measured.seconds_allowed == pytest.approx(expected, rel=1e-12)
        assert f"{1e6 * expected:.2f} us a step" in str(measured)


def test_a_backend_without_ceilings_states_no_time():
    planned = MLP((8, 16, 4), backend="numpy").plan(10)
    assert planned.seconds_allowed is None
    assert "the machine allows" not in str(planned)


def test_sizes_read_well():
    sizes = {1: "1 B", 1023: "1023 B", 1024: "1 KiB", 3 * 2**19: "1.5 MiB", 2**40: "1024 GiB"}
    assert {size: plan._binary(size) for size in sizes} == sizes


def test_a_plan_leaves_the_network_alone(backend_name):
    net = MLP((8, 16, 4), backend=backend_name)
    before = net.parameters.tobytes(), net.updates
    str(net.plan(7))
    assert (net.parameters.tobytes(), net.updates) == before
    assert np.isfinite(net.predict(np.zeros((1, 8)))).all()
