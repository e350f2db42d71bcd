"""Runs programs of kernels/cuda_cpp on the processor: compiled as C++ against cuda_host.h, called as CuPy would.

Proves indices, formulas, barriers and the bounds of shared memory; nothing of types that only a GPU has, or of speed.
"""

import ctypes
import functools
import tempfile
from pathlib import Path

import numpy as np
from host_compiler import compile_library

from fastmlp.kernels.cuda_cpp.compile import SOURCES

HERE = Path(__file__).parent
ORDERS = (0, 1, 2)
"""Of threads: early warps and blocks as far ahead as they can be, late ones, or by chance."""

TROUBLE = {1: "threads wait at a barrier that the others never reach", 2: "a block wrote beyond its shared memory"}


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="fastmlp-host-")


@functools.cache
def library(program):
    """The program as a shared library."""
    target = Path(_folder().name) / f"{abs(hash(program)):x}.so"
    exports = "".join(f"HOST_KERNEL({kernel})\n" for kernel in program.kernels)
    source = target.with_suffix(".cpp")
    source.write_text(f'#include "{SOURCES / program.source}.cu"\n{exports}')
    defines = [f"-D{name}={value}" for name, value in program.defines]
    compile_library(source, target, "-O1", "-include", HERE / "cuda_host.h", f"-I{SOURCES}", *defines)
    return ctypes.CDLL(str(target))


class Kernel:
    """A kernel of a program, called as CuPy's RawKernel, on NumPy arrays and scalars."""

    def __init__(self, program, name, blocks_together=1, order=0):
        self._function = getattr(library(program), f"host_{name}")
        self._blocks, self._order = blocks_together, order

    def __call__(self, grid, block, args, shared_mem=0):
        shape = ctypes.c_uint * 3
        held = [np.array(_value(each)) for each in args]
        addresses = (ctypes.c_void_p * len(held))(*[each.ctypes.data for each in held])
        status = self._function(
            shape(*grid, *[1] * (3 - len(grid))), shape(*block, *[1] * (3 - len(block))), ctypes.c_size_t(shared_mem),
            ctypes.c_uint(self._blocks), ctypes.c_uint(self._order), addresses,
        )  # fmt: skip
        assert status == 0, TROUBLE[status]


def _value(argument):
    """An argument as the kernel takes it: where an array begins, or a scalar, which must have its type."""
    if isinstance(argument, np.ndarray):
        return np.uintp(argument.ctypes.data)
    assert isinstance(argument, np.generic), argument
    return argument
