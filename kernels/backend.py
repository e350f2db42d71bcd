"""The one place where a backend is chosen: lazily, by name, and able to say why one is absent.

Every backend is a module with the names of kernels/README.md's table. An explicit name never falls back.
"""

import functools
import importlib
from types import ModuleType

from fastmlp.errors import BackendUnavailable, require_name

BACKENDS = ("numpy", "cpu", "cuda")

_FOLDERS = {"numpy": ".reference", "cpu": ".cpu"}

BFLOAT16 = "emulated: rounded operands, float32 arithmetic"
"""How networks of dtype bfloat16 run, on every backend there is."""

_NO_CUDA = (
    "this release of fastmlp has no CUDA kernels; backend='cpu' or 'numpy' runs the same operations on NumPy arrays"
)


def load(name: str) -> ModuleType:
    """The backend of that name, imported at its first use.

    Raises ArgumentError for an unknown name, BackendUnavailable (reason and cure) for one that cannot run here.
    """
    module, reason = _attempt(require_name("backend", name, BACKENDS))
    if module is None:
        raise BackendUnavailable(f"backend {name!r} cannot run here: {reason}.")
    return module


def resolve(name: str) -> tuple[str, ModuleType]:
    """The chosen backend's name and module; "auto" is "cpu", or "numpy" where Numba cannot be imported.

    `status()["cpu"]` says why "auto" did not choose "cpu". Raises as `load`.
    """
    if name == "auto":
        module, _ = _attempt("cpu")
        if module is not None:
            return "cpu", module
        name = "numpy"
    else:
        require_name("backend", name, ("auto", *BACKENDS))
    return name, load(name)


def status() -> dict[str, str | None]:
    """For every backend None if it can run here, else the reason why not and the cure."""
    return {name: _attempt(name)[1] for name in BACKENDS}


@functools.cache
def _attempt(name: str) -> tuple[ModuleType | None, str | None]:
    """The backend's module, or the reason why there is none."""
    if name not in _FOLDERS:
        return None, _NO_CUDA
    try:
        return importlib.import_module(_FOLDERS[name], __package__), None
    except (ImportError, OSError) as error:  # OSError: a shared library of Numba's is missing or damaged
        return None, f"{type(error).__name__}: {error}; `pip install --upgrade numba numpy` would repair it"
