"""What a machine reaches at most, measured in place and kept: the one place that plan, bench, profile and tests ask.

A backend says how its machine is probed (`Probes`); here each rate is measured when it is first asked for, and kept in
a file that names the machine. Other work can only lower a probe, so of several the fastest counts.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import kept
from .cores import get_num_threads

SCHEMA = 1

PATTERNS = ("read", "triad")
"""How bandwidth is probed: summing one array, and a[i] = b[i] + s c[i] (McCalpin's STREAM), of which each of the three
arrays counts once. A level's ceiling is the faster one: work may be mostly reading."""


@dataclass(frozen=True)
class Level:
    """A memory that holds up to `capacity` bytes of the threads' work; `probed` bytes are what it is measured with."""

    name: str
    capacity: float
    probed: int


class Probes(Protocol):
    """How one machine is measured."""

    def units(self, dtype: str) -> tuple[str, ...]:
        """The units that multiply-add this dtype, the usual one first, such as registers of several widths."""

    def multiply_adds(self, dtype: str, unit: str, threads: int) -> float:
        """FLOP/s of one of them on registers alone, a multiply-add being two."""

    def meeting(self, threads: int) -> float:
        """Seconds that so many threads, more than one, take to share a phase of no work."""

    def levels(self, threads: int) -> tuple[Level, ...]:
        """The memories that so many threads see, the nearest first; the last one holds everything."""

    def traffic(self, level: Level, pattern: str, threads: int) -> float:
        """Bytes/s of one of PATTERNS over the level's `probed` bytes."""


@dataclass(frozen=True)
class Ceilings:
    """The rates of one machine, in FLOP/s and bytes/s.

    `threads` is how many a rate is for, as many as get_num_threads says where it is not given. `missing` tells of units
    without a rate why they have none, `terms` how many products of bfloat16 may stand for one of float32, "high" being
    float32 of that precision. `file` keeps the rates, None keeps none beyond this process; a damaged file or
    entry is measured again, and writers at the same time lose at most a measurement.
    """

    probes: Probes
    file: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)
    terms: dict[str, int] = field(default_factory=lambda: {"high": 3})
    _rates: dict[str, float] = field(default_factory=dict)
    _measuring: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._rates.update(self._kept())

    def peak(self, dtype: str, threads: int | None = None, unit: str | None = None) -> float:
        """FLOP/s of multiply-adds on registers, by `unit` or by the fastest unit.

        A bfloat16 network's products may run on bfloat16's own unit or, rounded, on float32's: the faster one counts.
        So it does where those of float32 may be `terms` of bfloat16.
        """
        rates = [self._rate(*key) for key in self._peak_keys(dtype, threads, unit)]
        if unit is None and dtype in self.terms:
            rates.append(self.peak("bfloat16", threads) / self.terms[dtype])
        return max(rates)

    def probe(self, dtype: str, threads: int | None = None) -> float:
        """`peak`, after measuring it once more."""
        for kind in (dtype, "bfloat16") if dtype in self.terms else (dtype,):
            for key in self._peak_keys(kind, threads, None):
                self._measure(*key)
        return self.peak(dtype, threads)

    def level(self, working_set: int, threads: int | None = None) -> Level:
        """The nearest memory that holds so many bytes, spread over the threads."""
        levels = self.probes.levels(threads or get_num_threads())
        return next((level for level in levels if working_set <= level.capacity), levels[-1])

    def bandwidth(self, working_set: int, threads: int | None = None) -> float:
        """Bytes/s to and from the memory that holds a working set of so many bytes."""
        level = self.level(working_set, threads)
        return max(self._rate("bandwidth", level.name, pattern, threads) for pattern in PATTERNS)

    def probe_bandwidth(self, working_set: int, threads: int | None = None) -> float:
        """`bandwidth`, after measuring it once more."""
        level = self.level(working_set, threads)
        for pattern in PATTERNS:
            self._measure("bandwidth", level.name, pattern, threads)
        return self.bandwidth(working_set, threads)

    def meeting(self, threads: int | None = None) -> float | None:
        """Seconds that the threads take to share a phase of no work, measured now; None for one thread.

        It is no property of the machine: it grows where a hypervisor or the system moves threads to cores that share no
        cache, by two to three times on AMD's.
        """
        threads = threads or get_num_threads()
        return self.probes.meeting(threads) if threads > 1 else None

    def least_seconds(
        self, flops: float, moved: float, working_set: int, dtype: str, threads: int | None = None
    ) -> float:
        """The least time of work by the roofline model (Williams, Waterman, Patterson, 2009).

        Its arithmetic or its traffic of `moved` bytes, whichever takes longer.
        """
        return max(flops / self.peak(dtype, threads), moved / self.bandwidth(working_set, threads))

    def measure(self, dtypes: tuple[str, ...]) -> Iterator[str]:
        """Measure every rate anew, on one thread and on all, and tell each before it is begun."""
        for threads in sorted({1, get_num_threads()}):
            keys = [("peak", dtype, unit, threads) for dtype in dtypes for unit in self.probes.units(dtype)]
            for level in self.probes.levels(threads):
                keys += [("bandwidth", level.name, pattern, threads) for pattern in PATTERNS]
            for key in keys:
                yield _name(*key)
                self._measure(*key)

    def forget(self) -> None:
        """Drop everything that was measured, here and in the file."""
        self._rates.clear()
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()

    def rates(self) -> list[dict[str, Any]]:
        """What has been measured, for a report.

        Of each rate `kind`, `of` (dtype or memory), `by` (unit or pattern), `threads`, and `rate` in FLOP/s for a peak,
        in bytes/s for a bandwidth.
        """
        rows = []
        for name, rate in sorted(self._rates.items()):
            kind, of, by, threads = name.split("/")
            rows.append({"kind": kind, "of": of, "by": by, "threads": int(threads), "rate": rate})
        return rows

    def _peak_keys(self, dtype: str, threads: int | None, unit: str | None) -> list[tuple[str, str, str, int | None]]:
        if unit is not None:
            return [("peak", dtype, unit, threads)]
        kinds = ("bfloat16", "float32") if dtype == "bfloat16" else ("float32" if dtype == "high" else dtype,)
        return [("peak", kind, units[0], threads) for kind in kinds if (units := self.probes.units(kind))]

    def _rate(self, kind: str, of: str, by: str, threads: int | None) -> float:
        rate = self._rates.get(_name(kind, of, by, threads or get_num_threads()))
        return self._measure(kind, of, by, threads) if rate is None else rate

    def _measure(self, kind: str, of: str, by: str, threads: int | None) -> float:
        threads = threads or get_num_threads()
        name = _name(kind, of, by, threads)
        with self._measuring:
            if kind == "peak":
                rate = self.probes.multiply_adds(of, by, threads)
            else:
                level = next(level for level in self.probes.levels(threads) if level.name == of)
                rate = self.probes.traffic(level, by, threads)
            self._rates[name] = max(rate, self._rates.get(name, 0.0))
            self._keep()
        return self._rates[name]

    def _kept(self) -> dict[str, float]:
        """The file's rates, as far as they are such."""
        rates = kept.read(self.file, SCHEMA).get("rates")
        return {name: rate for name, rate in rates.items() if _sound(name, rate)} if isinstance(rates, dict) else {}

    def _keep(self) -> None:
        """Write the file, with what another process has put there meanwhile."""
        for name, rate in self._kept().items():
            self._rates[name] = max(rate, self._rates.get(name, 0.0))
        kept.write(self.file, SCHEMA, {"rates": self._rates})


def _name(kind: str, of: str, by: str, threads: int) -> str:
    return f"{kind}/{of}/{by}/{threads}"


def _sound(name: str, rate: object) -> bool:
    is_rate = isinstance(rate, float | int) and not isinstance(rate, bool) and math.isfinite(rate) and rate > 0
    kind, *rest = name.split("/")
    return is_rate and kind in ("peak", "bandwidth") and len(rest) == 3 and rest[-1].isdecimal()
