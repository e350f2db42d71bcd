"""Kernels of CUDA C++ on the current device: compiled for it when first asked for, and loaded once."""

import functools
from typing import Any

from .. import gpu
from ..cuda_cpp import compile as compilation
from ..cuda_cpp.compile import Program
from .elementary import SIMULATED
from .memory import explain

if not SIMULATED:
    import cupy


def capability() -> tuple[int, int]:
    """The current device's compute capability; (0, 0) in Numba's simulator, which runs no CUDA C++."""
    return (0, 0) if SIMULATED else _capability(cupy.cuda.runtime.getDevice())


def architecture() -> str | None:
    """What the current device takes; None where it is too old for kernels of CUDA C++."""
    return compilation.architecture(capability())


def target() -> str | None:
    """The same where there is a compiler for it, and else None too."""
    return architecture() if compilation.why_not() is None else None


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    return properties["major"], properties["minor"]


def kernel(program: Program, name: str, shared_bytes: int = 0) -> Any:
    """The program's kernel of that name for the current device, allowed `shared_bytes` of dynamic shared memory.

    Call it as CuPy's RawKernel: (grid, block, arguments, shared_mem=bytes), on CuPy's current stream.
    Raises BackendUnavailable where NVRTC is missing, or in a forked child.
    """
    gpu.require_same_process()
    return _kernel(program, name, shared_bytes, cupy.cuda.runtime.getDevice())


@functools.cache
def _kernel(program: Program, name: str, shared_bytes: int, device: int) -> Any:
    function = _module(program, device).get_function(name)
    if shared_bytes > 48 << 10:  # beyond which a kernel must be allowed it
        function.max_dynamic_shared_size_bytes = shared_bytes
    return function


@functools.cache
def _module(program: Program, device: int) -> Any:
    """For this device alone: CuPy reads the file once more for each device, and by then it may be gone."""
    target = compilation.architecture(_capability(device))
    assert target is not None, "kernels of CUDA C++ are asked for on devices that take them"
    try:
        return cupy.RawModule(path=str(compilation.cubin(program, target)))
    except cupy.cuda.driver.CUDADriverError as error:
        explain(error)
        raise
