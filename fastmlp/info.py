"""What fastmlp finds on this machine: `fastmlp info`, and the head of every benchmark report.

Reads what the operating system publishes; what cannot be found out is None.
"""

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__

PACKAGES = ("numpy", "numba", "llvmlite", "rich", "safetensors", "cupy-cuda12x", "cupy-cuda13x", "numba-cuda")

INSTRUCTION_SETS = {
    "avx": "AVX",
    "fma": "FMA",
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "sve": "SVE",
}
"""The sets that matter to a matrix kernel: the kernel's flag in /proc/cpuinfo, and the name people use."""


def collect() -> dict[str, Any]:
    """Everything below, ready for JSON."""
    return {"fastmlp": __version__, "software": software(), "machine": machine(), "gpu": gpu()}


def software() -> dict[str, Any]:
    """Versions of the operating system, Python and the packages fastmlp uses (None: not installed)."""
    return {"os": platform.platform(), "python": platform.python_version()} | versions(PACKAGES)


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The versions of the packages that are installed, None for the others."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, Any]:
    """The processor: model, cores, caches in KiB (one core's own, or the shared one), instruction sets."""
    from .kernels.caches import caches
    from .kernels.cores import usable_cores
    from .kernels.processor import cpu_model

    return {
        "architecture": platform.machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "caches_kib": caches(),
        "instruction_sets": instruction_sets(),
    }


def clocks(root: Path = Path("/sys/devices/system/cpu/cpu0/cpufreq")) -> dict[str, Any]:
    """MHz of the slowest and the fastest core at this moment, the most they are allowed, and the governor."""
    from .kernels.processor import cpuinfo_all

    now = [float(value) for value in cpuinfo_all("cpu MHz")]
    found: dict[str, Any] = {"mhz": [min(now), max(now)] if now else None, "most_mhz": None, "governor": None}
    try:
        found["governor"] = (root / "scaling_governor").read_text().strip()
        found["most_mhz"] = int((root / "scaling_max_freq").read_text()) / 1000
    except (OSError, ValueError):
        pass  # a virtual machine is not told
    return found


def instruction_sets() -> list[str] | None:
    """The vector and matrix instructions the processor has, None where the system does not tell."""
    from .kernels.processor import cpuinfo

    flags = cpuinfo("flags") or cpuinfo("Features")
    if flags is None:
        return ["NEON"] if platform.machine() == "arm64" else None
    present = set(flags.split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in present]


def gpu() -> dict[str, Any]:
    """NVIDIA GPUs by name, asked of the driver alone; `reason` says why there are none."""
    from .kernels.gpu import devices

    names, reason = devices()
    return {"devices": names, "reason": reason}
