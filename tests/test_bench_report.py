"""The document of a run, and what it says as a table: caveats, noise, older runs."""

import json
import os
import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from benching import documented, show, side_of

from fastmlp.bench import baseline, noise, report, timing
from fastmlp.bench.baseline import compare
from fastmlp.bench.document import load, save
from fastmlp.bench.noise import Noise
from fastmlp.errors import ArgumentError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def document():
    return documented()


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
    save(document, path)
    assert load(path) == document


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a readable"),
        ("[1]", "got 'list'"),
        ('{"schema": 1}', "got 1"),
        ('{"schema": 3}', "missing are"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, text, word):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=word):
        load(path)
    with pytest.raises(ArgumentError, match="not a readable"):
        load(tmp_path / "absent.json")


def test_a_report_that_cannot_be_written_says_so(document, tmp_path):
    with pytest.raises(ArgumentError, match="cannot be written"):
        save(document, tmp_path / "absent" / "report.json")


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


def test_the_peak_of_the_widest_registers_is_told_where_a_rate_is_held_against_it(document):
    assert "Peak: " not in report.markdown(document)
    backend = side_of(document["rows"][0], "backend")
    backend["percent_of_peak"], backend["threads"] = 50.0, 2
    assert "Peak: multiply-adds in registers, measured here: 500 GFLOP/s (float32, 2 thread(s))." in report.markdown(
        document
    )


def test_a_peer_without_a_part_is_told(document):
    assert "Took no part" not in report.markdown(document)
    document["peers"].append({"name": "onnxruntime", "version": "1", "bfloat16": False})
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
    quiet = {"load": 0.1 * cores, "other_cores": 0.05 * cores, "stolen_cores": 0.0}
    unknown = dict.fromkeys(quiet)
    for calm in (quiet, unknown):
        assert "was busy" not in report.markdown(document | {"noise": calm})
    for name, words in (("load", "before the start"), ("other_cores", "other processes"), ("stolen_cores", "took")):
        text = report.markdown(document | {"noise": quiet | {name: 0.5 * cores}})
        assert re.search(rf"was busy with other work: .*{words}", text)


def test_how_long_threads_take_to_meet_is_told(document):
    """A hypervisor that moves them to other cores changes every figure."""
    seconds = iter((0.4e-6, 0.95e-6, 0.41e-6))
    noise = Noise(meeting=lambda: next(seconds))
    noise.meet()
    noise.meet()
    found = noise.so_far()
    assert found["meeting_us"] == [0.4, 0.95, 0.41]
    text = report.markdown(document | {"noise": found})
    assert "phase without work in 0.40 to 0.95 µs, 0.41 as a rule" in text
    for unknown in (document["noise"] | {"meeting_us": None}, {k: v for k, v in found.items() if k != "meeting_us"}):
        assert "phase without work" not in report.markdown(document | {"noise": unknown})


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
    assert timing.number(value) == text


# What else the machine did, older runs, and the plot


def stat(path, busy, steal):
    path.write_text(f"cpu  {busy} 0 0 500 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")


def test_other_processes_work_is_told_apart_from_ones_own(monkeypatch, tmp_path):
    """In 10 s on the clock the cores were busy for 12 s and 3 s were stolen; 5 s were this process's."""
    path, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    own, now = [0.0], [0.0]
    monkeypatch.setattr(noise.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(
        noise.os, "times", lambda: SimpleNamespace(user=own[0], system=0.0, children_user=0.0, children_system=own[0])
    )
    stat(path, 100, 0)
    account = Noise(path)
    stat(path, 100 + 12 * ticks, 3 * ticks)
    own[0], now[0] = 2.5, 10.0
    found = account.so_far()
    assert (found["other_cores"], found["stolen_cores"]) == (pytest.approx(0.7), pytest.approx(0.3))
    assert len(noise.disturbances(found | {"load": 3.0}, 2)) == 3
    assert noise.disturbances(found | {"load": 3.0}, 64) == []


@pytest.mark.parametrize("text", [None, "", "cpu  1 2\n", "cpu  a b c d e f g h\n"])
def test_a_system_that_keeps_no_account(tmp_path, text):
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    found = Noise(path).so_far()
    assert (found["other_cores"], found["stolen_cores"]) == (None, None)


def test_a_run_against_an_older_one(document):
    older = deepcopy(document) | {"commit": "abc", "date": "2026-01-02T00:00:00+00:00", "threads": 4}
    for made, ratios in ((document, (2.4, 1.02, 1.0)), (older, (2.0, 1.0, 1.2))):
        for each, name, ratio in zip(made["rows"], "abc", ratios, strict=True):
            each["workload"] = name
            side_of(each, "reference")["ratio"] = {"median": ratio, "iqr": 0.1, "n": 9}
    older["rows"][2]["workload"] = "gone"
    compare(document, older)
    assert [each["change"] and each["change"]["beyond_noise"] for each in document["rows"]] == [True, False, None]
    assert document["rows"][0]["change"]["gain"] == pytest.approx(1.2)
    assert document["baseline"] == {
        "commit": "abc",
        "date": "2026-01-02T00:00:00+00:00",
        "differs": ["threads"],
        "rows": 2,
        "median_gain": pytest.approx(1.11),
        "median_change": pytest.approx(0.11),
    }
    text = report.markdown(document)
    assert "1.20 faster" in text
    assert "Baseline abc of 2026-01-02: 2 rows in common, 1.11 times as fast in the median, 11.0% away." in text
    assert "It ran with another threads." in text


@pytest.mark.parametrize("damage", [{"rows": None}, {"rows": [1]}, {"rows": [{"name": 1}]}, {"rows": {"a": 3}}])
def test_a_damaged_older_run_is_refused_before_the_new_one(document, damage, tmp_path):
    path = tmp_path / "older.json"
    path.write_text(json.dumps(document))
    assert baseline.load(path)["rows"] == document["rows"]
    path.write_text(json.dumps(document | damage))
    with pytest.raises(ArgumentError, match="is a damaged benchmark report"):
        baseline.load(path)


def test_a_wide_spread_and_a_small_step_are_no_change(document):
    del document["rows"][1:]
    older = deepcopy(document)
    for iqr, ratio, beyond in ((0.0, 1.04, False), (0.0, 1.06, True), (0.5, 1.2, False), (0.5, 0.5, True)):
        for made, median in ((document, ratio), (older, 1.0)):
            side_of(made["rows"][0], "reference")["ratio"] = {"median": median, "iqr": iqr * median, "n": 9}
        compare(document, older)
        assert document["rows"][0]["change"]["beyond_noise"] is beyond


def test_where_there_is_no_reference_the_time_is_compared(document):
    del document["rows"][1:]
    older = deepcopy(document)
    for made, median in ((document, 5.0), (older, 10.0)):
        (row, *_) = made["rows"]
        row["sides"] = [side_of(row, "backend")]
        row["sides"][0]["value"] = {"median": median, "iqr": 0.0, "n": 9}
    compare(document, older)
    assert document["rows"][0]["change"] == {"gain": pytest.approx(2.0), "beyond_noise": True}


def test_a_peer_that_rounds_is_no_rival_in_float32(document):
    for rounds, dtype, rival in ((False, "float32", "plain"), (True, "float32", "numpy"), (True, "bfloat16", "plain")):
        document["peers"][0]["bfloat16"] = rounds
        row = document["rows"][0] | {"dtype": dtype}
        side_of(row, "peer")["ratio"]["median"] = 1.1
        assert report._best_rival(row, document)["side"] == rival
    document["dtype"] = "float32"
    assert "plain: products of operands rounded to bfloat16" in report.markdown(document)
