"""How many cores this process may use."""

import functools
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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
