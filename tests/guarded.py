"""Arrays that end, or begin, where the memory of this process does: whoever reads past them dies of it."""

import ctypes
import mmap
import os

import numpy as np
import pytest

needs_mprotect = pytest.mark.skipif(os.name != "posix", reason="mprotect is a POSIX call; canaries remain")


def _guarded(array, at_end):
    page = mmap.PAGESIZE
    inside = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for forbidden in (address, address + page + inside):
        if mprotect(forbidden, page, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page + (inside - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def ending(array):
    """A copy whose last byte lies just before a page that may be neither read nor written."""
    return _guarded(array, at_end=True)


def beginning(array):
    """A copy whose first byte lies just behind a page that may be neither read nor written."""
    return _guarded(array, at_end=False)
