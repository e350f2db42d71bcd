"""What else a machine did meanwhile: load before, others' cores, a hypervisor's share, where threads sit."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUSY, OTHERS, STOLEN = 0.25, 0.1, 0.02
"""Shares of the cores from which on a report tells of it: load before the start, others' work, stolen time."""


class Noise:
    """The machine's account from now on, read from `stat` (Linux; elsewhere just the load is known).

    `meeting` measures in how many seconds the backend's threads meet, None where there is but one (Ceilings.meeting).
    """

    def __init__(self, stat: Path = Path("/proc/stat"), meeting: Callable[[], float | None] = lambda: None) -> None:
        self._stat, self._meeting = stat, meeting
        self._met: list[float] = []
        self.meet()
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._start = self._account()

    def meet(self) -> None:
        """Measure once more how long the threads take to meet: at the start, and after every row."""
        seconds = self._meeting()
        if seconds is not None:
            self._met.append(round(1e6 * seconds, 3))

    def so_far(self) -> dict[str, Any]:
        """`load` before the start; `other_cores`, how many cores other processes kept busy on average; `stolen_cores`.

        `meeting_us` are the times that `meet` measured. None for what is not known.
        """
        found: dict[str, Any] = {"load": self._load, "other_cores": None, "stolen_cores": None}
        found["meeting_us"] = self._met or None
        now = self._account()
        if now is not None and self._start is not None:
            wall, busy, stolen, own = (last - first for first, last in zip(self._start, now, strict=True))
            if wall > 0:
                found |= {"other_cores": max(busy - own, 0.0) / wall, "stolen_cores": max(stolen, 0.0) / wall}
        return found

    def _account(self) -> tuple[float, float, float, float] | None:
        """Seconds on the clock, of busy cores, stolen, and of this process with its children that have ended."""
        try:
            fields = self._stat.read_text().split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
        except (OSError, ValueError):
            return None
        tick = os.sysconf("SC_CLK_TCK")
        own = os.times()
        busy = (user + nice + system + irq + softirq) / tick
        return time.perf_counter(), busy, steal / tick, own.user + own.system + own.children_user + own.children_system


def disturbances(noise: dict[str, Any], cores: int) -> list[str]:
    """What of `noise` is too much for figures to be trusted without a word, on so many cores."""
    found = []
    if noise["load"] is not None and noise["load"] > BUSY * cores:
        found.append(f"load {noise['load']:.1f} on {cores} core(s) before the start")
    if noise["other_cores"] is not None and noise["other_cores"] > OTHERS * cores:
        found.append(f"other processes kept {noise['other_cores']:.2f} core(s) busy")
    if noise["stolen_cores"] is not None and noise["stolen_cores"] > STOLEN * cores:
        found.append(f"the hypervisor took {noise['stolen_cores']:.2f} core(s)")
    return found
