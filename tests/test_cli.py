"""The command line, run as users run it: a process away from the checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp
from fastmlp import cli
from fastmlp.bench import report, run

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
        "threads",
        "GPU",
        "energy",
    ]
    assert max(map(len, output.splitlines())) <= 100
    assert re.search(r"^backend numpy +ready$", output, re.M)
    assert re.search(r"^backend cpu +ready$", output, re.M)
    assert re.search(r"^energy +(counter|unavailable) \(.+", output, re.M)


def test_info_as_json(command):
    status, output, errors = command("info", "--json")
    assert (status, errors) == (0, "")
    facts = json.loads(output)
    assert facts["fastmlp"] == fastmlp.__version__
    assert facts["backends"]["cpu"] is None
    assert "CUDA" in facts["backends"]["cuda"]
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
    document = report.load(tmp_path / "out.json")
    assert document["complete"]
    assert document["quick"]
    assert (document["backend"], document["threads"]) == ("cpu", 1)
    (row,) = document["rows"]
    assert row["workload"] == "article"
    assert row["agreement"]["agree"]
    assert row["backend"]["us_per_step"]["n"] >= 7


def test_threads_reach_numpy_too(command, tmp_path):
    status, _, errors = command(
        "bench", "--quick", "--backend", "numpy", "--workload", "article", "--threads", "1", "--json", "out.json"
    )
    assert status == 0, errors
    document = report.load(tmp_path / "out.json")
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
        (("bench", "--backend", "cuda"), ("backend 'cuda' cannot run here", "CUDA")),
        (("bench", "--json", "absent/out.json"), ("--json must name a file in a folder that exists",)),
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


def test_help_names_the_commands(command):
    status, output, _ = command("--help")
    assert status == 0
    for name in ("bench", "info"):
        assert re.search(rf"^ +{name} +\S", output, re.M)


def test_ctrl_c_keeps_what_is_finished(monkeypatch, capsys, tmp_path):
    rows = run.rows

    def interrupted(workloads, backend, budget_s, tell):
        yield from rows(workloads[:1], backend, 0, tell)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "rows", interrupted)
    path = tmp_path / "out.json"
    status = cli.main(["bench", "--backend", "numpy", "--quick", "--json", str(path)])
    assert status == 130
    output = capsys.readouterr().out
    assert re.search(r"^article ", output, re.M)
    assert "Interrupted: only the workloads that were finished" in " ".join(output.split())
    document = report.load(path)
    assert not document["complete"]
    assert len(document["rows"]) == 1


def test_wrong_numbers_end_with_status_1(monkeypatch, capsys):
    def wrong(workload, data, backend):
        return {"agree": False, "error_over_allowed": None, "steps": 8}, 0.1

    monkeypatch.setattr(run, "agree", wrong)
    assert cli.main(["bench", "--backend", "numpy", "--workload", "article"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_threads_come_too_late_where_numpy_is_loaded(capsys):
    assert "numpy" in sys.modules
    assert cli.main(["bench", "--threads", "1"]) == 2
    assert "before NumPy is loaded" in capsys.readouterr().err
