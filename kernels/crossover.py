"""Which backend and kernel trains a network soonest on this machine, by width and batch, as it was measured and kept.

`fastmlp bench --suite crossover` measures; `backend="auto"` and the plan ask here.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import kept
from .cores import get_num_threads
from .network import Network

SCHEMA = 1

FARTHEST = 1.5
"""A cell speaks for networks whose width and batch are up to so many powers of two away from its own."""


@dataclass(frozen=True)
class Contender:
    """One way to train: a backend, its `kernel` where it has several, on `threads`; `us` a step, median and `iqr`.

    `usual` says that it is what the backend does by itself.
    """

    backend: str
    kernel: str | None
    threads: int
    usual: bool
    us: float
    iqr: float

    def __str__(self) -> str:
        way = self.backend if self.kernel is None else f"{self.backend} {self.kernel}"
        return f"{way} on {self.threads} thread{'s' * (self.threads != 1)}"


@dataclass(frozen=True)
class Cell:
    """What was measured for layers of one width and one batch, the fastest contender first."""

    width: int
    batch_size: int
    contenders: tuple[Contender, ...]

    def usual(self, backend: str) -> Contender | None:
        """The backend as it trains by itself, None where it took no part."""
        return next((each for each in self.contenders if each.backend == backend and each.usual), None)


def width_of(network: Network) -> float:
    """The width of equal layers that would have as many weights."""
    return math.sqrt(sum(layer.inputs * layer.outputs for layer in network.layers) / len(network.layers))


class Crossover:
    """The cells of one machine, in `file`; None keeps none. A damaged file or cell counts as not measured."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._cells = self._read()

    def record(self, dtype: str, threads: int, cell: Cell) -> None:
        """Keep a cell that was measured where calls may use so many threads, in place of an older one."""
        self._cells |= self._read()  # another process may have put newer ones there
        self._cells[_name(dtype, threads, cell.width, cell.batch_size)] = cell
        kept.write(
            self._file,
            SCHEMA,
            {"cells": {name: list(map(asdict, cell.contenders)) for name, cell in self._cells.items()}},
        )

    def nearest(self, network: Network, batch_size: int) -> Cell | None:
        """The cell that is nearest to the network by width and batch; None where none is near enough.

        Of the network's dtype, and of as many threads as a call may use now.
        """
        width, rows = math.log2(width_of(network)), math.log2(batch_size)
        alike = f"{network.dtype_name}/{get_num_threads()}/"
        near = []
        for name, cell in self._cells.items():
            away = abs(math.log2(cell.width) - width), abs(math.log2(cell.batch_size) - rows)
            if name.startswith(alike) and max(away) <= FARTHEST:
                near.append((math.hypot(*away), cell.width, cell.batch_size, cell))
        return min(near)[-1] if near else None

    def _read(self) -> dict[str, Cell]:
        """The file's cells, as far as they are such."""
        cells = kept.read(self._file, SCHEMA).get("cells")
        found = {name: _cell(name, entries) for name, entries in cells.items()} if isinstance(cells, dict) else {}
        return {name: cell for name, cell in found.items() if cell is not None}


def _name(dtype: str, threads: int, width: int, batch_size: int) -> str:
    return f"{dtype}/{threads}/{width}/{batch_size}"


def _cell(name: str, entries: Any) -> Cell | None:
    """A cell as the file holds it, None for anything else."""
    try:
        _, _, width, batch_size = name.split("/")
        contenders = [Contender(**entry) for entry in entries]
        cell = Cell(int(width), int(batch_size), tuple(sorted(contenders, key=lambda each: each.us)))
    except (TypeError, ValueError):
        return None
    sound = contenders and all(map(_is_sound, contenders)) and cell.width > 0 and cell.batch_size > 0
    return cell if sound else None


def _is_sound(entry: Contender) -> bool:
    named = isinstance(entry.backend, str) and isinstance(entry.kernel, str | None) and isinstance(entry.usual, bool)
    numbers = all(
        isinstance(each, float | int) and math.isfinite(each) for each in (entry.threads, entry.us, entry.iqr)
    )
    return named and numbers and entry.threads >= 1 and entry.us > 0 and entry.iqr >= 0
