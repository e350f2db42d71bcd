"""Speed-up against width, as an SVG that needs nothing: readable in light and in dark, on a phone and on paper."""

import math
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ArgumentError

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 132, 56, 52
"""Margins of the axes; curves are named at their right end."""

COLOURS = (
    ("#0b62c4", "#6cb2ff"), ("#b4480a", "#ff9d5c"), ("#1a7f37", "#57d07a"), ("#8a3ab9", "#d29bff"),
    ("#a3195b", "#ff85b8"), ("#0f7c83", "#5fd3da"), ("#6b5900", "#e0c34b"), ("#555555", "#bbbbbb"),
)  # fmt: skip
"""Of each curve on white and on black: both at least 4.5 times as bright or dark as their ground."""

GROUNDS = ("#24292f", "#d0d7de", "#ffffff"), ("#e6edf3", "#3d444d", "#0d1117")
"""Of text, grid and ground, in the light and in the dark."""

Point = tuple[int, float]


def curves(document: dict[str, Any]) -> dict[str, list[Point]]:
    """(width, times faster than it) by the side's name, of rows of the suite train whose layers are all of one width.

    Sides that were timed at fewer than two widths draw no curve.
    """
    found: dict[str, list[Point]] = {}
    for row in document["rows"]:
        widths = set(row.get("widths", ()))
        if row["suite"] != "train" or len(widths) != 1 or not row["workload"].startswith("width-"):
            continue
        for side in row["sides"]:
            if side["role"] in ("reference", "peer") and side["ratio"] is not None:
                name = "NumPy" if side["role"] == "reference" else side["side"]
                found.setdefault(name, []).append((min(widths), side["ratio"]["median"]))
    return {name: sorted(points) for name, points in found.items() if len(points) > 1}


def save(document: dict[str, Any], path: Path) -> None:
    """Write the plot; raises ArgumentError where there is none to draw or the file cannot be written."""
    if not curves(document):
        raise ArgumentError("--plot needs two widths of the suite train or more: workloads width-16 to width-1024")
    try:
        path.write_text(svg(document))
    except OSError as error:
        raise ArgumentError(f"the plot cannot be written to {str(path)!r}: {error.strerror}") from error


def svg(document: dict[str, Any]) -> str:
    """The picture; both axes logarithmic."""
    found = curves(document)
    values = [value for points in found.values() for _, value in points]
    widths = sorted({width for points in found.values() for width, _ in points})
    low, high = math.floor(math.log2(min(1, *values))), math.ceil(math.log2(max(2, *values)))

    def x(width: float) -> float:
        share = math.log2(width / widths[0]) / math.log2(widths[-1] / widths[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log2(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    title = f"Times faster than the others: fastmlp {document['fastmlp']}, {document['threads']} thread(s)"
    machine, date = document["machine"], document["date"][:10]
    subtitle = f"four equal layers, batch 128, SGD, {document['dtype']}; {machine['cpu']}, {date}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        _style(len(found)),
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        f'<text x="{LEFT}" y="40">{escape(subtitle)}</text>',
    ]
    for exponent in range(low, high + 1):
        at = y(2.0**exponent)
        kind = "one" if exponent == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{at + 4:.1f}">{2.0**exponent:g}x</text>')
    under = HEIGHT - BOTTOM + 20
    parts += [f'<text class="middle" x="{x(width):.1f}" y="{under}">{width}</text>' for width in widths]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle:.1f}" y="{HEIGHT - 10}">width of every layer</text>')
    names = _apart({name: y(points[-1][1]) for name, points in found.items()})
    for index, (name, points) in enumerate(found.items()):
        path = " ".join(f"{x(width):.1f},{y(value):.1f}" for width, value in points)
        parts.append(f'<polyline class="c{index} curve" points="{path}"/>')
        for width, value in points:
            hint = f"{name}, width {width}: {value:.2f} times"
            parts.append(f'<circle class="c{index}" cx="{x(width):.1f}" cy="{y(value):.1f}" r="3.5">')
            parts.append(f"<title>{escape(hint)}</title></circle>")
        at = names[name] + 4
        parts.append(f'<text class="c{index} name" x="{WIDTH - RIGHT + 10}" y="{at:.1f}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _style(count: int) -> str:
    """Colours by class, in the light and, where the reader prefers it, in the dark."""

    def rules(dark: int) -> str:
        text, grid, ground = GROUNDS[dark]
        curves = "".join(
            f".c{index}{{stroke:{COLOURS[index % len(COLOURS)][dark]};fill:{COLOURS[index % len(COLOURS)][dark]}}}"
            for index in range(count)
        )
        return f"svg{{background:{ground}}}text{{fill:{text}}}.grid{{stroke:{grid}}}.one{{stroke:{text}}}{curves}"

    shape = (
        "text{font:13px system-ui,sans-serif;stroke:none}.title{font-size:15px;font-weight:600}.end{text-anchor:end}"
        ".middle{text-anchor:middle}.one{stroke-dasharray:5 4}polyline.curve{fill:none;stroke-width:2}"
    )
    return f"<style>{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}{shape}.name{{stroke:none}}</style>"


def _apart(places: dict[str, float], least: float = 16.0) -> dict[str, float]:
    """The same heights, moved down and then up as far as names need to stand apart within the axes."""
    names = sorted(places, key=lambda name: places[name])
    found: dict[str, float] = {}
    at = -math.inf
    for name in names:
        at = found[name] = max(places[name], at + least)
    at = HEIGHT - BOTTOM + least
    for name in reversed(names):
        at = found[name] = min(found[name], at - least)
    return found
