"""Times of calls that take turns, A B B A, so that whatever else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

REST_S, MOST_RESTS = 0.01, 50
"""Before each call the process sleeps so long, and again while threads of its own are busy meanwhile: OpenBLAS's spin
for 2^28 cycles after a call, 0.1 s, and would take a core from the next call, which may be the other side's."""

WARM_S, LONG_S = 0.003, 0.05
"""After a rest the core is slow and its caches are empty: the call is first made untimed, again and again for so long.
Once it has taken longer than the second it is not, for then that matters little."""

AT_REST = 0.1
"""The share of a rest that the process's threads may be busy."""

NOISY = 0.2
"""A spread (interquartile range over median) above this is marked in every report."""


@dataclass(frozen=True)
class Spread:
    """Median and interquartile range of `n` samples."""

    median: float
    iqr: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """Of at least two samples."""
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(median(samples), high - low, len(samples))

    def scaled(self, factor: float) -> "Spread":
        """The same spread in another unit."""
        return Spread(self.median * factor, self.iqr * factor, self.n)

    @property
    def noisy(self) -> bool:
        """Whether the spread is too wide for the median to be quoted without a mark."""
        return self.iqr > NOISY * self.median


def number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    rounded = float(f"{value:.3g}")
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if rounded >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one figure a round: on the clock, and summed over every core this process kept busy."""

    wall: list[float]
    cores: list[float]


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times faster `fast` is, round by round: a slow spell of the machine slows both sides of a round."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=True)])


def interleave(
    calls: Sequence[Callable[[], object]],
    budget_s: float,
    least: int = 7,
    most: int = 200,
) -> list[Timing]:
    """Time each of `calls` in turn, over and over, until `budget_s` seconds are gone.

    Every other round goes backwards, or one call would always follow the same other and find the machine as that left
    it. At least `least` rounds are made and at most `most`. One untimed round comes first, and short calls are warmed
    up before each. A garbage collection is not kept away: users have it too.
    """
    long = [seconds(call) > LONG_S for call in calls]
    timings = [Timing([], []) for _ in calls]
    deadline = time.perf_counter() + budget_s
    rounds = 0
    while rounds < least or (rounds < most and time.perf_counter() < deadline):
        for turn in range(len(calls))[:: -1 if rounds % 2 else 1]:
            call, timing = calls[turn], timings[turn]
            rest()
            if not long[turn]:
                _warm(call)
            cores_start, start = time.process_time_ns(), time.perf_counter_ns()
            call()
            stop, cores_stop = time.perf_counter_ns(), time.process_time_ns()
            timing.wall.append((stop - start) * 1e-9)
            timing.cores.append((cores_stop - cores_start) * 1e-9)
        rounds += 1
    return timings


def _warm(call: Callable[[], object]) -> None:
    end = time.perf_counter_ns() + int(WARM_S * 1e9)
    while True:
        call()
        if time.perf_counter_ns() >= end:
            break


SAMPLE_S = 1e-3
"""A call shorter than this is timed many at once: a thousand times the clock's own microsecond."""


def repeated(call: Callable[[], object]) -> tuple[Callable[[], None], int]:
    """`call` so many times in a row that it lasts SAMPLE_S or longer, and how many times that is."""
    call()
    count = 1
    while (took := seconds(partial(_repeat, call, count))) < SAMPLE_S:
        count = max(2 * count, int(count * SAMPLE_S / max(took, 1e-9)))
    return partial(_repeat, call, count), count


def _repeat(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


def fastest(ways: Mapping[str, Callable[[], object]]) -> str:
    """The name of the call that takes the least time."""
    if len(ways) == 1:
        return next(iter(ways))
    timings = interleave(list(ways.values()), budget_s=0, least=3)
    return min(zip(ways, timings, strict=True), key=lambda entry: median(entry[1].wall))[0]


def rest() -> None:
    """Sleep until no thread of this process is busy, half a second at most."""
    for _ in range(MOST_RESTS):
        busy, start = time.process_time_ns(), time.perf_counter_ns()
        time.sleep(REST_S)
        if time.process_time_ns() - busy <= AT_REST * (time.perf_counter_ns() - start):
            break


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9
