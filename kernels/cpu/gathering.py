"""The rows of a batch brought together: as they are, or transposed to features times rows."""

from .compile import jit
from .simd import (
    address_of,
    element,
    lanes,
    load,
    load_first,
    prefetch,
    store,
    store_first,
    transpose_picked,
)

GATHER_ROWS = 16
"""Rows of a batch that one chunk gathers."""

AHEAD = 2
"""By how many rows one is asked for before it is copied: they lie anywhere."""

SCALAR_WIDTH = 4
"""Rows narrower than this are transposed element by element: a square of vectors would be mostly empty."""


@jit
def _copy_row(k, source, later, target):
    """target[k] = source[k]; asks for later[k] on the way."""
    count = lanes(source)
    whole = k // count * count
    for j in range(0, whole, count):
        prefetch(later + j)
        store(target + j, load(source + j))
    if whole < k:
        prefetch(later + whole)
        store_first(target + whole, load_first(source + whole, k - whole), k - whole)


@jit
def gather_rows(n, known, order, source, k, target):
    """target[n, k] = rows order[:n] of source[N, k]; `known` elements of the order can be read."""
    for i in range(n):
        _copy_row(k, source + order[i] * k, source + order[min(i + AHEAD, known - 1)] * k, target + i * k)


@jit
def transpose_rows(n, columns, first, order, source, k, picks, target):
    """target[k, columns] = rows order[first : first + n] of source[N, k], without an order first ..; then anything.

    `picks` has room for as many numbers as a vector has lanes.
    """
    if k < SCALAR_WIDTH:
        for j in range(k):
            for i in range(n):
                target[j * columns + i] = source[(order[first + i] if address_of(order) != 0 else first + i) * k + j]
    else:
        for i in range(0, n, lanes(source)):
            for lane in range(lanes(source)):
                row = first + min(i + lane, n - 1)
                picks[lane] = order[row] if address_of(order) != 0 else row
            for j in range(0, k, lanes(source)):
                transpose_picked(source + j, k, picks, k - j, target + (j * columns + i), columns)


@jit
def transpose_labels(n, first, order, labels, target):
    """target[n] = the labels of these rows, as floats."""
    for i in range(n):
        target[i] = element(target, labels[order[first + i] if address_of(order) != 0 else first + i])
