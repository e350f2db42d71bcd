"""How wide a register is, what this CPU does with bfloat16, and the Numba types of what kernels compute with.

The width in bytes is chosen once a process (64: AVX-512, 32: AVX2, 16: SSE2 and NEON) and can be overridden by the
environment variable FASTMLP_VECTOR_BYTES.
"""

import os

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _register_bytes() -> int:
    """Bytes of one vector register: the widest this CPU computes in, or the environment's choice."""
    chosen = os.environ.get("FASTMLP_VECTOR_BYTES")
    if chosen:
        if chosen not in ("16", "32", "64"):
            raise ValueError(f"FASTMLP_VECTOR_BYTES must be 16, 32 or 64; got {chosen!r}")
        return int(chosen)
    return widest_register()


def widest_register() -> int:
    """Bytes of the widest vector register that this CPU computes in."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512dq"):
        return 64
    return 32 if features.get("avx2") and features.get("fma") else 16


VECTOR_BYTES = _register_bytes()


def _has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16, as wide as VECTOR_BYTES, unless the environment will not have it so."""
    emulated = os.environ.get("FASTMLP_BFLOAT16") == "emulated"
    return not emulated and VECTOR_BYTES == 64 and bool(llvm.get_host_cpu_features().get("avx512bf16"))


HAS_BFLOAT16 = _has_bfloat16()
"""Whether pairs of bfloat16 are multiplied by the CPU's own instruction, vdpbf16ps, or as float32."""


class Pair(types.Type):
    """Two bfloat16, the first in the lower half of 32 bits: neighbours along the depth of a matrix product.

    `parts` are how many such matrices stand for one of float32: 1, rounded, or 2 or 3, split (contract.HIGH, HIGHEST).
    """

    bitwidth = 32

    def __init__(self, parts):
        self.parts = parts
        super().__init__(name=f"Pair({parts})")


PAIRS = Pair(1), Pair(2), Pair(3)


class Rounded(types.Type):
    """A float32 that a product rounds to bfloat16 whenever it reads it."""

    bitwidth = 32

    def __init__(self):
        super().__init__(name="Rounded")


ROUNDED = Rounded()


def lanes_of(dtype: types.Float | Pair) -> int:
    """Elements of this Numba float type, or pairs, in one vector."""
    return VECTOR_BYTES * 8 // dtype.bitwidth


def llvm_element(dtype: types.Number | Pair) -> ir.Type:
    """What an element is to LLVM: of pairs float32, since they are moved about as those are."""
    if isinstance(dtype, types.Integer):
        return ir.IntType(dtype.bitwidth)
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


def llvm_vector(dtype: types.Float | Pair) -> ir.VectorType:
    """What a Vector is to LLVM."""
    return ir.VectorType(llvm_element(dtype), lanes_of(dtype))


def llvm_wide(dtype: types.Float) -> ir.VectorType:
    """What a Wide is to LLVM."""
    return ir.VectorType(ir.DoubleType(), lanes_of(dtype))


class Pointer(types.Type):
    """The address of elements of one number type, or pairs."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Pointer({dtype})")

    @property
    def literal_type(self):
        """Itself: Numba asks for this before it drops the branches of `if p is None`, which it then does."""
        return self


class Vector(types.Type):
    """One register of elements."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype}x{lanes_of(dtype)})")


class Mask(types.Type):
    """One truth value a lane, the result of comparing vectors."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Mask({dtype}x{lanes_of(dtype)})")


class Tile(types.Type):
    """rows x columns vectors held in registers."""

    def __init__(self, dtype, rows, columns):
        self.dtype, self.rows, self.columns = dtype, rows, columns
        super().__init__(name=f"Tile({dtype}x{lanes_of(dtype)},{rows},{columns})")


class Wide(types.Type):
    """A sum for each lane of a vector, in float64 whatever the vector's type."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Wide({dtype}x{lanes_of(dtype)})")


@register_model(Pointer)
class PointerModel(models.PrimitiveModel):
    """An address."""

    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, llvm_element(fe_type.dtype).as_pointer())


@register_model(Rounded)
@register_model(Pair)
class _PairModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, llvm_element(fe_type))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, llvm_vector(fe_type.dtype))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.VectorType(I1, lanes_of(fe_type.dtype)))


@register_model(Wide)
class _WideModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, llvm_wide(fe_type.dtype))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.ArrayType(llvm_vector(fe_type.dtype), fe_type.rows * fe_type.columns))
