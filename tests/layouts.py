"""Arrays for the tests: outputs with canary margins, and one array in every memory layout a user may bring."""

import numpy as np

from fastmlp.kernels.network import aligned_zeros

MARGIN = 64
CANARY = -98765.4321


class Canary:
    """An array of NaN inside a larger buffer, whose margins must stay as they are.

    `offset` moves the array by so many elements off its 64-byte alignment, to where a user's own array may lie.
    """

    def __init__(self, shape, dtype, offset=0, content=np.nan):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(shape))
        self.buffer = aligned_zeros(size + 2 * MARGIN + offset, dtype)
        self.buffer[:] = CANARY
        self._first, self._last = MARGIN + offset, MARGIN + offset + size
        self.array = self.buffer[self._first : self._last].reshape(shape)
        self.array[...] = content

    def check(self):
        canary = self.buffer.dtype.type(CANARY)
        assert (self.buffer[: self._first] == canary).all(), "written before the array"
        assert (self.buffer[self._last :] == canary).all(), "written after the array"


def misaligned(array):
    """The array one byte off its element's alignment."""
    raw = np.empty(array.nbytes + 1, np.uint8)[1:]
    copy = raw.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def strided(array):
    """Every second element of a larger array, in each dimension."""
    large = np.full([2 * length for length in array.shape], CANARY, array.dtype)
    view = large[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_(array):
    """The array seen through negative strides."""
    flip = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[flip])[flip]


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


class Subclass(np.ndarray):
    """What is an array, but not just one."""


LAYOUTS = {
    "strided": strided,
    "reversed": reversed_,
    "fortran": np.asfortranarray,
    "misaligned": misaligned,
    "read_only": read_only,
}

WRITABLE_LAYOUTS = {name: layout for name, layout in LAYOUTS.items() if name != "read_only"}
