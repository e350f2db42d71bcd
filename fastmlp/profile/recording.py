"""What time stamps said of many steps: the time of each part of a step, member by member."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..kernels.contract import STEP_PHASES
from ..kernels.timeline import EPILOGUE, PACK, WAIT, RecordedStep, Timeline

EPILOGUES = {"forward": "activation", "weight gradient": "optimizer"}
"""What a product does to a block that it has finished; an input gradient multiplies it by the derivative below."""

MOST_STEPS = 2048
"""Steps that a recording keeps: enough for means, and a long program makes millions."""

KEPT_EVENTS = 1_000_000
"""Events, of all members together, that are kept one by one for a timeline."""

TYPICAL = 0.1, 0.9
"""Means are taken over the steps whose time lies between these quantiles: others were disturbed, or woke a thread."""

_NAMES = list(STEP_PHASES)


class Part(NamedTuple):
    """What a stretch of time was spent on, or on `waiting` for others to be done with; layer -1 stands for all.

    Of packing, `product` is the phase whose operand was packed.
    """

    phase: str
    layer: int
    waiting: bool = False
    product: str = ""


def part_of(code: int) -> Part:
    """The part that an event of this code (timeline.py) belongs to."""
    phase, layer, part = _NAMES[code >> 3 & 31], code >> 8, code & 7
    if part == PACK:
        return Part("packing", layer, product=phase)
    if part != EPILOGUE:
        return Part(phase, layer, part == WAIT)
    return Part("derivative", layer - 1) if phase == "input gradient" else Part(EPILOGUES[phase], layer)


class Recording:
    """Steps on one number of rows; `stamp_ticks`, what a stamp costs, is taken off every event."""

    def __init__(self, rows: int, stamp_ticks: float) -> None:
        self.rows = rows
        self.members = 0
        self._stamp = stamp_ticks
        self._steps: list[dict[Part, np.ndarray]] = []
        self._kept: list[tuple[RecordedStep, ...]] = []
        self._events = 0

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def is_full(self) -> bool:
        """Whether it keeps no more steps."""
        return len(self._steps) >= MOST_STEPS

    @property
    def stamps(self) -> int:
        """Events that a member notes in a step, about."""
        return max((len(own.ends) for own in self._kept[-1]), default=0) if self._kept else 0

    def add(self, timeline: Timeline) -> None:
        """Take over the timeline's steps on so many rows; those of fewer members than others had are left out."""
        members = timeline.steps()
        if len(members) > self.members:
            self.members, self._steps, self._kept, self._events = len(members), [], [], 0
        if len(members) == self.members:
            for step in zip(*members, strict=False):
                if step[0].rows == self.rows:
                    self._add(step)

    def _add(self, step: tuple[RecordedStep, ...]) -> None:
        if self.is_full:
            return
        sums: dict[Part, np.ndarray] = {}
        for member, own in enumerate(step):
            lasted = np.maximum(np.diff(own.ends, prepend=own.begin) - self._stamp, 0.0)
            codes, places = np.unique(own.codes, return_inverse=True)
            for code, ticks in zip(codes.tolist(), np.bincount(places, lasted).tolist(), strict=True):
                sums.setdefault(part_of(code), np.zeros(len(step)))[member] += ticks
        self._steps.append(sums)
        self._kept.append(step)
        self._events += _events(step)
        while len(self._kept) > 1 and self._events > KEPT_EVENTS:
            self._events -= _events(self._kept.pop(0))

    def spread(self) -> tuple[float, float]:
        """Median and interquartile range of a step's ticks."""
        low, middle, high = np.quantile([_total(step) for step in self._steps], (0.25, 0.5, 0.75))
        return float(middle), float(high - low)

    def means(self) -> dict[Part, np.ndarray]:
        """Of each part the ticks of every member in a step, on average over the typical steps: 0 of what none has."""
        totals = np.array([_total(step) for step in self._steps])
        low, high = np.quantile(totals, TYPICAL)
        typical = [step for step, total in zip(self._steps, totals, strict=True) if low <= total <= high]
        means = {part: np.zeros(self.members) for step in self._steps for part in step}
        for step in typical:
            for part, ticks in step.items():
                means[part] += ticks / len(typical)
        return means

    def sample(self, steps: int) -> list[tuple[RecordedStep, ...]]:
        """So many steps, or as many as were kept, one after another around the one nearest the median."""
        if not self._kept:
            return []
        median, _ = self.spread()
        times = np.array([_total(sums) for sums in self._steps[-len(self._kept) :]])
        middle = int(np.abs(times - median).argmin())
        first = max(0, min(middle, len(self._kept) - steps))
        return self._kept[first : first + steps]


def _total(step: dict[Part, np.ndarray]) -> float:
    """A step's ticks, on average over the members."""
    return float(sum(np.mean(ticks) for ticks in step.values()))


def _events(step: tuple[RecordedStep, ...]) -> int:
    return sum(len(own.ends) for own in step)


def spans(own: RecordedStep, stamp_ticks: float) -> Sequence[tuple[int, int, Part]]:
    """The (begin, end, part) of a member's step; neighbours of one part are one span."""
    found: list[tuple[int, int, Part]] = []
    begin = own.begin
    for end, code in zip(own.ends.tolist(), own.codes.tolist(), strict=True):
        part = part_of(code)
        if end - begin > 2 * stamp_ticks:
            if found and found[-1][2] == part:
                found[-1] = found[-1][0], end, part
            else:
                found.append((begin, end, part))
        begin = end
    return found
