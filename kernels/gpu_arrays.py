"""Arrays on a GPU, whoever made them: known by their protocol, taken without a copy, handed back as their own kind.

The desk and the networks meet CuPy's arrays and, by DLPack or `__cuda_array_interface__`, those of PyTorch, JAX, Numba
and others. `adopt` makes device arrays of them, CuPy's own class, which `arrays` judges like NumPy's. A device array is
never turned into a NumPy array here, nor the other way: no byte travels unless the user says so.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fastmlp.errors import ArgumentError, BackendUnavailable, DTypeError

from . import backend
from .network import new_array

_DLPACK_CUDA = 2, 13  # kDLCUDA, kDLCUDAManaged of dlpack.h

BRING_HOME = "bring it to the CPU's memory, as CuPy's {name}.get() and PyTorch's {name}.cpu() do"
"""What to do with a GPU array where none will do."""


def is_gpu_array(value: Any) -> bool:
    """Whether `value` says that it lies on a CUDA device."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):  # whose own answer asks the driver
        return True
    try:
        return value.__dlpack_device__()[0] in _DLPACK_CUDA
    except AttributeError:
        return hasattr(value, "__cuda_array_interface__")


def kind(value: Any) -> str:
    """The array's class as a user knows it: cupy.ndarray, torch.Tensor."""
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"


def adopt(name: str, value: Any) -> Any:
    """The device array that shares the memory of `value`, a GPU array.

    Raises BackendUnavailable where the CUDA backend cannot run, DTypeError for an array that cannot be taken over.
    """
    try:
        module = backend.load("cuda")
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"{name} is a GPU array ({kind(value)}); {BRING_HOME.format(name=name)}: {error}"
        ) from error
    try:
        array = module.adopt(value)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError(f"{name} is a GPU array ({kind(value)}) that cannot be taken over: {error}.") from error
    if array.size and shadow(array).ctypes.data % array.dtype.itemsize:
        raise ArgumentError(f"{name} is a GPU array that does not lie on a multiple of its element; pass a copy of it.")
    return array


def read_only(value: Any) -> bool:
    """Whether a GPU array forbids to write it, as JAX's do."""
    interface = getattr(value, "__cuda_array_interface__", None)
    return interface is not None and bool(interface["data"][1])


def place_of(array: Any) -> int | None:
    """The number of the device of a device array; None for a NumPy array."""
    return None if type(array) is np.ndarray else array.device.id


def name_of(place: int | None) -> str:
    """A place in words."""
    return "in the CPU's memory" if place is None else f"on GPU {place}"


def require_one_place(**arrays: Any) -> None:
    """Raises ArgumentError unless all arrays lie in the CPU's memory, or all on one GPU."""
    (first, reference), *others = arrays.items()
    place = place_of(reference)
    for name, array in others:
        if place_of(array) != place:
            cure = f"cupy.asarray({name})" if place is not None else f"cupy.asarray({first}), or {name}.get()"
            raise ArgumentError(
                f"{name} lies {name_of(place_of(array))} and {first} {name_of(place)}; all arrays of a call must lie "
                f"in one place. Bring one to the other, as {cure} would."
            )


def shadow(array: Any) -> np.ndarray:
    """The array itself, or for a device array one of the same addresses: to be compared, its elements never touched."""
    if type(array) is np.ndarray:
        return array
    pointer = getattr(array.data, "ptr", None)
    if pointer is None:  # a subclass of NumPy's
        return np.asarray(array)
    interface = {"shape": array.shape, "strides": array.strides, "typestr": array.dtype.str, "data": (pointer, False)}
    return np.asarray(SimpleNamespace(__array_interface__={**interface, "version": 3}))


@dataclass(frozen=True)
class Home:
    """Where the arrays of a call lie: how a new one is made there, how the caller gets it, and how it is taken back."""

    new: Callable[[tuple[int, ...], np.dtype], Any]
    give: Callable[[Any], Any]
    take: Callable[[Any], Any]


HOST = Home(new_array, lambda array: array, lambda array: array)


def home_of(name: str, value: Any) -> Home:
    """The place of `value`, a caller's array; results are arrays of its kind, or CuPy's if that takes no DLPack.

    Raises as `adopt` for a GPU array.
    """
    if type(value) is np.ndarray or not is_gpu_array(value):
        return HOST
    device, module = adopt(name, value).device, backend.load("cuda")

    def new(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        with device:
            return module.empty(shape, dtype)

    return Home(new, lambda array: _exported(array, value, module), functools.partial(adopt, name))


def _exported(array: Any, like: Any, module: ModuleType) -> Any:
    """A device array as an array of the library that made `like`, sharing its memory."""
    if isinstance(like, module.DeviceArray):
        return array
    namespace = getattr(like, "__array_namespace__", None)
    library = sys.modules.get(type(like).__module__.partition(".")[0]) if namespace is None else namespace()
    take = getattr(library, "from_dlpack", None)
    return array if take is None else take(array)
