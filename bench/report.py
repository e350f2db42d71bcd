"""The report: one document (document.py) as a table for the terminal, or in Markdown for a README."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..energy import WINDOW_S
from . import heatmap
from .contest import ROUNDING
from .noise import disturbances
from .run import right
from .timing import NOISY, Spread, number

LESS = ("energy", "cold-start", "memory")
"""Suites whose figure is no speed: the backend takes so many times less."""


def table(document: dict[str, Any], width: int) -> Group:
    """The document for a terminal of `width` columns: heading, a table a suite, footnotes."""
    parts: list[Any] = [Text(_heading(document)), Text()]
    hidden = False
    for suite in document["suites"]:
        rows = [row for row in document["rows"] if row["suite"] == suite]
        if not rows:
            continue
        if suite == heatmap.SUITE:
            parts += [_grid(heatmap.Map.of(document)), Text()]
            continue
        columns = _columns(document, suite, rows)
        shown = _fitting(columns, rows, width)
        hidden = hidden or len(shown) < len(columns)
        grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for column in shown:
            grid.add_column(column.heading, justify=column.justify, no_wrap=False)
        for row in rows:
            grid.add_row(*(column.cell(row) for column in shown), style=None if right(row) else "bold red")
        parts += [grid, Text()]
    notes = _notes(document)
    if hidden:
        notes.append("More columns in a wider terminal, all of them with --json.")
    return Group(*parts, *(Text(note) for note in notes))


def markdown(document: dict[str, Any]) -> str:
    """The document as the README shows it: heading, a table a suite, footnotes; ends in a line break."""
    lines = [_heading(document), ""]
    for suite in document["suites"]:
        rows = [row for row in document["rows"] if row["suite"] == suite]
        if not rows:
            continue
        if suite == heatmap.SUITE:
            heading, *cells = heatmap.Map.of(document).table()
            lines += [f"| {' | '.join(heading)} |", "|" + "---:|" * len(heading)]
            lines += [*(f"| {' | '.join(line)} |" for line in cells), ""]
            continue
        columns = _columns(document, suite, rows)
        lines.append(f"| {' | '.join(' '.join(column.heading.split()) for column in columns)} |")
        lines.append("|" + "|".join("---" if column.justify == "left" else "---:" for column in columns) + "|")
        lines += [f"| {' | '.join(column.cell(row) for column in columns)} |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in _notes(document))]) + "\n"


def _grid(found: heatmap.Map) -> Table:
    """The crossover map for a terminal."""
    heading, *lines = found.table()
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for words in heading:
        grid.add_column(words, justify="right")
    for line in lines:
        grid.add_row(*line)
    return grid


@dataclass(frozen=True)
class _Column:
    """One column; a narrow terminal shows those of the lowest `rank`."""

    heading: str
    cell: Callable[[dict[str, Any]], str]
    rank: int = 0
    justify: Any = "right"


def _columns(document: dict[str, Any], suite: str, rows: Sequence[dict[str, Any]]) -> list[_Column]:
    """Every column of the suite that has something to show."""
    backend, peers = document["backend"], [peer["name"] for peer in document["peers"]]
    unit = rows[0]["unit"]
    alone = f"{backend}, 1 thread"
    columns = [
        _Column("workload", lambda row: row["workload"], justify="left"),
        _Column("network, batch" if suite != "kernels" else "product", lambda row: row["case"], justify="left"),
        _Column(f"NumPy\n{unit}", _value("reference")),
        *(_Column(f"{peer}\n{unit}", _value("peer", peer), rank=1) for peer in peers),
        _Column(f"{backend}\n{unit}", _value("backend")),
        *(
            _Column(f"{name}\n{unit}", _value("variant", name), rank=0 if suite == "sizes" else 2)
            for name in dict.fromkeys(s["side"] for row in rows for s in row["sides"] if s["role"] == "variant")
            if name != alone
        ),
        _Column(
            "times\nless" if suite in LESS else "times\nfaster",
            lambda row: _ratio(row, "reference"),
        ),
        *([_Column("than the\nbest", lambda row: _than_the_best(row, document))] if peers else []),
        *(
            _Column(f"times the\n{name}", lambda row, name=name: _times(row, name))  # type: ignore[misc]
            for name in ("width rounded up", "batch rounded up")
        ),
        _Column("\nGFLOP/s", lambda row: _figure(row, "backend", "gflops")),
        _Column("% of\npeak", lambda row: _figure(row, "backend", "percent_of_peak")),
        _Column(f"1 thread\n{unit}", _value("variant", alone), rank=3),
        _Column("threads\ngain", lambda row: _ratio(row, "variant", alone), rank=2),
        _Column("samples/s", lambda row: _figure(row, "backend", "samples_per_s"), rank=4),
        _Column(
            f"core-µs/sample\nNumPy / {backend}", lambda row: _pair(row, lambda s: s["core_us_per_sample"]["median"]), 5
        ),
        _Column(f"net µJ/sample\nNumPy / {backend}", _energies("net_uj_per_sample"), rank=1),
        _Column(f"watts\nNumPy / {backend}", _energies("watts"), rank=2),
        _Column(f"GFLOP/J\nNumPy / {backend}", _energies("gflop_per_joule"), rank=1),
        _Column("error\n/ float64", _error, rank=1),
        _Column("first\ncall, s", _first_call, rank=2),
        _Column("times the\nbaseline", _change),
    ]
    return [column for column in columns if any(column.cell(row) for row in rows)]


def _fitting(columns: Sequence[_Column], rows: Sequence[dict[str, Any]], width: int) -> list[_Column]:
    """The columns that fit beside one another, the first ones of each rank first; rank 0 is shown at any width."""

    def wide(column: _Column) -> int:
        cells = [*column.heading.splitlines(), *(column.cell(row) for row in rows)]
        return 2 + max(len(cell) for cell in cells)  # and what stands between two columns

    chosen: set[int] = set()
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        if columns[index].rank == 0 or sum(wide(columns[other]) for other in (*chosen, index)) <= width:
            chosen.add(index)
    return [column for index, column in enumerate(columns) if index in chosen]


def _side(row: dict[str, Any], role: str, name: str | None = None) -> dict[str, Any] | None:
    """The row's side of this role, and of this name where there are several."""
    return next((side for side in row["sides"] if side["role"] == role and name in (None, side["side"])), None)


def _value(role: str, name: str | None = None) -> Callable[[dict[str, Any]], str]:
    """Cells of a side's figure; WRONG where its numbers do not agree, nothing where it did not take part."""

    def cell(row: dict[str, Any]) -> str:
        side = _side(row, role, name)
        if side is None:
            return ""
        if side["agreement"] is not None and not side["agreement"]["agree"]:
            return "WRONG"
        return "" if side["value"] is None else _marked(side["value"])

    return cell


def _ratio(row: dict[str, Any], role: str, name: str | None = None) -> str:
    side = _side(row, role, name)
    return "" if side is None or side["ratio"] is None else _marked(side["ratio"])


def _times(row: dict[str, Any], name: str) -> str:
    """The backend's time over that of a variant."""
    side = _side(row, "variant", name)
    return "" if side is None or side["ratio"] is None else number(1 / side["ratio"]["median"])


def _than_the_best(row: dict[str, Any], document: dict[str, Any]) -> str:
    """How many times faster than the fastest of NumPy and the peers, and which one that is."""
    rival = _best_rival(row, document)
    return "" if rival is None else f"{_marked(rival['ratio'])} {rival['side']}"


def _best_rival(row: dict[str, Any], document: dict[str, Any]) -> dict[str, Any] | None:
    """The fastest of NumPy and of the peers that do all that was asked, None where nothing was timed."""
    lesser = set() if row["dtype"] == "bfloat16" else _rounding(document)
    rivals = [
        side
        for side in row["sides"]
        if side["role"] in ("reference", "peer") and side["ratio"] is not None and side["side"] not in lesser
    ]
    return min(rivals, key=lambda side: side["ratio"]["median"], default=None)


def _rounding(document: dict[str, Any]) -> set[str]:
    """Names of the peers that round to bfloat16."""
    return {peer["name"] for peer in document["peers"] if peer["bfloat16"]}


def _figure(row: dict[str, Any], role: str, key: str) -> str:
    """One number of a side; ERROR in place of a rate beyond the machine."""
    side = _side(row, role)
    if side is None or side.get(key) is None:
        beyond = side is not None and row["error"] and key == "gflops" and side["value"] is not None
        return "ERROR" if beyond else ""
    return number(side[key])


def _error(row: dict[str, Any]) -> str:
    """How far the backend's numbers are from float64's, where operands were rounded or split."""
    side = _side(row, "backend")
    agreement = None if side is None or row["dtype"] not in ROUNDING else side["agreement"]
    error = None if agreement is None else agreement.get("relative_error")
    return "" if error is None else f"{error:.1e}"


def _first_call(row: dict[str, Any]) -> str:
    side = _side(row, "backend")
    return "" if side is None or side["first_call_s"] is None else f"{side['first_call_s']:.2f}"


def _energies(key: str) -> Callable[[dict[str, Any]], str]:
    """Cells of one figure of the suite energy for the reference and the backend."""
    return lambda row: _pair(row, lambda side: side["energy"][key]) if row["suite"] == "energy" else ""


def _change(row: dict[str, Any]) -> str:
    """How many times as fast as in the baseline, and in words where that is beyond the noise."""
    change = row.get("change")
    if change is None:
        return ""
    word = (" faster" if change["gain"] > 1 else " SLOWER") if change["beyond_noise"] else ""
    return number(change["gain"]) + word


def _pair(row: dict[str, Any], figure: Callable[[dict[str, Any]], float | None]) -> str:
    """The reference's and the backend's figure; n/a for one that was not measured, nothing where neither was."""
    sides = [side for side in (_side(row, "reference"), _side(row, "backend")) if side and "core_us_per_sample" in side]
    values = [figure(side) for side in sides]
    if all(value is None for value in values):
        return ""
    return " / ".join("n/a" if value is None else number(value) for value in values)


def _marked(spread: dict[str, Any]) -> str:
    """The median, marked where it is noisy."""
    return ("~" if Spread(**spread).noisy else "") + number(spread["median"])


def _arithmetic(dtype: str) -> str:
    return "float32 of precision high" if dtype == "high" else dtype


def _heading(document: dict[str, Any]) -> str:
    machine, software, blas = document["machine"], document["software"], document["blas"]
    commit = f" ({document['commit']})" if document["commit"] else ""
    kernel = f", {blas['kernel']} kernel" if blas["kernel"] else ""
    peers = "".join(f", {peer['name']} {peer['version']}" for peer in document["peers"])
    return (
        f"fastmlp {document['fastmlp']}{commit}, backend {document['backend']} on {document['threads']} thread(s), "
        f"against NumPy {software['numpy']} ({blas['name']} {blas['version']}{kernel}){peers}; {machine['cpu']}, "
        f"{machine['usable_cores']} core(s), {document['date'][:10]}, {_arithmetic(document['dtype'])}."
    )


def _notes(document: dict[str, Any]) -> list[str]:
    """What must be known to read the table: results, errors, then every caveat that applies."""
    notes = [note for row in document["rows"] for note in _row_notes(row, document)]
    found = heatmap.Map.of(document)
    if found.squares:
        notes.append(found.legend())
    rivals = [_best_rival(row, document) for row in document["rows"] if row["suite"] == "kernels"]
    gains = [rival["ratio"]["median"] for rival in rivals if rival is not None]
    if gains:
        notes.append(
            f"kernels: {number(geometric_mean(gains))} times as fast as the best other side, geometric mean of "
            f"{len(gains)} rows."
        )
    notes.append(
        "Medians over calls that take turns; times faster is the median over the turns, threads gain the time on one "
        "thread over that on all. GFLOP/s and samples/s are the backend's; core-µs add up every core kept busy. The "
        "first call's time includes compiling, or loading what was compiled before."
    )
    if _rounding(document) and document["dtype"] != "bfloat16":
        notes.append(
            f"{', '.join(sorted(_rounding(document)))}: products of operands rounded to bfloat16, not among the best."
        )
    entered = {side["side"] for row in document["rows"] for side in row["sides"]}
    absent = [peer["name"] for peer in document["peers"] if document["rows"] and peer["name"] not in entered]
    if absent:
        notes.append(f"Took no part, having nothing that does what was timed: {', '.join(absent)}.")
    peaks = [rate for rate in document["ceilings"]["rates"] if rate["kind"] == "peak" and _is_used(rate, document)]
    if peaks:
        told = (f"{peak['rate'] * 1e-9:.0f} GFLOP/s ({peak['of']}, {peak['threads']} thread(s))" for peak in peaks)
        notes.append(f"Peak: multiply-adds in registers, measured here: {', '.join(told)}.")
    if any(Spread(**side["value"]).noisy for row in document["rows"] for side in row["sides"] if side["value"]):
        notes.append(f"~ marks a noisy figure: interquartile range over {NOISY:.0%} of the median.")
    if met := document["noise"].get("meeting_us"):
        notes.append(
            f"Threads shared a phase without work in {min(met):.2f} to {max(met):.2f} µs, {median(met):.2f} as a "
            "rule: it takes longer, and so do steps, while a system keeps them on cores without a common cache."
        )
    disturbed = disturbances(document["noise"], document["machine"]["usable_cores"])
    if disturbed:
        notes.append(f"The machine was busy with other work: {'; '.join(disturbed)}.")
    notes += [*_energy_notes(document), *_baseline_notes(document)]
    if document["blas"]["forced"]:
        notes.append(
            f"{document['blas']['forced']} is set in the environment and may hold NumPy's BLAS below its best."
        )
    if not document["complete"]:
        notes.append("Interrupted: only the workloads that were finished are shown.")
    return notes


def _is_used(rate: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether the peak is one that a figure of the document is held against."""
    held = {
        (dtype, side["threads"])
        for row in document["rows"]
        for side in row["sides"]
        for dtype in (("float32", "bfloat16") if side["arithmetic"] == "high" else (side["arithmetic"],))
        if side["percent_of_peak"]
    }
    widest = max(
        (other["rate"] for other in document["ceilings"]["rates"] if _same_but_unit(other, rate)), default=rate["rate"]
    )
    return (rate["of"], rate["threads"]) in held and rate["rate"] == widest


def _same_but_unit(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[key] == b[key] for key in ("kind", "of", "threads"))


def _energy_notes(document: dict[str, Any]) -> list[str]:
    """Where the joules come from, or why there are none; and whether the windows were long enough to publish."""
    energy = document["energy"]
    notes = [f"Energy: {energy['source']} ({energy['detail']})."]
    windows = [
        side["energy"]["window_s"]
        for row in document["rows"]
        for side in row["sides"]
        if row["suite"] == "energy" and side["value"] is not None
    ]
    if windows:
        notes.append("Joules are gross; net ones are above what the machine took at rest.")
        if min(windows) < WINDOW_S:
            notes.append(
                f"Energy windows of {min(windows):.2g} s are too short to publish: {WINDOW_S:g} s without --quick."
            )
    return notes


def _baseline_notes(document: dict[str, Any]) -> list[str]:
    """How far the rows are from those of an older run."""
    baseline = document["baseline"]
    if baseline is None:
        return []
    name = f"Baseline {baseline['commit'] or ''} of {baseline['date'][:10]}".replace("  ", " ")
    if not baseline["rows"]:
        return [f"{name}: no row in common."]
    note = (
        f"{name}: {baseline['rows']} rows in common, {number(baseline['median_gain'])} times as fast in the median, "
        f"{baseline['median_change']:.1%} away."
    )
    if baseline["differs"]:
        note += f" It ran with another {', '.join(baseline['differs'])}."
    return [note]


def _row_notes(row: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """A row's result on test data, and what is wrong with it."""
    notes = []
    name, result = row["workload"], row.get("result")
    if row["dtype"] != document["dtype"]:
        notes.append(f"{name}: in {_arithmetic(row['dtype'])}.")
    if result is not None:
        show = "{:.2%}" if result["measure"] == "test accuracy" else "{:.4g}"
        notes.append(
            f"{name}: {result['measure']} after {result['epochs']} epochs "
            f"{show.format(result['reference'])} NumPy, {show.format(result['backend'])} {document['backend']}."
        )
    for side in row["sides"]:
        if side["agreement"] is not None and not side["agreement"]["agree"]:
            error = side["agreement"]["error_over_allowed"]
            size = "not finite" if error is None else f"{error:.3g} times what is allowed"
            notes.append(f"{name}: the error of {side['side']} is {size}, so it was not timed.")
    if row["error"]:
        notes.append(f"{name}: {row['error']}.")
    return notes
