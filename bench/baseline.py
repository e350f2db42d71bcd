"""A run against an older one: which rows changed by more than the noise."""

import copy
import math
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import ArgumentError
from . import document
from .timing import Spread

LEAST_CHANGE = 0.05
"""Medians of one program on one quiet machine come back within so much of one another; less is no change."""


def load(path: Path) -> dict[str, Any]:
    """A document to compare with; raises ArgumentError for what is none, or cannot be compared with."""
    older = document.load(path)
    try:
        compare(copy.deepcopy(older), older)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArgumentError(f"{str(path)!r} is a damaged benchmark report: {type(error).__name__}: {error}") from error
    return older


def compare(newer: dict[str, Any], older: dict[str, Any]) -> None:
    """Give each of its rows that `older` has too its `change`, and the newer document its `baseline`.

    What is compared is the backend's time in units of the reference's, taken in turns, so that a slower spell or clock
    of the machine falls out; where there is no reference, its time. `gain` above 1 is faster than before. It is beyond
    the noise if its logarithm is more than LEAST_CHANGE and than half of the two interquartile ranges together, each as
    a share of its median.
    """
    before = {_key(row): figure for row in older["rows"] if (figure := _figure(row)) is not None}
    gains = []
    for row in newer["rows"]:
        new, old = _figure(row), before.get(_key(row))
        row["change"] = None
        if new is None or old is None or not (new.median and old.median):
            continue
        gain = new.median / old.median
        noise = (new.iqr / new.median + old.iqr / old.median) / 2
        row["change"] = {"gain": gain, "beyond_noise": abs(math.log(gain)) > max(LEAST_CHANGE, noise)}
        gains.append(gain)
    keys = ("machine", "threads", "dtype", "backend")
    newer["baseline"] = {
        "commit": older["commit"],
        "date": older["date"],
        "differs": [key for key in keys if newer[key] != older[key]],
        "rows": len(gains),
        "median_gain": median(gains) if gains else None,
        "median_change": median(abs(gain - 1) for gain in gains) if gains else None,
    }


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["suite"], row["workload"], row["dtype"]


def _figure(row: dict[str, Any]) -> Spread | None:
    """The more the better: how many times faster than the reference, else one over the time."""
    for side in row["sides"]:
        if side["role"] == "reference" and side["ratio"] is not None:
            return Spread(**side["ratio"])
    for side in row["sides"]:
        if side["role"] == "backend" and side["value"] is not None:
            value = Spread(**side["value"])
            return Spread(1 / value.median, value.iqr / value.median**2, value.n)
    return None
