"""The machine's ceilings: measured once, kept safely, and above all that kernels do."""

import importlib
import json
import math
import multiprocessing

import numpy as np
import pytest

from fastmlp.kernels import backend as backends
from fastmlp.kernels.ceilings import PATTERNS, Ceilings, Level

ceilings_of_cpu = importlib.import_module(
    "fastmlp.kernels.cpu.ceilings"
)  # beside it the package has a function so named


class Machine:
    """Rates that the test says, and what was measured."""

    def __init__(self, rate=1e9):
        self.rate, self.asked = rate, []

    def units(self, dtype):
        return {"float32": ("wide", "narrow"), "float64": ("wide",), "bfloat16": ("pairs",)}[dtype]

    def meeting(self, threads):
        return 4e-7

    def multiply_adds(self, dtype, unit, threads):
        self.asked.append((dtype, unit, threads))
        return self.rate * threads * {"wide": 2, "narrow": 1, "pairs": 4}[unit]

    def levels(self, threads):
        return Level("L1", 1000 * threads, 500), Level("DRAM", math.inf, 10_000)

    def traffic(self, level, pattern, threads):
        self.asked.append((level.name, pattern, threads))
        return self.rate * {"read": 1, "triad": 2}[pattern] * {"L1": 10, "DRAM": 1}[level.name]


def test_each_rate_is_measured_once_and_kept(tmp_path):
    machine, file = Machine(), tmp_path / "ceilings.json"
    ceilings = Ceilings(machine, file)
    for _ in range(2):
        assert ceilings.peak("float32", 2) == 4e9
        assert ceilings.peak("float32", 2, "narrow") == 2e9
        assert ceilings.bandwidth(1500, 2) == 20e9
        assert ceilings.bandwidth(1500, 1) == 2e9
    asked = len(machine.asked)
    assert asked == len(set(machine.asked)) == 2 + 2 * len(PATTERNS)
    again = Ceilings(Machine(rate=0.5e9), file)
    assert (again.peak("float32", 2), again.bandwidth(1500, 2)) == (4e9, 20e9)
    assert again.probes.asked == []


def test_a_later_probe_counts_if_it_is_faster(tmp_path):
    machine = Machine()
    ceilings = Ceilings(machine, tmp_path / "ceilings.json")
    assert ceilings.probe("float64", 1) == 2e9
    machine.rate = 0.5e9
    assert ceilings.probe("float64", 1) == 2e9
    machine.rate = 2e9
    assert ceilings.probe("float64", 1) == 4e9
    assert Ceilings(machine, ceilings.file).peak("float64", 1) == 4e9


def test_bfloat16_may_run_on_either_unit():
    ceilings = Ceilings(Machine())
    assert ceilings.peak("bfloat16", 1) == 4e9
    ceilings.probes.units = lambda dtype: {"float32": ("wide",), "bfloat16": ()}[dtype]
    assert ceilings.peak("bfloat16", 1) == 2e9


def test_the_roofline_takes_the_longer_of_the_two():
    ceilings = Ceilings(Machine())
    assert ceilings.least_seconds(2e9, 1.0, 1, "float32", 1) == 1.0
    assert ceilings.least_seconds(1.0, 40e9, 1, "float32", 1) == 2.0
    assert ceilings.least_seconds(1.0, 40e9, 2000, "float32", 1) == 20.0


def test_measured_anew_everything_is_forgotten(tmp_path):
    machine, file = Machine(), tmp_path / "ceilings.json"
    ceilings = Ceilings(machine, file)
    ceilings.peak("float32", 1)
    machine.rate = 0.5e9
    ceilings.forget()
    assert not file.exists()
    told = list(ceilings.measure(("float32", "bfloat16")))
    assert len(told) == len(set(told)) == len(ceilings.rates())
    assert ceilings.peak("float32", 1) == 1e9
    kinds = {(rate["kind"], rate["of"], rate["by"]) for rate in ceilings.rates()}
    assert {("peak", "float32", "narrow"), ("peak", "bfloat16", "pairs"), ("bandwidth", "DRAM", "triad")} <= kinds
    assert json.loads(file.read_text())["rates"].keys() == set(told)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"schema": 0, "rates": {"peak/float32/wide/1": 7}}',
        b'{"schema": 1}',
        b'{"schema": 1, "rates": 5}',
        b'{"schema": 1, "rates": {"peak/float32/wide/1": "fast"}}',
        b'{"schema": 1, "rates": {"peak/float32/wide/1": NaN}}',
        b'{"schema": 1, "rates": {"peak/float32/wide/1": Infinity}}',
        b'{"schema": 1, "rates": {"peak/float32/wide/1": -3}}',
        b'{"schema": 1, "rates": {"peak/float32/wide/1": true}}',
        b'{"schema": 1, "rates": {"peak/float32": 7}}',
    ],
)
def test_a_damaged_file_is_measured_again_and_mended(tmp_path, content):
    file = tmp_path / "ceilings.json"
    file.write_bytes(content)
    assert Ceilings(Machine(), file).peak("float32", 1) == 2e9
    assert json.loads(file.read_text()) == {"schema": 1, "rates": {"peak/float32/wide/1": 2e9}}


def test_no_folder_keeps_nothing_and_hurts_nobody(tmp_path):
    for file in (None, tmp_path / "absent" / "ceilings.json"):
        ceilings = Ceilings(Machine(), file)
        assert ceilings.peak("float32", 1) == 2e9
        ceilings.forget()
    assert list(tmp_path.iterdir()) == []


def write_many(file, threads):
    for _ in range(50):
        Ceilings(Machine(), file).probe("float32", threads)


def test_writers_at_the_same_time_leave_a_whole_file(tmp_path):
    file = tmp_path / "ceilings.json"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(file, threads)) for threads in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rates = json.loads(file.read_text())["rates"]
    assert rates.items() <= {f"peak/float32/wide/{threads}": 2e9 * threads for threads in (1, 2, 3)}.items()
    assert len(rates) >= 1
    assert list(tmp_path.iterdir()) == [file], "no temporary file is left"


# This machine's


@pytest.fixture(scope="module")
def probes():
    return backends.ceilings("cpu").probes


def test_backends_without_probes_have_none():
    assert backends.ceilings("numpy") is None


def test_what_has_no_rate_says_why():
    assert backends.ceilings("cpu").missing["AMX"].startswith("not measured: ")


def test_levels_hold_their_probe_and_more_threads_hold_more(probes):
    ceilings = Ceilings(probes)
    for threads in (1, 2, 5):
        nearer = 0
        for level in probes.levels(threads):
            assert nearer < level.probed <= level.capacity
            assert ceilings.level(level.probed, threads).name == level.name
            nearer = level.capacity
    assert ceilings.level(10**15, 1).name == "DRAM"
    assert probes.levels(2)[0].capacity == 2 * probes.levels(1)[0].capacity


def test_meetings_are_measured_anew_and_one_thread_has_none(probes):
    ceilings = Ceilings(probes)
    assert ceilings.meeting(1) is None
    assert ceilings.meeting(2) > 0
    assert ceilings.rates() == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_arithmetic_that_is_counted_is_done(monkeypatch, probes, dtype, threads):
    """Each chunk leaves what its rounds of multiply-adds leave, whoever did it; the count is that of these rounds."""
    for unit in set(probes.units(dtype)) - {ceilings_of_cpu.TILE_UNIT}:  # whose sums are those of test_tiles.py
        counted, left = run_once(monkeypatch, lambda unit=unit: probes.multiply_adds(dtype, unit, threads))
        (start, results), (*_, depth) = left
        vector = start.size // (2 + ceilings_of_cpu.CHAINS)
        x, y, *totals = start.astype(np.float64).reshape(-1, vector)
        if dtype == "bfloat16":
            parts = start.view(np.uint16)[: 4 * vector].astype(np.uint32) << 16
            x, y = parts.view(np.float32).astype(np.float64).reshape(2, vector, 2)
            expected = [total + depth * (x * y).sum(axis=1) for total in totals]
        else:
            expected = totals
            for _ in range(depth):
                expected = [total * x + y for total in expected]
        assert counted == ceilings_of_cpu.CHUNKS * depth * len(totals) * vector * (4 if dtype == "bfloat16" else 2)
        done = [rank for rank in results.reshape(threads, -1, vector) if rank.any()]
        assert done, "somebody has done something"
        for rank in done:
            np.testing.assert_allclose(rank, expected, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_bytes_that_are_counted_are_moved(monkeypatch, probes, pattern, threads):
    for level in probes.levels(threads)[:-1]:  # main memory is the last cache's code on more
        counted, left = run_once(monkeypatch, lambda level=level: probes.traffic(level, pattern, threads))
        (memory,), (apart, part, of_rank, of_chunk, passes, rounds) = left
        arrays, chunks = {"read": 1, "triad": 3}[pattern], ceilings_of_cpu.CHUNKS
        assert counted == arrays * 4 * part * chunks * passes * rounds
        assert sorted((of_rank, of_chunk)) == [0, part]
        parts = chunks if of_chunk else threads
        assert 0.9 * level.probed <= arrays * 4 * part * parts <= level.probed
        if pattern == "triad":
            changed = memory[:apart] != memory[-1]
            assert changed.sum() % part == 0
            assert part <= changed.sum() <= parts * part
            np.testing.assert_allclose(memory[:apart][changed], 1.5 / 3)
            assert (memory[apart:] == memory[-1]).all()
        else:
            sums = memory[apart:].reshape(threads, -1).astype(np.float64)
            sums = sums[:, : sums.shape[1] // 4]
            assert any(rank.sum() == pytest.approx(passes * part / 3, rel=1e-4) for rank in sums)


def run_once(monkeypatch, probe):
    """What a probe counts as the work of one call, and what the call has left: arrays, and the numbers of its job."""
    made, jobs, counted = [], [], []
    zeros, run = ceilings_of_cpu.aligned_zeros, ceilings_of_cpu._run

    def remember(shape, dtype):
        made.append(zeros(shape, dtype))
        return made[-1]

    def count(call, work):
        call(1)
        counted.append(work)
        return work

    with monkeypatch.context() as patch:
        patch.setattr(ceilings_of_cpu, "_assemble", lambda threads: None)
        patch.setattr(ceilings_of_cpu, "aligned_zeros", remember)
        patch.setattr(ceilings_of_cpu, "_best_rate", count)
        patch.setattr(ceilings_of_cpu, "_run", lambda *job: (jobs.append(job), run(*job)))
        probe()
    ((_, _, _, *job),) = jobs
    return counted[0], (made, job[len(made) :])


def test_the_fastest_of_several_calls_is_the_rate(monkeypatch):
    durations = iter([0.0005, 0.002, 0.005, 0.004, *[0.006] * (ceilings_of_cpu.PROBES - 2), 0.005])
    calls, now = [], [0.0]

    def call(amount):
        calls.append(amount)
        now[0] += next(durations)

    monkeypatch.setattr(ceilings_of_cpu.time, "perf_counter", lambda: now[0])
    rate = ceilings_of_cpu._best_rate(call, 10.0)
    assert calls[:3] == [1, 1, 2]
    assert set(calls[3:]) == {2}
    assert rate == pytest.approx(2 * 10.0 / 0.004)
