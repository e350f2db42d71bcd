"""Training steps with and without time stamps, in turn, on a network's own data and a copy of its parameters."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import numpy as np

from ..energy import Meter, Reading
from ..errors import ArgumentError
from ..kernels import backend as backends
from ..kernels.cores import get_num_threads
from ..kernels.network import Network, Optimizer
from ..kernels.timeline import Timed, Timeline, moment, ticks_per_second
from .recording import MOST_STEPS, Recording

if TYPE_CHECKING:
    from ..network import MLP

CALL_S = 0.01
"""How long a call lasts: of many short steps, or one long one. Longer ones would be interrupted more often."""

MOST_OVERHEAD = 0.01
"""The share of the time that stamps may take: the shorter a step, the fewer are recorded."""

LEAST_ROUNDS = 7
"""Calls of either kind behind a median."""

POSITIONS = 1 << 18
"""Positions of the shuffled order, whole epochs: calls are long beside what Python adds to each."""

STEPS_ON = 100
"""So many steps after the network's own state a course goes back to it, with the next call."""

EVENTS = 1 << 15
"""Events of a member that a call has room for."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one network's steps on `batch_size` rows; times in seconds.

    `plain` and `timed` are those of a step, call by call, without stamps and with; empty where a program was watched.
    """

    structure: Network
    optimizer: Optimizer
    backend: str
    batch_size: int
    target_bytes: int
    recording: Recording
    seconds_per_tick: float
    stamp_s: float
    every: int
    plain: tuple[float, ...]
    timed: tuple[float, ...]
    cores_s: float
    energy: Reading | None
    steps: int
    step_s: float


def timed_of(backend: str) -> Timed:
    """The way a backend is profiled. Raises ArgumentError for one that has none, BackendUnavailable."""
    timed: Timed | None = getattr(backends.load(backend), "timed", None)
    if timed is not None:
        return timed
    why = (
        "its launches carry no time stamps; NVIDIA's `nsys profile` shows them"
        if backend == "cuda"
        else ("a program may not read this processor's clock")
    )
    raise ArgumentError(
        f"backend {backend!r} cannot be profiled part by part: {why}. backend='numpy' can be profiled anywhere, "
        "'cpu' on x86 and 64-bit Arm."
    )


class Course:
    """Training calls, one after another through the data, on copies of a network's parameters and memory."""

    def __init__(self, net: "MLP", x: np.ndarray, y: np.ndarray, batch_size: int, shuffle: bool) -> None:
        self._net, self._x, self._y, self.batch_size = net, x, y, batch_size
        self._module = backends.load(net.backend)
        self._parameters, self._state = net.parameters.copy(), net.optimizer_state.copy()
        self._workspace = self._module.Workspace(net.structure, batch_size, True)
        epochs, random = max(1, POSITIONS // len(x)), np.random.default_rng(0)
        self._order = np.concatenate([random.permutation(len(x)) for _ in range(epochs)]) if shuffle else None
        self._updates, self._position = net.updates, 0

    def _go_back(self) -> None:
        """To the network as it is: what goes on for long trains another one, which may have subnormal numbers in it."""
        np.copyto(self._parameters, self._net.parameters)
        np.copyto(self._state, self._net.optimizer_state)
        self._updates = self._net.updates

    def run(self, steps: int, timeline: Timeline | None = None) -> float:
        """So many steps; the seconds that they took."""
        if self._updates - self._net.updates >= STEPS_ON:
            self._go_back()
        net, left, extra = self._net, steps, {} if timeline is None else {"timeline": timeline}
        losses = np.empty(steps)
        began = time.perf_counter()
        while left:
            count = left
            if self._order is not None:
                count = min(left, (len(self._order) - self._position) // self.batch_size)
            self._module.train(
                net.structure, net._optimizer, self._parameters, self._state, self._updates, self._x, self._y,
                self._order, self._position, self.batch_size, losses[:count], self._workspace, **extra,
            )  # fmt: skip
            left -= count
            self._updates += count
            whole = len(self._x) if self._order is None else len(self._order)
            self._position = (self._position + count * self.batch_size) % whole
        return time.perf_counter() - began


def measure(
    net: "MLP",
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    shuffle: bool,
    budget_s: float,
    meter: Meter,
    window_s: float,
    tell: Callable[[str], object] = lambda stage: None,
) -> Measured:
    """Profile the training of `net` on x and y, whole batches of what its `_samples` gave. The network stays as it is.

    `budget_s` seconds go to the calls with and without stamps, at least LEAST_ROUNDS of each; `window_s` to energy.
    """
    timed = timed_of(net.backend)
    members = get_num_threads() if net.backend == "cpu" else 1
    timeline, stamp = Timeline(members, EVENTS), timed.stamp_ticks()
    course = Course(net, x, y, batch_size, shuffle)
    tell("compiling")
    course.run(1)
    course.run(1, timeline)
    began = moment(timed.ticks)
    steps, seconds = 1, course.run(1)
    while seconds < CALL_S / 2:
        steps = max(2 * steps, int(steps * CALL_S / max(seconds, 1e-6)) if seconds > CALL_S / 20 else 8 * steps)
        seconds = course.run(steps)
    pilot = Recording(batch_size, stamp)
    timeline.clear()
    course.run(min(steps, 64), timeline)
    pilot.add(timeline)
    rate = ticks_per_second(timed.ticks, began)
    stamps_s, step_s = pilot.stamps * stamp / rate, seconds / steps
    if stamps_s > MOST_OVERHEAD * step_s:
        stamp = _stamp_in_place(course, timeline, min(steps, EVENTS // (2 * pilot.stamps)), pilot.stamps, stamp, rate)
    timeline.every = max(
        sparing(pilot.stamps, stamps_s / pilot.stamps, step_s, steps), math.ceil(budget_s / 2 / step_s / MOST_STEPS)
    )

    tell("timing steps")
    recording = Recording(batch_size, stamp)
    plain: list[float] = []
    with_stamps: list[float] = []
    cores = 0.0
    deadline = time.perf_counter() + budget_s
    while len(plain) < LEAST_ROUNDS or time.perf_counter() < deadline:
        cores -= time.process_time()
        plain.append(course.run(steps) / steps)
        cores += time.process_time()
        timeline.clear()
        with_stamps.append(course.run(steps, timeline) / steps)
        recording.add(timeline)
    rate = ticks_per_second(timed.ticks, began)
    energy = None
    if meter.source != "unavailable":
        tell("counting joules")
        energy = meter.per_call(lambda: course.run(steps), window_s)
        energy.calls *= steps
    return Measured(
        net.structure, net._optimizer, net.backend, batch_size, _target_bytes(y), recording, 1 / rate, stamp / rate,
        timeline.every, tuple(plain), tuple(with_stamps), cores / (len(plain) * steps), energy, 2 * len(plain) * steps,
        median(plain),
    )  # fmt: skip


def sparing(stamps: int, stamp_s: float, step_s: float, steps: int) -> int:
    """Every how many steps one may be recorded, in calls of so many: by what stamps cost, and by the room for them."""
    return max(1, math.ceil(stamps * stamp_s / (MOST_OVERHEAD * step_s)), math.ceil(2 * stamps * steps / EVENTS))


def _stamp_in_place(
    course: Course, timeline: Timeline, steps: int, stamps: int, most_ticks: float, rate: float
) -> float:
    """What a stamp costs among a step's work, in ticks; at most what it costs among other stamps.

    A processor goes on with the work before while it reads its clock: so the same steps are timed without stamps and
    with all of them, in turn.
    """
    extra = []
    for _ in range(2 * LEAST_ROUNDS):
        plain = course.run(steps)
        timeline.clear()
        extra.append((course.run(steps, timeline) - plain) / (steps * stamps) * rate)
    return min(max(median(extra), 0.0), most_ticks)


def _target_bytes(y: np.ndarray) -> int:
    return int(y.nbytes // max(len(y), 1))


def spread(samples: tuple[float, ...]) -> dict[str, Any] | None:
    """Median, interquartile range and number of samples; None without two of them."""
    if len(samples) < 2:
        return None
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return {"median": median(samples), "iqr": high - low, "n": len(samples)}
