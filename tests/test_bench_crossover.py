"""The crossover suite: every way to train is judged and timed, what was found is kept; the map shows who wins."""

from copy import deepcopy
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from fastmlp.bench import contest, crossover, heatmap, report, run, workloads
from fastmlp.bench.contest import Setting
from fastmlp.bench.crossover import Steps
from fastmlp.bench.document import finish, new_document, save
from fastmlp.bench.noise import Noise
from fastmlp.bench.publish import main as publish
from fastmlp.bench.timing import Timing
from fastmlp.errors import ArgumentError
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import step_flops
from fastmlp.kernels.crossover import FARTHEST, Crossover
from fastmlp.network import POSITIONS_A_CALL

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def kept(monkeypatch):
    crossover = Crossover()
    monkeypatch.setattr(backends, "crossover", lambda: crossover)
    return crossover


@pytest.fixture
def known_timings(monkeypatch):
    """Every side takes a second for its call, the second one half of that."""

    def timings(calls, budget_s, **rounds):
        seconds = [1.0, 0.5, *[1.0] * len(calls)][: len(calls)]
        return [Timing([each] * 3, [each] * 3) for each in seconds]

    monkeypatch.setattr(contest, "interleave", timings)


def row(name, setting):
    (made,) = run.rows(run.choose(["crossover"], [name], ()), setting)
    return made


def test_the_grid_has_no_gap_that_no_cell_speaks_for():
    cells = {(workload.widths[0], workload.batch_size) for workload in workloads.CROSSOVER}
    assert cells == {(width, n) for width in workloads.WIDTHS for n in workloads.BATCHES}
    for sizes in (workloads.WIDTHS, workloads.BATCHES):
        assert all(b <= a * 4**FARTHEST for a, b in pairwise(sizes))
    quick = run.choose(["crossover"], (), [workloads.QUICK])
    assert 4 <= len(quick) < len(cells) / 4


def test_every_way_to_train_takes_part(kept, known_timings):
    with_kernels = row("w64-b512", Setting("cpu", 2))
    assert [(side["side"], side["role"], side["way"]) for side in with_kernels["sides"]] == [
        ("numpy", "reference", None),
        ("cpu", "backend", "across the batch"),
        ("cpu, row-major", "variant", "row-major"),
        ("cpu, 1 thread", "variant", "across the batch"),
    ]
    assert run.right(with_kernels)
    assert all(side["agreement"]["agree"] for side in with_kernels["sides"][1:])
    assert all(side["value"]["n"] == 3 and side["gflops"] > 0 for side in with_kernels["sides"])
    wide = row("w256-b1", Setting("cpu", 1))
    assert [side["side"] for side in wide["sides"]] == ["numpy", "cpu"], "one kernel, one thread"


def test_a_call_makes_as_many_steps_as_fit_would():
    for workload in workloads.CROSSOVER:
        if workload.widths[0] <= 64 and workload.batch_size <= 128:
            _, cpu = crossover._sides(workload, Setting("cpu", 1), "float32")[:2]
            flops = step_flops(workload.widths, workload.batch_size)
            once = max(1, min(int(workloads.SIZE_FLOPS) // flops, POSITIONS_A_CALL // workload.batch_size))
            assert cpu.count % once == 0


def test_what_was_found_is_kept_but_of_a_quick_run(kept, known_timings):
    (workload,) = (each for each in workloads.CROSSOVER if each.name == "w16-b8")
    structure = crossover.new_network(workload, "numpy").structure
    threads = backends.threads("cpu")
    row("w16-b8", Setting("cpu", threads, quick=True))
    assert kept.nearest(structure, 8) is None
    made = row("w16-b8", Setting("cpu", threads))
    cell = kept.nearest(structure, 8)
    assert (cell.width, cell.batch_size) == (16, 8)
    assert [each.us for each in cell.contenders] == sorted(each.us for each in cell.contenders)
    found = {(each.backend, each.kernel, each.usual): each.us for each in cell.contenders}
    assert found.keys() == {("numpy", None, True), ("cpu", "across the batch", True), ("cpu", "row-major", False)}
    assert found["cpu", "across the batch", True] == pytest.approx(made["sides"][1]["value"]["median"])
    assert backends.automatic(structure)[0] == "cpu"


def test_a_kernel_that_computes_something_else_is_not_timed_nor_kept(kept, known_timings, monkeypatch):
    call = Steps.__call__

    def wrong(self):
        call(self)
        if type(self.workspace).__name__ == "RowMajorWorkspace":
            self.parameters()[0] += 1e-3

    monkeypatch.setattr(Steps, "__call__", wrong)
    made = row("w16-b8", Setting("cpu", 1))
    assert not run.right(made)
    assert made["sides"][2]["value"] is None
    assert made["sides"][1]["value"] is not None


def test_bfloat16_and_float64_are_cells_of_their_own(kept, known_timings):
    for dtype in ("float64", "bfloat16"):
        made = row("w16-b8", Setting("cpu", 1, dtype))
        assert run.right(made), made
        assert made["dtype"] == dtype


@pytest.fixture
def document(kept, known_timings):
    setting = Setting("cpu", 1)
    model = row("w16-b8", setting)
    made = new_document(setting, ["crossover"])
    for width, n, us in ((16, 8, (40, 10, 20)), (64, 8, (9, 10, 30)), (16, 128, (100, 100, 50))):
        cell = deepcopy(model) | {"widths": [width] * 4, "batch_size": n}
        for side, value in zip(cell["sides"], us, strict=True):
            side["value"]["median"] = float(value)
        made["rows"].append(cell)
    finish(made, setting, Noise())
    return made


def test_the_map_as_a_table(document):
    lines = report.markdown(document).splitlines()
    table = [line for line in lines if line.startswith("|")]
    heading, rule, first, second = table
    assert heading == "| batch \\ width | 16 | 64 |"
    assert rule == "|---:|---:|---:|"
    letters = {name: "ABC"[i] for i, name in enumerate(heatmap.Map.of(document).winners)}
    across, row_major = "cpu across the batch, 1 thread", "cpu row-major, 1 thread"
    assert set(letters) == {"numpy", across, row_major}
    assert first == f"| 8 | {letters[across]} 4.00 2.00 | {letters['numpy']} 1.00 1.11 |"
    assert second == f"| 128 | {letters[row_major]} 2.00 2.00 |  |"
    (legend,) = (line for line in lines if line.startswith("- crossover:"))
    assert all(f"{letter} {name}" in legend for name, letter in letters.items())


def test_wrong_numbers_stand_in_the_map_as_such(document):
    document["rows"][0]["error"] = "beyond the peak"
    assert "| 8 | WRONG |" in report.markdown(document)
    assert ">WRONG<" in heatmap.svg(document)


def test_the_map_as_a_picture(document, tmp_path):
    document["machine"]["cpu"] = "A<B & C"
    heatmap.save(document, tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    root = ElementTree.fromstring(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    squares = [each.find(f"{SVG}rect") for each in root.iter(f"{SVG}g")]
    assert len(squares) == 3
    for each in root.iter(f"{SVG}rect"):
        assert 0 <= float(each.attrib["x"]) <= width - float(each.attrib["width"])
        assert 0 <= float(each.attrib["y"]) <= height - float(each.attrib["height"])
    strength = [float(each.attrib["fill-opacity"]) for each in squares]
    assert strength[0] == heatmap.STRONG
    assert heatmap.FAINT < strength[1] < strength[0], "who is hardly faster is fainter"
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert {"width 16", "64", "batch 8", "128", "4.00", "2.00", "numpy"} <= set(words)
    hints = [each.text for each in root.iter(f"{SVG}title")]
    assert "width 16, batch 8" in hints[0]
    assert "cpu row-major, 1 thread: 20 µs a step" in hints[0]
    assert "prefers-color-scheme:dark" in text
    assert "href" not in text


def test_without_the_suite_there_is_no_map(document, tmp_path):
    document["rows"] = []
    with pytest.raises(ArgumentError, match="--map needs the suite crossover"):
        heatmap.save(document, tmp_path / "map.svg")


def test_a_readme_has_the_map_beside_it(document, tmp_path):
    save(document, tmp_path / "all.json")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- figures: all.json -->\n<!-- end of figures -->\n")
    assert publish([str(readme)]) == 0
    assert (tmp_path / "all-map.svg").read_text() == heatmap.svg(document)
    assert not (tmp_path / "all.svg").exists(), "no sweep of widths"
    (tmp_path / "all-map.svg").write_text("changed")
    assert publish([str(readme), "--check"]) == 1


def test_rows_come_in_the_order_of_a_shuffled_fit():
    (workload,) = (each for each in workloads.CROSSOVER if each.name == "w16-b8")
    steps = Steps(workload, "numpy", "float32", 6)
    assert sorted(steps._order[:32]) == list(range(32))
    assert list(steps._order[:32]) != list(range(32))
    assert len(steps._order) == 6 * 8
    assert np.isfinite(steps.outcome()[-1]).all()
