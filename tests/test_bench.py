"""The benchmark: calls take turns, statistics, wrong numbers are caught, the report is what it says."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastmlp import MLP
from fastmlp.bench import report, run, timing
from fastmlp.bench.energy import Meter, Reading
from fastmlp.bench.timing import Spread, Timing, interleave
from fastmlp.bench.workloads import WORKLOADS
from fastmlp.errors import ArgumentError
from fastmlp.kernels.contract import step_flops

ROOT = Path(__file__).resolve().parents[1]
BY_NAME = {workload.name: workload for workload in WORKLOADS}
ARTICLE, DIGITS, DEEP = (BY_NAME[name] for name in ("article", "digits", "deep"))


# Timing


def test_calls_take_turns_after_one_warm_up_round():
    calls = []
    interleave([lambda: calls.append("A"), lambda: calls.append("B")], budget_s=0, least=4)
    assert "".join(calls) == "AB" + "ABAB" + "ABAB"


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
    assert timing.ratio(slow, fast) == Spread(pytest.approx(3e3), pytest.approx(2e3), 5)


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


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_data_fit_their_workload_and_are_no_zeros(workload):
    data = workload.make(workload)
    assert data.x.shape == (workload.samples, workload.widths[0])
    assert data.x.dtype == np.float32
    assert len(data.t) == workload.samples
    assert data.t.ndim == 1 or data.t.shape[1] == workload.widths[-1]
    for array in (data.x, data.t):
        assert np.isfinite(array).all()
        assert np.count_nonzero(array) > array.size / 3
        assert array.std() > 0.1
    assert (data.x_test is not None) == bool(workload.study)
    again = workload.make(workload)
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True) if a is not None)


def test_the_default_run_holds_what_the_project_promises():
    assert len(BY_NAME) == len(WORKLOADS)
    assert (ARTICLE.widths, ARTICLE.batch_size, ARTICLE.epochs, ARTICLE.steps) == ((10, 5, 2), 100, 1000, 1000)
    assert (DIGITS.widths, DIGITS.optimizer, DIGITS.loss) == ((64, 128, 10), "adam", "cross_entropy")
    assert (DEEP.widths, DEEP.optimizer, DEEP.batch_size) == ((64, 64, 64, 64, 1), "sgd", 128)
    assert {f"width-{width}" for width in (16, 32, 64, 128, 256, 512, 1024)} <= BY_NAME.keys()
    assert {"article", "digits", "regression", "deep"} <= {w.name for w in WORKLOADS if w.quick}


def test_batches_and_names():
    assert DIGITS.batches(300) == [128, 128, 44]
    assert DIGITS.batches(256) == [128, 128]
    assert DEEP.network == "64x4-1"
    assert replace(DEEP, widths=(10, 5, 2)).network == "10-5-2"


# Agreement


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_cpu_backend_agrees_on_every_workload(workload):
    verdict, first_call_s = run.agree(workload, workload.make(workload), "cpu")
    assert verdict["agree"], verdict
    assert verdict["steps"] >= run.AGREEMENT_STEPS
    assert first_call_s > 0


def test_the_reference_agrees_with_itself():
    verdict, _ = run.agree(DIGITS, DIGITS.make(DIGITS), "numpy")
    assert verdict["agree"]
    assert 0 < verdict["error_over_allowed"] <= 0.5


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


@pytest.mark.parametrize("workload", [ARTICLE, DIGITS, DEEP], ids=lambda workload: workload.name)
@pytest.mark.parametrize("fault", ["learning rate", "one weight", "one bias", "nan", "loss"])
def test_a_wrong_backend_is_caught_and_not_timed(monkeypatch, workload, fault):
    monkeypatch.setattr(run, "MLP", Wrong(fault))
    (row,) = run.rows([workload], "wrong", budget_s=0)
    assert not row["agreement"]["agree"]
    assert row["reference"] is None
    assert row["backend"] is None
    assert row["ratio"] is None
    document = report.new_document("wrong", 1, quick=True)
    document["rows"].append(row)
    assert "WRONG" in show(document, 120)
    assert "was not timed" in report.markdown(document)
    json.dumps(document, allow_nan=False)


def test_the_same_wrapper_without_a_fault_agrees(monkeypatch):
    monkeypatch.setattr(run, "MLP", Wrong(None))
    assert run.agree(DIGITS, DIGITS.make(DIGITS), "wrong")[0]["agree"]


# Rows


class Counted(Meter):
    """A meter whose every window is two joules."""

    def __init__(self):
        self.packages, self.reason = [], None

    def _settle(self, reading, before, after):
        reading.source, reading.joules, reading.detail = "counter", 2.0, "made up"


def known_timings(calls, budget_s):
    """The reference takes about one second a call and two cores, the backend half a second and one core."""
    return [Timing([1.0, 0.7, 1.3], [2.0, 2.0, 2.0]), Timing([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])]


@pytest.fixture(scope="module")
def row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "interleave", known_timings)
        patch.setattr(run, "Meter", Counted)
        (made,) = run.rows([DIGITS], "numpy", budget_s=0)
    return made


def test_the_figures_of_a_row(row):
    samples, steps = 8 * 1442, 8 * 12
    reference, backend = row["reference"], row["backend"]
    assert row["ratio"] == {"median": pytest.approx(2.0), "iqr": pytest.approx(0.6), "n": 3}
    assert row["steps_per_call"] == steps
    assert reference["us_per_step"] == {
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
    assert row["result"]["measure"] == "test accuracy"
    assert row["result"]["reference"] >= 0.96
    assert row["result"]["backend"] == row["result"]["reference"]


def test_the_digits_are_learnt_alike_on_the_cpu_backend():
    (made,) = run.rows([DIGITS], "cpu", budget_s=0)
    result = made["result"]
    assert result["backend"] >= 0.96
    assert abs(result["backend"] - result["reference"]) <= 0.005


def test_energy_is_unavailable_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "interleave", known_timings)
    monkeypatch.setattr(run, "Meter", lambda: Meter(tmp_path / "absent"))
    (made,) = run.rows([ARTICLE], "numpy", budget_s=0)
    energy = made["backend"]["energy"]
    assert (energy["source"], energy["uj_per_sample"]) == ("unavailable", None)
    assert energy["detail"] == Meter(tmp_path / "absent").reason
    assert Reading().joules is None


def test_stages_are_told(monkeypatch):
    monkeypatch.setattr(run, "interleave", known_timings)
    stages = []
    list(run.rows([ARTICLE, replace(DIGITS, study=1)], "numpy", budget_s=0, tell=stages.append))
    assert [stage.partition(":")[0] for stage in stages] == ["article"] * 2 + ["digits"] * 3


# Report


@pytest.fixture
def document(row):
    made = report.new_document("cpu", 2, quick=False)
    wide = row | {"workload": "width-1024", "network": "784-256-128-10", "first_call_s": 12.34}
    plain = row | {"result": None}
    made["rows"] += [row, wide, plain]
    made["complete"] = True
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
    for word in ("784-256-128-10 b128", "~10,417", "5,208", "~2.00", "12.34"):
        assert word in line
    assert ("23,072" in line) == (width >= 110)


def test_the_table_of_wide_figures_fits_too(document):
    wide = {
        "us_per_step": {"median": 34_567.8, "iqr": 9000.0, "n": 9},
        "samples_per_s": 98_765_432.1,
        "gflops": 2345.6,
    }
    row = document["rows"][0]
    document["rows"][0] = row | {side: row[side] | wide for side in ("reference", "backend")}
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
        ('{"schema": 2}', "got 2"),
        ('{"schema": 1}', "missing are"),
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
    assert "| digits | 64-128-10 b128 | ~10,417 | 5,208 | ~2.00 | 23,072 |" in table[2]
    text = "\n".join(lines)
    assert "test accuracy after 80 epochs" in text
    assert "~ marks a noisy figure" in text
    assert document["energy"]["detail"] in text
    assert "Interrupted" not in text
    assert "Interrupted" in report.markdown(document | {"complete": False})


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
