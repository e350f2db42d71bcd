"""A contest: the sides of one row do the same work in turn, and each one's time becomes the figures of the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from ..energy import Meter
from ..kernels import backend as backends
from ..kernels.ceilings import Ceilings
from ..kernels.contract import array_dtype
from ..kernels.cores import num_threads
from .peers import Peer
from .timing import Spread, Timing, fastest, interleave, ratio, repeated

REFERENCE = "numpy"

PEER_TOLERANCE = 0.02
"""A peer's result may be so far from the reference's, as a share of the way from the start, in the norm. It is there to
do the same work, not to round alike, and its formulas may differ a little: PyTorch's Adam has its epsilon in another
place, which on the digits, whose corners are empty, is 1 % of the way. A bias or a factor forgotten is more."""

BFLOAT16_FACTOR = 4.0
"""A peer that rounds to bfloat16 may besides be so many times as far away as the reference is with its products'
operands rounded so: it rounds their results too, and in another order, and `judge` allows twice."""

ROUNDING = ("bfloat16", "high")
"""Arithmetic that does less than float32: the backend's own float32 is timed beside it, and its error is told."""


def usual(dtype: str) -> str:
    """What NumPy does in a contest in this arithmetic: to split operands would only slow it down."""
    return "float32" if dtype == "high" else dtype


PROBES = 8
"""How often the peak is probed, from row to row."""


class Peaks:
    """`rates` in FLOP/s that multiply-adds on registers reach, by (dtype, threads).

    Probed again and again over the run, for other work on the machine can only lower a probe: the fastest counts.
    """

    def __init__(self, ceilings: Ceilings | None) -> None:
        self.rates: dict[tuple[str, int], float] = {}
        self.ceilings = ceilings
        self._probes: dict[tuple[str, int], int] = {}

    def probe(self, dtype: str, threads: int) -> bool:
        """Measure once more, in about 0.05 s; False where that was often enough, or the backend has no ceilings."""
        key = (dtype, threads)
        probes = self._probes.get(key, 0)
        if self.ceilings is None or probes == PROBES:
            return False
        self.rates[key] = self.ceilings.probe(dtype, threads)
        self._probes[key] = probes + 1
        return True


@dataclass(frozen=True)
class Setting:
    """What is the same for every row of a run: `budget_s` seconds of timing a side; `threads` for every side.

    `quick` says that its figures are for a first look.
    """

    backend: str
    threads: int = 1
    dtype: str = "float32"
    peers: tuple[Peer, ...] = ()
    budget_s: float = 1.0
    quick: bool = False
    meter: Meter = field(default_factory=Meter)
    tell: Callable[[str], None] = lambda stage: None

    @property
    def module(self) -> ModuleType:
        """The backend."""
        return backends.load(self.backend)

    @property
    def alone(self) -> bool:
        """Whether the backend can also be timed on one thread, apart from its time on all."""
        return self.threads > 1 and hasattr(self.module, "threads_for")

    @cached_property
    def peaks(self) -> Peaks:
        """What every rate is held against."""
        return Peaks(backends.ceilings(self.backend))

    def on_one_thread(self, call: Callable[[], object]) -> Callable[[], object]:
        """`call` with the backend held to one thread."""

        def held() -> object:
            with num_threads(1):
                return call()

        return held


@dataclass
class Side:
    """One entry of a contest: a call that does `count` units of the row's work.

    `role` is "reference", "backend", "peer", or "variant" for the backend in another way. `way` says which of its ways
    a peer goes, `first_call_s` what its first call took, compiling included, and `arithmetic` the dtype of its products
    where that is not the row's.
    """

    name: str
    role: str
    call: Callable[[], object]
    threads: int
    count: int = 1
    way: str | None = None
    agreement: dict[str, Any] | None = None
    first_call_s: float | None = None
    arithmetic: str | None = None


def judge(
    dtype: str, single: Sequence[np.ndarray], double: Sequence[np.ndarray], received: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Whether `received` is as near the truth as the reference is, whose results in float32 and float64 are given.

    Each array's distance (Euclidean norm) from the truth may be twice the reference's own plus 4 eps of its size. In
    float32 the truth is the reference in float64. In float64 there is no better arbiter: the reference's rounding error
    is that of float32 scaled by the ratio of the eps, and stands on both sides of the distance, so three of it count.
    In bfloat16 and in "high" `single` is the reference in that. `relative_error` is the largest distance from the truth
    as a share of its size.
    """
    eps = float(np.finfo(array_dtype(dtype)).eps)
    factor = 3.0 * eps / float(np.finfo(np.float32).eps) if dtype == "float64" else 2.0
    worst = error = 0.0
    for own, exact, new in zip(single, double, received, strict=True):
        distance, size = float(np.linalg.norm(new - exact)), float(np.linalg.norm(exact))
        worst = _worse(worst, distance, factor * float(np.linalg.norm(own - exact)) + 4 * eps * size)
        error = _worse(error, distance, size)
    return _verdict(worst) | {"relative_error": error if np.isfinite(error) else None}


def judge_peer(
    start: Sequence[np.ndarray] | None,
    double: Sequence[np.ndarray],
    received: Sequence[np.ndarray],
    rounded: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Whether a peer did the same work: each array's way from its `start` (else from zero), to PEER_TOLERANCE.

    `rounded` is what the reference leaves in bfloat16, for a peer that rounds so: see BFLOAT16_FACTOR.
    """
    worst = 0.0
    for index, (exact, new) in enumerate(zip(double, received, strict=True)):
        way = exact if start is None else exact - start[index]
        allowed = PEER_TOLERANCE * float(np.linalg.norm(way))
        if rounded is not None:
            allowed += BFLOAT16_FACTOR * float(np.linalg.norm(rounded[index] - exact))
        worst = _worse(worst, float(np.linalg.norm(new - exact)), allowed)
    return _verdict(worst)


def _worse(worst: float, error: float, allowed: float) -> float:
    share = error / allowed if allowed else np.inf if error else 0.0
    return max(worst, share if np.isfinite(share) else np.inf)


def _verdict(worst: float) -> dict[str, Any]:
    return {"agree": worst <= 1, "error_over_allowed": worst if np.isfinite(worst) else None}


def enter_ways(
    peer: Peer, threads: int, ways: Mapping[str, Callable[[], object]], agreements: Mapping[str, dict[str, Any]]
) -> Side | None:
    """A peer's entry: its fastest way. All of its ways must agree, or the worst of them enters, to be reported."""
    if not ways:
        return None
    wrong = [way for way in ways if not agreements[way]["agree"]]
    way = wrong[0] if wrong else fastest(ways)
    arithmetic = "bfloat16" if peer.bfloat16 else None
    return Side(peer.name, "peer", ways[way], threads, way=way, agreement=agreements[way], arithmetic=arithmetic)


def sides_of_calls(
    setting: Setting,
    reference: Callable[[], object],
    ways_of: Callable[[Peer], Mapping[str, Callable[[], Any]]],
    exact: np.ndarray,
    ours: Callable[[], object],
    agreement: dict[str, Any],
    first_call_s: float,
    rounded: Callable[[], np.ndarray] | None = None,
    in_float32: Callable[[], object] | None = None,
) -> list[Side]:
    """Everyone who makes a call that may be short: the reference, peers who come close to `exact`, and the backend.

    `rounded` gives the reference's outcome in bfloat16, for peers that round so; `in_float32` is the backend's call in
    float32, in a contest in bfloat16.
    """
    sides = [Side(REFERENCE, "reference", reference, setting.threads)]
    for peer in setting.peers:
        ways = ways_of(peer)
        near = [rounded()] if ways and peer.bfloat16 and rounded is not None else None
        agreements = {way: judge_peer(None, [exact], [peer.as_numpy(call())], near) for way, call in ways.items()}
        side = enter_ways(peer, setting.threads, ways, agreements)
        if side is not None:
            sides.append(side)
    sides.append(
        Side(setting.backend, "backend", ours, setting.threads, agreement=agreement, first_call_s=first_call_s)
    )
    if in_float32 is not None:
        sides.append(Side(f"{setting.backend}, float32", "variant", in_float32, setting.threads, arithmetic="float32"))
    for side in sides:
        side.call, side.count = repeated(side.call)
    if setting.alone:
        alone, count = repeated(ours)
        sides.append(Side(f"{setting.backend}, 1 thread", "variant", setting.on_one_thread(alone), 1, count))
    return sides


def contest(
    row: dict[str, Any],
    sides: Sequence[Side],
    setting: Setting,
    flops: float | None = None,
    finish: Callable[[Side, Timing], dict[str, Any]] | None = None,
    **rounds: int,
) -> dict[str, Any]:
    """`row` with the figures of its sides, timed in turn; `flops` are those of one unit of work.

    A side whose numbers are wrong is not timed, and nothing is where they are the backend's. `finish` adds what the
    suite knows of a side; `rounds` may set `least` and `most` of `interleave`.
    """
    right = [index for index, side in enumerate(sides) if side.agreement is None or side.agreement["agree"]]
    timings: dict[int, Timing] = {}
    if any(sides[index].role == "backend" for index in right):
        taken = interleave([sides[index].call for index in right], setting.budget_s * len(right), **rounds)
        timings = dict(zip(right, taken, strict=True))
    samples = {index: [wall / sides[index].count for wall in timing.wall] for index, timing in timings.items()}
    fill(row, sides, samples, setting, flops)
    if finish is not None:
        for index, timing in timings.items():
            row["sides"][index] |= finish(sides[index], timing)
    return row


def fill(
    row: dict[str, Any],
    sides: Sequence[Side],
    samples: Mapping[int, Sequence[float]],
    setting: Setting,
    flops: float | None = None,
) -> dict[str, Any]:
    """`row` with the figures of its sides, of which those with `samples`, in seconds or the row's unit, have some."""
    backend = next(index for index, side in enumerate(sides) if side.role == "backend")
    scale = 1e6 if row["unit"].startswith("µs") else 1.0
    row["sides"], row["error"] = [], None
    for index, side in enumerate(sides):
        figures: dict[str, Any] = {
            "side": side.name,
            "role": side.role,
            "way": side.way,
            "threads": side.threads,
            "arithmetic": side.arithmetic or row["dtype"],
            "agreement": side.agreement,
            "first_call_s": side.first_call_s,
            "value": None,
            "ratio": None,
            "gflops": None,
            "percent_of_peak": None,
        }
        row["sides"].append(figures)
        if index in samples:
            spread = Spread.of(samples[index])
            figures["value"] = asdict(spread.scaled(scale))
            figures["ratio"] = asdict(ratio(samples[index], samples[backend]))
            if flops is not None:
                figures["gflops"] = flops / spread.median * 1e-9
                setting.peaks.probe(figures["arithmetic"], side.threads)
    return row


def hold_against(rows: Sequence[dict[str, Any]], peaks: Peaks) -> None:
    """Give every rate its share of the peak of its arithmetic; one of more than all is an error, told in its place.

    Before a rate is called an error the peak is probed as often as it may be: it is the probe that was disturbed first.
    """
    for row in rows:
        for figures in row["sides"]:
            key = figures["arithmetic"], figures["threads"]
            while (figures["gflops"] or 0.0) * 1e9 > peaks.rates.get(key, np.inf) and peaks.probe(*key):
                pass
    for row in rows:
        for figures in row["sides"]:
            peak = peaks.rates.get((figures["arithmetic"], figures["threads"]))
            if figures["gflops"] is None or peak is None:
                continue
            share = figures["gflops"] * 1e9 / peak
            if share <= 1:
                figures["percent_of_peak"] = 100 * share
                continue
            row["error"] = (
                f"{figures['side']} would run at {share:.0%} of the peak that was measured "
                f"({peak * 1e-9:.0f} GFLOP/s on {figures['threads']} thread(s)): the time or the peak is wrong"
            )
            figures["gflops"] = None
