"""The one place where a backend is chosen: lazily, by name, and able to say why one is absent.

Every backend is a module with the names of kernels/README.md's table. An explicit name never falls back.
"""

import functools
import importlib
from types import ModuleType

from fastmlp.errors import BackendUnavailable, require_name

from . import gpu
from .ceilings import Ceilings
from .collection import no_collection
from .cores import get_num_threads, usable_cores
from .crossover import Crossover
from .network import Network

BACKENDS = ("numpy", "cpu", "cuda")

USUAL_BATCH = 128
"""Rows of the batches for which "auto" chooses: those that `fit` takes unless it is told, for nothing is known yet."""

LEAST_GAIN = 1.1
"""Less does not make "auto" leave its rule."""

_FOLDERS = {"numpy": ".reference", "cpu": ".cpu", "cuda": ".cuda"}


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


def resolve(name: str, network: Network | None = None) -> tuple[str, ModuleType]:
    """The chosen backend's name and module; what "auto" is, for a `network` or at all, says `automatic`.

    Raises as `load`.
    """
    name = automatic(network)[0] if name == "auto" else require_name("backend", name, ("auto", *BACKENDS))
    return name, load(name)


def automatic(network: Network | None = None) -> tuple[str, str]:
    """The name that "auto" stands for, and why.

    By rule "cpu", or "numpy" where Numba cannot be imported. For a network like which this machine has been measured
    (crossover.py), in batches of USUAL_BATCH, the backend that took the least time by itself, if it is LEAST_GAIN times
    as fast as the rule's and that is more than the spread of the two. For float16, which "cpu" lacks, "numpy".
    """
    if network is not None and network.float16:
        return "numpy", "'cpu' has no kernels for float16"
    absent = _attempt("cpu")[1]
    if absent is not None:
        return "numpy", f"'cpu' cannot run here: {absent}"
    cell = None if network is None else crossover().nearest(network, USUAL_BATCH)
    ruled = None if cell is None else cell.usual("cpu")
    others = [] if cell is None else [each for each in cell.contenders if each.usual and each.backend != "cpu"]
    other = next((each for each in others if can_run(each.backend)), None)
    if cell is None or ruled is None or other is None:
        return "cpu", "by rule: no measurement of such a network is kept; fastmlp bench --suite crossover makes them"
    gain, noise = ruled.us / other.us, ruled.iqr / ruled.us + other.iqr / other.us
    where = f"measured here at width {cell.width}, batch {cell.batch_size}"
    if gain > max(LEAST_GAIN, 1 + noise):
        return other.backend, f"{where}: {gain:.3g} times as fast as cpu"
    return "cpu", f"{where}: {1 / gain:.3g} times as fast as {other.backend}"


def can_run(name: str) -> bool:
    """Whether `load` gives this backend, in this process and now."""
    try:
        load(name)
    except BackendUnavailable:
        return False
    return True


@functools.cache
def crossover() -> Crossover:
    """What has been measured on this machine, kept from process to process where there is a folder for it."""
    module, _ = _attempt("cpu")
    return Crossover(None if module is None else module.machine_file("crossover"))


def require_dtype(name: str, dtype: str, precision: str = "highest") -> None:
    """Raises BackendUnavailable for a dtype or a precision of networks that the backend has no kernels for here."""
    unavailable = getattr(load(name), "UNAVAILABLE", None)
    if unavailable is not None and (dtype == "bfloat16" or precision == "high"):
        raise BackendUnavailable(
            f"backend {name!r} cannot multiply bfloat16 as told: {unavailable}. Without that variable it takes the "
            "best way that there is."
        )
    if dtype == "float16" and not hasattr(load(name), "FLOAT16"):
        raise BackendUnavailable(
            f"backend {name!r} has no kernels for dtype 'float16': backend='cuda' has, and backend='numpy' emulates "
            "it. dtype='bfloat16' runs on every backend."
        )
    others = "backend='numpy'" if dtype == "float16" else "backend='cpu' or 'numpy'"
    why_not = getattr(load(name), "why_no_tensor_cores", None)
    if why_not is not None and dtype in ("bfloat16", "float16") and (reason := why_not()) is not None:
        raise BackendUnavailable(
            f"backend {name!r} cannot run dtype {dtype!r} here: {reason}. {others} runs it on the processor."
        )


def ceilings(name: str) -> Ceilings | None:
    """What the backend's machine reaches at most; None where the backend does not measure it. Raises as `load`."""
    measured = getattr(load(name), "ceilings", None)
    return None if measured is None else measured()


def threads(name: str, asked: int | None = None) -> int:
    """How many threads the backend may use; where it does not count its own, what was `asked` for, else every core."""
    return get_num_threads() if hasattr(load(name), "threads_for") else asked or usable_cores()


def status() -> dict[str, str | None]:
    """For every backend None if it can run here, else the reason why not and the cure."""
    return {name: _attempt(name)[1] for name in BACKENDS}


@functools.cache
def _attempt(name: str) -> tuple[ModuleType | None, str | None]:
    """The backend's module, or the reason why there is none."""
    if name == "cuda" and (reason := gpu.why_not()) is not None:
        return None, f"{reason}. backend='cpu' runs the same operations on the processor"
    try:
        with no_collection():
            return importlib.import_module(_FOLDERS[name], __package__), None
    except (ImportError, OSError) as error:  # OSError: a shared library of Numba's is missing or damaged
        packages = "'fastmlp[cuda13]'" if name == "cuda" else "numba numpy"
        return None, f"{type(error).__name__}: {error}; `pip install --upgrade {packages}` would repair it"
