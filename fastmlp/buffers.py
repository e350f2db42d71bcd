"""A network's flat arrays: in the CPU's memory, as users see them, and where its backend computes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from .kernels.network import Network, Optimizer, aligned_zeros

_NOWHERE: AbstractContextManager[Any] = nullcontext()


class Buffers:
    """The parameters[size] and the optimiser's memory[slots, size], all zeros at first.

    On a backend with a memory of its own kernels take copies there, which stay there from call to call as long as
    nobody holds a view of these arrays.
    """

    def __init__(self, structure: Network, optimizer: Optimizer):
        self._parameters = aligned_zeros(structure.size, structure.dtype)
        self._state = optimizer.new_state(structure.size, structure.dtype)
        self.here = self._parameters, self._state
        """Both in the CPU's memory, for a backend that computes there."""
        self.gpu: int | None = None
        """The number of the device that computes; None for the CPU."""
        self._mirror: Any = None
        self._module: Any = None

    def move(self, module: ModuleType) -> None:
        """Let a backend compute on them from now on, on the device that is the current one."""
        self.bring_home()
        mirror = getattr(module, "Mirror", None)
        self._mirror = None if mirror is None else mirror(self._parameters, self._state)
        self.gpu = None if self._mirror is None else self._mirror.device.id
        self._module = module

    @property
    def parameters(self) -> np.ndarray:
        """A live view of the parameters, up to date."""
        self.bring_home()
        return self._parameters.view()

    @property
    def state(self) -> np.ndarray:
        """A live view of the optimiser's memory, up to date."""
        self.bring_home()
        return self._state.view()

    def bring_home(self) -> None:
        """Bring what users see up to date."""
        if self._mirror is not None:
            self._mirror.bring_home()

    def operands(self, writes: bool = False) -> Sequence[Any]:
        """Parameters and state as the backend takes them; where it `writes` to them `written` must follow."""
        return self.here if self._mirror is None else self._mirror.operands(writes)

    def written(self) -> None:
        """The backend has written to the operands."""
        if self._mirror is not None:
            self._mirror.written()

    def device(self) -> AbstractContextManager[Any]:
        """A context in which the device that computes is the current one.

        Raises BackendUnavailable in a child forked by the process that started the driver.
        """
        return _NOWHERE if self._mirror is None else self._mirror.device

    def near(self, array: Any) -> Any:
        """The array where the backend computes: itself, or a copy of a NumPy array on the device."""
        if self.gpu is None:
            return array
        with self.device():
            return self._module.resident(array)

    def room(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array of anything where the backend computes."""
        if self.gpu is None:
            return aligned_zeros(shape, dtype)
        with self.device():
            return self._module.empty(shape, dtype)

    def apart(self, array: Any) -> Any:
        """The array itself, or a copy of a NumPy array that may share memory with these."""
        if type(array) is np.ndarray and any(
            np.may_share_memory(array, each) for each in (self._parameters, self._state)
        ):
            return array.copy()
        return array
