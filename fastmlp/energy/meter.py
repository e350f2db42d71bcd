"""A meter: the counters of a device, found once, and what they say of a stretch of work."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ArgumentError, require_name
from .counters import MOST_PACKAGE_WATTS, Counter, Source, UnreadableError, hwmon, nvml, perf, powercap

WINDOW_S, IDLE_S = 5.0, 2.0
"""Seconds of work behind a figure that is to be published, and of rest before it."""

LONGEST_PAUSE_S = 1.0
"""Between two looks at counters that start again from 0: the shorter, the surer is one that was set back found out."""

DEVICES = ("cpu", "gpu", "all")


@dataclass
class Reading:
    """What one stretch of work took, gross.

    `source` is "counter", "estimated" or "unavailable"; `joules` is None where unavailable, never 0 instead; `detail`
    names what was counted and how finely, or the estimate's basis, or the reason why there is nothing and the cure.
    `window_s` is the wall time in seconds, `core_s` the processor time of this process in it, `calls` how often
    `per_call` made its call. `parts` holds the joules by counter, `idle_watts` what the device took at rest, None where
    it was not asked.
    """

    source: str = "unavailable"
    joules: float | None = None
    window_s: float = 0.0
    core_s: float = 0.0
    detail: str = "the window is still open"
    parts: dict[str, float] = field(default_factory=dict)
    idle_watts: float | None = None
    calls: int = 1

    @property
    def net_joules(self) -> float | None:
        """Joules above those of a machine at rest; None where either is unknown."""
        if self.joules is None or self.idle_watts is None:
            return None
        return self.joules - self.idle_watts * self.window_s


class Meter:
    """The counters of "cpu", "gpu" or "all"; `reason` is None when they can be read, else why not.

    `sysfs` is where Linux shows its devices: HOST_SYS of the environment, as containers set it, or /sys.
    `watts_per_core` is the basis of an estimate where a processor has no counter. Raises ArgumentError.
    """

    def __init__(self, device: str = "cpu", *, watts_per_core: float | None = None, sysfs: Path | None = None):
        require_name("device", device, DEVICES)
        if watts_per_core is not None and not (math.isfinite(watts_per_core) and watts_per_core > 0):
            raise ArgumentError(f"watts_per_core must be a positive number of watts; got {watts_per_core!r}")
        if watts_per_core is not None and device != "cpu":
            raise ArgumentError(f"watts_per_core estimates device='cpu' alone; got device={device!r}")
        self.device, self._watts = device, watts_per_core
        self.idle_watts: float | None = None
        self.counters: list[Counter] = []
        self.reason: str | None = None
        self._what: list[str] = []
        root = sysfs or Path(os.environ.get("HOST_SYS") or "/sys")
        finders: dict[str, list[Callable[[Path], Source]]] = {"cpu": [_processor], "gpu": [_gpus]}
        try:
            for find in finders.get(device) or [_processor, _gpus]:
                what, counters = find(root)
                self._what.append(f"{what}: {', '.join(counter.name for counter in counters)}")
                self.counters += counters
        except UnreadableError as error:
            self.counters, self.reason = [], str(error)

    @property
    def source(self) -> str:
        """`counter`, `estimated` or `unavailable`."""
        if self.reason is None:
            return "counter"
        return "unavailable" if self._watts is None else "estimated"

    @property
    def detail(self) -> str:
        """What is counted, the basis of the estimate, or why there is nothing."""
        if self.reason is None:
            period = max(counter.period_s for counter in self.counters)
            return f"{'; '.join(self._what)}; renewed every {1e3 * period:.0f} ms"
        if self._watts is None:
            return self.reason
        return f"{self._watts:g} W for each core-second of this process, as asked; no counter: {self.reason}"

    def rest(self, seconds: float = IDLE_S) -> float | None:
        """Do nothing for so long, and take the watts meanwhile as those of a machine at rest; None if not counted."""
        if self.reason is None:
            with self.measure() as reading:
                time.sleep(seconds)
            self.idle_watts = None if reading.joules is None else reading.joules / reading.window_s
        return self.idle_watts

    def per_call(self, call: Callable[[], object], window_s: float = WINDOW_S) -> Reading:
        """`call`, made again and again for at least `window_s` seconds, or once where nothing will be known."""
        with self.measure() as reading:
            deadline = time.perf_counter() + (0.0 if self.source == "unavailable" else window_s)
            calls = 0
            while calls == 0 or time.perf_counter() < deadline:
                call()
                calls += 1
        reading.calls = calls
        return reading

    @contextmanager
    def measure(self) -> Iterator[Reading]:
        """Measure the body: the yielded Reading is filled in when the body ends.

        While it lasts, a thread looks at counters that start again from 0, often enough to miss none of these.
        """
        reading = Reading(idle_watts=self.idle_watts)
        walk = _Walk(self.counters)
        cores, start = time.process_time(), time.perf_counter()
        try:
            with walk:
                yield reading
        finally:
            reading.window_s, reading.core_s = time.perf_counter() - start, time.process_time() - cores
            self._settle(reading, walk)

    def _settle(self, reading: Reading, walk: "_Walk") -> None:
        reading.detail = self.detail
        if self.reason is not None:
            if self._watts is not None:
                reading.source, reading.joules = "estimated", self._watts * reading.core_s
            return
        reading.detail = walk.trouble or reading.detail
        for counter, counts in zip(self.counters, walk.counts, strict=True):
            if walk.trouble is None and counts == 0:
                reading.detail = f"{counter.name} did not tick within {reading.window_s:.2g} s: too short to count"
                return
        if walk.trouble is None:
            counts_of = zip(self.counters, walk.counts, strict=True)
            reading.parts = {counter.name: counts * counter.joules for counter, counts in counts_of}
            reading.source, reading.joules = "counter", math.fsum(reading.parts.values())


class _Walk:
    """How far each counter goes while the context lasts; `trouble` says why that is not known."""

    def __init__(self, counters: Sequence[Counter]):
        self._counters = counters
        self.counts = [0] * len(counters)
        self.trouble: str | None = None
        self._last: list[tuple[int, float]] = []
        self._over = threading.Event()
        wraps = [counter.wraps_at * counter.joules for counter in counters if counter.wraps_at is not None]
        self._pause = min(LONGEST_PAUSE_S, min(wraps) / MOST_PACKAGE_WATTS / 2) if wraps else None
        self._thread = threading.Thread(target=self._keep_up, name="fastmlp-energy", daemon=True)

    def __enter__(self) -> None:
        self._look()
        if self._pause is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._look()

    def _keep_up(self) -> None:
        while not self._over.wait(self._pause):
            self._look()

    def _look(self) -> None:
        try:
            now = [(counter.read(), time.perf_counter()) for counter in self._counters]
        except (OSError, ValueError) as error:
            self.trouble = f"the energy counter stopped being readable: {error}"
            return
        steps = zip(self._counters, self._last, now, strict=False)  # without a last look there is no step
        for index, (counter, (first, then), (last, at)) in enumerate(steps):
            counts = last - first
            if counts < 0 and counter.wraps_at is not None:
                counts += counter.wraps_at
            most = MOST_PACKAGE_WATTS * max(at - then, counter.period_s)
            if counts < 0 or (last < first and counts * counter.joules > most):
                self.trouble = f"{counter.name} went backwards from {first} to {last}: its driver was loaded again?"
            self.counts[index] += counts
        self._last = now


def _processor(sysfs: Path) -> Source:
    """The first source of a processor's energy that can be read. Raises UnreadableError with all the reasons."""
    reasons = []
    for find in (powercap, perf, hwmon):
        try:
            return find(sysfs)
        except UnreadableError as error:
            reasons.append(str(error))
    raise UnreadableError("; ".join(reasons))


def _gpus(sysfs: Path) -> Source:
    return nvml()
