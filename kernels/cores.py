"""How many cores this process may use, and how many threads kernels are to take."""

import contextlib
import functools
import numbers
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from fastmlp.errors import ArgumentError

MAX_THREADS = 256
CGROUP = Path("/sys/fs/cgroup")

_chosen: int | None = None
_chosen_here: ContextVar[int | None] = ContextVar("fastmlp's threads", default=None)


def get_num_threads() -> int:
    """Threads a large enough call uses.

    As `num_threads` says around it, else as `set_num_threads` said, else as the environment variable
    FASTMLP_NUM_THREADS said at the first call, else every core this process may use. Raises ArgumentError for a
    variable that is no such number.
    """
    return told() or min(usable_cores(), MAX_THREADS)


def most_threads() -> int:
    """Threads that what is allocated now should have room for: the choice may be another at the next call."""
    return max(get_num_threads(), min(usable_cores(), MAX_THREADS))


def told() -> int | None:
    """The threads that were asked for in one of these ways; raises as `get_num_threads`."""
    return _chosen_here.get() or _chosen or _from_environment()


@functools.cache
def _from_environment() -> int | None:
    """What FASTMLP_NUM_THREADS said when threads were first needed."""
    asked = os.environ.get("FASTMLP_NUM_THREADS")
    if not asked:
        return None
    return _checked("FASTMLP_NUM_THREADS", int(asked) if asked.isdecimal() else asked)


def set_num_threads(count: int | None) -> None:
    """Let large calls use `count` threads from now on; None goes back to the default.

    No bit of any result depends on it, and no other library's threads are touched. Raises ArgumentError unless count is
    None or an integer from 1 to 256.
    """
    global _chosen
    _chosen = None if count is None else _checked("count", count)


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Within the block, and in this thread or asyncio task alone, use `count` threads; raises as `set_num_threads`."""
    token = _chosen_here.set(_checked("count", count))
    try:
        yield
    finally:
        _chosen_here.reset(token)


def _checked(name: str, count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or not 1 <= int(count) <= MAX_THREADS:
        raise ArgumentError(f"{name} must be an integer from 1 to {MAX_THREADS}; got {count!r}")
    return int(count)


def usable_cores(cgroup: Path | None = None) -> int:
    """Cores this process may use at once: the affinity mask, cut by a container's CPU quota, at least 1.

    The mask is asked for each time, the quota of this process's own group, CGROUP, once.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _own_quota() if cgroup is None else cgroup_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


@functools.cache
def _own_quota() -> float | None:
    return cgroup_quota(CGROUP)


def cgroup_quota(cgroup: Path = CGROUP) -> float | None:
    """CPUs a container's quota grants, None where there is none (control groups version 2, else 1)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None
