"""As much of CuPy as the backend uses, in the CPU's memory: what takes CuPy's place under Numba's simulator.

Every name means what CuPy's does. A device is a number here, and nothing keeps kernels from another device's arrays.
A stream records launches as a CUDA graph does: with the arguments that they were given, running none; and to make an
array or to copy from or to the CPU's memory meanwhile is an error.
"""

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import gpu

_thread = threading.local()


class Device:
    """A device by number, the current one where none is given; as a context it is the current one inside."""

    def __init__(self, device: int | None = None):
        self.id = _entered()[-1] if device is None else device

    def __enter__(self) -> "Device":
        if gpu.process() not in (None, os.getpid()):
            raise RuntimeError("cudaErrorInitializationError: initialization error")
        _entered().append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        _entered().pop()

    @property
    def mem_info(self) -> tuple[int, int]:
        """Bytes free and in all."""
        return 2**33, 2**34


def _entered() -> list[int]:
    """The devices that this thread has entered, the current one last."""
    if not hasattr(_thread, "devices"):
        _thread.devices = [0]
    devices: list[int] = _thread.devices
    return devices


class ndarray(np.ndarray):  # noqa: N801 - CuPy's name
    """An array on the device that was the current one when it was made."""

    _device: Device

    def __array_finalize__(self, source: Any) -> None:
        self._device = getattr(source, "_device", None) or Device()

    @property
    def device(self) -> Any:
        """Where it lies."""
        return self._device

    @property
    def data(self) -> Any:
        """Has `ptr`, the address of the first element."""
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    def __dlpack_device__(self) -> Any:
        return 2, self.device.id

    def get(self, out: np.ndarray) -> np.ndarray:
        """Copy to `out`, in the CPU's memory."""
        _require_no_capture()
        out[...] = self.view(np.ndarray)
        return out

    def set(self, source: np.ndarray, stream: Any) -> None:
        """Overwrite with an array in the CPU's memory."""
        _require_no_capture()
        self[...] = source


def empty(shape: int | tuple[int, ...], dtype: Any) -> ndarray:
    """An array of anything."""
    _require_no_capture()
    return np.empty(shape, dtype).view(ndarray)


def array(source: Any, order: str = "C") -> ndarray:
    """A copy on the current device."""
    _require_no_capture()
    return np.array(source, order=order).view(ndarray)  # type: ignore[call-overload]


def asarray(source: Any) -> ndarray:
    """The memory behind source's `__cuda_array_interface__`."""
    return np.asarray(SimpleNamespace(__array_interface__=source.__cuda_array_interface__, owner=source)).view(ndarray)


def from_dlpack(source: Any) -> ndarray:
    """The memory behind source's DLPack tensor, on the device that it names."""
    host = np.from_dlpack(_OnHost(source))  # read-only, as NumPy has it
    writable = {**host.__array_interface__, "data": (host.__array_interface__["data"][0], False)}
    with Device(source.__dlpack_device__()[1]):
        return np.asarray(SimpleNamespace(__array_interface__=writable, owner=host)).view(ndarray)


class _OnHost:
    """The source as np.from_dlpack takes it, which looks at the CPU's memory alone."""

    def __init__(self, source: Any):
        self._source = source

    def __dlpack__(self, **options: Any) -> Any:
        return self._source.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Stream:
    """A stream, the current one inside it as a context; what is launched runs at once, unless it is recorded."""

    def __init__(self, non_blocking: bool = False):
        self._recorded: list[Callable[[], object]] | None = None
        self.waited: list[Stream] = []
        """The events that it was made to wait for."""

    def __enter__(self) -> "Stream":
        _streams().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _streams().pop()

    def begin_capture(self) -> None:
        """Record from now on."""
        self._recorded = []

    def end_capture(self) -> "Graph":
        """What has been recorded."""
        recorded, self._recorded = self._recorded, None
        assert recorded is not None, "nothing is recorded"
        return Graph(recorded)

    def synchronize(self) -> None:
        """Wait for all that was launched, which ran at once."""
        self.require_no_capture()

    def record(self) -> "Stream":
        """An event: all that was launched until now."""
        return self

    def wait_event(self, event: "Stream") -> None:
        """Have what is launched from now on come after the event."""
        self.waited.append(event)

    def submit(self, start: Callable[[], object]) -> None:
        """Start a kernel, or record that."""
        if self._recorded is None:
            start()
        else:
            self._recorded.append(start)

    def require_no_capture(self) -> None:
        """Raises RuntimeError while the stream records."""
        if self._recorded is not None:
            raise RuntimeError("operation not permitted when stream is capturing")


class Graph:
    """Launches, to be started again and again."""

    def __init__(self, recorded: list[Callable[[], object]]):
        self._recorded = recorded

    def launch(self) -> None:
        """Start them all in their order on the current stream."""
        for start in self._recorded:
            submit(start)


def _streams() -> list[Stream]:
    """The streams that this thread has entered, the current one last."""
    if not hasattr(_thread, "streams"):
        _thread.streams = [Stream()]
    streams: list[Stream] = _thread.streams
    return streams


def _require_no_capture() -> None:
    _streams()[-1].require_no_capture()


def submit(start: Callable[[], object]) -> None:
    """Start a kernel on the current stream; for `launch`, since Numba's simulator has no streams."""
    _streams()[-1].submit(start)


cuda = SimpleNamespace(Device=Device, Stream=Stream, get_current_stream=lambda: _streams()[-1])
