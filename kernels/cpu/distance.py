"""How far apart the team's members are: on cores with a common cache or, as systems move threads, on others.

Lines that change hands then take three times as long, and small steps, whose weights and gradients do, gain nothing by
being shared. Nothing but a measurement tells: in a virtual machine the processor's numbers for its cores mean little.
"""

import time

import numpy as np

from .compile import entry
from .direct import address, stack_integers
from .phases import DONE, HAS_NANOSECONDS, LINE, RANK, SIZE, atomic_add, atomic_load, nanoseconds, spin_hint
from .simd import int64_at
from .team import ALONE, LONG_FLOPS, conduct_by, members

APART_NS = 170
"""Of a meeting of two: 40 on cores with a common L3 (Zen 5); a line takes 20 to another there, some 100 beyond."""

MEETINGS = 32

KEPT_NS = 50_000_000
"""How long a measurement is believed."""

PATIENCE = 6_000
"""Looks at the others, some 160 us, after which one who has not come is not waited for: a woken thread needs 80."""


@entry
def _meet(shared, me, like, meetings, result):
    """The members wait for one another so often, once all are there; the nanoseconds it took to result[0], or none."""
    if me[SIZE] == 1:
        return  # and no team's memory either
    counter, clock, began = shared + DONE * LINE, stack_integers(LINE), 0
    clock[0] = 0
    for meeting in range(1 + meetings):
        atomic_add(counter, 1)
        looks = 0
        while atomic_load(counter) < (meeting + 1) * me[SIZE]:
            spin_hint()
            looks += 1
            if looks == PATIENCE:
                return
        if meeting == 0:
            began = nanoseconds(clock)
    if me[RANK] == 0:
        int64_at(result)[0] = nanoseconds(clock) - began


_last: tuple[int, int, bool] | None = None
"""The team, when it was measured, and whether it was found apart."""


def are_apart(team: int) -> bool:
    """Whether the first two members of this team are far from each other, as of late; not where none can tell."""
    global _last
    if not HAS_NANOSECONDS:
        return False
    now, last = time.monotonic_ns(), _last
    if last is not None and last[0] == team and now - last[1] < KEPT_NS:
        return last[2]
    took = _measured(team)
    apart = took > APART_NS if took > 0 else last is not None and last[2]
    _last = team, now, apart
    return apart


def _measured(team: int) -> float:
    """Nanoseconds of a meeting of two; 0 where the other did not come."""
    result = np.zeros(1, np.int64)
    conduct_by((team, 2), _meet.address(np.dtype(np.float32)), (MEETINGS, address(result)), LONG_FLOPS)
    return result.item() / MEETINGS


def members_together() -> tuple[int, int]:
    """`members`, for work that is worth sharing only where they are near each other; else ALONE."""
    crew = members()
    return ALONE if crew[1] > 1 and are_apart(crew[0]) else crew
