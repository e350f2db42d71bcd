"""The crossover map: who trains soonest at each width and batch, and by how much; as a table and as an SVG."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ..errors import ArgumentError
from .plot import COLOURS, GROUNDS
from .timing import number

SUITE = "crossover"

LEFT, TOP, CELL, HEIGHT, LINE = 64, 92, 80, 46, 20
"""Of the picture: margins, width and height of a cell, height of a line of the legend."""

FAINT, STRONG = 0.12, 0.5
"""A cell's colour where the next one is as fast, and where it takes twice as long or more; words stay readable."""


@dataclass(frozen=True)
class Square:
    """One cell: `times` of everyone in it, in us a step, the fastest first; none where the numbers were wrong."""

    times: tuple[tuple[str, float], ...]
    times_numpy: float | None

    @property
    def lead(self) -> float | None:
        """How many times as fast as the next; None for one that was alone."""
        return self.times[1][1] / self.times[0][1] if len(self.times) > 1 else None


@dataclass(frozen=True)
class Map:
    """The cells of a document's suite crossover, by (width, batch)."""

    squares: dict[tuple[int, int], Square]

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Map":
        """Of all rows of the suite."""
        rows = [row for row in document["rows"] if row["suite"] == SUITE]
        return cls({(row["widths"][0], row["batch_size"]): _square(row) for row in rows})

    @cached_property
    def widths(self) -> list[int]:
        """Columns."""
        return sorted({width for width, _ in self.squares})

    @cached_property
    def batches(self) -> list[int]:
        """Lines."""
        return sorted({n for _, n in self.squares})

    @cached_property
    def winners(self) -> list[str]:
        """Everyone who is the fastest somewhere, whoever is so most often first."""
        found = Counter(square.times[0][0] for square in self.squares.values() if square.times)
        return sorted(found, key=lambda name: (-found[name], name))

    def table(self) -> list[list[str]]:
        """A heading and a line for each batch; winners by the letters of `legend`."""
        lines = [["batch \\ width", *map(str, self.widths)]]
        return lines + [[str(n), *(self._words(self.squares.get((w, n))) for w in self.widths)] for n in self.batches]

    def legend(self) -> str:
        """What the table says."""
        names = "; ".join(f"{self._letter(name)} {name}" for name in self.winners)
        return (
            f"{SUITE}: who trains four equal layers soonest, how many times as fast as NumPy, and as the next. {names}."
        )

    def _letter(self, name: str) -> str:
        return ascii_uppercase[self.winners.index(name) % 26]

    def _words(self, square: Square | None) -> str:
        if square is None:
            return ""
        if not square.times:
            return "WRONG"
        return " ".join([self._letter(square.times[0][0]), *_factors(square)])


def _factors(square: Square) -> list[str]:
    """How many times as fast as NumPy and as the next, as far as there are such."""
    return [number(factor) for factor in (square.times_numpy, square.lead) if factor is not None]


def _square(row: dict[str, Any]) -> Square:
    timed = [side for side in row["sides"] if side["value"] is not None] if row["error"] is None else []
    times = sorted(((_name(side), side["value"]["median"]) for side in timed), key=lambda entry: entry[1])
    numpy = next((side["value"]["median"] for side in timed if side["role"] == "reference"), None)
    return Square(tuple(times), None if numpy is None else numpy / times[0][1])


def _name(side: dict[str, Any]) -> str:
    """A backend with its kernel and threads, a peer by its name alone."""
    if side["role"] == "peer" or side["way"] is None:
        return str(side["side"])
    backend, threads = side["side"].split(",")[0], side["threads"]
    return f"{backend} {side['way']}, {threads} thread{'s' * (threads != 1)}"


def save(document: dict[str, Any], path: Path) -> None:
    """Write the picture; raises ArgumentError where there is none to draw or the file cannot be written."""
    if not Map.of(document).squares:
        raise ArgumentError("--map needs the suite crossover")
    try:
        path.write_text(svg(document))
    except OSError as error:
        raise ArgumentError(f"the map cannot be written to {str(path)!r}: {error.strerror}") from error


def svg(document: dict[str, Any]) -> str:
    """The picture: winners by colour, the stronger the further the next one is."""
    found = Map.of(document)
    machine, date = document["machine"], document["date"][:10]
    title = f"Who trains soonest: fastmlp {document['fastmlp']}, {document['threads']} thread(s)"
    subtitle = f"four equal layers, SGD, {document['dtype']}; {machine['cpu']}, {date}"
    under = TOP + HEIGHT * len(found.batches)
    width, height = LEFT + max(CELL * len(found.widths), 560) + 16, under + 34 + LINE * len(found.winners)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        _style(len(found.winners)),
        f'<text class="title" x="16" y="22">{escape(title)}</text>',
        f'<text x="16" y="40">{escape(subtitle)}</text>',
        '<text x="16" y="58">In a cell: times as fast as NumPy, below it times as fast as the next</text>',
    ]
    parts += [
        f'<text class="middle" x="{LEFT + CELL * (i + 0.5):g}" y="{TOP - 8}">{"width " * (i == 0)}{each}</text>'
        for i, each in enumerate(found.widths)
    ]
    for line, n in enumerate(found.batches):
        y = TOP + HEIGHT * line
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + HEIGHT / 2 + 4:g}">{"batch " * (line == 0)}{n}</text>')
        for column, each in enumerate(found.widths):
            square = found.squares.get((each, n))
            if square is not None:
                parts += _cell(square, found.winners, f"width {each}, batch {n}", LEFT + CELL * column, y)
    for index, name in enumerate(found.winners):
        y = under + 14 + LINE * index
        parts.append(f'<rect class="c{index}" fill-opacity="{STRONG}" x="{LEFT}" y="{y}" width="14" height="14"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y + 12}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(square: Square, winners: Sequence[str], place: str, x: int, y: int) -> list[str]:
    """A coloured square, its two figures, and everyone's time for a pointer that rests on it."""
    if not square.times:
        return [f'<text class="middle" x="{x + CELL / 2:g}" y="{y + HEIGHT / 2 + 4:g}">WRONG</text>']
    lead = square.lead or 2.0
    share = FAINT + (STRONG - FAINT) * min(math.log2(lead), 1.0)
    hint = "\n".join([place, *(f"{name}: {us:.4g} µs a step" for name, us in square.times)])
    shape = f'x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{HEIGHT - 2}" rx="4"'
    lines = [
        f'<g><title>{escape(hint)}</title><rect class="c{winners.index(square.times[0][0])}" '
        f'fill-opacity="{share:.2f}" {shape}/>'
    ]
    for index, words in enumerate(_factors(square)):
        style = "middle strong" if index == 0 else "middle small"
        lines.append(f'<text class="{style}" x="{x + CELL / 2:g}" y="{y + 20 + 17 * index}">{words}</text>')
    return [*lines, "</g>"]


def _style(count: int) -> str:
    """Colours by class, in the light and, where the reader prefers it, in the dark."""

    def rules(dark: int) -> str:
        text, _, ground = GROUNDS[dark]
        colours = "".join(f".c{index}{{fill:{COLOURS[index % len(COLOURS)][dark]}}}" for index in range(count))
        return f"svg{{background:{ground}}}text{{fill:{text}}}{colours}"

    shape = (
        "text{font:13px system-ui,sans-serif}.title{font-size:15px;font-weight:600}.strong{font-weight:600}"
        ".small{font-size:12px}.middle{text-anchor:middle}.end{text-anchor:end}"
    )
    return f"<style>{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}{shape}</style>"
