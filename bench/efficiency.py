"""How near a call comes to what its machine allows: the figures of single kernels, by the roofline model."""

from typing import Any

from ..errors import FastMLPError
from ..kernels.ceilings import Ceilings
from .contest import PROBES


class ImpossibleFigureError(FastMLPError):
    """A time that the machine cannot reach: it, the work that it is said to be for, or the ceiling is wrong."""


def efficiency(
    seconds: float, flops: int, moved: int, dtype: str, ceilings: Ceilings | None, threads: int | None = None
) -> dict[str, Any]:
    """GFLOP/s of work of so many FLOPs, and its share of what `threads` could do at most, by arithmetic or by traffic.

    `moved` are its bytes, each operand's once; 0 leaves traffic out. They are held against the nearest memory that has
    room for half of them, for as much may stay there from call to call. Without ceilings there is no share.

    Raises ImpossibleFigureError for a share of more than all that stays so when the ceiling is probed again.
    """
    figures: dict[str, Any] = {"GFLOP/s": round(1e-9 * flops / seconds, 2)}
    if ceilings is None:
        return figures | {"% of ceiling": None, "ceiling": None}
    for _ in range(PROBES):
        times = {"multiply-adds": flops / ceilings.peak(dtype, threads)}
        if moved:
            level = ceilings.level(moved // 2, threads).name
            times[f"bandwidth of {level}"] = moved / ceilings.bandwidth(moved // 2, threads)
        binding = max(times, key=lambda name: times[name])
        if times[binding] <= seconds:
            return figures | {"% of ceiling": round(100 * times[binding] / seconds, 1), "ceiling": binding}
        if binding == "multiply-adds":
            ceilings.probe(dtype, threads)
        else:
            ceilings.probe_bandwidth(moved // 2, threads)
    raise ImpossibleFigureError(
        f"{1e6 * seconds:.4g} us would be {times[binding] / seconds:.0%} of what {binding} allow here "
        f"({1e6 * times[binding]:.4g} us for {flops} FLOPs, {moved} bytes): the time, the work or the ceiling is wrong"
    )
