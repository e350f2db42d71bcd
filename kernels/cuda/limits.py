"""What the current device has of what kernels of CUDA C++ are cut to."""

import functools

from .elementary import SIMULATED

if not SIMULATED:
    import cupy


def shared_limit() -> int:
    """Bytes of shared memory that a block may have."""
    return _properties(cupy.cuda.runtime.getDevice())["sharedMemPerBlockOptin"]


def multiprocessors() -> int:
    """How many there are."""
    return _properties(cupy.cuda.runtime.getDevice())["multiProcessorCount"]


@functools.cache
def _properties(device: int) -> dict[str, int]:
    return cupy.cuda.runtime.getDeviceProperties(device)
