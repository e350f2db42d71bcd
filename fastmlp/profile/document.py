"""The document of a profile: plain data, schema in README.md; every report is made from it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import info
from ..errors import ArgumentError
from .analysis import Roofs, rows_of, step_of
from .measuring import Measured
from .recording import Part, spans
from .verdict import TIMES, batch_gain, binding_of, verdict

SCHEMA = 1

TIMELINE_STEPS, TIMELINE_SPANS = 8, 4000
"""Steps in a row that a timeline holds at most, and spans of time, of all members together."""

WAITING = -1
"""In a timeline the place of the time that a thread waits for others."""

_KEYS = {"schema", "fastmlp", "date", "machine", "clocks", "software", "networks"}


def new_document(networks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The profiles of some networks, with where and when they were made."""
    return {
        "schema": SCHEMA,
        "fastmlp": info.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": info.machine(),
        "clocks": info.clocks(),
        "software": info.software(),
        "networks": list(networks),
    }


def network_profile(measured: Measured) -> dict[str, Any]:
    """Everything that is said of one network."""
    structure, recording = measured.structure, measured.recording
    roofs = Roofs.of(measured.backend, structure.dtype_name, recording.members)
    rows = rows_of(measured, roofs)
    step = step_of(measured, rows)
    flops = sum(row["flops"] for row in rows)
    peak = roofs.peak()
    rows_a_step = measured.batch_size
    profile: dict[str, Any] = {
        "widths": list(structure.widths),
        "activations": list(structure.activations),
        "loss": structure.loss,
        "optimizer": measured.optimizer.name,
        "dtype": structure.dtype_name,
        "backend": measured.backend,
        "threads": recording.members,
        "batch_size": rows_a_step,
        "steps": measured.steps,
        "steps_recorded": len(recording),
        "recorded_every": measured.every,
        "stamp_ns": measured.stamp_s * 1e9,
        "step": step,
        "flops": flops,
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "samples_per_s": rows_a_step / step["seconds"],
        "gflops": flops / step["seconds"] * 1e-9,
        "percent_of_peak": None if peak is None else 100 * flops / step["seconds"] / peak,
        "core_us_per_sample": 1e6 * measured.cores_s / rows_a_step,
        "energy": _energy(measured, flops),
        "roofs": {"threads": roofs.threads, "peak_flops_per_s": peak, "memories": roofs.lines()},
        "phases": rows,
        "binding": binding_of(rows, step),
        "timeline": _timeline(measured, rows),
    }
    gains = {}
    for times in TIMES:
        batch = rows_a_step, measured.target_bytes
        gain = batch_gain(rows, step, structure, measured.optimizer, batch, roofs, times)
        if gain is not None:
            gains[times * rows_a_step] = gain
    profile["batch_gains"] = {str(size): gain for size, gain in gains.items()}
    profile["errors"] = [row["error"] for row in rows if row["error"]]
    if profile["percent_of_peak"] is not None and profile["percent_of_peak"] > 100:
        profile["errors"].append(
            f"the whole step would run at {profile['percent_of_peak']:.0f} % of the peak: the time or the peak is wrong"
        )
        profile["percent_of_peak"] = None
    profile["verdict"] = verdict(profile, gains)
    return profile


def _energy(measured: Measured, flops: int) -> dict[str, Any] | None:
    """Joules; None where nothing was asked of the counters."""
    reading = measured.energy
    if reading is None:
        return None
    samples = reading.calls * measured.batch_size
    joules, net = reading.joules, reading.net_joules
    return {
        "source": reading.source,
        "detail": reading.detail,
        "window_s": reading.window_s,
        "uj_per_sample": None if joules is None else 1e6 * joules / samples,
        "net_uj_per_sample": None if net is None else 1e6 * net / samples,
        "watts": None if joules is None else joules / reading.window_s,
        "gflop_per_joule": flops * reading.calls / joules * 1e-9 if joules else None,
    }


def _timeline(measured: Measured, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some steps in a row, in nanoseconds from the first: of each member [begin, end, place in `rows` or WAITING]."""
    steps = measured.recording.sample(TIMELINE_STEPS)
    if not steps:
        return []
    stamp = measured.stamp_s / measured.seconds_per_tick
    tick, start = measured.seconds_per_tick * 1e9, min(own.begin for own in steps[0])
    places = {(row["phase"], row["layer"], row["product"]): place for place, row in enumerate(rows)}

    def nanoseconds(ticks: int) -> int:
        return round((ticks - start) * tick)

    def place_of(part: Part) -> int:
        layer = None if part.layer < 0 else part.layer
        return WAITING if part.waiting else places[part.phase, layer, part.product or None]

    timeline: list[dict[str, Any]] = []
    left = TIMELINE_SPANS
    for step in steps:
        members = [spans(own, stamp) for own in step]
        left -= sum(map(len, members))
        if left < 0 and timeline:
            break
        timeline.append(
            {
                "begin": nanoseconds(min(own.begin for own in step)),
                "end": nanoseconds(max(int(own.ends[-1]) for own in step)),
                "members": [
                    [[nanoseconds(begin), nanoseconds(end), place_of(part)] for begin, end, part in own]
                    for own in members
                ],
            }
        )
    return timeline


def as_json(document: dict[str, Any]) -> str:
    """The document as JSON."""
    return json.dumps(document, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a report. Raises ArgumentError where that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"the profile cannot be written to {str(path)!r}: {error.strerror}") from error


def load(path: Path) -> dict[str, Any]:
    """A document that was written as JSON. Raises ArgumentError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{str(path)!r} is not a readable profile: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not document.keys() >= _KEYS:
        raise ArgumentError(f"{str(path)!r} must be a profile of schema {SCHEMA} with the keys {sorted(_KEYS)}")
    return document
