"""A profile as a trace of events, for Perfetto (ui.perfetto.dev) or Chrome's chrome://tracing.

The format: "Trace Event Format", Google, JSON object form; times in microseconds.
"""

import json
from typing import Any

from .document import WAITING
from .table import setting, title

FACTS = ("flops", "bytes", "intensity", "percent_of_roof", "bound_by")
"""What an event tells of its part, whole steps' figures."""


def trace(document: dict[str, Any]) -> str:
    """A process for each network, a thread for each member, an event for each span of a step."""
    events: list[dict[str, Any]] = []
    for process, profile in enumerate(document["networks"]):
        events.append(_name("process_name", process, 0, title(profile)))
        members = range(profile["threads"])
        events += [_name("thread_name", process, member, f"thread {member}") for member in members]
        rows = profile["phases"]
        for number, step in enumerate(profile["timeline"]):
            for member, spans in enumerate(step["members"]):
                events.append(_span(process, member, f"step {number}", "step", step["begin"], step["end"], {}))
                for begin, end, place in spans:
                    row = {"name": "waiting", "phase": "waiting"} if place == WAITING else rows[place]
                    facts = {key: row[key] for key in FACTS if row.get(key) is not None}
                    events.append(_span(process, member, row["name"], row["phase"], begin, end, facts))
    told = [setting(profile) for profile in document["networks"]]
    other = {"fastmlp": document["fastmlp"], "date": document["date"], "networks": told}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns", "otherData": other}, allow_nan=False)


def _name(kind: str, process: int, member: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": member, "args": {"name": name}}


def _span(
    process: int, member: int, name: str, category: str, begin: int, end: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """A complete event; begin and end in nanoseconds."""
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": member,
        "ts": begin / 1000,
        "dur": (end - begin) / 1000,
        "args": facts,
    }
