"""What surrounds a program that stays as it is: backend, threads and dtype, by environment variables or for a block."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ..errors import require_name
from ..kernels.backend import BACKENDS
from ..kernels.contract import NETWORK_DTYPES
from ..kernels.cores import get_num_threads, num_threads

BACKEND, THREADS, DTYPE = "FASTMLP_BACKEND", "FASTMLP_NUM_THREADS", "FASTMLP_DTYPE"


@contextmanager
def settings(backend: str | None = None, threads: int | None = None, dtype: str | None = None) -> Iterator[None]:
    """Within the block fits and predictions take what is given here; None leaves a setting as it is.

    backend: "cpu", "numpy", "cuda" or "auto". dtype: "float32", "float64" or "bfloat16", of the networks fitted by
    estimators whose own `dtype` is None. They are set by the variables FASTMLP_BACKEND, FASTMLP_NUM_THREADS and
    FASTMLP_DTYPE, for the whole process and those that it starts inside the block; threads count in this thread alone.

    Raises ArgumentError for a name or a number that cannot be used.
    """
    asked: dict[str, str] = {}
    if backend is not None:
        asked[BACKEND] = require_name("backend", backend, ("auto", *BACKENDS))
    if dtype is not None:
        asked[DTYPE] = require_name("dtype", dtype, NETWORK_DTYPES)
    with nullcontext() if threads is None else num_threads(threads):
        if threads is not None:
            asked[THREADS] = str(threads)
        before = {name: os.environ.get(name) for name in asked}
        os.environ.update(asked)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def backend_name() -> str:
    """The backend asked for by FASTMLP_BACKEND: "cpu", "numpy", "cuda", or "auto", as by default."""
    return os.environ.get(BACKEND) or "auto"


def dtype_name() -> str | None:
    """The dtype asked for by FASTMLP_DTYPE; None, as by default, for that of the samples.

    Raises ArgumentError for a name that is none.
    """
    asked = os.environ.get(DTYPE)
    return require_name(DTYPE, asked, NETWORK_DTYPES) if asked else None


def threads() -> AbstractContextManager[None]:
    """Within the block take no more threads than OMP_NUM_THREADS grants, unless FASTMLP_NUM_THREADS says how many.

    scikit-learn keeps to that variable, by which joblib shares the cores among the processes that it starts.
    """
    granted = os.environ.get("OMP_NUM_THREADS", "")
    if os.environ.get(THREADS) or not granted.isdecimal() or int(granted) < 1:
        return nullcontext()
    return num_threads(min(int(granted), get_num_threads()))
