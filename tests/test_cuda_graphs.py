"""Steps as CUDA graphs: the same bits as launched one by one, no graph where its launches would be others.

Streams and graphs are the simulator's stand-ins for CuPy's, which record launches with the arguments that they had.
"""

import weakref
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numba
import numpy as np
import pytest
from networks import network
from rulings import assert_same_bits

import fastmlp
from fastmlp.errors import ArgumentError
from fastmlp.kernels import backend as backends

if not numba.config.ENABLE_CUDASIM:
    pytest.skip("needs Numba's simulator: run with NUMBA_ENABLE_CUDASIM=1, as .ci/run does", allow_module_level=True)

from test_train import SAMPLES, Run, an_order, rule

from fastmlp.kernels.cuda import graphs, memory, simulated, steps
from fastmlp.kernels.cuda.graphs import MOST_KEPT, Graphs

pytestmark = pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid", "ignore:divide")


@pytest.fixture(scope="module")
def backend():
    return backends.load("cuda")


class Stream:
    """CuPy's, as far as a graph takes it; lists in `calls` what is done with it, its graphs and launches."""

    calls: ClassVar = []
    current = None

    def __init__(self, non_blocking):
        assert non_blocking, "else the default stream's work elsewhere in the process would break the recording"

    def __enter__(self):
        Stream.current = self

    def __exit__(self, *_):
        Stream.current = None

    def begin_capture(self):
        self.calls.append("begin")

    def end_capture(self):
        self.calls.append("end")
        return Graph()


class Graph:
    def launch(self):
        Stream.calls.append("graph")


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(graphs, "cupy", SimpleNamespace(cuda=SimpleNamespace(Stream=Stream)))
    monkeypatch.setattr(Stream, "calls", [])
    return Stream.calls


def launches(calls, name="launch"):
    calls.append(name if Stream.current is None else f"recorded {name}")


def nothing():
    return None


def test_a_step_is_launched_then_recorded_and_started_then_started(calls):
    steps = Graphs()
    for _ in range(4):
        steps.run("a", partial(launches, calls), nothing)
    assert calls == ["launch", "begin", "recorded launch", "end", "graph", "graph", "graph"]
    assert steps.started == 3


def test_every_kind_of_step_has_a_graph_of_its_own(calls):
    steps = Graphs()
    for key in "aabbaabb":
        steps.run(key, partial(launches, calls, key), nothing)
    recording = ["begin", "recorded {}", "end", "graph"]
    expected = [each.format(key) for key in "ab" for each in ["{}", *recording]]
    assert calls == [*expected, *["graph"] * 4]


def test_graphs_unused_for_longest_are_destroyed(calls):
    steps = Graphs()
    for key in [*range(MOST_KEPT)] * 2:
        steps.run(key, partial(launches, calls), nothing)
    kept = {key: weakref.ref(graph) for key, (graph, _) in steps._kept.items()}
    steps.run(0, partial(launches, calls), nothing)
    calls.clear()
    steps.run("new", partial(launches, calls), nothing)
    assert [key for key, graph in kept.items() if graph() is None] == [1]
    steps.run(0, partial(launches, calls), nothing)
    steps.run(1, partial(launches, calls), nothing)
    assert calls == ["launch", "graph", "launch"]


def test_what_launches_need_is_made_before_them_and_lives_as_long_as_their_graph(calls):
    steps, held = Graphs(), []

    class Needed:
        pass

    def ready():
        calls.append("ready")
        needed = Needed()
        held.append(weakref.ref(needed))
        return needed

    for _ in range(3):
        steps.run("a", partial(launches, calls), ready)
    assert calls == ["ready", "launch", "ready", "begin", "recorded launch", "end", "graph", "graph"]
    assert [each() is None for each in held] == [True, False]
    del steps
    assert held[1]() is None


def test_a_first_step_that_fails_is_not_taken_for_one_that_has_run(calls):
    steps = Graphs()

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        steps.run("a", fail, nothing)
    steps.run("a", partial(launches, calls), nothing)
    assert calls == ["launch"]


@pytest.mark.parametrize("place", ["launches", "begin_capture", "end_capture", "ready"])
def test_where_no_graph_can_be_made_steps_are_launched_and_one_warning_says_why(calls, monkeypatch, place):
    steps = Graphs()

    def fail(*_):
        calls.append("fails")
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    def launch():
        if place == "launches" and Stream.current is not None:
            fail()
        launches(calls)

    if place == "ready":
        steps.run("a", launch, nothing)
        with pytest.raises(RuntimeError, match="Unsupported"):
            steps.run("a", launch, fail)
        assert calls == ["launch", "fails"], "a step that is not ready is not made"
        return
    if place != "launches":
        monkeypatch.setattr(Stream, place, fail)
    steps.run("a", launch, nothing)
    with pytest.warns(RuntimeWarning, match=r"kernel by kernel.*RuntimeError: cudaErrorStreamCaptureUnsupported"):
        steps.run("a", launch, nothing)
    steps.run("a", launch, nothing)
    steps.run("b", launch, nothing)
    steps.run("b", launch, nothing)
    assert Stream.current is None
    assert [each for each in calls if each in ("launch", "graph")] == ["launch"] * 5
    assert calls.count("fails") == 1
    assert steps.started == 0


def test_a_recording_that_is_interrupted_ends(calls):
    steps = Graphs()
    steps.run("a", partial(launches, calls), nothing)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run("a", interrupt, nothing)
    assert calls == ["launch", "begin", "end"]
    assert Stream.current is None


def test_the_environment_says_no(calls, monkeypatch):
    steps = Graphs()
    for choice in ("on", "on", "off", "off", "on"):
        monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", choice)
        steps.run("a", partial(launches, calls), nothing)
    assert calls == ["launch", "begin", "recorded launch", "end", "graph", "launch", "launch", "graph"]
    monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", "no")
    with pytest.raises(ArgumentError, match="FASTMLP_CUDA_GRAPHS must be 'on' or 'off'; got 'no'"):
        steps.run("a", partial(launches, calls), nothing)


def test_the_stand_in_records_and_refuses_what_a_device_would(rng):
    stream, array, done = simulated.Stream(), memory.to_device(np.zeros(3)), []
    with stream:
        stream.begin_capture()
        simulated.submit(lambda: done.append(1))
        for forbidden in (
            lambda: memory.to_host(array, np.zeros(3)),
            lambda: memory.update(array, np.ones(3)),
            lambda: memory.empty(3, np.dtype(float)),
            lambda: memory.to_device(np.zeros(3)),
        ):
            with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                forbidden()
        graph = stream.end_capture()
    assert done == []
    graph.launch()
    graph.launch()
    assert done == [1, 1]


KINDS = [
    ("sgd", "mse", False, False, False),
    ("momentum", "half_mse", False, True, True),
    ("adam", "cross_entropy", True, True, False),
    ("adamw", "cross_entropy", False, False, True),
]


@pytest.mark.parametrize(("optimizer", "loss", "labels", "shuffled", "penalised"), KINDS)
def test_the_same_bits_as_launched_one_by_one(
    backend, dtype, canary, monkeypatch, optimizer, loss, labels, shuffled, penalised
):
    """Over ends of epochs, with more steps than the optimiser's numbers are brought for at a time."""
    assert steps.STEPS < 9
    net = network((3, 5, 2), ("gelu", "identity"), loss, dtype)
    order = an_order(np.random.default_rng(8), 4) if shuffled else None
    results, started = [], []
    for choice in ("on", "off"):
        monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", choice)
        run = Run(net, rule(optimizer, 0.1), np.random.default_rng(7), canary, labels)
        penalties = canary(9, np.float64, content=0) if penalised else None
        losses = run.steps(backend, order, 10, 10, 9, penalties)
        results.append((losses, run.parameters, run.state, *([penalties] if penalised else [])))
        started.append(run.workspace.steps.graphs.started)
    for mine, theirs in zip(*results, strict=True):
        assert_same_bits(mine, theirs)
    assert started == [7, 0], "two sizes of batches, each launched once"


def test_a_batch_of_all_rows_is_not_gathered(backend, canary):
    net = network((3, 5, 2), "tanh", "mse", np.float32)
    run = Run(net, rule("sgd"), np.random.default_rng(7), canary)
    run.steps(backend, None, 0, SAMPLES, 3)
    assert run.workspace.steps.graphs.started == 2
    with_order = Run(net, rule("sgd"), np.random.default_rng(7), canary)
    with_order.steps(backend, np.tile(np.arange(SAMPLES), 3), 0, SAMPLES, 3)
    assert_same_bits(run.parameters, with_order.parameters)


def trained(backend, net, choice, monkeypatch):
    """Calls on one workspace, of which each changes something that a graph must not have kept."""
    monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", choice)
    rng = np.random.default_rng(3)
    workspace = backend.Workspace(net, 5, True)
    parameters = memory.to_device(rng.normal(size=net.size).astype(net.dtype) / 8)
    state = memory.to_device(np.zeros((2, net.size), net.dtype))
    sets = [[memory.to_device(rng.normal(size=(9, columns)).astype(net.dtype)) for columns in (3, 2)] for _ in range(2)]
    orders = [memory.to_device(rng.permutation(9)) for _ in range(2)]
    optimizer, updates, found = rule("adam", 0.1), 0, []

    def call(rows=4, count=2, start=0, data=0, order=None, optimizer=optimizer, penalised=False):
        nonlocal updates
        losses = np.empty(count)
        penalties = np.empty(count) if penalised else None
        chosen = None if order is None else orders[order]
        backend.train(
            net, optimizer, parameters, state, updates, *sets[data], chosen, start, rows, losses, workspace, penalties
        )
        updates += count
        found.extend([losses, *([] if penalties is None else [penalties])])

    slower = fastmlp.kernels.network.replace(optimizer, learning_rate=optimizer.learning_rate / 2)
    plain, stronger = (fastmlp.kernels.network.replace(optimizer, l2=l2) for l2 in (0.0, 0.3))
    for options in (
        {}, {"start": 4, "count": 1}, {"optimizer": slower}, {"data": 1}, {"order": 0}, {"order": 1}, {"rows": 5},
        {"optimizer": plain}, {"penalised": True}, {"penalised": True, "optimizer": stronger},
    ):  # fmt: skip
        call(**options)
        call(**options)
    weights = np.empty(net.size, net.dtype)
    memory.to_host(parameters, weights)
    return [*found, weights], workspace.steps.graphs.started


def test_a_graph_serves_later_calls_and_none_that_it_does_not_fit(backend, dtype, monkeypatch):
    net = network((3, 4, 2), ("tanh", "identity"), "mse", dtype)
    mine, started = trained(backend, net, "on", monkeypatch)
    theirs, none = trained(backend, net, "off", monkeypatch)
    for one, other in zip(mine, theirs, strict=True):
        assert_same_bits(one, other)
    assert none == 0
    assert started >= 20


def test_an_update_that_fails_leaves_whole_steps(backend, monkeypatch):
    """A graph that the device cannot start: what was made before is counted, and the arrays are as after that."""
    net = network((3, 4, 2), ("tanh", "identity"), "mse", np.float64)
    runs = [Run(net, rule("adam"), np.random.default_rng(7)) for _ in range(2)]
    left = [3]
    whole = simulated.Graph.launch

    def launch(self):
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError("out of memory")
        whole(self)

    monkeypatch.setattr(simulated.Graph, "launch", launch)
    with pytest.raises(MemoryError) as raised:
        runs[0].steps(backend, None, 0, SAMPLES, 9)
    assert raised.value.steps == 4


def test_a_network_trains_by_graphs_and_its_plan_says_so(rng, monkeypatch):
    x, t = rng.normal(size=(11, 3)), rng.normal(size=(11, 2))
    nets = []
    for choice, said in (
        ("off", "launches each, started one by one: FASTMLP_CUDA_GRAPHS=off\n"),
        ("on", "launches each, from the second step of a size on started as one CUDA graph\n"),
    ):
        monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", choice)
        net = fastmlp.MLP((3, 5, 2), "tanh", optimizer="adam", dtype="float64", backend="cuda")
        net.fit(x, t, epochs=4, batch_size=4)
        net.learning_rate = 0.5
        for _ in range(3):
            net.train_step(x, t)
        assert said in str(net.plan(4))
        nets.append(net)
    assert_same_bits(nets[0].parameters, nets[1].parameters)
    assert_same_bits(nets[0].optimizer_state, nets[1].optimizer_state)
    assert nets[1]._training.steps.graphs.started > 0
