"""Rows: what was timed becomes the figures of every suite, and none above the peak."""

from pathlib import Path

import pytest
from benching import DEEP, Plain, digits_row, finished, known_timings, quickly, rows, show, side_of

from fastmlp import energy
from fastmlp.bench import contest, joules, processes, products, report, run, timing, workloads
from fastmlp.bench.contest import Peaks, Side
from fastmlp.bench.workloads import LARGE, SIZES, Workload
from fastmlp.energy import Meter
from fastmlp.errors import ArgumentError, FastMLPError
from fastmlp.kernels import backend as backends
from fastmlp.kernels import cores
from fastmlp.kernels.ceilings import Ceilings
from fastmlp.kernels.contract import OPERATIONS, forward_flops, step_flops
from fastmlp.kernels.cores import get_num_threads


@pytest.fixture
def row():
    return digits_row()


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
    monkeypatch.setattr("fastmlp.kernels.ops._direct", lambda operation, backend: None)
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
    made["sides"][2]["ratio"]["median"] = 0.25
    whole = finished(quickly(), "sizes", made)
    (line,) = (line for line in report.markdown(whole).splitlines() if line.startswith("| w45-b7 |"))
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
        caches = ["warm", "warm", "warm", f"empty-{index}"]
        goes_back = index > 0 and index % 2 == 0  # the first round is no turn yet
        assert [cache for _, cache in entries] == (caches[::-1] if goes_back else caches)
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


class Counted(Meter):
    """A meter of which every window takes 3 s, three calls, 30 J and 4 core-seconds, with 2 W at rest."""

    def __init__(self, joules=30.0):
        super().__init__(sysfs=Path("absent"))
        self.counters = [energy.Counter("made up", lambda: 0, 1e-6, 1e-3)]
        self.reason, self.joules, self.windows = None, joules, []

    def rest(self, seconds=0):
        self.idle_watts = 2.0

    def per_call(self, call, window_s):
        self.windows.append(window_s)
        call()
        return energy.Reading("counter", self.joules, 3.0, 4.0, "made up", {}, self.idle_watts, calls=3)


def test_joules_a_sample(monkeypatch):
    meter = Counted()
    setting = quickly(meter=meter, peers=(Plain(),))
    (made,) = run.rows(run.choose(["energy"], ["digits-joules"], ()), setting)
    samples = 3 * 8 * 1442
    assert meter.windows == [energy.WINDOW_S] * 6
    assert made["unit"] == "µJ/sample"
    for side in made["sides"]:
        assert side["value"] == {"median": pytest.approx(30e6 / samples), "iqr": 0.0, "n": joules.ROUNDS}
        assert side["energy"]["net_uj_per_sample"] == pytest.approx(24e6 / samples)
        assert (side["energy"]["watts"], side["energy"]["idle_watts"]) == (pytest.approx(10.0), 2.0)
        flops = 8 * (11 * step_flops((64, 128, 10), 128) + step_flops((64, 128, 10), 34))
        assert side["energy"]["gflop_per_joule"] == pytest.approx(3e-9 * flops / 30)
        assert side["core_us_per_sample"]["median"] == pytest.approx(4e6 / samples)
        assert side["energy"]["source"] == "counter"
    whole = finished(setting, "energy", made)
    text = report.markdown(whole)
    assert "too short to publish: 5 s without --quick" in text, "its windows were 3 s"
    assert "Joules are gross" in text


def test_energy_is_unavailable_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(contest, "interleave", known_timings)
    meter = Meter(sysfs=tmp_path / "absent")
    (made,) = rows("digits-joules", meter=meter)
    side = side_of(made, "backend")
    assert (side["value"], side["energy"]["source"]) == (None, "unavailable")
    assert side["energy"]["detail"] == meter.reason
    assert {side["energy"][name] for name in ("net_uj_per_sample", "watts", "gflop_per_joule", "idle_watts")} == {None}
    assert side["core_us_per_sample"]["median"] > 0
    assert "n/a" not in report.markdown(finished(quickly(meter=meter), "energy", made))


def test_one_window_without_a_reading_leaves_no_figure():
    (made,) = rows("digits-joules", meter=Counted(joules=None))
    assert side_of(made, "backend")["value"] is None
    assert side_of(made, "backend")["energy"]["watts"] is None


def test_stages_are_told(monkeypatch):
    monkeypatch.setattr(contest, "interleave", known_timings)
    stages = []
    rows("article", "regression", tell=stages.append)
    assert [stage.partition(":")[0] for stage in stages] == ["article"] * 2 + ["regression"] * 3


def test_a_workload_is_chosen_by_name_in_any_suite_or_by_tier():
    assert [suite for suite, _ in run.choose(["train", "infer"], ["deep-b1", "deep"], ())] == ["train", "infer"]
    assert {w.tier for _, w in run.choose(["train"], (), [LARGE])} == {LARGE}
    with pytest.raises(ArgumentError, match="Did you mean 'train'"):
        run.choose(["trian"], (), ())
    with pytest.raises(ArgumentError, match="--workload must be one of"):
        run.choose(["train"], ["deep-b1"], ())


class Probed:
    """A machine whose peak is what the test says, probe by probe."""

    def __init__(self, *rates):
        self.rates, self.probed = iter(rates), 0

    def units(self, dtype):
        return () if dtype == "bfloat16" else ("registers",)

    def multiply_adds(self, dtype, unit, threads):
        self.probed += 1
        return next(self.rates)


def test_the_best_probe_of_the_run_is_the_peak():
    machine = Probed(3e9, 5e9, *[4e9] * 20)
    peaks = Peaks(Ceilings(machine))
    assert [peaks.probe("float32", 1) for _ in range(20)] == [True] * contest.PROBES + [False] * (20 - contest.PROBES)
    assert peaks.rates == {("float32", 1): 5e9}
    assert machine.probed == contest.PROBES


@pytest.mark.parametrize(
    ("probes", "percent"), [([2e9] * 9, 50.0), ([0.99e9] * 9, None), ([0.5e9, 0.5e9, 4e9, *[1e9] * 6], 25.0)]
)
def test_a_figure_beyond_the_peak_is_an_error_and_not_shown(monkeypatch, probes, percent):
    monkeypatch.setattr(contest, "interleave", known_timings)
    setting = quickly(meter=Meter(sysfs=Path("absent")))
    setting.__dict__["peaks"] = Peaks(Ceilings(Probed(*probes)))
    row = {"suite": "kernels", "workload": "made up", "case": "a @ b", "unit": "µs/call", "dtype": "float32"}
    sides = [Side("numpy", "reference", list, 1), Side("cpu", "backend", list, 1)]
    contest.contest(row, sides, setting, flops=0.5e9)
    made = finished(setting, "kernels", row)
    backend = side_of(row, "backend")
    assert backend["percent_of_peak"] == (None if percent is None else pytest.approx(percent))
    assert run.right(row) == (percent is not None)
    assert ("ERROR" in show(made, 120)) == (percent is None)
    assert ("would run at 101% of the peak" in report.markdown(made)) == (percent is None)
    assert (backend["gflops"] is None) == (percent is None)
