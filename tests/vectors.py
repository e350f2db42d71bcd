"""Small compiled functions for the tests of what compiled code alone can call."""

import numpy as np

from fastmlp.kernels.cpu.compile import _for_python as compiled
from fastmlp.kernels.cpu.simd import VECTOR_BYTES, lanes, load, pointer, store


def lanes_of(dtype):
    """Elements of one vector."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def whole_vectors(x):
    """The values, repeated from the start until they fill whole vectors."""
    return np.resize(x, -(-len(x) // lanes_of(x.dtype)) * lanes_of(x.dtype))


def each_vector(function):
    """`function` of two vectors as a function of two arrays of whole vectors."""
    function = compiled(function)

    @compiled
    def loop(x, y, out):
        for i in range(0, x.size, lanes(pointer(x))):
            store(pointer(out) + i, function(load(pointer(x) + i), load(pointer(y) + i)))

    def call(x, y):
        out = np.full_like(x, np.nan)
        loop(x, y, out)
        return out

    return call
