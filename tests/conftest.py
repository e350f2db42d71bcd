"""Fixtures for every test: the backends that can run here, the dtypes, and outputs with canary margins."""

import signal
import sys

import layouts
import numba
import numpy as np
import pytest

from fastmlp.kernels import backend as backends
from fastmlp.kernels import reference
from fastmlp.kernels.crossover import Crossover

AVAILABLE = [
    name
    for name, reason in backends.status().items()
    if reason is None and all(hasattr(backends.load(name), each) for each in reference.__all__)
]


@pytest.fixture(scope="session", autouse=True)
def _nothing_measured():
    """What `fastmlp bench` measured on this machine chooses no backend in a test, and no test changes it."""
    with pytest.MonkeyPatch.context() as patch:
        empty = Crossover()
        patch.setattr(backends, "crossover", lambda: empty)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_switches():
    """The threads of Numba's simulator of a GPU wait for one another by polling."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4 if numba.config.ENABLE_CUDASIM else interval)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="session", autouse=True)
def _one_shared_array():
    """The simulator looks for a block's shared array and makes it without a lock: two threads could each get one."""
    if not numba.config.ENABLE_CUDASIM:
        yield
        return
    from numba.cuda.np.numpy_support import as_dtype
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    def array(self, shape, dtype):
        line = sys._getframe(1)
        dtype = as_dtype(dtype) if isinstance(dtype, numba.types.Type) else dtype
        return self._allocations.setdefault((line.f_code, line.f_lineno), np.empty(shape, dtype))  # atomic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeCUDAShared, "array", array)
        yield


@pytest.fixture(scope="session", params=AVAILABLE)
def backend_name(request):
    return request.param


@pytest.fixture(scope="module")
def backend(backend_name):
    """The module of one backend: kernels are called directly, past the customs desk.

    It ends with the file of tests, since the next one may have a `backend_name` of its own: pytest drops what was made
    of one fixture only when that fixture ends, not when another one takes its name.
    """
    return backends.load(backend_name)


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260)


@pytest.fixture
def canary():
    """Makes arrays, as `layouts.Canary` does, whose surroundings are checked when the test ends."""
    made = []

    def make(*args, **kwargs):
        made.append(layouts.Canary(*args, **kwargs))
        return made[-1].array

    yield make
    for each in made:
        each.check()


@pytest.fixture
def interrupts_arrive():
    """A shell starts what runs in its background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
