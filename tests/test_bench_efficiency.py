"""The figures of pytest-benchmark's suites: GFLOP/s, the share of the ceiling that binds, and none above it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmlp.bench.contest import PROBES
from fastmlp.bench.efficiency import ImpossibleFigureError, efficiency
from fastmlp.kernels.ceilings import Ceilings, Level

ROOT = Path(__file__).resolve().parents[1]


class Machine:
    """10 GFLOP/s, 100 GB/s up to 1000 bytes and 1 GB/s beyond; each probe after the first is `gains` times as fast."""

    def __init__(self, gains=1.0):
        self.gains, self.probed = gains, 0

    def units(self, dtype):
        return ("registers",)

    def levels(self, threads):
        return Level("L1", 1000, 500), Level("DRAM", math.inf, 10_000)

    def _rate(self, rate):
        self.probed += 1
        return rate * (self.gains if self.probed > 3 else 1)

    def multiply_adds(self, dtype, unit, threads):
        return self._rate(10e9)

    def traffic(self, level, pattern, threads):
        return self._rate({"L1": 100e9, "DRAM": 1e9}[level.name])


@pytest.mark.parametrize(
    ("seconds", "flops", "moved", "share", "ceiling"),
    [
        (1.0, 5e9, 0, 50.0, "multiply-adds"),
        (1.0, 5e9, 1, 50.0, "multiply-adds"),
        (1.0, 1e9, 8e8, 80.0, "bandwidth of DRAM"),
        (1e-6, 10, 2000, 2.0, "bandwidth of L1"),
        (1e-5, 10, 2002, 20.0, "bandwidth of DRAM"),
    ],
)
def test_the_ceiling_that_binds_is_named(seconds, flops, moved, share, ceiling):
    figures = efficiency(seconds, flops, int(moved), "float32", Ceilings(Machine()), 1)
    assert figures["% of ceiling"] == pytest.approx(share, abs=0.06)
    assert figures["ceiling"] == ceiling
    assert figures["GFLOP/s"] == pytest.approx(1e-9 * flops / seconds, abs=0.006)


@pytest.mark.parametrize(
    ("flops", "moved", "words"),
    [(11e9, 0, "110% of what multiply-adds"), (1.0, 12e8, "120% of what bandwidth of DRAM")],
)
def test_a_figure_above_its_ceiling_is_refused_after_probing_again(flops, moved, words):
    machine = Machine()
    with pytest.raises(ImpossibleFigureError, match=words):
        efficiency(1.0, int(flops), int(moved), "float32", Ceilings(machine), 1)
    assert machine.probed >= PROBES
    faster = Ceilings(Machine(gains=1.25))
    assert efficiency(1.0, int(flops), int(moved), "float32", faster, 1)["% of ceiling"] <= 100


def test_without_ceilings_there_is_no_share():
    figures = efficiency(1.0, 5e9, 0, "float32", None)
    assert figures == {"GFLOP/s": 5.0, "% of ceiling": None, "ceiling": None}


def test_the_suites_give_every_figure_to_pytest_benchmark(tmp_path):
    out = tmp_path / "out.json"
    options = ("--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-min-rounds=2", f"--benchmark-json={out}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "bench", "-q", "-k", "100x10x5 and relu or 10-5-2-sgd", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    benchmarks = json.loads(out.read_text())["benchmarks"]
    assert {each["name"].partition("[")[0] for each in benchmarks} >= {"test_linear_forward", "test_train"}
    for each in benchmarks:
        figures = each["extra_info"]
        assert figures["GFLOP/s"] >= 0
        assert 0 <= figures["% of ceiling"] <= 100
        assert figures["energy"].startswith(("counter (", "unavailable ("))
        assert figures["energy"].startswith("unavailable") or figures["joules"] is None or figures["joules"] > 0
