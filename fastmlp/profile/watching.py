"""`fastmlp profile --script`: a program runs as it is, and every network that it trains with fastmlp is recorded."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels import backend as backends
from ..kernels.cores import get_num_threads
from ..kernels.network import Network, Optimizer
from ..kernels.timeline import Timed, Timeline, moment, ticks_per_second
from .measuring import EVENTS, Measured, sparing
from .recording import Recording

NEVER = 1 << 62
"""Every so many steps one is recorded where none is to be."""

MOST_CALLS = 4096
"""Calls whose times are kept."""

SHARE, AT_ONCE = 0.02, 0.2
"""The share of a network's training time that reading its time stamps may take, and seconds that it may in any case."""


@dataclass
class _Trained:
    """One network's training so far; `times` are the seconds a step, call by call."""

    structure: Network
    backend: str
    recording: Recording
    target_bytes: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    every: int = 1
    steps: int = 0
    seconds: float = 0.0
    cores: float = 0.0
    reading: float = 0.0
    times: list[float] = field(default_factory=list)


class Watch:
    """Records the training of all networks made while `watching` lasts; `measured` is what was seen."""

    def __init__(self) -> None:
        self._trained: dict[Any, _Trained] = {}
        self._busy = threading.Lock()
        self._timelines: dict[int, Timeline] = {}
        self._clocks: dict[str, tuple[Timed, tuple[int, int], float]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, backends are chosen as ever, but those that can be profiled are watched."""
        resolve = backends.resolve

        def watched(*asked: Any, **more: Any) -> tuple[str, Any]:
            chosen, module = resolve(*asked, **more)
            timed = getattr(module, "timed", None)
            return chosen, module if timed is None else _Watched(chosen, module, timed, self)

        backends.resolve = watched
        try:
            yield
        finally:
            backends.resolve = resolve

    def train(self, backend: str, module: ModuleType, timed: Timed, arguments: tuple[Any, ...]) -> None:
        """One call of the backend's train, with time stamps unless another thread is in one."""
        if not self._busy.acquire(blocking=False):
            module.train(*arguments)
            return
        try:
            self._train(backend, timed, arguments)
        finally:
            self._busy.release()

    def _train(self, backend: str, timed: Timed, arguments: tuple[Any, ...]) -> None:
        structure, optimizer, x, target = arguments[0], arguments[1], arguments[5], arguments[6]
        rows, losses = min(arguments[9], len(x)), arguments[10]
        if backend not in self._clocks:
            self._clocks[backend] = timed, moment(timed.ticks), timed.stamp_ticks()
        target_bytes = int(target.nbytes // max(len(target), 1))
        key = structure, optimizer.name, backend, rows, target_bytes
        if key not in self._trained:
            recording = Recording(rows, self._clocks[backend][2])
            self._trained[key] = _Trained(structure, backend, recording, target_bytes)
            self._compile(timed, arguments)
        own = self._trained[key]
        records = not own.recording.is_full and own.reading < SHARE * own.seconds + AT_ONCE
        threads = get_num_threads()
        timeline = self._timelines.setdefault(threads, Timeline(threads, EVENTS))
        timeline.every = own.every if records else NEVER
        timeline.clear()
        cores, began = time.process_time(), time.perf_counter()
        timed.train(*arguments, timeline=timeline)
        now = time.perf_counter()
        own.steps, own.optimizer = own.steps + len(losses), optimizer
        own.seconds += now - began
        own.cores += time.process_time() - cores
        if len(own.times) < MOST_CALLS:
            own.times.append((now - began) / len(losses))
        if records:
            own.recording.add(timeline)
            rate = 1e9 if timed.ticks is time.perf_counter_ns else self._rate(backend)
            stamp_s = self._clocks[backend][2] / rate
            own.every = sparing(own.recording.stamps, stamp_s, own.seconds / own.steps, len(losses))
            own.reading += time.perf_counter() - now

    def _compile(self, timed: Timed, arguments: tuple[Any, ...]) -> None:
        """No steps at all, so that the first call that is timed compiles nothing."""
        timed.train(*arguments[:10], np.empty(0), *arguments[11:], timeline=Timeline(get_num_threads(), 1))

    def _rate(self, backend: str) -> float:
        timed, began, _ = self._clocks[backend]
        return ticks_per_second(timed.ticks, began)

    def measured(self) -> list[Measured]:
        """What was seen, the network that took longest first; one that was hardly trained is left out."""
        found = []
        for own in sorted(self._trained.values(), key=lambda own: -own.seconds):
            if len(own.recording):
                tick = 1 / self._rate(own.backend)
                found.append(
                    Measured(
                        own.structure,
                        own.optimizer,
                        own.backend,
                        own.recording.rows,
                        own.target_bytes,
                        own.recording,
                        tick,
                        self._clocks[own.backend][2] * tick,
                        own.every,
                        tuple(own.times),
                        (),
                        own.cores / own.steps,
                        None,
                        own.steps,
                        median(own.times),
                    )
                )
        return found


class _Watched:
    """A backend's module whose `train` is watched."""

    def __init__(self, name: str, module: ModuleType, timed: Timed, watch: Watch) -> None:
        self._name, self._module, self._timed, self._watch = name, module, timed, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def train(self, *arguments: Any, penalties: np.ndarray | None = None) -> None:
        """As the module's."""
        arguments = arguments if penalties is None else (*arguments, penalties)
        self._watch.train(self._name, self._module, self._timed, arguments)
