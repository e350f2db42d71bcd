"""What a profile says in plain words: what the time goes to, what binds it, and what another batch would do."""

from typing import Any

from ..kernels.network import Network, Optimizer
from .analysis import Roofs, sizes_of, work_of
from .recording import Part

NEAR, FAR = 75.0, 40.0
"""Percent of its roof from which on a part has little left to gain, and below which neither roof is what binds it."""

WORTH_TELLING = 0.05
"""The share of a step from which on something is worth a sentence, and the gain from which on another batch is."""

TIMES = (2, 4, 8)
"""Batches that are tried in the model, in multiples of this one."""

NOISY = 0.2
"""Interquartile range over median from which on the machine was disturbed."""

NEITHER = "neither roof"
NO_PRODUCTS = ("gather", "activation", "derivative", "loss", "packing", "rounding", "penalty")
GROWING = ("gather", "activation", "derivative", "loss")
"""Phases without FLOPs, and those whose time grows with the batch."""


def binding_of(rows: list[dict[str, Any]], step: dict[str, Any]) -> dict[str, float]:
    """Shares of the step by what binds them: `compute`, a memory's bandwidth, `waiting`, or neither roof."""
    total = step["phases_seconds"]
    shares: dict[str, float] = {}
    for row in rows:
        bound = row["bound_by"] if (row["percent_of_roof"] or 0.0) >= FAR else NEITHER
        shares[bound] = shares.get(bound, 0.0) + row["seconds"] / total
    shares["waiting"] = step["waiting_seconds"] / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def batch_gain(
    rows: list[dict[str, Any]],
    step: dict[str, Any],
    structure: Network,
    optimizer: Optimizer,
    batch: tuple[int, int],
    roofs: Roofs,
    times: int,
) -> float | None:
    """How many times the samples a second on a batch `times` as large, if each part keeps its share of its roof.

    A model: parts without rates grow with the batch or stay, waiting stays. `batch` is rows and bytes of target a row.
    None without ceilings.
    """
    if roofs.ceilings is None:
        return None
    sizes = sizes_of(structure, optimizer, times * batch[0], batch[1])
    total = step["waiting_seconds"]
    for row in rows:
        if row["percent_of_roof"]:
            layer = -1 if row["layer"] is None else row["layer"]
            flops, moved = work_of(Part(row["phase"], layer, product=row["product"] or ""), sizes)
            least = roofs.ceilings.least_seconds(flops, moved or 0, moved or 0, roofs.dtype, roofs.threads)
            total += 100 * least / row["percent_of_roof"]
        else:
            total += row["seconds"] * (times if row["phase"] in GROWING else 1)
    return float(times * step["phases_seconds"] / total)


def verdict(profile: dict[str, Any], gains: dict[int, float]) -> list[str]:
    """Sentences on a profile's document; `gains` are those of `batch_gain` by batch size."""
    step, rows = profile["step"], profile["phases"]
    total = step["phases_seconds"]
    sentences = [_headline(profile), _binding(profile)]
    longest = sorted(rows, key=lambda row: -row["seconds"])[:3]
    shares = [(row, row["seconds"] / total) for row in longest]
    sentences += [_part(row, share, profile["backend"]) for row, share in shares if share >= 2 * WORTH_TELLING]
    without = sum(row["seconds"] for row in rows if row["phase"] in NO_PRODUCTS) / total
    if without >= 2 * WORTH_TELLING:
        worst = max((row for row in rows if row["phase"] in NO_PRODUCTS), key=lambda row: row["seconds"])
        sentences.append(
            f"Work without products takes {without:.0%} of the step, most of it {worst['name']} "
            f"({worst['seconds'] / total:.0%})."
        )
    waiting = step["waiting_seconds"] / total
    if waiting >= WORTH_TELLING:
        sentences.append(
            f"Threads wait for one another for {waiting:.0%} of the step: its phases are short, or their chunks few, "
            "for so many threads. A larger batch gives them more to do between two meetings."
        )
    if gains:
        sentences.append(_batches(profile["batch_size"], gains))
    return [*sentences, *_doubts(profile)]


def _headline(profile: dict[str, Any]) -> str:
    share = f", {profile['percent_of_peak']:.0f} % of the peak" if profile["percent_of_peak"] is not None else ""
    threads = f"{profile['threads']} thread{'s' if profile['threads'] > 1 else ''}"
    where = threads if profile["backend"] == "cpu" else "NumPy's BLAS"
    return (
        f"A step on {profile['batch_size']} rows takes {duration(profile['step']['seconds'])} on {where}: "
        f"{profile['samples_per_s']:,.0f} samples a second, {profile['gflops']:.3g} GFLOP/s{share}."
    )


def _binding(profile: dict[str, Any]) -> str:
    told = [f"{name} {share:.0%}" for name, share in profile["binding"].items() if share >= 0.01]
    return f"What binds it, by share of the time: {', '.join(told)}."


def _part(row: dict[str, Any], share: float, backend: str) -> str:
    subject = f"{row['name'][0].upper()}{row['name'][1:]} takes {share:.0%} of the step"
    if row["error"]:
        return f"{subject}; its rates are refused: {row['error']}."
    if row["too_short"]:
        return f"{subject}, but is too short to be rated."
    if row["percent_of_roof"] is None:
        return f"{subject}; no roof applies to it."
    reached = f"{row['percent_of_roof']:.0f} % of that roof"
    if row["percent_of_roof"] < FAR:
        causes = "short loops, tails of odd sizes, operands that have left the cache, or what comes between products"
        if backend == "numpy":
            causes = "what Python adds to each of NumPy's calls, and their passes through memory"
        return (
            f"{subject} at {row['percent_of_roof']:.0f} % of its roof ({row['bound_by']}): what binds it is {causes}."
        )
    left = "little is left to gain" if row["percent_of_roof"] >= NEAR else "the rest is what a better kernel could gain"
    return f"{subject}, bound by {row['bound_by']} at {reached}: {left}."


def _batches(batch: int, gains: dict[int, float]) -> str:
    size, gain = max(gains.items(), key=lambda item: item[1])
    if gain < 1 + WORTH_TELLING:
        return (
            f"A larger batch would gain less than {WORTH_TELLING:.0%} in samples a second, "
            "if each part keeps its share of its roof (a model, not measured)."
        )
    first = next(each for each in gains if gains[each] >= 1 + (gain - 1) * 0.7)
    more = f", {size} {gain:.2f} times" if size != first else ""
    return (
        f"Batch {first} would train {gains[first]:.2f} times the samples a second{more}, "
        f"if each part keeps its share of its roof (a model, not measured; batch {batch} was)."
    )


def _doubts(profile: dict[str, Any]) -> list[str]:
    step, doubts = profile["step"], []
    spread = step["spread"]
    if spread is not None and spread["iqr"] > NOISY * spread["median"]:
        range_ = spread["iqr"] / spread["median"]
        doubts.append(
            f"The machine was disturbed: the middle half of the steps' times spans {range_:.0%} of the median."
        )
    if abs(step["phases_over_step"] - 1) > WORTH_TELLING:
        doubts.append(
            f"The parts add up to {step['phases_over_step']:.0%} of the step's time outside the profile: "
            "the machine, or what Python adds to each call, makes the difference."
        )
    return doubts


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    for unit, factor in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
