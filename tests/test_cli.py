"""The command line, run as users run it: a process away from the checkout."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fastmlp
from fastmlp import cli
from fastmlp.bench import document as documents
from fastmlp.bench import run, training
from fastmlp.bench.run import SUITES
from fastmlp.bench.workloads import LARGE
from fastmlp.kernels import backend

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(tmp_path):
    """Runs `python -m fastmlp ...` in an empty folder: (exit status, stdout, stderr)."""

    def start(*arguments, **variables):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | variables
        done = subprocess.run(
            [sys.executable, "-m", "fastmlp", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return start


def test_version(command):
    assert command("--version") == (0, f"fastmlp {fastmlp.__version__}\n", "")


def test_info_tells_every_subject(command):
    status, output, errors = command("info")
    assert (status, errors) == (0, "")
    subjects = [line.split("  ")[0] for line in output.splitlines() if not line.startswith(" ")]
    assert subjects == [
        "fastmlp",
        "system",
        "packages",
        "processor",
        "cores",
        "caches",
        "instructions",
        "backend numpy",
        "backend cpu",
        "backend cuda",
        "bfloat16",
        "precision high",
        "precision highest",
        "threads",
        "GPU",
        "energy",
    ]
    assert max(map(len, output.splitlines())) <= 100
    assert re.search(r"^backend numpy +ready$", output, re.M)
    assert re.search(r"^backend cpu +ready$", output, re.M)
    assert re.search(r"^bfloat16 +(emulated: rounded|multiplied by the processor's own instruction)", output, re.M)
    assert re.search(r"^energy +(counter|unavailable) \(.+", output, re.M)


def test_info_as_json(command):
    status, output, errors = command("info", "--json")
    assert (status, errors) == (0, "")
    facts = json.loads(output)
    assert facts["fastmlp"] == fastmlp.__version__
    assert facts["backends"]["cpu"] is None
    assert facts["backends"]["cuda"] is None or "backend='cpu'" in facts["backends"]["cuda"]
    assert facts["bfloat16"] == backend.load("cpu").BFLOAT16
    assert facts["precision_high"] == backend.load("cpu").HIGH
    assert facts["precision_highest"] == backend.load("cpu").HIGHEST
    assert facts["software"]["numpy"]
    assert 1 <= facts["machine"]["usable_cores"] <= facts["machine"]["cores"]
    assert facts["threads"]["count"] >= 1
    assert facts["gpu"]["devices"] or facts["gpu"]["reason"]
    assert facts["energy"]["source"] in ("counter", "unavailable")


def test_bench_prints_its_table_and_writes_the_report(command, tmp_path):
    status, output, errors = command(
        "bench", "--quick", "--workload", "article", "--threads", "1", "--json", "out.json"
    )
    assert status == 0, errors
    assert re.search(r"^article +10-5-2 b100 ", output, re.M)
    assert "Energy: " in output
    document = documents.load(tmp_path / "out.json")
    assert document["complete"]
    assert document["quick"]
    assert (document["backend"], document["threads"]) == ("cpu", 1)
    (row,) = document["rows"]
    assert (row["suite"], row["workload"]) == ("train", "article")
    reference, backend = row["sides"]
    assert (reference["side"], backend["side"]) == ("numpy", "cpu")
    assert backend["agreement"]["agree"]
    assert backend["value"]["n"] >= 7
    assert 0 < backend["percent_of_peak"] < 100
    peaks = {(rate["of"], rate["threads"]) for rate in document["ceilings"]["rates"] if rate["kind"] == "peak"}
    assert ("float32", 1) in peaks


def test_bench_in_float64_of_other_suites(command, tmp_path):
    status, output, errors = command(
        *("bench", "--quick", "--suite", "infer,kernels", "--workload", "article-b1", "--workload", "square-64"),
        *("--dtype", "float64", "--peers", "numpy", "--threads", "1", "--json", "out.json"),
    )
    assert status == 0, errors
    assert re.search(r"^article-b1 +10-5-2 b1 ", output, re.M)
    assert re.search(r"^square-64 +a @ b, 64x64x64 ", output, re.M)
    document = documents.load(tmp_path / "out.json")
    assert (document["suites"], document["dtype"], document["peers"]) == (["infer", "kernels"], "float64", [])
    assert {row["dtype"] for row in document["rows"]} == {"float64"}


def test_threads_reach_numpy_too(command, tmp_path):
    status, _, errors = command(
        "bench", "--quick", "--backend", "numpy", "--workload", "article", "--threads", "1", "--json", "out.json"
    )
    assert status == 0, errors
    document = documents.load(tmp_path / "out.json")
    assert (document["threads"], document["blas"]["threads"]) == (1, 1)


def test_bench_as_markdown(command):
    status, output, _ = command(
        "bench", "--quick", "--backend", "numpy", "--workload", "article", "--workload", "width-16", "--markdown"
    )
    assert status == 0
    assert re.findall(r"^\| (article|width-16) \|", output, re.M) == ["article", "width-16"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "--workload", "artcle"), ("--workload must be one of", "Did you mean 'article'?")),
        (("bench", "--backend", "cup"), ("backend must be one of", "Did you mean 'cpu'?")),
        pytest.param(
            ("bench", "--backend", "cuda"),
            ("backend 'cuda' cannot run here", "backend='cpu'"),
            marks=pytest.mark.skipif(backend.status()["cuda"] is None, reason="the CUDA backend can run here"),
        ),
        (("bench", "--suite", "train,infre"), ("--suite must be one of", "Did you mean 'infer'?")),
        (("bench", "--peers", "troch"), ("--peers must be one of", "Did you mean 'torch'?")),
        (("bench", "--dtype", "float16"), ("--dtype must be one of", "got 'float16'")),
        (("bench", "--dtype", "bfloat16", "--suite", "memory"), ("--dtype bfloat16 goes with --suite", "got memory")),
        (
            ("bench", "--dtype", "bfloat16", "--peers", "numpy,jax"),
            ("--dtype bfloat16 goes with", "--peers numpy,torch-bf16", "got train, peers numpy, jax"),
        ),
        (("bench", "--precision", "higher"), ("--precision must be one of 'highest', 'high'", "got 'higher'")),
        (("bench", "--precision", "high", "--dtype", "float64"), ("--precision high goes with --dtype float32",)),
        (("bench", "--precision", "high", "--suite", "crossover"), ("--precision high goes with", "got crossover")),
        (("bench", "--json", "absent/out.json"), ("--json must name a file in a folder that exists",)),
        (("bench", "--json", "."), ("--json must name a file in a folder that exists; got '.'",)),
        (("bench", "--map", "absent/map.svg"), ("--map must name a file in a folder that exists",)),
        (("bench", "--map", "map.svg"), ("--map goes with --suite crossover", "got train")),
    ],
)
def test_a_mistake_is_one_clean_line(command, arguments, words):
    status, output, errors = command(*arguments)
    assert (status, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("fastmlp: ")
    for word in words:
        assert word in errors


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("benhc",), "invalid choice"),
        ((), "required"),
        (("bench", "--threads", "0"), "must be a whole number from 1; got '0'"),
        (("bench", "--threads", "two"), "must be a whole number from 1; got 'two'"),
    ],
)
def test_a_command_that_cannot_be_read_shows_the_usage(command, arguments, word):
    status, output, errors = command(*arguments)
    assert (status, output) == (2, "")
    assert "usage: fastmlp" in errors
    assert word in errors
    assert "Traceback" not in errors


def test_a_peer_that_is_absent_is_told_with_the_cure(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["bench", "--workload", "article", "--peers", "onnxruntime"]) == 2
    error = capsys.readouterr().err
    assert "peer 'onnxruntime' cannot run here" in error
    assert "`pip install onnxruntime onnx`" in error


@pytest.mark.parametrize(
    ("arguments", "suites", "large"),
    [
        ([], {"train"}, False),
        (["--all"], set(SUITES), True),
        (["--all", "--suite", "train"], {"train"}, True),
        (["--all", "--quick"], set(SUITES) - {"cold-start", "memory"}, False),
        (["--suite", "infer,sizes"], {"infer", "sizes"}, False),
        (["--workload", "large-4096", "--workload", "deep-b1"], {"train", "infer"}, True),
    ],
)
def test_what_the_options_choose(monkeypatch, capsys, arguments, suites, large):
    asked = []

    def nothing(chosen, setting):
        asked.extend(chosen)
        return iter(())

    monkeypatch.setattr(run, "rows", nothing)
    assert cli.main(["bench", "--backend", "numpy", *arguments]) == 0
    assert {suite for suite, _ in asked} == suites
    assert any(workload.tier == LARGE for _, workload in asked) == large


def test_help_names_the_commands(command):
    status, output, _ = command("--help")
    assert status == 0
    for name in ("bench", "info"):
        assert re.search(rf"^ +{name} +\S", output, re.M)


def test_ctrl_c_keeps_what_is_finished(monkeypatch, capsys, tmp_path):
    rows = run.rows

    def interrupted(chosen, setting):
        yield from rows(chosen[:1], replace(setting, budget_s=0))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "rows", interrupted)
    path = tmp_path / "out.json"
    status = cli.main(["bench", "--backend", "numpy", "--quick", "--json", str(path)])
    assert status == 130
    output = capsys.readouterr().out
    assert re.search(r"^article ", output, re.M)
    assert "Interrupted: only the workloads that were finished" in " ".join(output.split())
    document = documents.load(path)
    assert not document["complete"]
    assert len(document["rows"]) == 1


def test_wrong_numbers_end_with_status_1(monkeypatch, capsys):
    def wrong(trial, backend):
        return {"agree": False, "error_over_allowed": None, "steps": 8}, 0.1

    monkeypatch.setattr(training, "agree", wrong)
    assert cli.main(["bench", "--backend", "numpy", "--workload", "article"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_threads_come_too_late_where_numpy_is_loaded(capsys):
    assert "numpy" in sys.modules
    assert cli.main(["bench", "--threads", "1"]) == 2
    assert "before NumPy is loaded" in capsys.readouterr().err
