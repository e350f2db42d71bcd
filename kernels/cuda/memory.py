"""Arrays on the device, and how they come there and back: CuPy's, or in the simulator NumPy's."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .elementary import SIMULATED

if not SIMULATED:
    import cupy

arrays: Any = np if SIMULATED else cupy


def empty(shape: int | tuple[int, ...], dtype: np.dtype) -> Any:
    """A C-contiguous device array of anything."""
    return arrays.empty(shape, dtype)


def to_device(array: np.ndarray) -> Any:
    """A copy on the current device."""
    return arrays.array(array, order="C")


def to_host(array: Any, out: np.ndarray) -> None:
    """Write a device array to `out`, when all that was launched before on the current stream is done."""
    out[...] = array if SIMULATED else array.get()


def hosted(
    operation: Callable[..., Any], updates: Sequence[str] = (), writes: Sequence[str] = ()
) -> Callable[..., Any]:
    """`operation` for NumPy arrays too: each travels to the device, and those updated or written travel back.

    `updates` and `writes` name the parameters that the contract says are changed in place, or only written. Device
    arrays are left where they are.
    """
    signature = inspect.signature(operation)

    @functools.wraps(operation)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        home: list[tuple[Any, np.ndarray]] = []
        for name, value in bound.arguments.items():
            if isinstance(value, np.ndarray):
                device = empty(value.shape, value.dtype) if name in writes else to_device(value)
                bound.arguments[name] = device
                if name in updates or name in writes:
                    home.append((device, value))
        result = operation(*bound.args, **bound.kwargs)
        for device, host in home:
            to_host(device, host)
        return result

    return run
