"""Operands as Hopper's copy engine takes them: tensor maps, 128 bytes that the driver makes and the device reads.

A map is of an operand's parts, matrices in device memory, and of the boxes in which they are copied, 64 elements wide
and swizzled, as kernels/cuda_cpp/gemm_hopper.cuh says. What lies beyond a matrix comes as zeros.
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np

from fastmlp.errors import BackendUnavailable

from .. import gpu
from ..cuda_cpp.layers import EDGE, FLOAT16
from .memory import to_device

BYTES, WIDE = 128, 64

# The driver's enumerations, cuda.h
_FLOAT16, _BFLOAT16 = 6, 9
_NO_INTERLEAVE, _SWIZZLE_128B, _L2_256B, _ZEROS = 0, 3, 3, 0


def box_rows(deep: bool) -> int:
    """Rows of a box of an operand whose rows run along the sum, or across it."""
    return EDGE if deep else WIDE


class Parts(NamedTuple):
    """An operand's parts: matrices [rows, columns] of 16-bit elements of which the first is at `address`.

    Rows lie `stride` elements apart, parts `part`; `code` as Elements has it.
    """

    code: int
    address: int
    parts: int
    rows: int
    columns: int
    stride: int
    part: int


def matrix(operand: Parts, deep: bool) -> Any:
    """What kernels take for an operand, in device memory: gemm_hopper.cuh's Matrix, the map and then the address."""
    held = np.zeros(BYTES + 64, np.uint8)
    held[:BYTES] = encoded(operand, box_rows(deep))
    held[BYTES : BYTES + 8].view(np.uint64)[0] = operand.address
    return to_device(held)


def encoded(operand: Parts, box: int) -> np.ndarray:
    """The map's bytes by cuTensorMapEncodeTiled. Raises BackendUnavailable where the driver refuses or lacks that."""
    code, address, parts, rows, columns, stride, part = operand
    room = np.zeros(BYTES + 64, np.uint8)
    start = -room.ctypes.data % 64
    held = room[start : start + BYTES]
    try:
        encode = gpu.open_driver().cuTensorMapEncodeTiled
    except AttributeError as error:
        raise BackendUnavailable(
            "backend 'cuda' cannot use Hopper's copy engine: the NVIDIA driver is older than CUDA 12; update it."
        ) from error
    status = encode(
        ctypes.c_void_p(held.ctypes.data),
        ctypes.c_int(_FLOAT16 if code == FLOAT16.code else _BFLOAT16),
        ctypes.c_uint32(3),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 3)(columns, rows, parts),
        (ctypes.c_uint64 * 2)(2 * stride, 2 * part),
        (ctypes.c_uint32 * 3)(WIDE, box, 1),
        (ctypes.c_uint32 * 3)(1, 1, 1),
        *map(ctypes.c_int, (_NO_INTERLEAVE, _SWIZZLE_128B, _L2_256B, _ZEROS)),
    )
    if status != 0:
        raise BackendUnavailable(
            f"backend 'cuda' cannot describe a matrix {rows} x {columns}, rows {stride} elements apart, to Hopper's "
            f"copy engine: cuTensorMapEncodeTiled returned {status}."
        )
    return held
