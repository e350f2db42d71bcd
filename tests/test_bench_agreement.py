"""Nothing wrong is timed: backends and peers are held to the numbers first."""

import json

import numpy as np
import pytest
from benching import DIGITS, finished, known_timings, quickly, rows, show, side_of

from fastmlp import MLP
from fastmlp.bench import contest, report, run, training
from fastmlp.bench.contest import Setting
from fastmlp.bench.peers import Peer
from fastmlp.bench.training import Trial
from fastmlp.bench.workloads import LARGE, TRAINING
from fastmlp.kernels import backend as backends
from fastmlp.kernels.cpu import units


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
def test_a_row_in_bfloat16_is_held_against_the_peak_of_its_arithmetic(monkeypatch):
    monkeypatch.setattr(contest, "interleave", known_timings)
    setting = Setting("cpu", dtype="bfloat16", budget_s=0.01)
    row = training.train_row(DIGITS, setting)
    contest.hold_against([row], setting.peaks)
    reference, backend = (side for side in row["sides"] if side["role"] in ("reference", "backend"))
    assert row["dtype"] == "bfloat16"
    assert backend["agreement"]["agree"], backend
    assert reference["value"] is not None
    assert set(setting.peaks.rates) == {("bfloat16", 1), ("float32", 1)}
    assert 0 < backend["percent_of_peak"] <= 100
    for side in row["sides"]:
        assert side["arithmetic"] == ("float32" if side["side"] == "cpu, float32" else "bfloat16")
        peak = setting.peaks.rates[side["arithmetic"], 1]
        assert side["percent_of_peak"] == pytest.approx(100e9 * side["gflops"] / peak)


@pytest.mark.parametrize("name", ["article", "deep-b1", "128x784x256", "128x784x256 dx", "128x784x256 dw"])
@pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")
def test_rows_in_bfloat16_agree_and_have_float32_beside_them(monkeypatch, name):
    monkeypatch.setattr(contest, "interleave", known_timings)
    (made,) = rows(name, backend="cpu", dtype="bfloat16")
    assert made["dtype"] == "bfloat16"
    assert run.right(made), made
    assert next(side["side"] for side in made["sides"] if side["role"] == "variant") == "cpu, float32"


@pytest.mark.parametrize("name", ["article", "deep-b1", "128x784x256 dw"])
def test_rows_of_precision_high_agree_and_tell_their_error(monkeypatch, name):
    monkeypatch.setitem(units._WAYS, units.HIGH_PARTS, "split")
    monkeypatch.setattr(contest, "interleave", known_timings)
    (made,) = rows(name, backend="cpu", dtype="high")
    assert made["dtype"] == "high"
    (backend,) = (side for side in made["sides"] if side["role"] == "backend")
    assert run.right(made), made
    assert 1e-8 < backend["agreement"]["relative_error"] < 1e-3
    assert next(side["side"] for side in made["sides"] if side["role"] == "variant") == "cpu, float32"
    document = {"backend": "cpu", "peers": []}
    columns = {column.heading: column.cell(made) for column in report._columns(document, made["suite"], [made])}
    assert columns["error\n/ float64"] == f"{backend['agreement']['relative_error']:.1e}"


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
    (row,) = run.rows(run.choose(["train"], [name], ()), setting)
    assert not side_of(row, "backend")["agreement"]["agree"]
    assert not run.right(row)
    assert {side["value"] for side in row["sides"]} == {None}
    made = finished(setting, "train", row)
    assert "WRONG" in show(made, 120)
    assert "was not timed" in report.markdown(made)
    json.dumps(made, allow_nan=False)


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


def test_a_peer_that_rounds_may_be_as_far_away_as_rounding_takes_it():
    double, rounded = [np.array([100.0])], [np.array([103.0])]
    assert contest.judge_peer(None, double, [np.array([113.9])], rounded)["agree"]
    assert not contest.judge_peer(None, double, [np.array([114.1])], rounded)["agree"]


def test_a_peer_that_rounds_is_held_against_the_peak_of_bfloat16():
    class Rounding(Peer):
        name, bfloat16 = "rounding", True

    agreements = {"a way": {"agree": True}}
    for kind, arithmetic in ((Rounding, "bfloat16"), (Peer, None)):
        peer = kind(1)
        peer.name = "peer"
        assert contest.enter_ways(peer, 1, {"a way": lambda: None}, agreements).arithmetic == arithmetic
