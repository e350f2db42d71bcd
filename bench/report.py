"""The report: one document (bench/README.md), shown as a table in the terminal or in Markdown, kept as JSON."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .. import info
from ..errors import ArgumentError
from .contest import Setting, hold_against
from .run import right
from .timing import NOISY, Spread

SCHEMA = 2

BUSY = 0.25
"""A load average of the last minute over this share of the cores is told in the report."""

_KEYS = {
    "schema",
    "fastmlp",
    "commit",
    "date",
    "quick",
    "complete",
    "backend",
    "threads",
    "dtype",
    "suites",
    "peers",
    "peaks",
    "load",
    "machine",
    "software",
    "blas",
    "energy",
    "rows",
}
"""What a document must have to be read back."""


def new_document(setting: Setting, suites: Sequence[str], quick: bool) -> dict[str, Any]:
    """A report without rows: what ran, where and when."""
    return {
        "schema": SCHEMA,
        "fastmlp": info.__version__,
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "complete": False,
        "backend": setting.backend,
        "threads": setting.threads,
        "dtype": setting.dtype,
        "suites": list(suites),
        "peers": [{"name": peer.name, "version": peer.version} for peer in setting.peers],
        "peaks": [],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "machine": info.machine(),
        "software": info.software(),
        "blas": _blas(),
        "energy": {"source": setting.meter.source, "detail": setting.meter.detail},
        "rows": [],
    }


def finish(document: dict[str, Any], setting: Setting) -> None:
    """Hold the document's rates against the peaks of the run."""
    hold_against(document["rows"], setting.peaks)
    document["peaks"] = [
        {"dtype": dtype, "threads": threads, "gflops": rate * 1e-9}
        for (dtype, threads), rate in sorted(setting.peaks.rates.items())
    ]


def save(document: dict[str, Any], path: Path) -> None:
    """Write `document` as JSON; raises ArgumentError when the file cannot be written."""
    try:
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ArgumentError(f"the report cannot be written to {str(path)!r}: {error.strerror}") from error


def load(path: Path) -> dict[str, Any]:
    """A document that `save` wrote; raises ArgumentError for anything else."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{str(path)!r} is not a readable benchmark report: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        got = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise ArgumentError(f"{str(path)!r} must be a benchmark report of schema {SCHEMA}; got {got!r}")
    missing = _KEYS - document.keys()
    if missing:
        raise ArgumentError(f"{str(path)!r} must have the keys {sorted(_KEYS)}; missing are {sorted(missing)}")
    return document


def table(document: dict[str, Any], width: int) -> Group:
    """The document for a terminal of `width` columns: heading, a table a suite, footnotes."""
    parts: list[Any] = [Text(_heading(document)), Text()]
    hidden = False
    for suite in document["suites"]:
        rows = [row for row in document["rows"] if row["suite"] == suite]
        if not rows:
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
        columns = _columns(document, suite, rows)
        lines.append(f"| {' | '.join(' '.join(column.heading.split()) for column in columns)} |")
        lines.append("|" + "|".join("---" if column.justify == "left" else "---:" for column in columns) + "|")
        lines += [f"| {' | '.join(column.cell(row) for column in columns)} |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in _notes(document))]) + "\n"


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
            "times\nless" if suite in ("cold-start", "memory") else "times\nfaster",
            lambda row: _ratio(row, "reference"),
        ),
        *([_Column("than the\nbest", _than_the_best)] if peers else []),
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
        _Column(f"µJ/sample\nNumPy / {backend}", lambda row: _pair(row, lambda s: s["energy"]["uj_per_sample"]), 6),
        _Column("first\ncall, s", _first_call, rank=2),
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
    return "" if side is None or side["ratio"] is None else _number(1 / side["ratio"]["median"])


def _than_the_best(row: dict[str, Any]) -> str:
    """How many times faster than the fastest of NumPy and the peers, and which one that is."""
    rival = _best_rival(row)
    return "" if rival is None else f"{_marked(rival['ratio'])} {rival['side']}"


def _best_rival(row: dict[str, Any]) -> dict[str, Any] | None:
    """The fastest of NumPy and the peers, None where nothing was timed."""
    rivals = [side for side in row["sides"] if side["role"] in ("reference", "peer") and side["ratio"] is not None]
    return min(rivals, key=lambda side: side["ratio"]["median"], default=None)


def _figure(row: dict[str, Any], role: str, key: str) -> str:
    """One number of a side; ERROR in place of a rate beyond the machine."""
    side = _side(row, role)
    if side is None or side.get(key) is None:
        beyond = side is not None and row["error"] and key == "gflops" and side["value"] is not None
        return "ERROR" if beyond else ""
    return _number(side[key])


def _first_call(row: dict[str, Any]) -> str:
    side = _side(row, "backend")
    return "" if side is None or side["first_call_s"] is None else f"{side['first_call_s']:.2f}"


def _pair(row: dict[str, Any], figure: Callable[[dict[str, Any]], float | None]) -> str:
    """The reference's and the backend's figure; n/a for one that was not measured, nothing where neither was."""
    sides = [side for side in (_side(row, "reference"), _side(row, "backend")) if side and "energy" in side]
    values = [figure(side) for side in sides]
    if all(value is None for value in values):
        return ""
    return " / ".join("n/a" if value is None else _number(value) for value in values)


def _marked(spread: dict[str, Any]) -> str:
    """The median, marked where it is noisy."""
    return ("~" if Spread(**spread).noisy else "") + _number(spread["median"])


def _number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    rounded = float(f"{value:.3g}")
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if rounded >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def _heading(document: dict[str, Any]) -> str:
    machine, software, blas = document["machine"], document["software"], document["blas"]
    commit = f" ({document['commit']})" if document["commit"] else ""
    kernel = f", {blas['kernel']} kernel" if blas["kernel"] else ""
    peers = "".join(f", {peer['name']} {peer['version']}" for peer in document["peers"])
    return (
        f"fastmlp {document['fastmlp']}{commit}, backend {document['backend']} on {document['threads']} thread(s), "
        f"against NumPy {software['numpy']} ({blas['name']} {blas['version']}{kernel}){peers}; {machine['cpu']}, "
        f"{machine['usable_cores']} core(s), {document['date'][:10]}, {document['dtype']}."
    )


def _notes(document: dict[str, Any]) -> list[str]:
    """What must be known to read the table: results, errors, then every caveat that applies."""
    notes = [note for row in document["rows"] for note in _row_notes(row, document)]
    rivals = [_best_rival(row) for row in document["rows"] if row["suite"] == "kernels"]
    gains = [rival["ratio"]["median"] for rival in rivals if rival is not None]
    if gains:
        notes.append(
            f"kernels: {_number(geometric_mean(gains))} times as fast as the best other side, geometric mean of "
            f"{len(gains)} rows."
        )
    notes.append(
        "Medians over calls that take turns; times faster is the median over the turns, threads gain the time on one "
        "thread over that on all. GFLOP/s and samples/s are the backend's; core-µs add up every core kept busy. The "
        "first call's time includes compiling, or loading what was compiled before."
    )
    entered = {side["side"] for row in document["rows"] for side in row["sides"]}
    absent = [peer["name"] for peer in document["peers"] if document["rows"] and peer["name"] not in entered]
    if absent:
        notes.append(f"Took no part, having nothing that does what was timed: {', '.join(absent)}.")
    if document["peaks"]:
        peaks = (
            f"{peak['gflops']:.0f} GFLOP/s ({peak['dtype']}, {peak['threads']} thread(s))" for peak in document["peaks"]
        )
        notes.append(f"Peak: multiply-adds in registers, measured in this run: {', '.join(peaks)}.")
    if any(Spread(**side["value"]).noisy for row in document["rows"] for side in row["sides"] if side["value"]):
        notes.append(f"~ marks a noisy figure: interquartile range over {NOISY:.0%} of the median.")
    cores, load = document["machine"]["usable_cores"], document["load"]
    if load is not None and load > BUSY * cores:
        notes.append(f"The machine was busy with other work: load {load:.1f} on {cores} core(s) before the start.")
    energy = document["energy"]
    notes.append(f"Energy: {energy['source']} ({energy['detail']}).")
    if document["blas"]["forced"]:
        notes.append(
            f"{document['blas']['forced']} is set in the environment and may hold NumPy's BLAS below its best."
        )
    if not document["complete"]:
        notes.append("Interrupted: only the workloads that were finished are shown.")
    return notes


def _row_notes(row: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """A row's result on test data, and what is wrong with it."""
    notes = []
    name, result = row["workload"], row.get("result")
    if row["dtype"] != document["dtype"]:
        notes.append(f"{name}: in {row['dtype']}.")
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


def _blas() -> dict[str, Any]:
    """The BLAS under NumPy: name, version, the kernel it chose and its threads where threadpoolctl can tell."""
    import numpy as np

    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    forced = [f"{name}={os.environ[name]}" for name in ("OPENBLAS_CORETYPE", "MKL_CBWR") if name in os.environ]
    blas = {"name": build["name"], "version": build.get("version"), "kernel": None, "threads": None}
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return blas | {"kernel": os.environ.get("OPENBLAS_CORETYPE"), "forced": ", ".join(forced)}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            blas |= {"kernel": library.get("architecture"), "threads": library["num_threads"]}
            break
    return blas | {"forced": ", ".join(forced)}


def _commit(root: Path) -> str | None:
    """The checkout's commit with `-dirty` where files differ from it; None outside a checkout."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
