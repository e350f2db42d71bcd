"""Which unit of this processor multiplies bfloat16, chosen once a process: AMX's tiles, vdpbf16ps, or float32's.

The environment variable FASTMLP_BFLOAT16 overrides the choice: "amx", "avx512" or "emulated", or, for tests on other
machines, "modelled", which is AMX's kernels with each tile instruction done on memory instead. FASTMLP_HIGH and
FASTMLP_HIGHEST do so for products of these precisions: "split" always, where they are "large", or "float32".
"""

import ctypes
import os
import platform
import sys

import llvmlite.binding as llvm
import numpy as np

from fastmlp.errors import ArgumentError

from ..contract import EMULATED, HIGH_IN_FLOAT32, HIGHEST_IN_FLOAT32
from ..network import Network
from .simd import HAS_BFLOAT16, VECTOR_BYTES

CHOICES = ("amx", "avx512", "emulated", "modelled")
WAYS = ("split", "large", "float32")


def chosen(variable: str, values: tuple[str, ...]) -> str | None:
    """What an environment variable says, None where it is not set. Raises ArgumentError for anything else."""
    value = os.environ.get(variable) or None
    if value not in (None, *values):
        raise ArgumentError(f"{variable} must be one of {', '.join(map(repr, values))}, or not be set; got {value!r}.")
    return value


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""The system call, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA: Linux's Documentation/arch/x86/xstate.rst."""


def _why_no_tiles() -> str | None:
    """None where AMX can be used. Asks Linux for the tiles, once a process and before there are threads."""
    features = llvm.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-bf16")):
        return "this processor has no AMX"
    if VECTOR_BYTES != 64:
        return f"AMX's tiles go with registers of 64 bytes, and FASTMLP_VECTOR_BYTES is {VECTOR_BYTES}"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"only Linux is asked for AMX's tiles, and this is {sys.platform}"
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) != 0:
        reason = os.strerror(ctypes.get_errno())
        return f"Linux refuses AMX's tiles to this process ({reason}); Linux 5.16 has them, and a sandbox may bar them"
    return None


_CHOICE = chosen("FASTMLP_BFLOAT16", CHOICES)

WHY_NO_TILES = _why_no_tiles() if _CHOICE in (None, "amx") else None
"""Why AMX cannot be used, where it would be."""


def _choose(choice: str | None) -> tuple[str, str | None]:
    """The unit, and why it is not the one that was chosen or could be."""
    best = "avx512" if HAS_BFLOAT16 else "emulated"
    if choice == "emulated":
        return "emulated", None
    if choice == "avx512":
        return best, None if HAS_BFLOAT16 else "this processor has no AVX512_BF16 for registers of 64 bytes"
    if choice == "modelled":
        fits = VECTOR_BYTES == 64
        return ("modelled", None) if fits else (best, f"tiles take registers of 64 bytes; these have {VECTOR_BYTES}")
    return ("amx", None) if WHY_NO_TILES is None else (best, WHY_NO_TILES)


UNIT, _REASON = _choose(_CHOICE)
"""One of CHOICES."""

UNAVAILABLE = None if _CHOICE is None or _REASON is None else f"FASTMLP_BFLOAT16 asks for {_CHOICE!r}, but {_REASON}"
"""Why the unit that was asked for by name cannot run; products of bfloat16 are refused then."""

HAS_TILES = UNIT in ("amx", "modelled")
"""Whether products are done by tiles."""

_HAS_AMX = bool(llvm.get_host_cpu_features().get("amx-bf16"))

BFLOAT16 = {
    "amx": "multiplied by the processor's tiles, AMX's tdpbf16ps",
    "modelled": "multiplied by AMX's tiles as modelled in memory, for tests",
    "avx512": "multiplied by the processor's own instruction, vdpbf16ps",
    "emulated": EMULATED,
}[UNIT] + (f"; AMX is not at work: {_REASON}" if _HAS_AMX and _CHOICE is None and _REASON else "")
"""How products of bfloat16 run in this process."""


HIGH_PARTS, HIGHEST_PARTS = 2, 3
"""Parts of an operand of products of each precision, where they split."""

_WAYS = {
    HIGH_PARTS: chosen("FASTMLP_HIGH", WAYS) or ("large" if UNIT == "amx" else "float32"),
    HIGHEST_PARTS: "float32" if UNAVAILABLE else chosen("FASTMLP_HIGHEST", WAYS) or "float32",
}
"""How products run by the parts that they may be split in. Six products by AMX's tiles are reckoned to take 0.7 to 1.0
times as long as float32's own, so they are for who has measured it."""


def _told(parts: int, products: str, otherwise: str) -> str:
    """How products that may be split in so many parts run, for people."""
    if _WAYS[parts] == "float32":
        return otherwise
    return f"{products} products of bfloat16 parts, {BFLOAT16}" + (", where they are large" * (_WAYS[parts] == "large"))


HIGH = _told(HIGH_PARTS, "three", HIGH_IN_FLOAT32)
"""How products of precision "high" run in this process."""

HIGHEST = _told(HIGHEST_PARTS, "six", HIGHEST_IN_FLOAT32)
"""How products of float32 of precision "highest" run in this process."""

LEAST_WEIGHTS, LEAST_PRODUCT = 1 << 16, 1 << 24
"""Weights of a network's largest layer, and multiply-adds of a single product, from which on AMX's tiles do better by
splitting. Reckoned, not yet measured: the tiles' peak is 8 to 14 times float32's, of which a third is left."""


def _pays(parts: int, size: int, least: int) -> bool:
    way = _WAYS[parts]
    return way == "split" or (way == "large" and size >= least)


def parts_of_operands(network: Network) -> int:
    """In how many parts of bfloat16 the network's products take their operands; 0: they are float32 or float64."""
    if network.bfloat16:
        return 1
    if network.dtype != np.float32:
        return 0
    parts = HIGH_PARTS if network.high else HIGHEST_PARTS
    largest = max(layer.inputs * layer.outputs for layer in network.layers)
    return parts if _pays(parts, largest, LEAST_WEIGHTS) else 0


def parts_of_product(n: int, k: int, m: int, dtype: np.dtype, parts: int) -> int:
    """As `parts_of_operands`, of a single product [n, k] @ [k, m]; `parts`: 1 of bfloat16, 2 of precision "high"."""
    if parts == 1 or dtype != np.float32:
        return parts
    wanted = parts or HIGHEST_PARTS
    return wanted if _pays(wanted, n * k * m, LEAST_PRODUCT) else 0


def may_split_highest() -> bool:
    """Whether products of precision "highest" may be split."""
    return _WAYS[HIGHEST_PARTS] != "float32"


def splits_every_product() -> bool:
    """Whether products of precision "highest" are split however small they are."""
    return _WAYS[HIGHEST_PARTS] == "split"
