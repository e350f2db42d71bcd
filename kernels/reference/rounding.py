"""Rounding to bfloat16, the upper half of a float32's bits, as contract.BFLOAT16 defines it, and to float16."""

import numpy as np

from .blocks import blocks

_UPPER_HALF, _JUST_BELOW_HALF, _QUIET = np.uint32(0xFFFF0000), np.uint32(0x7FFF), np.uint32(0x00400000)


def round_bfloat16(x: np.ndarray, out: np.ndarray) -> None:
    """Write each float32 of x, rounded to the nearest bfloat16, ties to even, to the float32 array `out`.

    Both are C-contiguous, of one shape; `out` may be x. Subnormals follow the same rule; what lies beyond the largest
    bfloat16 by half a step or more becomes Inf; a NaN stays one, quiet, with the upper half of its bits.
    """
    for x_, out_ in blocks(x, out):
        bits = x_.view(np.uint32)
        odd = bits >> np.uint32(16) & np.uint32(1)
        rounded = bits + (odd + _JUST_BELOW_HALF)
        np.copyto(rounded, bits | _QUIET, where=np.isnan(x_))
        np.bitwise_and(rounded, _UPPER_HALF, out=out_.view(np.uint32))


def round_float16(x: np.ndarray, scale: float, out: np.ndarray) -> None:
    """Write each float32 of x times `scale`, rounded to the nearest float16, ties to even, to the float32 array `out`.

    Both are C-contiguous, of one shape. Values of at least 65,520 become Inf; a NaN stays one.
    """
    with np.errstate(over="ignore"):
        for x_, out_ in blocks(x, out):
            np.multiply(x_, np.float32(scale), out=out_)
            np.copyto(out_, out_.astype(np.float16))


def rounded(x: np.ndarray) -> np.ndarray:
    """A C-contiguous float32 array rounded to bfloat16."""
    out = np.empty_like(x)
    round_bfloat16(x, out)
    return out


def operand(x: np.ndarray, rounded: np.ndarray | None) -> np.ndarray:
    """What a product takes for x: x itself, or where there is a place for it x rounded to bfloat16."""
    if rounded is None:
        return x
    round_bfloat16(x, rounded)
    return rounded
