"""Arrays on the device, and how they come there and back: CuPy's, or in the simulator stand-ins for them."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastmlp.errors import DeviceMemoryError

from .. import gpu
from .elementary import SIMULATED

if SIMULATED:
    from . import simulated as cupy
else:
    import cupy  # type: ignore[no-redef]

DeviceArray: Any = cupy.ndarray
"""The one kind of array that kernels take."""


def explain(error: Exception) -> None:
    """Raises DeviceMemoryError in the place of CuPy's or Numba's error where that says the device's memory is full."""
    if re.search(r"out.of.memory", str(error), re.IGNORECASE):
        free, total = cupy.cuda.Device().mem_info
        raise DeviceMemoryError(
            f"GPU {cupy.cuda.Device().id} has {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, which does not do "
            f"({error}). A smaller batch_size takes less (print net.plan(batch_size)), and so do samples given batch "
            "by batch to train_step or predict; cupy.get_default_memory_pool().free_all_blocks() gives back what CuPy "
            "keeps for reuse."
        ) from error


def empty(shape: int | tuple[int, ...], dtype: np.dtype) -> Any:
    """A C-contiguous array of anything on the current device. Raises DeviceMemoryError."""
    try:
        return cupy.empty(shape, dtype)
    except MemoryError as error:
        explain(error)
        raise


def to_device(array: Any) -> Any:
    """A C-contiguous array on the current device: a copy of a NumPy array, a device array itself.

    Raises DeviceMemoryError.
    """
    if isinstance(array, DeviceArray):
        return array
    try:
        return cupy.array(array, order="C")
    except MemoryError as error:
        explain(error)
        raise


def update(array: Any, source: np.ndarray) -> None:
    """Write a NumPy array of the same shape and dtype to a device array, after what was launched before.

    It may be read as late as that: it has to stay as it is until the stream has come so far, see `wait`.
    """
    array.set(source, stream=cupy.cuda.get_current_stream())


def wait() -> None:
    """Wait until all that was launched on the current stream is done."""
    cupy.cuda.get_current_stream().synchronize()


def follow(last: Any) -> Any:
    """The current stream, whose work from now on comes after all that `last`, a stream or None, was given."""
    stream = cupy.cuda.get_current_stream()
    if last is not None and last != stream:
        stream.wait_event(last.record())
    return stream


def address(array: Any) -> int:
    """Where a device array begins."""
    return int(array.data.ptr)


def to_host(array: Any, out: np.ndarray) -> None:
    """Write a device array to `out`, when all that was launched before on the current stream is done."""
    array.get(out=out)


def adopt(value: Any) -> Any:
    """The device array that shares the memory of `value`, which has DLPack's or CUDA's array interface.

    By DLPack what is under way on the producer's stream comes before what CuPy's current stream does with the array;
    by CUDA's interface the stream that it names is waited for.
    """
    if isinstance(value, DeviceArray):
        return value
    return cupy.from_dlpack(value) if hasattr(value, "__dlpack_device__") else cupy.asarray(value)


def device(number: int | None = None) -> Any:
    """A device as a context, inside which it is the current one; has `id`. The current one where no number is given."""
    return cupy.cuda.Device(cupy.cuda.Device().id if number is None else number)


def device_of(arrays: Iterable[Any]) -> Any:
    """The device of the first device array among these, else the current one."""
    return next((array.device for array in arrays if isinstance(array, DeviceArray)), None) or device()


def hosted(
    operation: Callable[..., Any], updates: Sequence[str] = (), writes: Sequence[str] = ()
) -> Callable[..., Any]:
    """`operation` for NumPy arrays too, on the device of the device arrays among its arguments, else the current one.

    Each NumPy array travels to the device, and those updated or written travel back: `updates` and `writes` name the
    parameters that the contract says are changed in place, or only written. Device arrays are left where they are.

    Raises DeviceMemoryError, BackendUnavailable in a forked child.
    """
    signature = inspect.signature(operation)

    @functools.wraps(operation)
    def run(*args: Any, **kwargs: Any) -> Any:
        gpu.require_same_process()
        bound = signature.bind(*args, **kwargs)
        home: list[tuple[Any, np.ndarray]] = []
        with device_of(bound.arguments.values()):
            for name, value in bound.arguments.items():
                if isinstance(value, np.ndarray) and not isinstance(value, DeviceArray):
                    there = empty(value.shape, value.dtype) if name in writes else to_device(value)
                    bound.arguments[name] = there
                    if name in updates or name in writes:
                        home.append((there, value))
            result = operation(*bound.args, **bound.kwargs)
            for there, host in home:
                to_host(there, host)
        return result

    return run
