"""The benchmark: calls take turns, statistics, wrong numbers are caught, the report is what it says."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastmlp import MLP
from fastmlp.bench import contest, processes, products, report, run, timing, training, workloads
from fastmlp.bench.contest import Peaks, Setting, Side
from fastmlp.bench.energy import Meter, Reading
from fastmlp.bench.peers import PEERS, Peer
from fastmlp.bench.peers import load as load_peers
from fastmlp.bench.timing import Spread, Timing, interleave
from fastmlp.bench.training import Trial
from fastmlp.bench.workloads import LARGE, PRODUCTS, SIZES, STANDARD, SUITES, TRAINING, Workload
from fastmlp.errors import ArgumentError, FastMLPError
from fastmlp.kernels import backend as backends
from fastmlp.kernels import cores
from fastmlp.kernels.contract import OPERATIONS, forward_flops, step_flops
from fastmlp.kernels.cores import get_num_threads

ROOT = Path(__file__).resolve().parents[1]
BY_NAME = {workload.name: workload for suite in SUITES.values() for workload in suite}
NETWORKS = [workload for workload in BY_NAME.values() if isinstance(workload, Workload)]
ARTICLE, DIGITS, DEEP, GRADIENT = (BY_NAME[name] for name in ("article", "digits", "deep", "gradient"))


def quickly(backend="numpy", threads=1, **settings):
    return Setting(backend, threads, budget_s=0, **settings)


def rows(*names, **settings):
    chosen = workloads.choose(list(SUITES), names, ())
    return list(run.rows(chosen, quickly(**settings)))


def side_of(row, role):
    (found,) = (side for side in row["sides"] if side["role"] == role)
    return found


# Timing


def test_calls_take_turns_after_one_warm_up_round(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    calls = []

    def call(name, wall_s):
        calls.append(name)
        clock.spend(int(wall_s * 1e9), 0)

    interleave([lambda: call("A", 1), lambda: call("B", 0.002)], budget_s=0, least=4)
    assert "".join(calls) == "AB" + 4 * "ABBB", "a long call is warm, a short one is made until it is"


def test_a_large_budget_ends_at_the_most_and_a_spent_one_at_the_least():
    assert len(interleave([lambda: None], budget_s=1e9, least=2, most=5)[0].wall) == 5
    assert len(interleave([lambda: None], budget_s=-1, least=3, most=5)[0].wall) == 3


class Clock:
    """Stands in for the module time: a call moves it by hand, a sleep by itself."""

    def __init__(self, spinning_s=0.0):
        self.wall = self.cores = 0
        self.spinning = int(spinning_s * 1e9)
        self.left = 0
        self.pauses = []

    def spend(self, wall, cores):
        """A call; threads of it spin on afterwards."""
        self.wall += wall
        self.cores += cores
        self.left = self.spinning

    def perf_counter_ns(self):
        return self.wall

    def perf_counter(self):
        return self.wall * 1e-9

    def process_time_ns(self):
        return self.cores

    def sleep(self, seconds):
        self.pauses.append(seconds)
        nanoseconds = int(seconds * 1e9)
        self.wall += nanoseconds
        busy = min(self.left, nanoseconds)
        self.cores += busy
        self.left -= busy


def test_wall_and_core_time_are_the_calls_own_and_the_pause_is_not_counted(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    durations = iter([9, 1, 2, 3, 4, 10])  # the first is the warm-up
    slow, fast = interleave(
        [lambda: clock.spend(next(durations) * 10**9, 10**9), lambda: clock.spend(10**6, 2 * 10**6)],
        budget_s=0,
        least=5,
    )
    assert slow.wall == pytest.approx([1, 2, 3, 4, 10])
    assert slow.cores == pytest.approx([1] * 5)
    assert fast.wall == pytest.approx([1e-3] * 5)
    assert fast.cores == pytest.approx([2e-3] * 5)
    assert clock.pauses == [timing.REST_S] * 10
    assert timing.ratio(slow.wall, fast.wall) == Spread(pytest.approx(3e3), pytest.approx(2e3), 5)


@pytest.mark.parametrize(("spinning_s", "rests"), [(0.0, 1), (0.025, 4), (60.0, timing.MOST_RESTS)])
def test_a_call_waits_until_the_threads_of_the_last_one_are_at_rest(monkeypatch, spinning_s, rests):
    clock = Clock(spinning_s)
    monkeypatch.setattr(timing, "time", clock)
    clock.spend(1, 1)
    timing.rest()
    assert len(clock.pauses) == rests


def test_the_budget_is_kept(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    (result,) = interleave([lambda: clock.spend(10**9, 0)], budget_s=10, least=2, most=100)
    assert len(result.wall) == 10


@pytest.mark.parametrize("call_us", [1, 40, 700, 5000])
def test_a_short_call_is_repeated_to_a_millisecond(monkeypatch, call_us):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    sample, count = timing.repeated(lambda: clock.spend(call_us * 1000, 0))
    assert call_us * count >= 1000
    assert count == 1 or call_us * count < 4000
    before = clock.wall
    sample()
    assert clock.wall - before == call_us * count * 1000


def test_the_fastest_way_is_taken(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    ways = {f"{us} us": lambda us=us: clock.spend(us * 1000, 0) for us in (30, 10, 20)}
    assert timing.fastest(ways) == "10 us"
    assert timing.fastest({"only": lambda: pytest.fail("one way needs no race")}) == "only"


def test_spread_against_numpy():
    samples = np.random.default_rng(0).exponential(size=31)
    spread = Spread.of(samples.tolist())
    low, middle, high = np.percentile(samples, [25, 50, 75])
    assert spread.median == pytest.approx(middle)
    assert spread.iqr == pytest.approx(high - low)
    assert spread.n == 31
    assert spread.scaled(2) == Spread(2 * spread.median, 2 * spread.iqr, 31)


@pytest.mark.parametrize(("iqr", "noisy"), [(0.19, False), (0.21, True)])
def test_a_wide_spread_is_noisy(iqr, noisy):
    assert Spread(1.0, iqr, 9).noisy is noisy


# Workloads


@pytest.mark.parametrize(
    "workload", [workload for workload in NETWORKS if workload.samples <= 25600], ids=lambda workload: workload.name
)
def test_data_fit_their_workload_and_are_no_zeros(workload):
    data = workload.make(workload)
    assert data.x.shape == (workload.samples, workload.widths[0])
    assert data.x.dtype == np.float32
    assert len(data.t) == workload.samples
    assert data.t.ndim == 1 or data.t.shape[1] == workload.widths[-1]
    for array in (data.x, data.t):
        assert np.isfinite(array).all()
        assert np.count_nonzero(array) > array.size / 3
        assert array.std() > 0.1 or array.size == 1
    assert (data.x_test is not None) == bool(workload.study)
    again = workload.make(workload)
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True) if a is not None)


def test_data_in_another_dtype_keep_their_labels():
    data = DIGITS.make(DIGITS).cast("float64")
    assert {array.dtype.name for array in data} == {"float64", "int64"}


def test_the_default_run_holds_what_the_project_promises():
    assert len(BY_NAME) == sum(map(len, SUITES.values()))
    assert (ARTICLE.widths, ARTICLE.batch_size, ARTICLE.epochs, ARTICLE.steps) == ((10, 5, 2), 100, 1000, 1000)
    assert (DIGITS.widths, DIGITS.optimizer, DIGITS.loss) == ((64, 128, 10), "adam", "cross_entropy")
    assert (DEEP.widths, DEEP.optimizer, DEEP.batch_size) == ((64, 64, 64, 64, 1), "sgd", 128)
    default = {workload.name for _, workload in workloads.choose(["train"], (), (workloads.QUICK, STANDARD))}
    assert {f"width-{width}" for width in (16, 32, 64, 128, 256, 512, 1024)} <= default
    assert {"article", "digits", "regression", "deep"} <= {w.name for w in TRAINING if w.tier == workloads.QUICK}
    assert {workload.name for workload in TRAINING if workload.tier == LARGE} == {"large-1024", "large-4096"}


def test_the_suites_hold_every_row_of_the_goals():
    networks = {(w.widths, w.batch_size) for w in TRAINING}
    assert networks >= {
        ((4, 32, 16, 4), 10_000),
        ((24, 8, 2), 200),
        ((784, 512, 512, 10), 256),
        ((1024,) * 5, 1024),
        ((4096,) * 3, 512),
    }
    assert (GRADIENT.call, GRADIENT.dtype, GRADIENT.activation) == ("gradients", "float64", "tanh")
    assert {p.n for p in PRODUCTS if p.n == p.k == p.m} == {64, 128, 256, 512, 1024, 2048}
    assert {(w.widths[0], w.batch_size) for w in SIZES} == {
        (width, n) for width in (45, 46, 100, 257, 1000) for n in (1, 7, 33, 1000)
    }
    assert {w.batch_size for w in SUITES["infer"]} == {1, 64, 4096}


def test_the_products_of_a_layer_do_the_same_work():
    forward, dx, dw = (BY_NAME[f"512x4096x4096{form}"] for form in ("", " dx", " dw"))
    assert {p.n * p.k * p.m for p in (forward, dx, dw)} == {512 * 4096 * 4096}
    assert (dw.case, dx.case) == ("a.T @ b, 4096x512x4096", "a @ b.T, 512x4096x4096")
    assert [workloads.rounded_up(size) for size in (1, 16, 45, 1000)] == [16, 16, 48, 1008]


def test_batches_and_names():
    assert DIGITS.batches(300) == [128, 128, 44]
    assert DIGITS.batches(256) == [128, 128]
    assert DEEP.case == "64x4-1 b128"
    assert replace(DEEP, widths=(10, 5, 2)).case == "10-5-2 b128"


# Agreement


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "workload",
    [w for w in TRAINING if w.tier != LARGE and w.call == "fit"],
    ids=lambda workload: workload.name,
)
def test_the_cpu_backend_agrees_on_every_workload(workload, dtype):
    trial = Trial(workload, workload.make(workload), dtype)
    verdict, first_call_s = training.agree(trial, "cpu")
    assert verdict["agree"], verdict
    assert verdict["steps"] >= training.AGREEMENT_STEPS
    assert first_call_s > 0


@pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")
def test_a_row_in_bfloat16_is_held_against_the_peak_of_its_arithmetic():
    setting = Setting("cpu", dtype="bfloat16", budget_s=0.01)
    row = training.train_row(DIGITS, setting)
    contest.hold_against([row], setting.peaks)
    reference, backend = (side for side in row["sides"] if side["role"] in ("reference", "backend"))
    assert row["dtype"] == "bfloat16"
    assert backend["agreement"]["agree"], backend
    assert reference["value"] is not None
    assert set(setting.peaks.rates) == {("float32", 1)}
    assert 0 < backend["percent_of_peak"] <= 100


@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.5), ("float64", 0.0), ("bfloat16", 0.5)])
@pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")
def test_the_reference_agrees_with_itself(dtype, most):
    verdict, _ = training.agree(Trial(DIGITS, DIGITS.make(DIGITS), dtype), "numpy")
    assert verdict["agree"]
    assert verdict["error_over_allowed"] <= most


class Wrong:
    """MLP in which the backend "wrong" is the reference with one fault."""

    def __init__(self, fault):
        self.fault = fault

    def __call__(self, widths, *, backend, learning_rate, **settings):
        if backend != "wrong":
            return MLP(widths, backend=backend, learning_rate=learning_rate, **settings)
        if self.fault == "learning rate":
            learning_rate *= 1.001
        net = MLP(widths, backend="numpy", learning_rate=learning_rate, **settings)
        fit = net.fit

        def faulty_fit(*args, **kwargs):
            history = fit(*args, **kwargs)
            if self.fault == "one weight":
                net.weights[-1][0, 0] += 1e-5
            if self.fault == "one bias":
                net.biases[0][-1] += 1e-5
            if self.fault == "nan":
                net.weights[0][0, 0] = np.nan
            if self.fault == "loss":
                history.loss[-1] *= 1.0001
            return history

        net.fit = faulty_fit
        return net


@pytest.fixture
def wrong(monkeypatch):
    """A backend "wrong" that is the reference with one fault."""

    def install(fault):
        monkeypatch.setattr(training, "MLP", Wrong(fault))
        load = backends.load
        monkeypatch.setattr(backends, "load", lambda name: load("numpy" if name == "wrong" else name))

    return install


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["article", "digits", "deep"])
@pytest.mark.parametrize("fault", ["learning rate", "one weight", "one bias", "nan", "loss"])
def test_a_wrong_backend_is_caught_and_not_timed(wrong, name, fault, dtype):
    wrong(fault)
    setting = quickly("wrong", dtype=dtype)
    (row,) = run.rows(workloads.choose(["train"], [name], ()), setting)
    assert not side_of(row, "backend")["agreement"]["agree"]
    assert not run.right(row)
    assert {side["value"] for side in row["sides"]} == {None}
    document = report.new_document(setting, ["train"], quick=True)
    document["rows"].append(row)
    report.finish(document, setting)
    assert "WRONG" in show(document, 120)
    assert "was not timed" in report.markdown(document)
    json.dumps(document, allow_nan=False)


def test_the_same_wrapper_without_a_fault_agrees(wrong):
    wrong(None)
    assert training.agree(Trial(DIGITS, DIGITS.make(DIGITS)), "wrong")[0]["agree"]


def test_an_error_in_float64_is_not_excused_by_that_of_float32():
    single, double = [np.array([1.0 + 1e-6])], [np.array([1.0])]
    assert contest.judge("float32", single, double, [np.array([1.0 + 1e-6])])["agree"]
    assert contest.judge("float64", single, double, [np.array([1.0 + 1e-14])])["error_over_allowed"] < 3
    assert not contest.judge("float64", single, double, [np.array([1.0 + 1e-10])])["agree"]


def test_a_peer_is_judged_by_the_way_from_its_start():
    start, double = [np.array([100.0])], [np.array([101.0])]
    assert contest.judge_peer(start, double, [np.array([101.01])])["agree"]
    assert not contest.judge_peer(start, double, [np.array([101.03])])["agree"]
    assert contest.judge_peer(None, double, [np.array([101.03])])["agree"]
    assert contest.judge_peer(None, double, [np.array([np.nan])]) == {"agree": False, "error_over_allowed": None}


# Rows


class Counted(Meter):
    """A meter whose every window is two joules."""

    def __init__(self):
        self.packages, self.reason = [], None

    def _settle(self, reading, before, after):
        reading.source, reading.joules, reading.detail = "counter", 2.0, "made up"


def known_timings(calls, budget_s):
    """Every side takes about one second a call and two cores, but the last half a second and one core."""
    slow = Timing([1.0, 0.7, 1.3], [2.0, 2.0, 2.0])
    return [*[slow] * (len(calls) - 1), Timing([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])]


class Plain(Peer):
    """A peer that is this package's reference, or is off by a factor."""

    name, package, cure = "plain", "numpy", "plain"

    def __init__(self, threads=1, factor=1.0):
        super().__init__(threads)
        self.factor = factor

    def trainers(self, workload, weights, biases, data):
        return {"right": lambda: PlainTrainer(workload, weights, biases, data, self.factor)}

    def gradients(self, workload, weights, biases, data):
        net = filled(workload, weights, biases)

        def gradients():
            _, dw, db = net.gradients(data.x, data.t)
            return [self.factor * g for g in (*dw, *db)]

        return {"right": gradients}

    def predictions(self, workload, weights, biases, x):
        net = filled(workload, weights, biases)
        return {"right": lambda: net.predict(x), "off": lambda: self.factor * net.predict(x)}

    def products(self, a, b, transpose_a, transpose_b):
        return {"right": lambda: self.factor * (a.T if transpose_a else a) @ (b.T if transpose_b else b)}


def filled(workload, weights, biases, factor=1.0):
    net = replace(workload, learning_rate=factor * workload.learning_rate)
    net = training.new_network(net, "numpy", weights[0].dtype.name)
    for mine, given in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
        mine[...] = given
    return net


class PlainTrainer:
    def __init__(self, workload, weights, biases, data, factor):
        self.workload, self.data, self.net = workload, data, filled(workload, weights, biases, factor)

    def fit(self, epochs):
        n = self.workload.batch_size
        self.net.fit(self.data.x, self.data.t, epochs=epochs, batch_size=n, shuffle=False, progress=False)

    def parameters(self):
        return [*self.net.weights, *self.net.biases]


@pytest.fixture(scope="module")
def row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "interleave", known_timings)
        (made,) = rows("digits", meter=Counted(), peers=(Plain(),))
    return made


def test_the_figures_of_a_row(row):
    samples, steps = 8 * 1442, 8 * 12
    reference, peer, backend = (side_of(row, role) for role in ("reference", "peer", "backend"))
    assert reference["ratio"] == {"median": pytest.approx(2.0), "iqr": pytest.approx(0.6), "n": 3}
    assert reference["value"] == {
        "median": pytest.approx(1e6 / steps),
        "iqr": pytest.approx(0.3e6 / steps),
        "n": 3,
    }
    assert backend["samples_per_s"] == pytest.approx(samples / 0.5)
    assert reference["core_us_per_sample"]["median"] == pytest.approx(2e6 / samples)
    flops = 8 * (11 * step_flops((64, 128, 10), 128) + step_flops((64, 128, 10), 34))
    assert backend["gflops"] == pytest.approx(flops / 0.5 / 1e9)
    assert reference["energy"]["source"] == "counter"
    assert reference["energy"]["uj_per_sample"] == pytest.approx(2e6 / samples)  # half a second is one call of either
    assert (peer["side"], peer["way"]) == ("plain", "right")
    assert peer["agreement"]["agree"]
    assert row["result"]["measure"] == "test accuracy"
    assert row["result"]["reference"] >= 0.96
    assert row["result"]["backend"] == row["result"]["reference"]


def test_the_digits_are_learnt_alike_on_the_cpu_backend():
    (made,) = rows("digits", backend="cpu")
    result = made["result"]
    assert result["backend"] >= 0.96
    assert abs(result["backend"] - result["reference"]) <= 0.005


@pytest.mark.parametrize("name", ["article", "gradient", "deep-b1", "square-64", "128x784x256 dw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_suite_holds_both_backends_and_a_peer_to_the_numbers(monkeypatch, name, dtype):
    monkeypatch.setattr(contest, "interleave", known_timings)
    (made,) = rows(name, backend="cpu", threads=2, dtype=dtype, peers=(Plain(2),))
    assert run.right(made)
    assert made["dtype"] == ("float64" if name == "gradient" else dtype)
    assert [side["role"] for side in made["sides"]][:3] == ["reference", "peer", "backend"]
    assert all(side["gflops"] > 0 for side in made["sides"])
    assert [side["threads"] for side in made["sides"] if side["role"] == "variant"] == [2 if name == "gradient" else 1]
    (off,) = rows(name, backend="numpy", dtype=dtype, peers=(Plain(2, factor=1.1),))
    assert not run.right(off)
    assert side_of(off, "peer")["value"] is None
    assert side_of(off, "backend")["value"] is not None


def test_the_work_of_each_suite_is_that_of_the_contract(monkeypatch):
    monkeypatch.setattr(contest, "interleave", known_timings)
    for module in ("contest", "training"):
        monkeypatch.setattr(f"fastmlp.bench.{module}.repeated", lambda call: (call, 10))
    for name, flops in {
        "deep-b1": forward_flops(DEEP.widths, 1),
        "square-64": OPERATIONS["matmul"].flops(64, 64, 64),
        "gradient": step_flops((24, 8, 2), 200),
    }.items():
        (made,) = rows(name)
        assert made["sides"][-1]["gflops"] == pytest.approx(10 * flops / 0.5 * 1e-9)


def test_one_thread_stands_beside_all(monkeypatch):
    threads = []

    def spy(calls, budget_s):
        for call in calls:
            call()
        return known_timings(calls, budget_s)

    module = backends.load("cpu")
    monkeypatch.setattr(contest, "interleave", spy)
    monkeypatch.setattr(module, "matmul", lambda *_: threads.append(get_num_threads()))
    monkeypatch.setattr(products, "judge", lambda *_: {"agree": True, "error_over_allowed": 0.0})
    monkeypatch.setattr(contest, "repeated", lambda call: (call, 1))
    monkeypatch.setattr(cores, "_from_environment", lambda: 3)
    (made,) = rows("square-64", backend="cpu", threads=3)
    assert threads[-2:] == [3, 1]
    assert get_num_threads() == 3
    assert [(side["side"], side["threads"]) for side in made["sides"][1:]] == [("cpu", 3), ("cpu, 1 thread", 1)]
    assert len(rows("square-64", backend="cpu", threads=1)[0]["sides"]) == 2


def test_a_size_stands_beside_its_rounder_neighbours(monkeypatch):
    monkeypatch.setattr(contest, "interleave", known_timings)
    (made,) = rows("w45-b7")
    assert [side["side"] for side in made["sides"]] == ["numpy", "width rounded up", "batch rounded up"]
    assert made["sides"][2]["ratio"]["median"] == pytest.approx(
        0.5 * workloads.sized(45, 7).steps / workloads.sized(45, 16).steps
    )
    document = report.new_document(quickly(), ["sizes"], quick=True)
    made["sides"][2]["ratio"]["median"] = 0.25
    document["rows"].append(made)
    (line,) = (line for line in report.markdown(document).splitlines() if line.startswith("| w45-b7 |"))
    assert "| 4.00 |" in line
    for workload in SIZES:
        work = workload.steps * step_flops(workload.widths, workload.batch_size)
        assert work >= workloads.SIZE_FLOPS


def test_a_cold_start_is_a_process_of_its_own_with_an_empty_cache(monkeypatch):
    programs = []

    def fake(program, cache):
        programs.append((program, Path(cache).name))
        return "1024"

    monkeypatch.setattr(processes, "_run", fake)
    monkeypatch.setattr(timing, "LONG_S", -1)  # as processes take
    (made,) = rows("first-step", backend="cpu", peers=(Plain(),))
    assert [side["side"] for side in made["sides"]] == ["numpy", "plain", "cpu", "cpu, empty cache"]
    assert made["unit"] == "s"
    per_round = [programs[index : index + 4] for index in range(0, len(programs), 4)]
    assert len(per_round) == 1 + processes.ROUNDS
    for index, entries in enumerate(per_round):
        assert [cache for _, cache in entries] == ["warm", "warm", "warm", f"empty-{index}"]
    assert "peers.load(['plain'], 1)" in per_round[0][1][0]


def test_memory_is_the_growth_over_the_imports(monkeypatch):
    monkeypatch.setattr(processes, "_run", lambda program, cache: "2048" if "'numpy'" in program else "1024")
    (made,) = rows("peak", backend="cpu")
    assert made["unit"] == "MiB"
    assert [side["value"]["median"] for side in made["sides"]] == [2.0, 1.0]
    assert made["sides"][0]["ratio"]["median"] == 2.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak of memory")
def test_the_programs_of_the_processes_run(monkeypatch, tmp_path):
    small = Workload("small", (512, 1024, 8), batch_size=64)
    for suite in ("first_step", "memory"):
        start, build = processes._parts(small, quickly(), "numpy", False)
        if suite == "first_step":
            assert processes._run(processes._WHOLE.format(start=start, build=build), str(tmp_path)) == ""
        else:
            program = processes._PEAK.format(start=start, build=build, steps=2)
            grown_kib = int(processes._run(program, str(tmp_path)))
            assert grown_kib > 2048  # the weights alone
            nothing = processes._PEAK.format(start="import numpy", build="step = list", steps=2)
            assert int(processes._run(nothing, str(tmp_path))) < 1024
    with pytest.raises(FastMLPError, match="ZeroDivisionError"):
        processes._run("1 / 0", str(tmp_path))


def test_energy_is_unavailable_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(contest, "interleave", known_timings)
    (made,) = rows("article", meter=Meter(tmp_path / "absent"))
    energy = side_of(made, "backend")["energy"]
    assert (energy["source"], energy["uj_per_sample"]) == ("unavailable", None)
    assert energy["detail"] == Meter(tmp_path / "absent").reason
    assert Reading().joules is None


def test_stages_are_told(monkeypatch):
    monkeypatch.setattr(contest, "interleave", known_timings)
    stages = []
    rows("article", "regression", tell=stages.append)
    assert [stage.partition(":")[0] for stage in stages] == ["article"] * 2 + ["regression"] * 3


def test_a_workload_is_chosen_by_name_in_any_suite_or_by_tier():
    assert [suite for suite, _ in workloads.choose(["train", "infer"], ["deep-b1", "deep"], ())] == ["train", "infer"]
    assert {w.tier for _, w in workloads.choose(["train"], (), [LARGE])} == {LARGE}
    with pytest.raises(ArgumentError, match="Did you mean 'train'"):
        workloads.choose(["trian"], (), ())
    with pytest.raises(ArgumentError, match="--workload must be one of"):
        workloads.choose(["train"], ["deep-b1"], ())


# The real peers, where they are installed

SMALL = (
    replace(DIGITS, samples=300, study=0, shuffle=False),
    replace(BY_NAME["full-batch"], samples=100, batch_size=100),
    replace(ARTICLE, epochs=2),
)


@pytest.fixture(scope="module", params=["torch", "torch-compile", "jax", "onnxruntime"])
def peer(request):
    cure = PEERS[request.param].cure.split()
    for package in cure:
        pytest.importorskip(package)
    (made,) = load_peers([request.param], 2)
    assert made.version
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workload", SMALL, ids=lambda workload: workload.name)
def test_a_peer_trains_the_same_network(monkeypatch, peer, workload, dtype):
    monkeypatch.setattr(contest, "interleave", known_timings)
    entries = training._peers(Trial(workload, workload.make(workload).cast(dtype), dtype), quickly(peers=(peer,)))
    assert len(entries) == peer.trains
    for entry in entries:
        assert entry.agreement["agree"], entry.agreement
        entry.call()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_peer_does_the_work_of_the_other_suites(monkeypatch, peer, dtype):
    monkeypatch.setattr(contest, "interleave", known_timings)
    for name in ("gradient", "deep-b1", "128x784x256", "128x784x256 dx", "128x784x256 dw"):
        (made,) = rows(name, dtype=dtype, peers=(peer,))
        assert run.right(made), made


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system tells no peak of memory")
def test_a_peer_runs_in_a_process_of_its_own(peer, tmp_path):
    if peer.trains:
        start, build = processes._parts(SMALL[1], quickly(), peer.name, True)
        assert processes._run(processes._WHOLE.format(start=start, build=build), str(tmp_path)) == ""
        assert int(processes._run(processes._PEAK.format(start=start, build=build, steps=2), str(tmp_path))) > 0


# The peak


class Probed:
    """A backend whose peak is what the test says, probe by probe."""

    def __init__(self, *rates):
        self.rates, self.sizes = iter(rates), []

    def ceilings(self, dtype, working_set, threads):
        self.sizes.append(working_set)
        return next(self.rates), 1.0


def test_the_best_probe_of_the_run_is_the_peak():
    module = Probed(3e9, 5e9, *[4e9] * 20)
    peaks = Peaks(module)
    assert [peaks.probe("float32", 1) for _ in range(20)] == [True] * contest.PROBES + [False] * (20 - contest.PROBES)
    assert peaks.rates == {("float32", 1): 5e9}
    assert len(set(module.sizes)) == len(module.sizes) == contest.PROBES


@pytest.mark.parametrize(
    ("probes", "percent"), [([2e9] * 9, 50.0), ([0.99e9] * 9, None), ([0.5e9, 0.5e9, 4e9, *[1e9] * 6], 25.0)]
)
def test_a_figure_beyond_the_peak_is_an_error_and_not_shown(monkeypatch, probes, percent):
    monkeypatch.setattr(contest, "interleave", known_timings)
    setting = quickly(meter=Meter(Path("absent")))
    setting.__dict__["peaks"] = Peaks(Probed(*probes))
    row = {"suite": "kernels", "workload": "made up", "case": "a @ b", "unit": "µs/call", "dtype": "float32"}
    sides = [Side("numpy", "reference", list, 1), Side("cpu", "backend", list, 1)]
    contest.contest(row, sides, setting, flops=0.5e9)
    document = report.new_document(setting, ["kernels"], quick=True)
    document["rows"].append(row)
    report.finish(document, setting)
    backend = side_of(row, "backend")
    assert backend["percent_of_peak"] == (None if percent is None else pytest.approx(percent))
    assert run.right(row) == (percent is not None)
    assert ("ERROR" in show(document, 120)) == (percent is None)
    assert ("would run at 101% of the peak" in report.markdown(document)) == (percent is None)
    assert (backend["gflops"] is None) == (percent is None)


# Report


@pytest.fixture
def document(row):
    setting = quickly("cpu", threads=2, peers=(Plain(),))
    made = report.new_document(setting, ["train"], quick=False)
    wide = deepcopy(row) | {"workload": "width-1024", "case": "784-256-128-10 b128"}
    side_of(wide, "backend")["first_call_s"] = 12.34
    plain = deepcopy(row) | {"result": None}
    made["rows"] += [deepcopy(row), wide, plain]
    made["complete"] = True
    made["peaks"] = [{"dtype": "float32", "threads": 2, "gflops": 500.0}]
    return made


def show(document, width):
    console = Console(file=StringIO(), width=width)
    console.print(report.table(document, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_terminal(document, width):
    text = show(document, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    line = next(line for line in text.splitlines() if line.startswith("width-1024"))
    for word in ("784-256-128-10 b128", "~10,417", "5,208", "~2.00"):
        assert word in line
    for word, least in (("12.34", 120), ("~2.00 numpy", 80), ("23,072", 120), ("173 / 43.3", 200)):
        assert word in line or width < least


def test_the_table_of_wide_figures_fits_too(document):
    for side in document["rows"][0]["sides"]:
        side["value"] = {"median": 34_567.8, "iqr": 9000.0, "n": 9}
        side |= {"samples_per_s": 98_765_432.1, "gflops": 2345.6}
    for width in (80, 120):
        text = show(document, width)
        assert max(map(len, text.splitlines())) <= width
        assert "~34,568" in text
        assert "…" not in text


def test_json_round_trip(document, tmp_path):
    path = tmp_path / "report.json"
    report.save(document, path)
    assert report.load(path) == document


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a readable"),
        ("[1]", "got 'list'"),
        ('{"schema": 1}', "got 1"),
        ('{"schema": 2}', "missing are"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, text, word):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=word):
        report.load(path)
    with pytest.raises(ArgumentError, match="not a readable"):
        report.load(tmp_path / "absent.json")


def test_a_report_that_cannot_be_written_says_so(document, tmp_path):
    with pytest.raises(ArgumentError, match="cannot be written"):
        report.save(document, tmp_path / "absent" / "report.json")


def test_the_document_is_the_documented_one(document):
    """Every key stands in bench/README.md, and every key of its first table is there."""
    text = (ROOT / "bench" / "README.md").read_text().split("## The document")[1]
    documented = set(re.findall(r"`(\w+)`", text))

    def keys(value):
        if isinstance(value, dict):
            yield from value
            for name in value.keys() - {"software", "caches_kib"}:
                yield from keys(value[name])
        if isinstance(value, list):
            for item in value:
                yield from keys(item)

    assert set(keys(document)) <= documented
    tops = {name for line in re.findall(r"^\| (`.*?) \|", text.split("A row:")[0], re.M) for name in line.split(", ")}
    assert {name.strip("`") for name in tops} == set(document)


def test_markdown(document):
    lines = report.markdown(document).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(document["rows"])
    assert len({line.count("|") for line in table}) == 1
    assert "| digits | 64-128-10 b128 | ~10,417 | ~10,417 | 5,208 | ~2.00 | ~2.00 numpy |" in table[2]
    text = "\n".join(lines)
    assert "test accuracy after 80 epochs" in text
    assert "~ marks a noisy figure" in text
    assert document["energy"]["detail"] in text
    assert "Interrupted" not in text
    assert "Interrupted" in report.markdown(document | {"complete": False})


def test_a_peer_without_a_part_is_told(document):
    assert "Took no part" not in report.markdown(document)
    document["peers"].append({"name": "onnxruntime", "version": "1"})
    assert "Took no part, having nothing that does what was timed: onnxruntime." in report.markdown(document)
    assert "| onnxruntime" not in report.markdown(document)


def test_the_mean_gain_of_the_products_is_told(document):
    document["suites"].append("kernels")
    for index, gain in enumerate((2.0, 8.0)):
        product = deepcopy(document["rows"][0]) | {"suite": "kernels", "workload": f"product-{index}", "result": None}
        side_of(product, "reference")["ratio"]["median"] = gain
        side_of(product, "peer")["ratio"]["median"] = gain + 1
        document["rows"].append(product)
    text = report.markdown(document)
    assert "kernels: 4.00 times as fast as the best other side, geometric mean of 2 rows." in text
    assert len(re.findall(r"^\| workload ", text, re.M)) == 2


def test_a_busy_machine_is_told(document):
    cores = document["machine"]["usable_cores"]
    assert "was busy with other work" in report.markdown(document | {"load": 0.5 * cores})
    for load in (0.1 * cores, None):
        assert "was busy" not in report.markdown(document | {"load": load})


def test_a_forced_blas_kernel_is_told(document):
    forced = document | {"blas": document["blas"] | {"forced": "OPENBLAS_CORETYPE=Haswell"}}
    assert "OPENBLAS_CORETYPE=Haswell is set" in report.markdown(forced)
    free = document | {"blas": document["blas"] | {"forced": ""}}
    assert "is set in the environment" not in report.markdown(free)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24_300.4, "24,300"),
        (186.2, "186"),
        (18.54, "18.5"),
        (99.96, "100"),
        (0.9996, "1.00"),
        (0.94, "0.940"),
        (0.0123, "0.0123"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert report._number(value) == text
