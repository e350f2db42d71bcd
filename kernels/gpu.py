"""Whether the CUDA backend can run here, and if not, why and what would help; asked of the driver alone, when asked.

Importing this touches nothing. A process that has started the driver cannot hand it to a child that it forks.
"""

import ctypes
import os
import platform
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from fastmlp.errors import BackendUnavailable

LIBRARY = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"

CUPY = {"cupy-cuda12x": 12, "cupy-cuda13x": 13}
"""CuPy's packages and the CUDA version that the driver must know for each."""

_NOT_INITIALIZED, _NO_DEVICE = 3, 100  # of the driver's error codes

_FORKED = (
    "this is a forked child, and its parent had started the NVIDIA driver, which does not survive fork(); start the "
    "children by multiprocessing.get_context('spawn'), or use the GPU in them alone"
)

_NO_DRIVER = f"there is no NVIDIA driver: {LIBRARY} is not installed; a machine with a GPU needs NVIDIA's driver"

_process: int | None = None
"""The process that started the driver, or None."""


def why_not() -> str | None:
    """None if the CUDA backend can run here, or under Numba's simulator; else the reason, and the cure."""
    try:
        import numba
    except (ImportError, OSError) as error:
        return f"{type(error).__name__}: {error}; `pip install --upgrade numba numpy` would repair it"
    return None if numba.config.ENABLE_CUDASIM else _missing_package() or _driver_trouble()


def start(driver: Any) -> int:
    """Start the driver; its error code, 0 for success."""
    global _process
    status: int = driver.cuInit(0)
    if status == 0 and _process is None:
        _process = os.getpid()
    return status


def process() -> int | None:
    """The process that has started the driver, perhaps this one's parent; None where none has."""
    return _process


def started_here() -> bool:
    """Whether this process has started the driver."""
    return _process == os.getpid()


def require_same_process() -> None:
    """Raises BackendUnavailable in a child forked by the process that started the driver."""
    if _process is not None and _process != os.getpid():
        raise BackendUnavailable(f"backend 'cuda' cannot run here: {_FORKED}.")


def _missing_package() -> str | None:
    for module, package in (("cupy", "CuPy"), ("numba_cuda", "numba-cuda")):
        if find_spec(module) is None:
            return (
                f"{package} is not installed; `pip install 'fastmlp[cuda13]'` brings it, or 'fastmlp[cuda12]' for a "
                "driver of CUDA 12"
            )
    return None


def _driver_trouble() -> str | None:
    try:
        driver = open_driver()
    except OSError:
        return _NO_DRIVER
    version, needed = ctypes.c_int(), _needed_version()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < 1000 * needed:
        cure = "install 'fastmlp[cuda12]' instead, or update the driver" if version.value >= 12000 else "update it"
        return (
            f"the NVIDIA driver is too old: it knows CUDA {version.value // 1000}.{version.value % 1000 // 10}, and "
            f"the CuPy that is installed needs {needed}.0; {cure}"
        )
    return _count(driver)[1]


def _count(driver: Any) -> tuple[int, str | None]:
    """How many devices there are, and why none."""
    status = start(driver)
    if status == _NOT_INITIALIZED:
        return 0, _FORKED
    if status not in (0, _NO_DEVICE):
        return 0, (
            f"the NVIDIA driver does not start: cuInit returned {status}; `nvidia-smi` tells more, and a restart of "
            "the machine helps where the driver was just updated"
        )
    count = ctypes.c_int()
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value == 0:
        return 0, (
            "the NVIDIA driver sees no device; in a container start it with `--gpus all`, and see that "
            "CUDA_VISIBLE_DEVICES names one"
        )
    return count.value, None


def devices() -> tuple[list[str], str | None]:
    """The GPUs' names, asked of the driver alone, and why there are none."""
    try:
        driver = open_driver()
    except OSError:
        return [], _NO_DRIVER
    count, reason = _count(driver)
    names = []
    for ordinal in range(count):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode())
    return names, reason


def open_driver() -> Any:
    """The driver's functions. Raises OSError where there is none."""
    return ctypes.CDLL(LIBRARY)


def _needed_version() -> int:
    """The CUDA version that the installed CuPy needs of the driver; 12, the oldest, for one built by hand."""
    for package, version in CUPY.items():
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        return version
    return min(CUPY.values())
