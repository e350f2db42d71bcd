"""bench/gpu_check: all of it rehearsed without a GPU, and what it keeps where items hang, die or are interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fastmlp.bench import gpu_check
from fastmlp.bench.gpu_check import Run, Stage
from fastmlp.kernels import backend as backends

WORKER = """
import os, sys, time
from pathlib import Path
import json
from fastmlp.bench.gpu import evaluation, worker

def skip():
    raise evaluation.Skipped("no need")

def bounce():
    raise ValueError("wrong number")

worker.items = lambda stage, rehearsal: {
    "good": lambda: {"figure": 1}, "raises": bounce, "hangs": lambda: time.sleep(600), "dies": lambda: os._exit(3),
    "skips": skip, "last": lambda: {"figure": 2},
}
if "--list" in sys.argv:
    print(json.dumps(list(worker.items("", False))))
else:
    lines, names = (sys.argv[sys.argv.index(name) + 1] for name in ("--lines", "--names"))
    worker.work("checks", json.loads(Path(names).read_text()), Path(lines), False)
"""


class Faked(Run):
    """A run whose workers have items of every fate."""

    def _command(self, stage, more):
        return [sys.executable, "-c", WORKER, *more]


def test_an_item_that_hangs_or_dies_costs_only_itself(tmp_path):
    run = Faked(tmp_path / "run.json", False, stages=(Stage("checks", 60, 2),))
    run.make()
    document = json.loads((tmp_path / "run.json").read_text())
    items = document["stages"]["checks"]["items"]
    assert {name: item["status"] for name, item in items.items()} == {
        "good": "passed",
        "raises": "failed",
        "hangs": "failed",
        "dies": "failed",
        "skips": "skipped",
        "last": "passed",
    }
    assert (items["good"]["figure"], items["last"]["figure"]) == (1, 2)
    assert items["raises"]["reason"] == "ValueError: wrong number"
    assert "took more than 2 s" in items["hangs"]["reason"]
    assert "died with status 3" in items["dies"]["reason"]
    assert items["skips"]["reason"] == "no need"
    text, right = gpu_check.summary(document)
    assert "checks: 2 passed, 3 failed, 1 skipped" in text
    assert not right


def test_a_stage_ends_when_its_seconds_are_spent(tmp_path):
    run = Faked(tmp_path / "run.json", False, stages=(Stage("checks", 3, 60), Stage("times", 20, 1)))
    began = time.monotonic()
    run.make()
    assert time.monotonic() - began < 60
    stages = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert "seconds were spent" in stages["checks"]["items"]["hangs"]["reason"]
    assert stages["checks"]["items"]["dies"]["status"] == "not run"
    assert stages["times"]["items"]["last"]["status"] == "passed"


def test_no_device_is_told_at_once(tmp_path):
    if backends.status()["cuda"] is None:
        pytest.skip("there is a device")
    path = tmp_path / "run.json"
    assert gpu_check.main(["--json", str(path), "--only", "machine", "--only", "times"]) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "what a fork of this process inherits"
    document = json.loads(path.read_text())
    assert list(document["stages"]) == ["machine"]
    assert document["stages"]["machine"]["items"]["machine"]["status"] == "failed"
    assert "CuPy" in document["stages"]["machine"]["items"]["machine"]["reason"]
    assert not document["complete"]


def command(path, *more):
    return [sys.executable, "-m", "fastmlp.bench.gpu_check", "--rehearse", "--json", str(path), *more]


def test_a_rehearsal_goes_through_every_stage(tmp_path):
    path = tmp_path / "run.json"
    chosen = ["machine", "update adam float32", "copy", "product float32", "small float32"]
    parts = [word for name in chosen for word in ("--item", name)]
    done = subprocess.run(command(path, *parts), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(path.read_text())
    assert document["complete"]
    assert document["rehearsal"]
    assert list(document["stages"]) == [stage.name for stage in gpu_check.STAGES]
    for stage in document["stages"].values():
        assert stage["items"]
        assert {item["status"] for item in stage["items"].values()} == {"passed"}
    row = document["stages"]["times"]["items"]["small float32"]
    for side in ("fastmlp", "numpy", "cupy"):
        assert row["sides"][side]["us_per_step"]["median"] > 0
    assert row["sides"]["fastmlp"]["agreement"]["agree"]
    assert row["sides"]["cupy"]["agreement"]["agree"]
    joules = document["stages"]["energy"]["items"]["small float32"]["sides"]["fastmlp"]
    assert joules["source"] == "unavailable"
    assert joules["joules_per_sample"] is None
    assert "3x3 b4" in done.stdout


def checked(path):
    return json.loads(path.read_text())["stages"].get("checks", {}).get("items")


def test_what_was_made_is_kept_when_it_is_interrupted(tmp_path):
    path = tmp_path / "run.json"
    process = subprocess.Popen(
        command(path, "--only", "machine", "--only", "checks"), stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not (path.exists() and checked(path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(path.read_text())
    assert not document["complete"]
    assert document["stages"]["machine"]["items"]["machine"]["status"] == "passed"
    assert "passed" in {item["status"] for item in checked(path).values()}
    assert "machine: 1 passed" in output
