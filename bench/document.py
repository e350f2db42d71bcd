"""The document of a run (bench/README.md): what ran, where and when, its rows; kept as JSON."""

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import info
from ..errors import ArgumentError
from .contest import Setting, hold_against
from .noise import Noise

SCHEMA = 3

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
    "ceilings",
    "noise",
    "machine",
    "clocks",
    "software",
    "blas",
    "energy",
    "baseline",
    "rows",
}
"""What a document must have to be read back."""


def new_document(setting: Setting, suites: Sequence[str]) -> dict[str, Any]:
    """A report without rows: what ran, where and when."""
    return {
        "schema": SCHEMA,
        "fastmlp": info.__version__,
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": setting.quick,
        "complete": False,
        "backend": setting.backend,
        "threads": setting.threads,
        "dtype": setting.dtype,
        "suites": list(suites),
        "peers": [{"name": peer.name, "version": peer.version, "bfloat16": peer.bfloat16} for peer in setting.peers],
        "ceilings": {"rates": [], "missing": {}},
        "noise": Noise().so_far(),
        "machine": info.machine(),
        "clocks": info.clocks(),
        "software": info.software(),
        "blas": _blas(),
        "energy": {"source": setting.meter.source, "detail": setting.meter.detail},
        "baseline": None,
        "rows": [],
    }


def finish(document: dict[str, Any], setting: Setting, noise: Noise) -> None:
    """Hold the document's rates against the ceilings, and say what else the machine did."""
    hold_against(document["rows"], setting.peaks)
    ceilings = setting.peaks.ceilings
    if ceilings is not None:
        document["ceilings"] = {"rates": ceilings.rates(), "missing": ceilings.missing}
    document["noise"] = noise.so_far()


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
