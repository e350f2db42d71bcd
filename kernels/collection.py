"""Python's collector of cyclic garbage, and when it had better rest."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """The collector rests inside: what makes many objects, none of them garbage yet, has it search them all, often.

    So does Numba: beside scikit-learn and pandas its import took half of its time for that, a compilation an eighth.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
