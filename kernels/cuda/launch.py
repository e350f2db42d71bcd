"""How a kernel is started: on the current stream, with a grid whose size depends on the shape alone.

Every kernel walks its work with a stride of the whole grid, in 64-bit indices: any grid covers any size.
"""

import warnings
from typing import Any

import numpy as np
from numba import cuda

from .. import gpu
from .elementary import SIMULATED
from .memory import explain

THREADS = 4 if SIMULATED else 256
"""Threads a block of an elementwise kernel. The simulator takes a Python thread for each."""

MAX_BLOCKS = 3 if SIMULATED else 65_535
"""Blocks a grid at most; few in the simulator, so that the stride over the grid is walked."""

if SIMULATED:
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    from .simulated import submit

    def view(array: Any) -> Any:
        """The array as kernels take it."""
        return FakeCUDAArray(array.view(np.ndarray))

    def stream() -> Any:
        """The current stream."""
        return 0

else:
    import cupy
    from numba.cuda.core.errors import NumbaPerformanceWarning

    def view(array: Any) -> Any:
        """The array as kernels take it; no wait, for whatever made it was launched on the same stream."""
        return cuda.as_cuda_array(array, sync=False)

    def stream() -> Any:
        """CuPy's current stream."""
        pointer = cupy.cuda.get_current_stream().ptr
        return cuda.external_stream(pointer) if pointer else 0


def launch(kernel: Any, blocks: int, threads: int, *args: Any) -> None:
    """Start `kernel` on at most MAX_BLOCKS blocks, none where there is no work.

    args are device arrays, scalars and tuples of both. Raises BackendUnavailable in a forked child, DeviceMemoryError
    where the kernel does not fit into the device's memory.
    """
    gpu.require_same_process()
    if blocks <= 0:
        return
    configuration = min(blocks, MAX_BLOCKS), threads, stream()
    try:
        if SIMULATED:
            submit(lambda: kernel[configuration](*map(_argument, args)))
            return
        with warnings.catch_warnings():  # a small grid is no mistake here
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            kernel[configuration](*map(_argument, args))
    except Exception as error:
        explain(error)
        raise


def blocks_for(elements: int) -> int:
    """Blocks of an elementwise kernel."""
    return -(-elements // THREADS)


def _argument(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_argument, value))
    return value if isinstance(value, int | float | np.generic) else view(value)
