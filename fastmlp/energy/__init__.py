"""Joules of a stretch of work: counted by the hardware, estimated where asked, or unavailable with the reason.

    from fastmlp import energy

    with energy.measure() as e:
        net.fit(x, y, epochs=10)
    print(e.joules, e.source, e.window_s)

    e = energy.per_call(lambda: net.predict(x))  # again and again for 5 s
    print(e.joules / e.calls, e.detail)

What is read, in this order; a source that cannot be read passes on to the next, and `detail` says why none could:

| source | of | counts of | renewed | needs |
|---|---|---|---|---|
| RAPL by powercap | processor packages | 1 uJ (hardware: 15 to 61 uJ) | 1 ms | Linux, readable energy_uj |
| RAPL by perf, energy-pkg | processor packages | 2^-32 J (hardware: the same) | 1 ms | perf_event_paranoid <= 0 |
| hwmon of amd_energy, zenergy | AMD sockets | 1 uJ (hardware: 15 uJ) | 1 ms | Linux, that driver |
| NVML's total energy | NVIDIA GPUs from Volta on | 1 mJ | 100 ms | pip install 'fastmlp[nvidia]' |

Of a processor the packages count, each once: its cores and graphics are parts of it, `psys` and `intel-rapl-mmio` are
other doors to it, DRAM is apart and left out. Under a virtual machine there is hardly ever a counter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .counters import Counter, UnreadableError
from .meter import IDLE_S, WINDOW_S, Meter, Reading

__all__ = ["Counter", "Meter", "Reading", "UnreadableError", "measure", "per_call"]


@contextmanager
def measure(device: str = "cpu", *, watts_per_core: float | None = None, idle_s: float = 0.0) -> Iterator[Reading]:
    """Measure the body's energy: the yielded Reading is filled in when the body ends.

    `device` is "cpu", "gpu" (every NVIDIA GPU that CUDA_VISIBLE_DEVICES leaves) or "all". Where there is no counter,
    `watts_per_core` estimates a processor's joules as that many watts for every core-second of this process. With
    `idle_s` the machine first rests for so many seconds, so that `net_joules` can leave out what it takes anyway.
    Raises ArgumentError for another device and for numbers that are not positive.
    """
    meter = Meter(device, watts_per_core=watts_per_core)
    if idle_s:
        meter.rest(idle_s)
    with meter.measure() as reading:
        yield reading


def per_call(
    call: Callable[[], object],
    device: str = "cpu",
    *,
    window_s: float = WINDOW_S,
    watts_per_core: float | None = None,
    idle_s: float = IDLE_S,
) -> Reading:
    """Measure `call`, made again and again for at least `window_s` seconds; `calls` of the Reading says how often.

    Five seconds are some thousand updates of the slowest counter of a processor and 50 of a GPU's. Raises as `measure`.
    """
    meter = Meter(device, watts_per_core=watts_per_core)
    if idle_s:
        meter.rest(idle_s)
    return meter.per_call(call, window_s)
