"""When each part of a training step ended, thread by thread: what `timed` of a backend writes, and profile reads.

A member's row of the memory, in int64: its header; its own counters, for a team of compiled code to copy; then events,
two numbers each: the clock's ticks when something ended, and what that was, index * 256 + kind * 8 + part. `index` is
the layer, of a START the rows of the batch; `kind` the place of a name in contract.STEP_PHASES.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contract import STEP_PHASES
from .network import aligned_zeros

WORK, EPILOGUE, WAIT, PACK, START = range(5)
"""Parts of a phase: its work; what a product does to a block that it has finished; waiting for the other members;
copying an operand to panels. START is the beginning of a step, and ends what lay before it."""

HEADER, COUNTERS = 8, 264
"""Numbers before a member's own counters, and room for these: of MAX_THREADS members."""

NEXT, LIMIT, LABEL, EVERY, END = -1, -2, -3, -4, -5
"""The header, counted from the counters back: where the next event goes; up to where there is room in this step, 0 for
one that is not recorded; index and kind of what is going on; every how many steps one is recorded; the memory's end."""

EVERY_LAYER = -1
"""The layer of what is done for all at once."""

KIND = {name: code for code, name in enumerate(STEP_PHASES)}


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A step on `rows` rows, as one member saw it: from `begin` on each event lasts to its own of `ends`, in ticks."""

    rows: int
    begin: int
    codes: np.ndarray
    ends: np.ndarray


class Timeline:
    """Room for the events of up to `members` threads, `capacity` each; of every so many steps one is recorded."""

    def __init__(self, members: int, capacity: int = 1 << 15, every: int = 1) -> None:
        self.members, self.row = members, HEADER + COUNTERS + 2 * capacity
        self.memory = aligned_zeros((members, self.row), np.int64)
        self.every = every
        self.clear()

    def clear(self) -> None:
        """Forget all events."""
        header = self.memory[:, :HEADER]
        header[:, NEXT], header[:, END], header[:, EVERY] = COUNTERS, self.row - HEADER, self.every
        header[:, LIMIT] = header[:, LABEL] = 0
        self._noted: list[int] = []

    def address(self, member: int) -> int:
        """Where the member's own counters lie, which the events follow and the header precedes."""
        return int(self.memory.__array_interface__["data"][0]) + 8 * (member * self.row + HEADER)

    def begin(self, step: int, rows: int) -> Callable[[str, int], None] | None:
        """A step begins, for a backend that runs in Python: what to tell of each end, if it is the step's turn."""
        if step % self.every:
            return None
        self._noted += time.perf_counter_ns(), rows << 8 | START
        return self._note

    def _note(self, phase: str, layer: int) -> None:
        """Something of a layer has just ended; `phase` is a name of contract.STEP_PHASES."""
        self._noted += time.perf_counter_ns(), layer << 8 | KIND[phase] << 3 | WORK

    def steps(self) -> list[list[RecordedStep]]:
        """Of each member that took part its recorded steps; one that the memory had no room for is left out."""
        found = []
        for row in self.memory:
            end = int(row[HEADER + NEXT])
            events = row[HEADER + COUNTERS : HEADER + end].reshape(-1, 2)
            if self._noted:
                events = np.array(self._noted, np.int64).reshape(-1, 2)
            ticks, codes = events[:, 0], events[:, 1]
            starts = np.flatnonzero(codes & 7 == START).tolist()
            is_full = end >= row[HEADER + END]
            ends = [*starts[1:], len(events)] if not is_full else starts[1:]
            if starts:
                found.append(
                    [
                        RecordedStep(
                            int(codes[a]) >> 8, int(ticks[a]), codes[a + 1 : b].copy(), ticks[a + 1 : b].copy()
                        )
                        for a, b in zip(starts, ends, strict=False)
                    ]
                )
        return found


@dataclass(frozen=True)
class Timed:
    """What a backend offers to be profiled by.

    `train(..., timeline)` is the backend's train with the same numbers, `ticks()` reads the clock of the events, and
    `stamp_ticks()` measures what one event costs.
    """

    train: Callable[..., None]
    ticks: Callable[[], int]
    stamp_ticks: Callable[[], float]


def ticks_per_second(ticks: Callable[[], int], began: tuple[int, int]) -> float:
    """The clock's rate since `began`, which `moment` gave."""
    now = moment(ticks)
    return (now[0] - began[0]) / (now[1] - began[1]) * 1e9


def moment(ticks: Callable[[], int]) -> tuple[int, int]:
    """The clock's ticks and the nanoseconds of time.perf_counter_ns at one moment."""
    before = time.perf_counter_ns()
    tick = ticks()
    return int(tick), (before + time.perf_counter_ns()) // 2


def python_stamp_ticks() -> float:
    """What an event costs a backend that runs in Python, in ticks of time.perf_counter_ns."""
    timeline, least = Timeline(1, 1), float("inf")
    for _ in range(5):
        timeline.clear()
        began, note = time.perf_counter_ns(), timeline.begin(0, 0)
        for layer in range(256):
            tell = None if note is None else lambda phase, layer=layer, note=note: note(phase, layer)
            if tell is not None:
                tell("forward")
        least = min(least, (time.perf_counter_ns() - began) / 256)
    return least
