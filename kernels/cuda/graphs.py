"""A step's launches as one CUDA graph: recorded once, from then on started as a whole by a single call.

A graph holds the launches with their arguments as they were. So those may depend only on what the graph is kept by,
and what changes from step to step is read from device memory (steps.py). FASTMLP_CUDA_GRAPHS=off has every step
launched kernel by kernel.
"""

import contextlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from fastmlp.errors import ArgumentError

from .elementary import SIMULATED

if SIMULATED:
    from . import simulated as cupy
else:
    import cupy  # type: ignore[no-redef]

MOST_KEPT = 8
"""Graphs that a workspace keeps; those unused for longest go. An epoch has two: of whole batches, of the last one."""


def asked_for() -> bool:
    """Whether steps become graphs. Raises ArgumentError where FASTMLP_CUDA_GRAPHS is neither "on" nor "off"."""
    choice = os.environ.get("FASTMLP_CUDA_GRAPHS", "on")
    if choice not in ("on", "off"):
        raise ArgumentError(f"FASTMLP_CUDA_GRAPHS must be 'on' or 'off'; got {choice!r}.")
    return choice == "on"


def describe() -> str:
    """How steps of many launches are started, for a plan's text."""
    if not asked_for():
        return "started one by one: FASTMLP_CUDA_GRAPHS=off"
    return "from the second step of a size on started as one CUDA graph"


def capture(launches: Callable[[], None]) -> Any:
    """What `launches` launches on the current stream, none of it run, as a graph; `launch()` starts it there.

    The kernels must have run before. Raises what CUDA does where something cannot be recorded.
    """
    stream = cupy.cuda.Stream(non_blocking=True)  # the default stream records nothing
    with stream:
        stream.begin_capture()
        try:
            launches()
        except BaseException:
            with contextlib.suppress(Exception):  # it may have ended by that error
                stream.end_capture()
            raise
        return stream.end_capture()


class Graphs:
    """The graphs of one workspace. Not for two threads at the same time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[Any, object] | None] = OrderedDict()
        self._works = True
        self.started = 0
        """Steps that were started as a graph so far."""

    def run(self, key: Hashable, launches: Callable[[], None], ready: Callable[[], object]) -> None:
        """Make one step: by its launches the first time that `key` is seen, by a graph of them from then on.

        key: all that the launches' arguments depend on, addresses among them.
        ready: called before there are launches; what it returns is kept alive as long as their graph.

        Where no graph can be made a RuntimeWarning says why, and steps are launched as they were before.
        """
        used = asked_for() and self._works
        kept = self._kept.get(key) if used else None
        if kept is None:
            held = ready()
            if used and key in self._kept:
                kept = self._captured(key, launches, held)
        if kept is None:
            launches()
            if used and self._works:
                self._remember(key)
            return
        self._kept.move_to_end(key)
        kept[0].launch()
        self.started += 1

    def _remember(self, key: Hashable) -> None:
        while len(self._kept) >= MOST_KEPT:
            self._kept.popitem(last=False)
        self._kept[key] = None

    def _captured(self, key: Hashable, launches: Callable[[], None], held: object) -> tuple[Any, object] | None:
        try:
            kept = self._kept[key] = capture(launches), held
        except Exception as error:
            self._works = False
            self._kept.clear()
            warnings.warn(
                "steps are launched kernel by kernel, for they could not be made a CUDA graph "
                f"({type(error).__name__}: {error}); FASTMLP_CUDA_GRAPHS=off asks for that without a warning",
                RuntimeWarning,
                stacklevel=4,
            )
            return None
        return kept
