"""The suite `energy`: joules a sample of whole training runs, each side at work for seconds, in turn."""

from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

from ..energy import WINDOW_S, Reading
from .contest import Setting, Side, fill
from .timing import Spread
from .training import fit_sides, new_row
from .workloads import Workload

ROUNDS = 2
"""Windows of each side, which take turns; a round of calls that warm everything comes first."""

QUICK_WINDOW_S = 0.5


def energy_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite: its unit is microjoules a sample, gross.

    Every side works for WINDOW_S seconds or, in a quick run, for a time that the report calls too short. Where there
    is no counter and no estimate, just the processor time is told, with the reason.
    """
    row = new_row(workload, setting, "energy") | {"unit": "µJ/sample"}
    sides = fit_sides(workload, setting, row["dtype"])
    readings: dict[int, list[Reading]] = {
        index: [] for index, side in enumerate(sides) if side.agreement is None or side.agreement["agree"]
    }
    if not any(sides[index].role == "backend" for index in readings):
        readings = {}
    if setting.meter.idle_watts is None:
        setting.tell("energy: what does the machine take at rest?")
        setting.meter.rest()
    setting.tell(f"{workload.name}: how many joules does it take?")
    for index in readings:
        sides[index].call()
    for _ in range(ROUNDS):
        for index, taken in readings.items():
            taken.append(setting.meter.per_call(sides[index].call, window_of(setting)))
    samples = {
        index: [1e6 * reading.joules / (reading.calls * workload.trained) for reading in taken if reading.joules]
        for index, taken in readings.items()
    }
    known = all(len(taken) == ROUNDS for taken in samples.values())
    fill(row, sides, samples if known else {}, setting)
    for index, taken in readings.items():
        row["sides"][index] |= _figures(workload, sides[index], taken)
    return row


def window_of(setting: Setting) -> float:
    """Seconds of each window."""
    return QUICK_WINDOW_S if setting.quick else WINDOW_S


def _figures(workload: Workload, side: Side, taken: list[Reading]) -> dict[str, Any]:
    """What the windows of one side tell beyond its value: medians, None where one of them tells nothing."""
    worst = min(taken, key=lambda reading: reading.joules is not None)

    def middle(figure: Callable[[Reading, float], float | None]) -> float | None:
        found = [figure(reading, reading.calls * workload.trained) for reading in taken]
        known = [value for value in found if value is not None]
        return median(known) if len(known) == len(found) else None

    def per(whole: float | None, part: float) -> float | None:
        return None if whole is None else whole / part

    return {
        "core_us_per_sample": asdict(Spread.of([1e6 * r.core_s / (r.calls * workload.trained) for r in taken])),
        "energy": {
            "source": worst.source,
            "detail": worst.detail,
            "window_s": min(reading.window_s for reading in taken),
            "net_uj_per_sample": middle(lambda reading, samples: per(reading.net_joules, 1e-6 * samples)),
            "watts": middle(lambda reading, _: per(reading.joules, reading.window_s)),
            "idle_watts": worst.idle_watts,
            "gflop_per_joule": middle(
                lambda reading, _: reading.joules and 1e-9 * workload.flops * reading.calls / reading.joules
            ),
        },
    }
