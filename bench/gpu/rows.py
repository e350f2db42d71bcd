"""Rows of the GPU's table: one network in one dtype, every side judged, then timed in turn, then its joules counted."""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ...energy import Meter
from ...errors import BackendUnavailable
from ...kernels import backend as backends
from ..contest import judge, judge_peer
from ..peers import Trainer
from ..timing import Spread, ratio, seconds
from ..training import Trial, new_network
from ..workloads import Workload
from .evaluation import Skipped
from .sides import builders

REFERENCE, OURS = "numpy", "fastmlp"

CALL_S = 0.1
"""What a timed call of a side lasts at least; the host's part in it, its start and its wait, is a thousandth."""

ROUNDS = 5

SLOW_S = 2.0
"""A reference whose single step takes longer is not timed in turn, but that once."""

MOST_TRIAL_ROWS = 256
"""The trial of a large batch is made on fewer rows, for the reference in float64 takes minutes for them all."""


def _row(name: str, widths: tuple[int, ...], batch: int, optimizer: str = "sgd", **settings: Any) -> Workload:
    rate = 1e-3 if optimizer == "adam" else 1e-2
    samples = batch if batch * widths[0] > 2**24 else 4 * batch
    return Workload(
        name, widths, optimizer=optimizer, learning_rate=rate, batch_size=batch, samples=samples, **settings
    )


WORKLOADS = (
    (_row("article", (10, 5, 2), 100, activation="identity"), ("float32",)),
    (_row("small", (64, 64, 64, 1), 256, "adam"), ("float32",)),
    (_row("classic", (784, 256, 128, 10), 128), ("float32", "bfloat16")),
    (_row("width-64", (64,) * 6, 2**16), ("bfloat16", "float32")),
    (_row("width-128", (128,) * 6, 2**16), ("bfloat16", "float32")),
    (_row("width-512", (512,) * 5, 4096), ("bfloat16", "float32")),
    (_row("width-1024", (1024,) * 5, 4096), ("float32",)),
    (_row("width-4096", (4096,) * 5, 8192, "adam"), ("bfloat16", "float32")),
)
"""Networks whose training is timed, and the dtypes that each is trained in."""

COMPILED = ("small", "width-512", "width-4096")
"""Where torch.compile takes part; it takes some ten seconds a shape."""

LAUNCHED = ("classic", "width-512")
"""Where fastmlp takes part a second time, its steps launched kernel by kernel: what a CUDA graph saves."""

ENERGY = ("small", "width-128", "width-4096")


def rows(rehearsal: bool) -> dict[str, tuple[Workload, str]]:
    """The rows by name."""
    found: dict[str, tuple[Workload, str]] = {}
    for workload, dtypes in WORKLOADS:
        if rehearsal:
            widths = tuple(min(width, 3) for width in workload.widths[:3])
            workload = replace(workload, widths=widths, batch_size=4, samples=10)
        found |= {f"{workload.name} {dtype}": (workload, dtype) for dtype in dtypes}
    return found


class Contest:
    """The sides of one row that can be built here and agree; `told` says of the others why not."""

    def __init__(self, workload: Workload, dtype: str, rehearsal: bool) -> None:
        try:
            backends.require_dtype("cuda", dtype)
        except BackendUnavailable as error:
            raise Skipped(str(error)) from None
        self.workload, self.dtype = workload, dtype
        self.data = workload.make(workload)
        net = new_network(workload, REFERENCE, dtype)
        self.weights, self.biases = list(net.weights), list(net.biases)
        self.told: dict[str, dict[str, Any]] = {}
        self.builders = builders(dtype, workload.name in COMPILED, workload.name in LAUNCHED, rehearsal)

    def judge(self) -> None:
        """Keep the sides that train as the reference does."""
        n = min(self.workload.batch_size, MOST_TRIAL_ROWS)
        trial = Trial(
            replace(self.workload, batch_size=n, samples=min(3 * n, self.workload.samples)), self.data, self.dtype
        )
        cut = trial.cut(self.dtype)
        start = [*self.weights, np.concatenate(self.biases)]
        for name, build in list(self.builders.items()):
            if name == REFERENCE:
                continue
            try:
                trainer = build(trial.workload, self.weights, self.biases, cut)
                trainer.fit(trial.epochs)
                left = trainer.parameters()
                outcome = [*left[: len(self.weights)], np.concatenate(left[len(self.weights) :])]
                if name.startswith(OURS):
                    verdict = judge(self.dtype, trial.single[:-1], trial.double[:-1], outcome)
                else:
                    rounded = trial.single[:-1] if self.dtype == "bfloat16" else None
                    verdict = judge_peer(start, trial.double[:-1], outcome, rounded)
                self.told[name] = {"agreement": verdict | {"steps": trial.steps}}
                if not verdict["agree"]:
                    del self.builders[name]
            except Exception as error:
                self.told[name] = {"reason": f"{type(error).__name__}: {error}"[:500]}
                del self.builders[name]

    def trainer(self, name: str) -> Trainer:
        """A side with all of the row's data."""
        return self.builders[name](self.workload, self.weights, self.biases, self.data)


def time_row(workload: Workload, dtype: str, rehearsal: bool) -> dict[str, Any]:
    """Agreement, times a step in turn, ratios to fastmlp's, memory."""
    contest = Contest(workload, dtype, rehearsal)
    contest.judge()
    calls: dict[str, Callable[[], object]] = {}
    steps: dict[str, int] = {}
    per_epoch = workload.steps // workload.epochs
    for name in contest.builders:
        told = contest.told.setdefault(name, {})
        try:
            earlier = _release()
            trainer = contest.trainer(name)
            told["first_call_s"] = once = seconds(partial(trainer.fit, 1))
            if name != REFERENCE:
                told |= _memory("torch" if name.startswith("torch") else "cupy", earlier)
            if once / per_epoch <= SLOW_S:
                once = seconds(partial(trainer.fit, 1))
        except Exception as error:
            told["reason"] = f"{type(error).__name__}: {error}"[:500]
            continue
        if name == REFERENCE and once / per_epoch > SLOW_S:
            told["us_per_step"] = {"median": 1e6 * once / per_epoch, "iqr": None, "n": 1}
            continue
        epochs = max(1, int((0.001 if rehearsal else CALL_S) / max(once, 1e-9)))
        calls[name], steps[name] = partial(trainer.fit, epochs), epochs * per_epoch
    taken = _in_turn(calls)
    flops = workload.flops / workload.steps
    for name, samples in taken.items():
        each = [sample / steps[name] for sample in samples]
        told = contest.told[name]
        told["us_per_step"] = asdict(Spread.of(each).scaled(1e6))
        told["samples_per_s"] = workload.samples / per_epoch / median(each)
        told["flops_per_s"] = flops / median(each)
        if OURS in taken:
            ours = [sample / steps[OURS] for sample in taken[OURS]]
            told["times_fastmlp"] = asdict(ratio(each, ours))
    plan = new_network(workload, "cuda", dtype).plan(workload.batch_size)
    return {"case": workload.case, "dtype": dtype, "flops_per_step": flops, "plan_bytes": plan.nbytes} | {
        "sides": contest.told
    }


def energy_row(workload: Workload, dtype: str, window_s: float, rehearsal: bool) -> dict[str, Any]:
    """Joules a sample by the GPU's counter, windows of whole calls; the reference's by the processor's counter."""
    contest = Contest(workload, dtype, rehearsal)
    contest.judge()
    meters = {"gpu": Meter("gpu"), "cpu": Meter("cpu")}
    for meter in meters.values():
        meter.rest(0.1 if rehearsal else 2.0)
    for name in contest.builders:
        told = contest.told.setdefault(name, {})
        meter = meters["cpu" if name == REFERENCE else "gpu"]
        try:
            _release()
            trainer = contest.trainer(name)
            once = seconds(partial(trainer.fit, 1))
            epochs = max(1, int((0.001 if rehearsal else CALL_S) / max(once, 1e-9)))
            if name == REFERENCE and meter.source == "unavailable":
                told["reason"] = f"energy: {meter.reason}"
                continue
            reading = meter.per_call(partial(trainer.fit, epochs), window_s)
        except Exception as error:
            told["reason"] = f"{type(error).__name__}: {error}"[:500]
            continue
        samples = reading.calls * epochs * workload.samples
        told |= {"source": reading.source, "detail": reading.detail, "window_s": reading.window_s}
        told["joules_per_sample"] = None if reading.joules is None else reading.joules / samples
        told["net_joules_per_sample"] = None if reading.net_joules is None else reading.net_joules / samples
        told["idle_watts"] = reading.idle_watts
    ours = contest.told.get(OURS, {}).get("joules_per_sample")
    for told in contest.told.values():
        if ours and told.get("joules_per_sample"):
            told["times_fastmlp"] = told["joules_per_sample"] / ours
    return {"case": workload.case, "dtype": dtype, "sides": contest.told}


def _in_turn(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each call, ROUNDS times in turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return taken


def _release() -> dict[str, int]:
    """Give back what sides that are gone kept of the device's memory; the bytes in use by library."""
    gc.collect()
    used = {}
    try:
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
        used["cupy"] = cupy.get_default_memory_pool().used_bytes()
    except ImportError:
        pass
    try:
        import torch
    except ImportError:
        return used
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        used["torch"] = torch.cuda.memory_allocated()
    return used


def _memory(library: str, earlier: dict[str, int]) -> dict[str, int]:
    """The most bytes of the device that were taken from this library since `_release`."""
    if library not in earlier:
        return {}
    if library == "torch":
        import torch

        return {"peak_bytes": torch.cuda.max_memory_allocated() - earlier["torch"]}
    import cupy

    return {"peak_bytes": cupy.get_default_memory_pool().total_bytes() - earlier["cupy"]}
