"""How large this machine's caches are."""

import ctypes
import functools
import platform
from pathlib import Path

USUAL_KIB = {"L1d": 32, "L2": 1024, "L3": 32768}
"""What is taken for granted where the system does not tell."""


@functools.cache
def cache_bytes(name: str) -> int:
    """Bytes of L1d, L2 (one core's own) or L3 (what cores share)."""
    return caches().get(name, USUAL_KIB[name]) * 1024


def caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Sizes in KiB by name: L1d, L1i, L2, L3. Empty where the system does not tell."""
    found = {}
    for index in sorted(root.glob("index[0-9]*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        unit = {"K": 1, "M": 1024}.get(size[-1:])
        if unit is not None:
            found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = int(size[:-1]) * unit
    if not found and platform.system() == "Darwin":
        for name, key in (("L1d", "hw.l1dcachesize"), ("L1i", "hw.l1icachesize"), ("L2", "hw.l2cachesize")):
            number = sysctl(key)
            if number:
                found[name] = int(number) // 1024
    return found


def sysctl(key: str) -> str | None:
    """One value of macOS's sysctl."""
    library = ctypes.CDLL(None)
    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(size.value)
    if library.sysctlbyname(key.encode(), buffer, ctypes.byref(size), None, 0) != 0:
        return None
    if key.startswith("hw."):
        return str(int.from_bytes(buffer.raw[: size.value], "little"))
    return buffer.value.decode()
