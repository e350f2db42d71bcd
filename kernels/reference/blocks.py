"""Elementwise work in blocks: temporaries stay in the cache, and their size does not grow with the input."""

from collections.abc import Iterator

import numpy as np

BLOCK = 8192
"""Elements of one block: at most 64 KiB, which malloc has at hand; from 128 KiB on it would map fresh pages."""


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Flat views of equal C-contiguous arrays, at most BLOCK elements at a time."""
    flat = tuple(array.reshape(-1) for array in arrays)
    size = flat[0].size
    if size <= BLOCK:
        yield flat
        return
    for start in range(0, size, BLOCK):
        yield tuple(array[start : start + BLOCK] for array in flat)


def row_blocks(n: int, m: int) -> Iterator[slice]:
    """The rows of an [n, m] array, about BLOCK elements and at least one row at a time."""
    rows = max(1, BLOCK // max(1, m))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))
