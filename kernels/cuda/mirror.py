"""A network's arrays on the device, and when they and NumPy's arrays in the CPU's memory are brought up to date.

To the user the arrays in the CPU's memory are the truth: `net.weights` are live views, whose elements may be read and
written at any time. Kernels take the device's. While somebody holds a view, each call brings the arrays to the device
and back. While nobody does, nothing travels: the arrays stay on the device from call to call, and come home when they
are asked for. Whether a view is held is known exactly, for every view counts as a reference to the memory it shows.

While a call writes to the device's arrays, other threads that ask find the CPU's as they were before it, and what they
write to these meanwhile is lost: the call brings its own home at its end.
"""

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import gpu
from .memory import device, to_device, to_host, update, wait


class Mirror:
    """Copies of `arrays`, views of memory of their own, on the device that is the current one when this is made.

    Nobody but the network may hold `arrays` themselves: users get views of them. Threads may use it at the same time.
    Every method raises BackendUnavailable in a forked child.
    """

    def __init__(self, *arrays: np.ndarray):
        self._device = device()
        self._arrays = arrays
        self._owners = [array.base for array in arrays]
        self._copies: list[Any] = []
        self._device_is_ahead = False
        self._host_may_be_ahead = True
        self._is_written = False
        self._lock = threading.RLock()

    @property
    def device(self) -> Any:
        """The device, as a context."""
        gpu.require_same_process()
        return self._device

    def operands(self, writes: bool = False) -> Sequence[Any]:
        """The arrays on the device as kernels may read them and, if it `writes`, write them until `written` is called.

        Raises DeviceMemoryError.
        """
        gpu.require_same_process()
        with self._lock:
            if self._host_may_be_ahead and not self._is_written:
                with self.device:
                    if self._copies:
                        for copy, array in zip(self._copies, self._arrays, strict=True):
                            update(copy, array)
                        wait()  # until the users' memory has been read
                    else:
                        self._copies = [to_device(array) for array in self._arrays]
                self._host_may_be_ahead = self._watched()
            self._is_written = self._is_written or writes
            return self._copies

    def written(self) -> None:
        """Kernels have written to the operands."""
        with self._lock:
            self._device_is_ahead, self._host_may_be_ahead, self._is_written = True, False, False
            if self._watched():
                self.bring_home()

    def bring_home(self) -> None:
        """Bring the arrays in the CPU's memory up to date, for somebody who may read and write them from now on.

        Waits for the device.
        """
        with self._lock:
            if self._is_written:
                return
            if self._device_is_ahead:
                gpu.require_same_process()
                with self.device:
                    for copy, array in zip(self._copies, self._arrays, strict=True):
                        to_host(copy, array)
            self._device_is_ahead, self._host_may_be_ahead = False, True

    def _watched(self) -> bool:
        """Whether somebody holds a view, and may write to it or read it at any time."""
        return max(_references(self._owners)) > _UNWATCHED


def _references(owners: Sequence[Any]) -> list[int]:
    return [sys.getrefcount(owner) for owner in owners]


_alone = np.zeros(2)[1:]
_UNWATCHED = _references([_alone.base])[0]
"""References to memory of which there is one view, and a list that holds it."""
