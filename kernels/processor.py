"""What the processor calls itself, and what it can, as the operating system tells."""

import platform
import re
from pathlib import Path

from .caches import sysctl


def cpu_model() -> str | None:
    """The processor's name for itself."""
    if platform.system() == "Linux":
        return cpuinfo("model name") or platform.processor() or None
    if platform.system() == "Darwin":
        return sysctl("machdep.cpu.brand_string")
    return platform.processor() or None


def cpuinfo(key: str) -> str | None:
    """The first value of `key` in /proc/cpuinfo."""
    return next(iter(cpuinfo_all(key)), None)


def cpuinfo_all(key: str) -> list[str]:
    """Every core's value of `key` in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return [value.strip() for value in re.findall(rf"^{re.escape(key)}\s*:\s*(.+)$", text, re.MULTILINE)]
