"""The parts of a step against what the machine can do: rates, roofs, balance; figures beyond a roof are refused.

The roofline model: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import backend as backends
from ..kernels.ceilings import Ceilings
from ..kernels.contract import PACKED, STEP_PHASES, Sizes
from ..kernels.cores import usable_cores
from ..kernels.network import Network, Optimizer
from .measuring import Measured, spread
from .recording import Part

PROBES = 5
"""How often a ceiling is measured again before a rate beyond it is called an error: a probe is disturbed first."""

SHORTEST_S = 50e-9
"""A part that lasts less is given no rates: a processor has begun with the next when it reads the clock."""


RESULTS = {"forward": "y", "input gradient": "dx", "weight gradient": "dw"}
"""What products make, by which packing for them is named."""


def sizes_of(structure: Network, optimizer: Optimizer, n: int, target_bytes: int) -> list[Sizes]:
    """Of every layer what its FLOPs and bytes depend on, in a step on n rows with so many bytes of target each."""
    item = structure.dtype.itemsize
    return [
        Sizes(
            n,
            layer.inputs,
            layer.outputs,
            item,
            2 if structure.bfloat16 else item,
            target_bytes,
            layer.activation != "identity",
            layer.saves_preactivation,
            optimizer.slots,
            index == 0,
        )
        for index, layer in enumerate(structure.layers)
    ]


def work_of(part: Part, sizes: list[Sizes]) -> tuple[int, int | None]:
    """FLOPs and least bytes of a part of a step; None where the contract does not know the bytes."""
    each = sizes if part.layer < 0 else sizes[part.layer : part.layer + 1]
    kind = STEP_PHASES[part.phase]
    moved = PACKED[part.product] if part.product else kind.bytes
    return sum(kind.flops(size) for size in each), None if moved is None else sum(moved(size) for size in each)


@dataclass(frozen=True)
class Roofs:
    """The machine's ceilings for so many threads, or none of them."""

    ceilings: Ceilings | None
    dtype: str
    threads: int

    @classmethod
    def of(cls, backend: str, dtype: str, members: int) -> "Roofs":
        """Those of the processor that the backend runs on; NumPy's BLAS takes the threads that it likes."""
        known = backends.ceilings(backend)
        if known is None and backend == "numpy" and backends.status()["cpu"] is None:
            known, members = backends.ceilings("cpu"), usable_cores()
        return cls(known, dtype, members)

    def peak(self) -> float | None:
        """FLOP/s, or None where nothing was measured."""
        return None if self.ceilings is None else self.ceilings.peak(self.dtype, self.threads)

    def memory(self, moved: int) -> tuple[str, float] | None:
        """The nearest memory that holds so many bytes, and its bytes/s."""
        if self.ceilings is None:
            return None
        return self.ceilings.level(moved, self.threads).name, self.ceilings.bandwidth(moved, self.threads)

    def lines(self) -> list[dict[str, Any]]:
        """Every memory's name and bytes/s, the nearest first."""
        if self.ceilings is None:
            return []
        levels = self.ceilings.probes.levels(self.threads)
        held = [level.capacity if np.isfinite(level.capacity) else 1 << 60 for level in levels]
        return [
            {"memory": level.name, "bytes_per_s": self.ceilings.bandwidth(int(most), self.threads)}
            for level, most in zip(levels, held, strict=True)
        ]

    def raise_to(self, flops_per_s: float, bytes_per_s: float, moved: int) -> None:
        """Measure the ceilings again, a few times at most, while a rate lies beyond them."""
        if self.ceilings is None:
            return
        for _ in range(PROBES):
            beyond = flops_per_s > self.ceilings.peak(self.dtype, self.threads)
            if not beyond and bytes_per_s <= self.ceilings.bandwidth(moved, self.threads):
                return
            self.ceilings.probe(self.dtype, self.threads)
            self.ceilings.probe_bandwidth(moved, self.threads)


def rate(row: dict[str, Any], roofs: Roofs) -> None:
    """Give a row, which has its time, FLOPs and bytes, its rates and its place under the roofs.

    A rate beyond a roof is an error of the figures: `error` tells of it, and the row has no percentages.
    """
    seconds, flops, moved = row["seconds"], row["flops"], row["bytes"]
    row |= {
        "intensity": flops / moved if flops and moved else None,
        "gflops": None,
        "gbytes_per_s": None,
        "percent_of_compute": None,
        "percent_of_bandwidth": None,
        "memory": None,
        "bound_by": None,
        "percent_of_roof": None,
        "error": None,
    }
    if not seconds or row["too_short"] or not (flops or moved):
        return
    row["gflops"] = flops / seconds * 1e-9 if flops else None
    row["gbytes_per_s"] = moved / seconds * 1e-9 if moved else None
    peak = roofs.peak()
    if peak is None:
        return
    roofs.raise_to(flops / seconds, (moved or 0) / seconds, moved or 0)
    compute = flops / seconds / (roofs.peak() or peak)
    memory = roofs.memory(moved) if moved else None
    band = moved / seconds / memory[1] if memory else 0.0
    name = memory[0] if memory else None
    if compute > 1 or band > 1:
        what = f"{compute:.0%} of the multiply-adds" if compute > band else f"{band:.0%} of {name}'s bandwidth"
        row["error"] = f"{row['name']} would run at {what} that was measured: the time or the ceiling is wrong"
        row["gflops"] = row["gbytes_per_s"] = None
        return
    row["percent_of_compute"] = 100 * compute if flops else None
    row["percent_of_bandwidth"] = 100 * band if moved else None
    row["memory"] = name
    row["bound_by"] = "compute" if compute >= band else f"{name} bandwidth"
    row["percent_of_roof"] = 100 * max(compute, band)


def name_of(part: Part, layers: int) -> str:
    """What a part is called in every report."""
    phase = "optimiser" if part.phase == "optimizer" else part.phase
    if part.product:
        phase = f"packing ({RESULTS[part.product]})"
    if part.phase == "gather" or (part.phase == "loss" and part.layer == layers - 1):
        return phase
    return f"{phase}, every layer" if part.layer < 0 else f"layer {part.layer} {phase}"


def _order(part: Part, layers: int) -> tuple[int, int, int]:
    """By which parts are listed: about as they follow one another in a step."""
    forward = ("gather", "forward", "activation")
    if part.phase in forward or part.product == "forward":
        return (part.phase != "gather", part.layer, 2 if part.phase == "activation" else 1)
    if part.phase == "loss":
        return (2, 0, 0)
    layer = part.layer + 1 if part.phase == "derivative" else part.layer
    return (3, layers - layer if part.layer >= 0 else 2 * layers, list(STEP_PHASES).index(part.phase))


def rows_of(measured: Measured, roofs: Roofs) -> list[dict[str, Any]]:
    """One row for each part of a step; README.md of this folder says what it holds. Waiting is apart."""
    tick, means = measured.seconds_per_tick, measured.recording.means()
    layers = len(measured.structure.layers)
    sizes = sizes_of(measured.structure, measured.optimizer, measured.batch_size, measured.target_bytes)
    members = measured.recording.members
    rows = []
    for part in sorted((part for part in means if not part.waiting), key=lambda part: _order(part, layers)):
        own = means[part] * tick
        waited = means.get(part._replace(waiting=True), np.zeros(members)) * tick
        flops, moved = work_of(part, sizes)
        seconds = float(own.mean())
        row: dict[str, Any] = {
            "name": name_of(part, layers),
            "phase": part.phase,
            "product": part.product or None,
            "layer": None if part.layer < 0 else part.layer,
            "seconds": seconds,
            "core_seconds": float(own.sum()),
            "balance": float(own.mean() / own.max()) if own.max() > 0 else None,
            "waiting_seconds": float(waited.mean()),
            "flops": flops,
            "bytes": moved,
            "too_short": seconds < SHORTEST_S,
        }
        rate(row, roofs)
        rows.append(row)
    return rows


def waiting_of(measured: Measured) -> np.ndarray:
    """Seconds of a step that each member waited."""
    means = measured.recording.means()
    zero = np.zeros(measured.recording.members)
    return sum((ticks for part, ticks in means.items() if part.waiting), zero) * measured.seconds_per_tick


def step_of(measured: Measured, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole step: its time in the calls without stamps, what its parts add up to, and what stamps cost."""
    waiting = waiting_of(measured)
    phases = sum(row["seconds"] for row in rows) + float(waiting.mean())
    ratios = tuple(timed / plain for timed, plain in zip(measured.timed, measured.plain, strict=False))
    overhead = spread(ratios)
    return {
        "seconds": measured.step_s,
        "spread": spread(measured.plain),
        "phases_seconds": phases,
        "waiting_seconds": float(waiting.mean()),
        "waiting_by_member": waiting.tolist(),
        "phases_over_step": phases / measured.step_s,
        "overhead": None if overhead is None else {**overhead, "median": overhead["median"] - 1},
    }
