"""Energy of a stretch of work, read from the processor's own counters: measured or unavailable, never guessed.

Linux offers RAPL counters under /sys/class/powercap (the kernel's Documentation/power/powercap/powercap.rst): one zone
a processor package, subzones for its cores and memory, perhaps a zone `psys` for the whole platform, perhaps a second
door to the same package (`intel-rapl-mmio`). Here each package counts once and nothing else does.
"""

import platform
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Reading:
    """What one stretch of work took.

    `source` is "counter" or "unavailable"; `joules` is None unless it was counted; `window_s` is the wall time in
    seconds; `detail` names what was counted, or says why nothing was and what would cure it.
    """

    source: str = "unavailable"
    joules: float | None = None
    window_s: float = 0.0
    detail: str = "the window is still open"


@dataclass(frozen=True)
class Package:
    """One processor package: its counter in microjoules, which starts again from 0 after `wrap_uj`."""

    name: str
    counter: Path
    wrap_uj: int

    def read(self) -> int:
        """The counter now, in microjoules."""
        return int(self.counter.read_text())


class Meter:
    """The packages of this machine under `root`, found once. `reason` is None when all of them can be read."""

    def __init__(self, root: Path = POWERCAP):
        self.packages: list[Package] = []
        self.reason: str | None = None
        try:
            self.packages = _find_packages(root)
            for package in self.packages:
                package.read()
        except PermissionError as error:
            self.reason = f"no permission to read {error.filename}; cure: sudo chmod a+r {root}/*/energy_uj"
        except (OSError, ValueError) as error:
            self.reason = f"the energy counter cannot be read: {error}"
        if self.reason is None and not self.packages:
            if platform.system() != "Linux":
                self.reason = f"no energy counter that fastmlp can read on {platform.system()}"
            else:
                lack = "has no processor package" if root.is_dir() else "is missing"
                self.reason = f"{root} {lack}: a virtual machine hides it; on bare metal, modprobe intel_rapl_msr"

    @property
    def source(self) -> str:
        """`counter` or `unavailable`."""
        return "counter" if self.reason is None else "unavailable"

    @property
    def detail(self) -> str:
        """What is counted, or why nothing is."""
        if self.reason is not None:
            return self.reason
        return "RAPL, whole processor without DRAM: " + ", ".join(package.name for package in self.packages)

    @contextmanager
    def measure(self) -> Iterator[Reading]:
        """Count the body's energy: the yielded Reading is filled in when the body ends.

        A counter that wraps more than once in a window cannot be noticed (minutes, at full power), and one that has
        not ticked (they do about once a millisecond) makes the reading unavailable.
        """
        reading = Reading()
        before = self._read(reading)
        start = time.perf_counter()
        try:
            yield reading
        finally:
            reading.window_s = time.perf_counter() - start
            after = self._read(reading)
            if before is not None and after is not None:
                self._settle(reading, before, after)

    def _read(self, reading: Reading) -> list[int] | None:
        if self.reason is not None:
            reading.detail = self.reason
            return None
        try:
            return [package.read() for package in self.packages]
        except (OSError, ValueError) as error:
            reading.detail = f"the energy counter stopped being readable: {error}"
            return None

    def _settle(self, reading: Reading, before: list[int], after: list[int]) -> None:
        microjoules = 0
        for package, first, last in zip(self.packages, before, after, strict=True):
            passed = last - first if last >= first else last - first + package.wrap_uj
            if passed == 0:
                reading.detail = f"{package.name} did not tick within {reading.window_s:.2g} s: too short to count"
                return
            microjoules += passed
        reading.source, reading.joules, reading.detail = "counter", microjoules * 1e-6, self.detail


def measure(root: Path = POWERCAP) -> AbstractContextManager[Reading]:
    """Count one stretch of work; a Meter of one's own spares finding the counters again for the next."""
    return Meter(root).measure()


def _find_packages(root: Path) -> list[Package]:
    """Every processor package once: the zones `intel-rapl:N` (AMD's too), else `intel-rapl-mmio:N`, never subzones."""
    packages: dict[str, Package] = {}
    for driver in ("intel-rapl", "intel-rapl-mmio"):
        for zone in sorted(root.glob(f"{driver}:*")):
            if not re.fullmatch(rf"{driver}:\d+", zone.name):
                continue
            name = (zone / "name").read_text().strip()
            if name.startswith("package") and name not in packages:
                wrap = int((zone / "max_energy_range_uj").read_text())
                packages[name] = Package(name, zone / "energy_uj", wrap)
    return list(packages.values())
