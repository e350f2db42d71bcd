"""The report: one document (bench/README.md), shown as a table in the terminal or in Markdown, kept as JSON."""

import json
import os
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .. import info
from ..errors import ArgumentError
from .energy import Meter
from .timing import NOISY, Spread

SCHEMA = 1

WIDE = 110
"""Columns a terminal must have for the whole table; a narrower one is shown the essential columns."""

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
    "load",
    "machine",
    "software",
    "blas",
    "energy",
    "rows",
}
"""What a document must have to be read back."""


def new_document(backend: str, threads: int, quick: bool) -> dict[str, Any]:
    """A report without rows: what ran, where and when. `threads` is how many the backend may use."""
    meter = Meter()
    return {
        "schema": SCHEMA,
        "fastmlp": info.__version__,
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "complete": False,
        "backend": backend,
        "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "machine": info.machine(),
        "software": info.software(),
        "blas": _blas(),
        "energy": {"source": meter.source, "detail": meter.detail},
        "rows": [],
    }


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
    """The document for a terminal of `width` columns: heading, table, results on test data, footnotes."""
    wide = width >= WIDE
    columns = [column for column in _columns(document) if wide or column[2]]
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name, justify, _ in columns:
        grid.add_column(name, justify=justify, no_wrap=False)
    places = [index for index, column in enumerate(_columns(document)) if wide or column[2]]
    for row in document["rows"]:
        cells = _cells(row)
        style = None if row["agreement"]["agree"] else "bold red"
        grid.add_row(*(cells[place] for place in places), style=style)
    notes = _notes(document)
    if not wide:
        notes.append(f"More columns in a terminal of {WIDE} or more, all of them with --json.")
    return Group(Text(_heading(document)), Text(), grid, *(Text(note) for note in notes))


def markdown(document: dict[str, Any]) -> str:
    """The document as the README shows it: heading, table, results and footnotes; ends in a line break."""
    columns = _columns(document)
    names = (" ".join(name.split()) for name, _, _ in columns)
    lines = [_heading(document), "", f"| {' | '.join(names)} |"]
    lines.append("|" + "|".join({"left": "---", "right": "---:"}[justify] for _, justify, _ in columns) + "|")
    lines += [f"| {' | '.join(_cells(row))} |" for row in document["rows"]]
    notes = _notes(document)
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _columns(document: dict[str, Any]) -> list[tuple[str, Any, bool]]:
    """Heading, alignment, and whether a narrow terminal shows it too."""
    backend = document["backend"]
    return [
        ("workload", "left", True),
        ("network, batch", "left", True),
        ("NumPy\nµs/step", "right", True),
        (f"{backend}\nµs/step", "right", True),
        ("times\nfaster", "right", True),
        ("samples/s", "right", False),
        ("\nGFLOP/s", "right", True),
        (f"core-µs/sample\nNumPy / {backend}", "right", False),
        (f"µJ/sample\nNumPy / {backend}", "right", False),
        ("first\ncall, s", "right", True),
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    """One line of the table, in the order of `_columns`."""
    head = [row["workload"], f"{row['network']} b{row['batch_size']}"]
    first_call = f"{row['first_call_s']:.2f}"
    if not row["agreement"]["agree"]:
        return [*head, "WRONG", "NUMBERS", *("",) * 5, first_call]
    reference, backend = row["reference"], row["backend"]
    return [
        *head,
        _marked(reference["us_per_step"]),
        _marked(backend["us_per_step"]),
        _marked(row["ratio"]),
        _number(backend["samples_per_s"]),
        _number(backend["gflops"]),
        _pair(side["core_us_per_sample"]["median"] for side in (reference, backend)),
        _pair(side["energy"]["uj_per_sample"] for side in (reference, backend)),
        first_call,
    ]


def _marked(spread: dict[str, Any]) -> str:
    """The median, marked where it is noisy."""
    return ("~" if Spread(**spread).noisy else "") + _number(spread["median"])


def _pair(values: Iterable[float | None]) -> str:
    """The reference's and the backend's figure; n/a for one that was not measured."""
    shown = ["n/a" if value is None else _number(value) for value in values]
    return "n/a" if set(shown) == {"n/a"} else " / ".join(shown)


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
    return (
        f"fastmlp {document['fastmlp']}{commit}, backend {document['backend']} on {document['threads']} thread(s), "
        f"against NumPy {software['numpy']} ({blas['name']} {blas['version']}{kernel}); {machine['cpu']}, "
        f"{machine['usable_cores']} core(s), {document['date'][:10]}, float32."
    )


def _notes(document: dict[str, Any]) -> list[str]:
    """What must be known to read the table: results, then every caveat that applies."""
    notes = []
    for row in document["rows"]:
        result = row["result"]
        if result is not None:
            show = "{:.2%}" if result["measure"] == "test accuracy" else "{:.4g}"
            notes.append(
                f"{row['workload']}: {result['measure']} after {result['epochs']} epochs "
                f"{show.format(result['reference'])} NumPy, {show.format(result['backend'])} {document['backend']}."
            )
        if not row["agreement"]["agree"]:
            error = row["agreement"]["error_over_allowed"]
            size = "not finite" if error is None else f"{error:.3g} times what is allowed"
            notes.append(f"{row['workload']}: the backend's error is {size}, so it was not timed.")
    notes.append(
        "Medians over calls of `fit` that take turns; times faster is the median over the turns. GFLOP/s and samples/s "
        "are the backend's; core-µs add up every core kept busy. The first call's time includes compiling, or loading "
        "what was compiled before."
    )
    if any(cell.startswith("~") for row in document["rows"] for cell in _cells(row)):
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
