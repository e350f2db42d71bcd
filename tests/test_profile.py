"""Profiles: time stamps that change no bit, parts that add up, roofs that hold, reports of it all."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.errors import ArgumentError
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import STEP_PHASES, step_flops
from fastmlp.kernels.network import Network, Optimizer
from fastmlp.kernels.timeline import EPILOGUE, KIND, PACK, START, WAIT, WORK, RecordedStep, Timeline
from fastmlp.profile import Profile, analysis, page
from fastmlp.profile.analysis import Roofs, rate, sizes_of, work_of
from fastmlp.profile.document import SCHEMA, load, new_document
from fastmlp.profile.recording import Part, Recording, part_of, spans
from fastmlp.profile.verdict import batch_gain, verdict

NETWORKS = {"narrow": (10, 5, 2), "wide": (130, 140, 3)}


def data(net, rows):
    random = np.random.default_rng(1)
    return [random.standard_normal((rows, width)).astype(net.dtype) for width in (net.layers[0], net.layers[-1])]


@pytest.fixture(scope="module", params=[("cpu", "narrow"), ("cpu", "wide"), ("numpy", "narrow")], ids="-".join)
def profiled(request):
    backend, size = request.param
    net = MLP(NETWORKS[size], backend=backend, optimizer="adam", activation="tanh")
    before = net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.random_state
    found = net.profile(*data(net, 96), batch_size=32, seconds=0.05)
    assert (net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.random_state) == before
    return found


@pytest.mark.parametrize("size", NETWORKS)
def test_stamps_change_no_bit(backend_name, size):
    backend = backends.load(backend_name)
    results = []
    for timeline in (None, Timeline(2), Timeline(1, every=2), Timeline(1, capacity=3)):
        net = MLP(NETWORKS[size], backend=backend_name, optimizer="adam")
        x, y = data(net, 50)
        losses, order = np.empty(5), np.random.default_rng(0).permutation(50)
        train = backend.train if timeline is None else backend.timed.train
        extra = {} if timeline is None else {"timeline": timeline}
        workspace = backend.Workspace(net.structure, 20, True)
        train(
            net.structure, Optimizer("adam"), net.parameters, net.optimizer_state, 0, x, y,
            np.tile(order, 2), 0, 20, losses, workspace, **extra,
        )  # fmt: skip
        results.append((net.parameters.tobytes(), net.optimizer_state.tobytes(), losses.tobytes()))
        if timeline is not None and timeline.row > 1000:
            own = timeline.steps()[0]
            assert [step.rows for step in own] == [20, 20, 10, 20, 20][:: timeline.every]
            for step in own:
                times = [step.begin, *step.ends.tolist()]
                assert times == sorted(times)
                assert {part_of(code).phase for code in step.codes.tolist()} <= set(STEP_PHASES)
    assert len(set(results)) == 1


def test_every_phase_of_the_network_is_found(profiled):
    network = profiled.document["networks"][0]
    found = {(row["phase"], row["layer"]) for row in network["phases"]}
    for layer in range(2):
        assert {("forward", layer), ("weight gradient", layer)} <= found
    assert {("input gradient", 1), ("loss", 1), ("gather", 0)} <= found
    assert ("input gradient", 0) not in found
    assert "optimizer" in {phase for phase, _ in found}


def test_flops_of_the_parts_are_those_of_the_step(profiled):
    network = profiled.document["networks"][0]
    assert network["flops"] == step_flops(tuple(network["widths"]), 32)
    assert sum(row["flops"] for row in network["phases"]) == network["flops"]


@pytest.mark.parametrize("widths", [(3, 2), (784, 256, 10), (7, 5, 4, 1)])
def test_the_contract_divides_a_step_without_rest(widths):
    structure = Network(widths, ("relu",) * (len(widths) - 1), "mse", np.dtype(np.float32))
    sizes = sizes_of(structure, Optimizer("adam"), 12, 4)
    assert sum(work_of(Part(phase, -1), sizes)[0] for phase in STEP_PHASES) == step_flops(widths, 12)
    last = sizes[-1]
    assert STEP_PHASES["optimizer"].bytes(last) == 2 * 3 * (last.k + 1) * last.m * 4
    assert STEP_PHASES["forward"].bytes(last) == 4 * (12 * last.k + last.k * last.m + 12 * last.m + last.m)


def test_parts_and_waiting_add_up_to_the_steps_own_time():
    """Two threads, made-up stamps: what is reported is what lies between them, stamps taken off."""
    code = {name: layer << 8 | KIND[name] << 3 for name, layer in (("forward", 1), ("weight gradient", 0))}
    first = RecordedStep(8, 0, np.array([code["forward"] | WORK, code["forward"] | WAIT]), np.array([110, 220]))
    second = RecordedStep(
        8, 0, np.array([code["weight gradient"] | EPILOGUE, code["weight gradient"] | PACK]), np.array([60, 220])
    )
    recording = Recording(8, 10.0)

    class Given:
        def steps(self):
            return [[first], [second]]

    recording.add(Given())
    means = recording.means()
    assert means[Part("forward", 1)].tolist() == [100, 0]
    assert means[Part("forward", 1, waiting=True)].tolist() == [100, 0]
    assert means[Part("optimizer", 0)].tolist() == [0, 50]
    assert means[Part("packing", 0, product="weight gradient")].tolist() == [0, 150]
    assert recording.spread()[0] == 200
    assert part_of(2 << 8 | KIND["input gradient"] << 3 | EPILOGUE) == Part("derivative", 1)
    assert spans(first, 10.0) == [(0, 110, Part("forward", 1)), (110, 220, Part("forward", 1, waiting=True))]


def test_the_document_adds_up(profiled):
    network = profiled.document["networks"][0]
    step = network["step"]
    working = sum(row["seconds"] for row in network["phases"])
    assert working + step["waiting_seconds"] == pytest.approx(step["phases_seconds"])
    assert step["phases_over_step"] == pytest.approx(step["phases_seconds"] / step["seconds"])
    assert sum(network["binding"].values()) == pytest.approx(1)
    for row in network["phases"]:
        assert row["core_seconds"] == pytest.approx(row["seconds"] * network["threads"])
        assert row["balance"] is None or 0 < row["balance"] <= 1
        for share in ("percent_of_compute", "percent_of_bandwidth", "percent_of_roof"):
            assert row[share] is None or 0 <= row[share] <= 100


class Known:
    """Ceilings that are known: FLOP/s and bytes/s, the same for every memory."""

    def __init__(self, flops, bandwidth):
        self.flops, self.rate, self.probes_made = flops, bandwidth, 0

    def peak(self, dtype, threads=None):
        return self.flops

    def bandwidth(self, moved, threads=None):
        return self.rate

    def level(self, moved, threads=None):
        return type("Level", (), {"name": "L2"})

    def probe(self, dtype, threads=None):
        self.probes_made += 1

    def probe_bandwidth(self, moved, threads=None):
        self.probes_made += 1

    def least_seconds(self, flops, moved, held, dtype, threads=None):
        return max(flops / self.flops, moved / self.rate)


def row(seconds, flops, moved, **more):
    return {"name": "layer 0 forward", "phase": "forward", "layer": 0, "product": None, "seconds": seconds,
            "flops": flops, "bytes": moved, "too_short": False} | more  # fmt: skip


def test_a_rate_under_the_roofs_is_told_with_what_binds_it():
    roofs = Roofs(Known(1e9, 1e8), "float32", 1)
    slow = row(1.0, 5e8, 1e6)
    rate(slow, roofs)
    assert (slow["bound_by"], slow["percent_of_compute"], slow["intensity"]) == ("compute", 50, 500)
    thin = row(1.0, 1e6, 9e7)
    rate(thin, roofs)
    assert (thin["bound_by"], thin["percent_of_bandwidth"], thin["memory"]) == ("L2 bandwidth", 90, "L2")
    assert thin["percent_of_roof"] == 90


@pytest.mark.parametrize(("flops", "moved", "told"), [(2e9, 1e6, "multiply-adds"), (1e6, 3e8, "L2's bandwidth")])
def test_a_false_figure_beyond_its_roof_is_refused(flops, moved, told):
    known = Known(1e9, 1e8)
    false = row(1.0, flops, moved)
    rate(false, Roofs(known, "float32", 1))
    assert told in false["error"]
    assert known.probes_made >= analysis.PROBES  # it was the probe that was doubted first
    assert false["gflops"] is false["percent_of_compute"] is false["percent_of_roof"] is None


def test_without_ceilings_there_are_rates_and_no_shares():
    plain = row(1.0, 5e8, 1e6)
    rate(plain, Roofs(None, "float32", 1))
    assert plain["gflops"] == 0.5
    assert plain["percent_of_roof"] is None


def test_another_batch_is_judged_by_the_roofline_model():
    """All time in the optimiser, whose work no batch changes: twice the batch, twice the samples a second."""
    structure = Network((4, 3), ("identity",), "mse", np.dtype(np.float32))
    roofs = Roofs(Known(1e9, 1e8), "float32", 1)
    step = {"phases_seconds": 1e-3, "waiting_seconds": 0.0}
    update = row(1e-3, 2 * 5 * 3, 2 * 5 * 3 * 4, phase="optimizer")
    rate(update, roofs)
    gain = batch_gain([update], step, structure, Optimizer(), (8, 12), roofs, 2)
    assert gain == pytest.approx(2)
    product = row(1e-3, 8 * 3 * 9, 8 * (4 + 3) * 4)
    rate(product, roofs)
    assert batch_gain([product], step, structure, Optimizer(), (8, 12), roofs, 2) < 1.5


def test_the_verdict_names_what_binds_the_longest_part(profiled):
    network = json.loads(json.dumps(profiled.document["networks"][0]))
    longest = max(network["phases"], key=lambda each: each["seconds"])
    longest |= {"bound_by": "L2 bandwidth", "percent_of_roof": 80.0, "too_short": False, "error": None}
    longest["seconds"] = network["step"]["phases_seconds"] * 0.5
    said = " ".join(verdict(network, {64: 1.3}))
    assert re.search(r"takes \d+% of the step, bound by L2 bandwidth at 80 % of that roof", said)
    assert "Batch 64 would train 1.30 times the samples a second" in said
    assert "a model, not measured" in said


def test_json_is_read_back(profiled, tmp_path):
    profiled.save(tmp_path / "p.json")
    document = load(tmp_path / "p.json")
    assert document == json.loads(json.dumps(profiled.document))
    assert document["schema"] == SCHEMA
    (tmp_path / "other.json").write_text('{"schema": 0}')
    with pytest.raises(ArgumentError, match="schema 1"):
        load(tmp_path / "other.json")


def test_the_readme_names_every_key_of_the_document(profiled):
    text = Path(page.__file__).with_name("README.md").read_text(encoding="utf-8")
    network = profiled.document["networks"][0]
    for key in {*profiled.document, *network, *network["step"], *network["phases"][0]}:
        assert f"`{key}`" in text, key


def test_the_trace_has_monotone_times(profiled, tmp_path):
    profiled.save(tmp_path / "p.trace.json")
    events = json.loads((tmp_path / "p.trace.json").read_text())["traceEvents"]
    parts = [event for event in events if event["ph"] == "X" and event["cat"] != "step"]
    assert parts
    for member in {event["tid"] for event in parts}:
        own = [event for event in parts if event["tid"] == member]
        for before, after in pairwise(own):
            assert before["dur"] >= 0  # of what took less than a nanosecond
            assert after["ts"] >= before["ts"] + before["dur"] - 0.002  # rounded to nanoseconds


class Checked(HTMLParser):
    """Every tag that is opened is closed, and nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "iframe")
        assert not {name for name, _ in attributes} & {"src", "href", "onload"}
        if tag not in ("meta", "line", "rect", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle"):
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_it_is_given(profiled):
    document = json.loads(json.dumps(profiled.document))
    evil = "<script>alert(1)</script>\"'"
    document["machine"]["cpu"] = document["networks"][0]["activations"][0] = evil
    document["networks"][0]["verdict"].append(evil)
    document["networks"][0]["phases"][0]["name"] = evil
    text = Profile(document).html()
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "srcdoc=" in Profile(document)._repr_html_()


def test_a_page_and_a_table_without_networks():
    nothing = Profile(new_document([]))
    assert "no network" in nothing.html().lower()
    assert "no network" in str(nothing)


def test_the_table_names_the_parts(profiled):
    text = str(profiled)
    assert "layer 0 forward" in text
    assert "all parts" in text
    assert profiled.verdict[0][:20] in text


def test_what_cannot_be_profiled_is_refused(tmp_path, monkeypatch):
    net = MLP((3, 2), backend="numpy")
    x, y = data(net, 4)
    with pytest.raises(ArgumentError, match=r"\.html"):
        Profile(new_document([])).save(tmp_path / "p.txt")
    monkeypatch.setattr(backends.load("numpy"), "timed", None)
    with pytest.raises(ArgumentError, match="cannot be profiled"):
        net.profile(x, y)


SCRIPT = """
import hashlib, sys
import numpy as np
import fastmlp
x = np.random.default_rng(0).standard_normal((64, 10)).astype("float32")
net = fastmlp.MLP((10, 5, 2), optimizer="momentum")
net.fit(x, x[:, :2], epochs=40, batch_size=16)
print(hashlib.sha256(net.parameters.tobytes()).hexdigest(), sys.argv[1:], __name__)
sys.exit(3)
"""


def test_a_script_runs_as_it_is_and_its_networks_are_profiled(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    plain = subprocess.run([sys.executable, script, "--a", "1"], capture_output=True, text=True)
    command = [
        sys.executable,
        "-m",
        "fastmlp",
        "profile",
        "--json",
        tmp_path / "p.json",
        "--script",
        script,
        "--a",
        "1",
    ]
    watched = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == 3, plain.stderr
    assert (watched.stdout, watched.returncode) == (plain.stdout, 3), watched.stderr
    (network,) = load(tmp_path / "p.json")["networks"]
    assert (network["widths"], network["optimizer"], network["batch_size"]) == ([10, 5, 2], "momentum", 16)
    assert network["steps"] == 40 * 4
    assert "10-5-2" in watched.stderr


def test_the_command_refuses_what_it_cannot_do(tmp_path, capsys):
    from fastmlp.cli import main

    assert main(["profile"]) == 2
    assert main(["profile", "784x10"]) == 2
    assert main(["profile", "3-2", "--script", "x.py"]) == 2
    assert main(["profile", "--script", str(tmp_path / "missing.py")]) == 2
    assert main(["profile", "3-2", "--html", str(tmp_path / "no" / "p.html")]) == 2
    assert "784-256-128-10" in capsys.readouterr().err


def test_the_command_profiles_a_network_by_its_widths(tmp_path, capsys):
    from fastmlp.cli import main

    status = main(
        [
            "profile",
            "10-5-2",
            "--batch",
            "20",
            "--loss",
            "cross_entropy",
            "--backend",
            "numpy",
            "--quick",
            "--html",
            str(tmp_path / "p.html"),
        ]
    )
    assert status in (0, 1)  # 1 where a figure was refused
    assert "layer 1 forward" in capsys.readouterr().out
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")


def test_a_start_is_no_part_of_a_step():
    timeline = Timeline(1)
    note = timeline.begin(0, 7)
    note("forward", 0)
    (step,) = timeline.steps()[0]
    assert step.rows == 7
    assert START not in (step.codes & 7).tolist()


def test_what_only_the_first_step_of_a_call_does_is_known_with_no_time():
    """A whole batch is gathered once, and any step may be one of the timeline's."""
    forward, gather = (KIND[name] << 3 | WORK for name in ("forward", "gather"))
    usual = RecordedStep(8, 0, np.array([forward]), np.array([100]))
    first = RecordedStep(8, 0, np.array([gather, forward]), np.array([50, 150]))
    recording = Recording(8, 0.0)

    class Given:
        def steps(self):
            return [[first] + [usual] * 20]

    recording.add(Given())
    means = recording.means()
    assert means[Part("forward", 0)] == [100]
    assert means[Part("gather", 0)] == [0]
