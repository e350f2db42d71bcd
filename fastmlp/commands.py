"""What `fastmlp bench` and `fastmlp profile` have in common."""

from collections.abc import Callable
from pathlib import Path

from .errors import ArgumentError
from .kernels import backend as backends
from .kernels.contract import NETWORK_DTYPES


def require_folders(**files: Path | None) -> None:
    """Raises ArgumentError for a file, by its option's name, that cannot be written for want of a folder, or is one."""
    for name, path in files.items():
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise ArgumentError(f"--{name} must name a file in a folder that exists; got {str(path)!r}")


def remeasure(backend: str, tell: Callable[[str], object]) -> None:
    """Forget the machine's ceilings and measure all of them; raises ArgumentError where there are none."""
    ceilings = backends.ceilings(backend)
    if ceilings is None:
        raise ArgumentError(f"--remeasure needs a backend that measures its machine; got {backend!r}")
    ceilings.forget()
    for name in ceilings.measure(NETWORK_DTYPES):
        tell(f"ceilings: {name}")
