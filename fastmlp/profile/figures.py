"""The pictures of the page, as inline SVG: the roofline plot and the timeline. Colours are the page's variables."""

import math
from html import escape
from typing import Any

from .document import WAITING
from .verdict import duration

PHASE_COLOURS = {
    "forward": "#3b82f6",
    "input gradient": "#8b5cf6",
    "weight gradient": "#0fa36b",
    "optimizer": "#f59e0b",
    "activation": "#06b6d4",
    "derivative": "#ec4899",
    "loss": "#ef4444",
    "gather": "#84cc16",
    "packing": "#a3703a",
    "rounding": "#64748b",
    "penalty": "#c026d3",
    "waiting": "var(--idle)",
}
"""One colour a phase, which can be told from a light ground and a dark one."""

WIDTH, HEIGHT = 400, 280
"""Units of the roofline plot: about the pixels of a phone, so that text is there as large as it says."""

NUMBERED = 6
"""Points of the roofline plot that have numbers, which a legend explains; all have their names in their titles."""

LANE, GAP, AXIS = 30, 8, 20
"""Heights of a thread's lane in the timeline, of what is left between two, and of the axis under them."""


class _Log:
    """A logarithmic axis from `low` to `high`, drawn from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self._start, self._end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self._start + share * (self._end - self._start)

    def decades(self) -> list[float]:
        """The powers of ten within."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def roofline(profile: dict[str, Any]) -> str | None:
    """GFLOP/s against FLOPs a byte, under the roofs; None where there is no roof or no part to show.

    A point is a part of the step, its area its share of the time.
    """
    roofs, total = profile["roofs"], profile["step"]["phases_seconds"]
    rows = [row for row in profile["phases"] if row["gflops"] and row["intensity"]]
    if not rows or not roofs["peak_flops_per_s"]:
        return None
    peak = roofs["peak_flops_per_s"] * 1e-9
    memories = [(each["memory"], each["bytes_per_s"] * 1e-9) for each in roofs["memories"]]
    ridges = [peak / rate for _, rate in memories]
    intensities = [row["intensity"] for row in rows]
    x = _Log(min(*intensities, *ridges) / 2, max(*intensities, *ridges) * 2.5, 44, WIDTH - 8)
    lowest = min(row["gflops"] for row in rows)
    y = _Log(min(lowest / 2, peak / 30), peak * 2, HEIGHT - 34, 8)
    marks = [_line(x(each), y(y.low), x(each), y(y.high), "grid") for each in x.decades()]
    marks += [_line(x(x.low), y(each), x(x.high), y(each), "grid") for each in y.decades()]
    marks += [_text(x(each), HEIGHT - 20, f"{each:g}", "tick", "middle") for each in x.decades()]
    marks += [_text(40, y(each) + 3.5, f"{each:g}", "tick", "end") for each in y.decades()]
    marks.append(_text((x(x.low) + x(x.high)) / 2, HEIGHT - 5, "FLOPs a byte", "tick", "middle"))
    middle = (y(y.low) + y(y.high)) / 2
    marks.append(
        f'<text transform="translate(11 {middle:.1f}) rotate(-90)" class="tick" text-anchor="middle">GFLOP/s</text>'
    )
    marks.append(_line(x(min(ridges)), y(peak), x(x.high), y(peak), "roof"))
    marks.append(_text(x(x.high) - 2, y(peak) - 13, f"{peak:,.0f} GFLOP/s", "name", "end"))
    for place, (name, rate) in enumerate(memories):
        low = max(x.low, y.low / rate)
        marks.append(_line(x(low), y(low * rate), x(peak / rate), y(peak), "roof"))
        tall, wide = y(low * rate) - y(peak), x(peak / rate) - x(low)
        along, name = 0.04 if place % 2 == 0 else 0.45, f"{name} {rate:,.0f} GB/s"
        marks.append(_slanted(x(low) + along * wide, y(low * rate) - along * tall, tall / wide, name))
    return _svg(HEIGHT, marks + _points(rows, total, x, y), "Roofline plot of the parts of a step")


def _slanted(x: float, y: float, slope: float, text: str) -> str:
    """A name along its roof, just above it."""
    angle = -math.degrees(math.atan(slope))
    return (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate({angle:.1f}) translate(0 -3)" class="name">'
        f"{escape(text)}</text>"
    )


def numbered(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts that have numbers in the roofline plot, 1 first: the longest."""
    rows = [row for row in profile["phases"] if row["gflops"] and row["intensity"]]
    return sorted(rows, key=lambda row: -row["seconds"])[:NUMBERED]


def _points(rows: list[dict[str, Any]], total: float, x: _Log, y: _Log) -> list[str]:
    circles, numbers = [], []
    for rank, row in enumerate(sorted(rows, key=lambda row: -row["seconds"]), 1):
        share = row["seconds"] / total
        px, py = x(row["intensity"]), y(row["gflops"])
        roof = "" if row["percent_of_roof"] is None else f", {row['percent_of_roof']:.0f} % of its roof"
        said = f"{row['name']}: {share:.0%} of the step, {row['gflops']:.3g} GFLOP/s{roof}"
        circles.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{4 + 13 * math.sqrt(share):.1f}" fill="{colour(row["phase"])}" '
            f'class="point"><title>{escape(said)}</title></circle>'
        )
        if rank <= NUMBERED:
            numbers.append(_text(px, py + 3.5, str(rank), "number", "middle"))
    return circles + numbers[::-1]


def timeline(profile: dict[str, Any]) -> str | None:
    """One step, thread by thread: what each did when; None where none was kept."""
    if not profile["timeline"]:
        return None
    lengths = sorted(step["end"] - step["begin"] for step in profile["timeline"])
    middle = lengths[len(lengths) // 2]
    step = min(profile["timeline"], key=lambda step: abs(step["end"] - step["begin"] - middle))
    start, length = step["begin"], max(step["end"] - step["begin"], 1)
    left = 26
    scale = (WIDTH - left - 4) / length
    height = len(step["members"]) * (LANE + GAP) + AXIS
    marks = []
    for member, spans in enumerate(step["members"]):
        top = member * (LANE + GAP)
        marks.append(_text(left - 6, top + LANE / 2 + 4, str(member), "tick", "end"))
        marks.append(f'<rect x="{left}" y="{top}" width="{length * scale:.2f}" height="{LANE}" class="lane"/>')
        for begin, end, place in spans:
            row = profile["phases"][place] if place != WAITING else {"name": "waiting", "phase": "waiting"}
            at, wide = left + (begin - start) * scale, max((end - begin) * scale, 0.15)
            said = f"thread {member}: {row['name']}, {duration((end - begin) * 1e-9)}"
            marks.append(
                f'<rect x="{at:.2f}" y="{top}" width="{wide:.2f}" height="{LANE}" fill="{colour(row["phase"])}">'
                f"<title>{escape(said)}</title></rect>"
            )
    bottom = height - AXIS + 2
    for part in range(5):
        at, anchor = left + length * scale * part / 4, "start" if part == 0 else "end" if part == 4 else "middle"
        marks.append(_line(at, bottom - 4, at, bottom + 2, "axis"))
        marks.append(_text(at, bottom + 13, duration(length * part / 4 * 1e-9), "tick", anchor))
    return _svg(height, marks, "Timeline of one step")


def colour(phase: str) -> str:
    """Of a phase."""
    return PHASE_COLOURS.get(phase, "#64748b")


def _svg(height: float, marks: list[str], title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg>'
