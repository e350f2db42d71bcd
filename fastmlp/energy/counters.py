"""Counters of energy: what they count, where they start again, and where the system keeps them."""

import ctypes
import importlib
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnreadableError(Exception):
    """Why a source gives nothing here, and what would cure it."""


@dataclass(frozen=True)
class Counter:
    """One device's running count: `read()` counts of `joules` each, renewed every `period_s` seconds or so.

    It starts again from 0 after `wraps_at` counts; None: not within the life of a machine.
    """

    name: str
    read: Callable[[], int]
    joules: float
    period_s: float
    wraps_at: int | None = None


RAPL_PERIOD_S, NVML_PERIOD_S = 1e-3, 0.1
"""Intel SDM 3B, 15.10: about a millisecond; AMD's are as quick. NVML does not say: GPUs take 20 to 100 ms."""

MOST_PACKAGE_WATTS = 2000.0
"""No package takes so much: a count that fell back and would mean more was not one that started again from 0."""

Source = tuple[str, Sequence[Counter]]
"""What is counted, in words, and the counters."""


def powercap(sysfs: Path) -> Source:
    """RAPL through the kernel's powercap zones (Documentation/power/powercap/powercap.rst), AMD's from Linux 5.11 on.

    A package is a zone `intel-rapl:N`, or where only that is there `intel-rapl-mmio:N`. Raises UnreadableError.
    """
    root = sysfs / "class" / "powercap"
    packages: dict[str, Counter] = {}
    try:
        for driver in ("intel-rapl", "intel-rapl-mmio"):
            for zone in sorted(root.glob(f"{driver}:*"), key=_number):
                if not re.fullmatch(rf"{driver}:\d+", zone.name):
                    continue
                name = (zone / "name").read_text().strip()
                if name.startswith("package") and name not in packages:
                    wrap = int((zone / "max_energy_range_uj").read_text())
                    packages[name] = Counter(name, _file(zone / "energy_uj"), 1e-6, RAPL_PERIOD_S, wrap)
        for package in packages.values():
            package.read()
    except PermissionError as error:
        raise _refused(error, f"{root}/*/energy_uj") from error
    except FileNotFoundError as error:
        raise UnreadableError(f"{error.filename} is missing: {_hidden(root)}") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"the energy counter cannot be read: {error}") from error
    if not packages:
        lack = "has no processor package" if root.is_dir() else "is missing"
        raise UnreadableError(f"{root} {lack}: {_hidden(root)}")
    return "RAPL by powercap, whole processor without DRAM", list(packages.values())


def perf(sysfs: Path, open_event: Callable[[int, int, int], int] | None = None) -> Source:
    """RAPL through perf's `power/energy-pkg/` (perf_event_open(2)), one counter for each CPU of the PMU's cpumask.

    `open_event(type, config, cpu)` gives a file to read 8 bytes from. Raises UnreadableError.
    """
    pmu = sysfs / "bus" / "event_source" / "devices" / "power"
    try:
        kind = int((pmu / "type").read_text())
        event = re.search(r"event=(\w+)", (pmu / "events" / "energy-pkg").read_text())
        scale = float((pmu / "events" / "energy-pkg.scale").read_text())
        cpus = _cpus((pmu / "cpumask").read_text())
    except (OSError, ValueError) as error:
        raise UnreadableError("perf has no event power/energy-pkg") from error
    if event is None or not cpus:
        raise UnreadableError("perf's event power/energy-pkg cannot be understood")
    counters = []
    for index, cpu in enumerate(cpus):
        try:
            handle = (open_event or open_perf_event)(kind, int(event[1], 0), cpu)
            counter = Counter(f"package-{index}", _PerfCount(handle), scale, RAPL_PERIOD_S)
            counter.read()
        except OSError as error:
            raise UnreadableError(
                f"perf_event_open of power/energy-pkg is refused ({error.strerror}); "
                "cure: sudo sysctl kernel.perf_event_paranoid=0, in a container also --cap-add PERFMON"
            ) from error
        counters.append(counter)
    return "RAPL by perf, whole processor without DRAM", counters


def hwmon(sysfs: Path) -> Source:
    """AMD's own counters: every socket (`Esocket`) of the drivers amd_energy and zenergy. Raises UnreadableError."""
    sockets: dict[str, Counter] = {}
    root = sysfs / "class" / "hwmon"
    try:
        for folder in sorted(root.glob("hwmon*"), key=_number):
            if (folder / "name").read_text().strip() not in ("amd_energy", "zenergy"):
                continue
            for label in sorted(folder.glob("energy*_label"), key=_number):
                name = label.read_text().strip()
                if name.startswith("Esocket"):
                    file = folder / label.name.replace("_label", "_input")
                    sockets.setdefault(name, Counter(name, _file(file), 1e-6, RAPL_PERIOD_S))
        for socket in sockets.values():
            socket.read()
    except PermissionError as error:
        raise _refused(error, str(error.filename)) from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"AMD's energy counter cannot be read: {error}") from error
    if not sockets:
        raise UnreadableError("hwmon has no amd_energy or zenergy")
    return "AMD's counters by hwmon, whole sockets without DRAM", list(sockets.values())


def nvml(library: Any = None) -> Source:
    """NVML's nvmlDeviceGetTotalEnergyConsumption of each GPU that CUDA_VISIBLE_DEVICES leaves. Raises UnreadableError.

    `library` is the module pynvml.
    """
    try:
        library = library or importlib.import_module("pynvml")
    except ImportError as error:
        raise UnreadableError("no NVML binding; cure: pip install 'fastmlp[nvidia]' (nvidia-ml-py)") from error
    try:
        library.nvmlInit()
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = range(library.nvmlDeviceGetCount()) if chosen is None else filter(None, chosen.split(","))
        counters = []
        for each in names:
            if str(each).strip().isdecimal():
                handle = library.nvmlDeviceGetHandleByIndex(int(each))
            else:
                handle = library.nvmlDeviceGetHandleByUUID(str(each).strip())
            read = _nvml_reader(library, handle)
            read()
            name = library.nvmlDeviceGetName(handle)
            name = name.decode() if isinstance(name, bytes) else name
            counters.append(Counter(f"GPU {each} {name}", read, 1e-3, NVML_PERIOD_S))
    except (library.NVMLError, OSError) as error:
        raise UnreadableError(f"NVML: {error}; cure: a driver, and a GPU of Volta's generation or later") from error
    if not counters:
        raise UnreadableError("NVML sees no GPU that CUDA_VISIBLE_DEVICES leaves")
    return "NVML's total energy, whole GPUs", counters


def _nvml_reader(library: Any, handle: Any) -> Callable[[], int]:
    def read() -> int:
        try:
            return int(library.nvmlDeviceGetTotalEnergyConsumption(handle))
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    return read


def _file(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text())


def _number(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", path.name)))


def _cpus(mask: str) -> list[int]:
    """The CPUs of a list such as 0,2-3."""
    found: list[int] = []
    for part in filter(None, mask.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _refused(error: PermissionError, files: str) -> UnreadableError:
    return UnreadableError(f"no permission to read {error.filename}; cure: sudo chmod a+r {files}")


def _hidden(root: Path) -> str:
    """Why there may be no powercap zone, and the cure."""
    if any(Path(sign).exists() for sign in ("/.dockerenv", "/run/.containerenv")) or "container" in os.environ:
        return (
            "a container hides it; docker run -v /sys:/host/sys:ro -e HOST_SYS=/host/sys shows the host's, "
            "where that is no virtual machine"
        )
    if platform.system() != "Linux":
        return f"there is no energy counter that fastmlp can read on {platform.system()}"
    return f"a virtual machine hides it; on bare metal, modprobe intel_rapl_msr makes {root}"


class _PerfEventAttr(ctypes.Structure):
    """perf_event_attr of perf_event_open(2), its first published size."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
    )


_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_CLOSE_ON_EXEC = 8


def open_perf_event(kind: int, config: int, cpu: int, pid: int = -1) -> int:
    """A file descriptor of a running perf counter; everything on that CPU, or one process. Raises OSError."""
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None or platform.system() != "Linux":
        raise OSError(38, "perf_event_open is not known here")
    attributes = _PerfEventAttr(type=kind, size=ctypes.sizeof(_PerfEventAttr), config=config)
    system = ctypes.CDLL(None, use_errno=True)
    handle = system.syscall(
        ctypes.c_long(number), ctypes.byref(attributes), ctypes.c_int(pid), ctypes.c_int(cpu), ctypes.c_int(-1),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )  # fmt: skip
    if handle < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(handle)


class _PerfCount:
    """Reads the descriptor, and closes it when nobody is left to read."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __call__(self) -> int:
        content = os.read(self._handle, 8)
        if len(content) != 8:
            raise OSError(5, "a perf counter gave no count")
        return int.from_bytes(content, "little")

    def __del__(self) -> None:
        os.close(self._handle)
