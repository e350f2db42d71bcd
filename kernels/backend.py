"""The one place where a backend is chosen: lazily, by name, and able to say why one is absent.

Every backend is a module with the names of kernels/README.md's table. An explicit name never falls back.
"""

import functools
import importlib
from types import ModuleType

from fastmlp.errors import BackendUnavailable, require_name

from . import gpu

BACKENDS = ("numpy", "cpu", "cuda")

_FOLDERS = {"numpy": ".reference", "cpu": ".cpu", "cuda": ".cuda"}

BFLOAT16 = "emulated: rounded operands, float32 arithmetic"
"""How networks of dtype bfloat16 run, on the backends that run them: cpu and numpy."""


def load(name: str) -> ModuleType:
    """The backend of that name, imported at its first use.

    Raises ArgumentError for an unknown name, BackendUnavailable (reason and cure) for one that cannot run here.
    """
    module, reason = _attempt(require_name("backend", name, BACKENDS))
    if name == "cuda":
        gpu.require_same_process()
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


def require_dtype(name: str, dtype: str) -> None:
    """Raises BackendUnavailable for a dtype of networks that the backend has no kernels for."""
    if name == "cuda" and dtype == "bfloat16":
        raise BackendUnavailable(
            "backend 'cuda' has no kernels for dtype 'bfloat16' in this release; it runs 'float32' and 'float64', and "
            "backend='cpu' or 'numpy' emulates 'bfloat16'."
        )


def status() -> dict[str, str | None]:
    """For every backend None if it can run here, else the reason why not and the cure."""
    return {name: _attempt(name)[1] for name in BACKENDS}


@functools.cache
def _attempt(name: str) -> tuple[ModuleType | None, str | None]:
    """The backend's module, or the reason why there is none."""
    if name == "cuda" and (reason := gpu.why_not()) is not None:
        return None, f"{reason}. backend='cpu' runs the same operations on the processor"
    try:
        return importlib.import_module(_FOLDERS[name], __package__), None
    except (ImportError, OSError) as error:  # OSError: a shared library of Numba's is missing or damaged
        packages = "'fastmlp[cuda13]'" if name == "cuda" else "numba numpy"
        return None, f"{type(error).__name__}: {error}; `pip install --upgrade {packages}` would repair it"
