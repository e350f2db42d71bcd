"""Pointers, vectors and register tiles as first-class Numba values, so that kernels read as plain loops.

A `Pointer` walks elements like a C pointer. A `Vector` is as many elements as one register of this CPU holds;
arithmetic and comparison operators work lane by lane and mix with Python scalars. A `Tile` is rows x columns vectors,
the accumulators of a matrix product, which LLVM keeps in registers. All of it is for compiled code only.

One source serves every instruction set: the register width in bytes is chosen once a process (64: AVX-512, 32: AVX2,
16: SSE2 and NEON) and can be overridden by the environment variable FASTMLP_VECTOR_BYTES.
"""

import operator
import os

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

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

    `parts` are how many such matrices stand for one of float32: 1, rounded, or 2, split (contract.HIGH).
    """

    bitwidth = 32

    def __init__(self, parts):
        self.parts = parts
        super().__init__(name=f"Pair({parts})")


PAIR, SPLIT_PAIR = Pair(1), Pair(2)


class Rounded(types.Type):
    """A float32 that a product rounds to bfloat16 whenever it reads it."""

    bitwidth = 32

    def __init__(self):
        super().__init__(name="Rounded")


ROUNDED = Rounded()


def lanes_of(dtype: types.Float | Pair) -> int:
    """Elements of this Numba float type, or pairs, in one vector."""
    return VECTOR_BYTES * 8 // dtype.bitwidth


def _llvm_element(dtype: types.Number | Pair) -> ir.Type:
    """Of pairs float32, since they are moved about as those are."""
    if isinstance(dtype, types.Integer):
        return ir.IntType(dtype.bitwidth)
    return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()


def _llvm_vector(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(_llvm_element(dtype), lanes_of(dtype))


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
        super().__init__(manager, fe_type, _llvm_element(fe_type.dtype).as_pointer())


@register_model(Rounded)
@register_model(Pair)
class _PairModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _llvm_element(fe_type))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _llvm_vector(fe_type.dtype))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.VectorType(I1, lanes_of(fe_type.dtype)))


def _llvm_wide(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.DoubleType(), lanes_of(dtype))


@register_model(Wide)
class _WideModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _llvm_wide(fe_type.dtype))


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.ArrayType(_llvm_vector(fe_type.dtype), fe_type.rows * fe_type.columns))


@intrinsic
def pointer(typingctx, array):
    """The address of an array's first element."""
    if not isinstance(array, types.Array):
        return None

    def codegen(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return Pointer(array.dtype)(array), codegen


@intrinsic
def pointer_at(typingctx, address, like):
    """The pointer to elements of `like`'s type at an integer address in bytes."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], _llvm_element(sig.return_type.dtype).as_pointer())

    return Pointer(like.dtype)(types.intp, like), codegen


def _typed_pointer_at(dtype):
    @intrinsic
    def pointer_at(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.inttoptr(args[0], _llvm_element(dtype).as_pointer())

        return Pointer(dtype)(types.intp), codegen

    return pointer_at


int64_at, float64_at = _typed_pointer_at(types.int64), _typed_pointer_at(types.float64)
float32_at = _typed_pointer_at(types.float32)
pairs_at, split_pairs_at = _typed_pointer_at(PAIR), _typed_pointer_at(SPLIT_PAIR)
"""The pointer to int64, float64, float32 or pairs at an integer address in bytes."""


@intrinsic
def address_of(typingctx, p):
    """The integer address in bytes that a pointer holds."""
    return types.intp(p), lambda context, builder, sig, args: builder.ptrtoint(args[0], I64)


@intrinsic
def specialised(typingctx):
    """Compile the function this is called in into each of its callers, for the constants that they pass."""

    def codegen(context, builder, sig, args):
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def element(typingctx, p, value):
    """A Python scalar rounded to p's element type."""
    return p.dtype(p, value), lambda context, builder, sig, args: context.cast(
        builder, args[1], sig.args[1], sig.return_type
    )


class _PointerArithmetic(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.intp)
        return None


infer_global(operator.add)(_PointerArithmetic)
infer_global(operator.iadd)(_PointerArithmetic)  # for its type alone: operator.add adds what is immutable


@lower_builtin(operator.add, Pointer, types.Integer)
def _pointer_add(context, builder, sig, args):
    return builder.gep(args[0], [args[1]])


@infer_global(operator.getitem)
class _PointerGet(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.intp)
        return None


@lower_builtin(operator.getitem, Pointer, types.Integer)
def _pointer_get(context, builder, sig, args):
    return builder.load(builder.gep(args[0], [args[1]]))


@infer_global(operator.setitem)
class _PointerSet(AbstractTemplate):
    def generic(self, args, kws):
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], types.intp, args[0].dtype)
        return None


@lower_builtin(operator.setitem, Pointer, types.Integer, types.Any)
def _pointer_set(context, builder, sig, args):
    builder.store(args[2], builder.gep(args[0], [args[1]]))
    return context.get_dummy_value()


def _intrinsic_call(builder, name, vector_type, arguments):
    """Call an LLVM intrinsic whose operands and result are all of one vector type."""
    element = "f32" if vector_type.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector_type, [vector_type] * len(arguments)),
        f"llvm.{name}.v{vector_type.count}{element}",
    )
    return builder.call(function, arguments)


def _splat(builder, scalar, count):
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    lane0 = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(lane0, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


def _as_vector(context, builder, value, from_type, vector):
    """A Vector operand as it is, a Python scalar in every lane."""
    if isinstance(from_type, Vector):
        return value
    return _splat(builder, context.cast(builder, value, from_type, vector.dtype), lanes_of(vector.dtype))


def _vector_among(args):
    vectors = {arg for arg in args if isinstance(arg, Vector)}
    scalars = all(isinstance(arg, Vector | types.Number) for arg in args)
    return vectors.pop() if len(vectors) == 1 and scalars else None


def _elementwise(operator_function, emit, result, in_place=None):
    """Teach Numba one operator on vectors. `emit(builder, *operands)` builds it, `result(dtype)` is its type.

    Of the operator's in-place form Numba asks the type alone.
    """

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            vector = _vector_among(args)
            return None if vector is None else signature(result(vector.dtype), *args)

    infer_global(operator_function)(Template)
    if in_place is not None:
        infer_global(in_place)(Template)

    def lower(context, builder, sig, args):
        vector = _vector_among(sig.args)
        return emit(builder, *(_as_vector(context, builder, a, t, vector) for a, t in zip(args, sig.args, strict=True)))

    for operands in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(operator_function, *operands)(lower)


for _operator, _in_place, _method in (
    (operator.add, operator.iadd, "fadd"),
    (operator.sub, operator.isub, "fsub"),
    (operator.mul, operator.imul, "fmul"),
    (operator.truediv, None, "fdiv"),
):
    _elementwise(_operator, lambda builder, a, b, method=_method: getattr(builder, method)(a, b), Vector, _in_place)

for _operator, _comparison in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _elementwise(_operator, lambda builder, a, b, c=_comparison: builder.fcmp_ordered(c, a, b), Mask)


@infer_global(operator.neg)
class _VectorNegative(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _vector_negative(context, builder, sig, args):
    return builder.fneg(args[0])


def _unary(name):
    """A lane-by-lane function of one vector that LLVM knows by this name."""

    @intrinsic
    def function(typingctx, x):
        if not isinstance(x, Vector):
            return None
        return x(x), lambda context, builder, sig, args: _intrinsic_call(builder, name, args[0].type, args)

    return function


absolute = _unary("fabs")
square_root = _unary("sqrt")
round_to_even = _unary("rint")
floor = _unary("floor")


@intrinsic
def fma(typingctx, a, b, c):
    """A * b + c in one rounding; any operand may be a scalar."""
    vector = _vector_among((a, b, c))
    if vector is None:
        return None

    def codegen(context, builder, sig, args):
        operands = [_as_vector(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True)]
        return _intrinsic_call(builder, "fma", _llvm_vector(vector.dtype), operands)

    return vector(a, b, c), codegen


@intrinsic
def copysign(typingctx, magnitude, sign):
    """`magnitude` with the signs of `sign`."""

    def codegen(context, builder, sig, args):
        return _intrinsic_call(builder, "copysign", args[0].type, args)

    return magnitude(magnitude, sign), codegen


@intrinsic
def select(typingctx, mask, chosen, other):
    """Lane by lane `chosen` where the mask holds, else `other`; either may be a scalar."""
    vector = Vector(mask.dtype)

    def codegen(context, builder, sig, args):
        a = _as_vector(context, builder, args[1], sig.args[1], vector)
        b = _as_vector(context, builder, args[2], sig.args[2], vector)
        return builder.select(args[0], a, b)

    return vector(mask, chosen, other), codegen


@intrinsic
def any_lane(typingctx, mask):
    """Whether the mask holds in at least one lane."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.IntType(args[0].type.count))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(mask), codegen


@intrinsic
def splat(typingctx, p, value):
    """The scalar `value` in every lane of a vector of p's element type."""
    vector = Vector(p.dtype)

    def codegen(context, builder, sig, args):
        return _as_vector(context, builder, args[1], sig.args[1], vector)

    return vector(p, value), codegen


@intrinsic
def power_of_two(typingctx, n):
    """2**n for integral n inside the exponent range of normal numbers; anything, but no trap, elsewhere.

    Adding 1.5 * 2**mantissa_bits puts an integral float's value into the low bits of its representation.
    """

    def codegen(context, builder, sig, args):
        bits, mantissa, bias = (32, 23, 127) if sig.args[0].dtype.bitwidth == 32 else (64, 52, 1023)
        vector = args[0].type
        integers = ir.VectorType(ir.IntType(bits), vector.count)
        shifted = builder.fadd(args[0], ir.Constant(vector, [1.5 * 2.0**mantissa + bias] * vector.count))
        exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [mantissa] * vector.count))
        return builder.bitcast(exponent, vector)

    return n(n), codegen


@intrinsic
def binary_exponent(typingctx, x):
    """The n for which positive normal x lies in [2**n, 2**(n+1)), as floats."""

    def codegen(context, builder, sig, args):
        bits, mantissa, bias = (32, 23, 127) if sig.args[0].dtype.bitwidth == 32 else (64, 52, 1023)
        vector = args[0].type
        integers = ir.VectorType(ir.IntType(bits), vector.count)
        raw = builder.lshr(builder.bitcast(args[0], integers), ir.Constant(integers, [mantissa] * vector.count))
        return builder.sitofp(builder.sub(raw, ir.Constant(integers, [bias] * vector.count)), vector)

    return x(x), codegen


@intrinsic
def steps_of(typingctx, length, p):
    """Steps of a product whose sums have this length, where p points to its operands: pairs take two at once."""

    def codegen(context, builder, sig, args):
        return builder.ashr(builder.add(args[0], I64(1)), I64(1)) if isinstance(p.dtype, Pair) else args[0]

    return types.intp(types.intp, p), codegen


@intrinsic
def parts_of(typingctx, p):
    """How many matrices one behind the other along the sum make up an operand at p: a compile-time constant."""
    parts = p.dtype.parts if isinstance(p.dtype, Pair) else 1
    return types.intp(p), lambda context, builder, sig, args: I64(parts)


@intrinsic
def high_part(typingctx, x):
    """The high part of a float32, as contract.HIGH defines it: rounded to bfloat16, but never beyond its range."""

    def codegen(context, builder, sig, args):
        (value,) = args
        integers = ir.VectorType(I32, value.type.count)
        infinity, upper = (ir.Constant(integers, [n] * integers.count) for n in (0x7F800000, 0xFFFF0000))
        bits = builder.bitcast(value, integers)
        nearest = builder.and_(_rounded_bits(builder, value), upper)
        leaves = builder.icmp_unsigned("==", builder.and_(nearest, infinity), infinity)
        chosen = builder.and_(builder.select(leaves, bits, nearest), upper)
        finite = builder.icmp_unsigned("!=", builder.and_(bits, infinity), infinity)
        not_a_number = ir.Constant(integers, [0x7FC00000] * integers.count)
        return builder.bitcast(builder.select(finite, chosen, not_a_number), value.type)

    return x(x), codegen


def _bfloat16_halves(builder, pairs):
    """The first and the second bfloat16 of every pair, as float32."""
    integers = ir.VectorType(I32, pairs.type.count)
    sixteen, upper = (ir.Constant(integers, [value] * integers.count) for value in (16, 0xFFFF0000))
    bits = builder.bitcast(pairs, integers)
    return [builder.bitcast(half, pairs.type) for half in (builder.shl(bits, sixteen), builder.and_(bits, upper))]


def _call_bfloat16(builder, name, result, arguments):
    """Call an LLVM intrinsic of AVX-512 BF16, in which a bfloat16 is any 16 bits."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.{name}.512")
    return builder.call(function, arguments)


def _rounded_bits(builder, value):
    """The bits of every float32 rounded to bfloat16 as contract.BFLOAT16 defines it, above 16 bits of anything."""
    integers = ir.VectorType(I32, value.type.count)

    def every(number):
        return ir.Constant(integers, [number] * integers.count)

    bits = builder.bitcast(value, integers)
    odd = builder.and_(builder.lshr(bits, every(16)), every(1))
    nearest = builder.add(bits, builder.add(odd, every(0x7FFF)))
    quiet = builder.or_(bits, every(0x00400000))
    return builder.select(builder.fcmp_unordered("uno", value, value), quiet, nearest)


@intrinsic
def pairs_of(typingctx, first, second):
    """Lane by lane the pair of two float32, rounded."""

    def codegen(context, builder, sig, args):
        vector = args[0].type
        count = vector.count
        if HAS_BFLOAT16:
            halves = ir.VectorType(ir.IntType(16), 2 * count)
            both = _call_bfloat16(builder, "cvtne2ps2bf16", halves, args[::-1])
            places = ir.Constant(
                ir.VectorType(I32, 2 * count), [lane // 2 + lane % 2 * count for lane in range(2 * count)]
            )
            return builder.bitcast(builder.shuffle_vector(both, both, places), vector)
        integers = ir.VectorType(I32, count)
        low, high = (_rounded_bits(builder, each) for each in args)
        low = builder.lshr(low, ir.Constant(integers, [16] * count))
        high = builder.and_(high, ir.Constant(integers, [0xFFFF0000] * count))
        return builder.bitcast(builder.or_(low, high), vector)

    return Vector(PAIR)(first, second), codegen


def _neighbours(builder, value):
    """The lanes of a vector of float32, rounded, as half as many pairs."""
    count = value.type.count
    halves = ir.VectorType(ir.IntType(16), count)
    if HAS_BFLOAT16:
        rounded = _call_bfloat16(builder, "cvtneps2bf16", halves, [value])
    else:
        bits = _rounded_bits(builder, value)
        rounded = builder.trunc(builder.lshr(bits, ir.Constant(bits.type, [16] * count)), halves)
    return builder.bitcast(rounded, ir.VectorType(ir.FloatType(), count // 2))


@intrinsic
def store_pairs(typingctx, p, x):
    """Write the lanes of x, rounded, as pairs of neighbours."""

    def codegen(context, builder, sig, args):
        _plain_store(builder, _neighbours(builder, args[1]), args[0])
        return context.get_dummy_value()

    return types.void(p, x), codegen


@intrinsic
def store_first_pairs(typingctx, p, x, count):
    """Write the first `count` lanes of x, rounded, as pairs of neighbours.

    A last one without a neighbour is paired with the lane that follows.
    """

    def codegen(context, builder, sig, args):
        pairs = _neighbours(builder, args[1])
        needed = builder.ashr(builder.add(args[2], I64(1)), I64(1))
        _masked_store(builder, pairs, args[0], _lane_mask(builder, needed, pairs.type.count))
        return context.get_dummy_value()

    return types.void(p, x, types.intp), codegen


@intrinsic
def load_first_of_pairs(typingctx, p, count):
    """The first `count` numbers of the pairs at p as float32, zeros in the lanes beyond their pairs."""

    def codegen(context, builder, sig, args):
        lanes = lanes_of(types.float32)
        needed = builder.ashr(builder.add(args[1], I64(1)), I64(1))
        vector = ir.VectorType(ir.FloatType(), lanes // 2)
        pairs = _masked_load(builder, args[0], _lane_mask(builder, needed, lanes // 2), vector)
        integers = ir.VectorType(I32, lanes)
        wide = builder.zext(builder.bitcast(pairs, ir.VectorType(ir.IntType(16), lanes)), integers)
        shifted = builder.shl(wide, ir.Constant(integers, [16] * lanes))
        return builder.bitcast(shifted, _llvm_vector(types.float32))

    return Vector(types.float32)(p, types.intp), codegen


def _rounded(builder, value):
    """A vector of float32 rounded to bfloat16."""
    integers = ir.VectorType(I32, value.type.count)
    if HAS_BFLOAT16:
        halves = _call_bfloat16(builder, "cvtneps2bf16", ir.VectorType(ir.IntType(16), integers.count), [value])
        wide = builder.zext(halves, integers)
        return builder.bitcast(builder.shl(wide, ir.Constant(integers, [16] * integers.count)), value.type)
    upper = ir.Constant(integers, [0xFFFF0000] * integers.count)
    return builder.bitcast(builder.and_(_rounded_bits(builder, value), upper), value.type)


def _multiply_add(builder, dtype, a, b, total):
    """Total + a * b lane by lane, for operands of this type; of pairs both products."""
    if isinstance(dtype, Rounded):
        a, b = _rounded(builder, a), _rounded(builder, b)
    if not isinstance(dtype, Pair):
        return _intrinsic_call(builder, "fma", total.type, [a, b, total])
    if not HAS_BFLOAT16:
        for a_half, b_half in zip(_bfloat16_halves(builder, a), _bfloat16_halves(builder, b), strict=True):
            total = _intrinsic_call(builder, "fma", total.type, [a_half, b_half, total])
        return total
    integers = ir.VectorType(I32, total.type.count)
    # The last operand is the one that may be repeated from memory.
    operands = [total, builder.bitcast(b, integers), builder.bitcast(a, integers)]
    return _call_bfloat16(builder, "dpbf16ps", total.type, operands)


@intrinsic
def multiply_add(typingctx, a, b, total):
    """Total + a * b lane by lane; of pairs both products."""

    def codegen(context, builder, sig, args):
        return _multiply_add(builder, a.dtype, *args)

    return total(a, b, total), codegen


LONG_POLYNOMIAL = 8
"""Coefficients from which the chain takes longer than the work beside it: split, tanh in float64 runs 10 % faster."""


def polynomial(float32, float64):
    """A function that evaluates a polynomial of a vector by Horner's rule; the highest coefficient comes first.

    A long one is split in its even and odd powers, whose chains of multiply-adds run side by side.
    """
    coefficients = {32: float32, 64: float64}

    @intrinsic
    def evaluate(typingctx, x):
        def horner(builder, constants, x):
            result = constants[0]
            for constant in constants[1:]:
                result = _intrinsic_call(builder, "fma", x.type, [result, x, constant])
            return result

        def codegen(context, builder, sig, args):
            vector = args[0].type
            constants = [
                ir.Constant(vector, [float(c)] * vector.count) for c in coefficients[sig.args[0].dtype.bitwidth]
            ]
            if len(constants) < LONG_POLYNOMIAL:
                return horner(builder, constants, args[0])
            square = builder.fmul(args[0], args[0])
            even, odd = (horner(builder, constants[::-1][power::2][::-1], square) for power in (0, 1))
            return _intrinsic_call(builder, "fma", vector, [odd, args[0], even])

        return x(x), codegen

    return evaluate


def constant(float32, float64):
    """A function that gives a constant, by element type, as a vector like its argument."""
    return polynomial((float32,), (float64,))


def _lane_mask(builder, count, lanes, first_lane=0):
    """Lanes whose index, counted from first_lane, is below the run-time `count`."""
    indices = ir.VectorType(I32, lanes)
    numbers = ir.Constant(indices, list(range(first_lane, first_lane + lanes)))
    most = I64(first_lane + lanes)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)  # so that it fits 32 bits
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, I32), lanes))


def _masked_load(builder, address, mask, vector):
    element = "f32" if vector.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [address.type, I32, mask.type, vector]),
        f"llvm.masked.load.v{vector.count}{element}.p0",
    )
    align = 4 if element == "f32" else 8
    return builder.call(function, [address, I32(align), mask, ir.Constant(vector, [0.0] * vector.count)])


def _masked_store(builder, value, address, mask):
    vector = value.type
    element = "f32" if vector.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [vector, address.type, I32, mask.type]),
        f"llvm.masked.store.v{vector.count}{element}.p0",
    )
    builder.call(function, [value, address, I32(4 if element == "f32" else 8), mask])


def _plain_load(builder, address, vector):
    value = builder.load(builder.bitcast(address, vector.as_pointer()))
    value.align = 4 if vector.element == ir.FloatType() else 8
    return value


def _plain_store(builder, value, address):
    store = builder.store(value, builder.bitcast(address, value.type.as_pointer()))
    store.align = 4 if value.type.element == ir.FloatType() else 8


@intrinsic
def load(typingctx, p):
    """The vector at p."""
    return Vector(p.dtype)(p), lambda context, builder, sig, args: _plain_load(
        builder, args[0], _llvm_vector(sig.args[0].dtype)
    )


@intrinsic
def store(typingctx, p, value):
    """Write a vector at p."""

    def codegen(context, builder, sig, args):
        _plain_store(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(p, value), codegen


def _prefetch(builder, context, p, intent):
    kind = ir.FunctionType(ir.VoidType(), [p.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    closest_cache, data = I32(3), I32(1)
    builder.call(function, [p, I32(intent), closest_cache, data])
    return context.get_dummy_value()


@intrinsic
def prefetch(typingctx, p):
    """Ask for the cache line at p, which need not be readable, without waiting for it."""

    def codegen(context, builder, sig, args):
        return _prefetch(builder, context, args[0], 0)

    return types.void(p), codegen


@intrinsic
def prefetch_to_write(typingctx, p):
    """As `prefetch`, for this core alone; else a store would ask again for a line that other cores hold too."""

    def codegen(context, builder, sig, args):
        return _prefetch(builder, context, args[0], 1)

    return types.void(p), codegen


@intrinsic
def load_first(typingctx, p, count):
    """The first `count` elements at p, zeros in the other lanes; reads nothing beyond them."""

    def codegen(context, builder, sig, args):
        vector = _llvm_vector(sig.args[0].dtype)
        return _masked_load(builder, args[0], _lane_mask(builder, args[1], vector.count), vector)

    return Vector(p.dtype)(p, types.intp), codegen


@intrinsic
def store_first(typingctx, p, value, count):
    """Write the first `count` lanes at p and nothing beyond them."""

    def codegen(context, builder, sig, args):
        _masked_store(builder, args[1], args[0], _lane_mask(builder, args[2], args[1].type.count))
        return context.get_dummy_value()

    return types.void(p, value, types.intp), codegen


@intrinsic
def lanes(typingctx, p):
    """How many elements of p's type one vector holds, a compile-time constant."""
    return types.intp(p), lambda context, builder, sig, args: I64(lanes_of(sig.args[0].dtype))


@intrinsic
def keep_first(typingctx, x, count, other):
    """X in its first `count` lanes, the scalar `other` in those beyond."""

    def codegen(context, builder, sig, args):
        mask = _lane_mask(builder, args[1], args[0].type.count)
        return builder.select(mask, args[0], _as_vector(context, builder, args[2], sig.args[2], sig.args[0]))

    return x(x, types.intp, other), codegen


def _reduce(builder, value, combine):
    """Combine the upper half of the lanes with the lower half until one is left: a fixed order."""
    count = value.type.count
    while count > 1:
        count //= 2
        indices = ir.VectorType(I32, count)
        low = builder.shuffle_vector(value, value, ir.Constant(indices, list(range(count))))
        high = builder.shuffle_vector(value, value, ir.Constant(indices, list(range(count, 2 * count))))
        value = combine(low, high)
    return builder.extract_element(value, I32(0))


def _widened(builder, value):
    """The vector as float64, in as many registers as that takes."""
    wide = ir.VectorType(ir.DoubleType(), value.type.count)
    return value if value.type == wide else builder.fpext(value, wide)


@intrinsic
def sum_lanes(typingctx, x):
    """The sum of a vector's lanes, added and returned as float64."""

    def codegen(context, builder, sig, args):
        return _reduce(builder, _widened(builder, args[0]), builder.fadd)

    return types.float64(x), codegen


@intrinsic
def wide_zeros(typingctx, p):
    """Sums that are all zero, for vectors of p's element type."""
    wide = Wide(p.dtype)
    return wide(p), lambda context, builder, sig, args: ir.Constant(_llvm_wide(wide.dtype), None)


@intrinsic
def wide_add(typingctx, sums, x):
    """Add each lane of a vector to its sum."""

    def codegen(context, builder, sig, args):
        return builder.fadd(args[0], _widened(builder, args[1]))

    return sums(sums, x), codegen


@intrinsic
def wide_add_square(typingctx, sums, x):
    """Add the square of each lane, which float64 holds exactly for float32, to its sum."""

    def codegen(context, builder, sig, args):
        value = _widened(builder, args[1])
        return builder.fadd(args[0], builder.fmul(value, value))

    return sums(sums, x), codegen


@intrinsic
def wide_total(typingctx, sums):
    """The total of all lanes' sums."""
    return types.float64(sums), lambda context, builder, sig, args: _reduce(builder, args[0], builder.fadd)


@intrinsic
def largest_lane(typingctx, x):
    """The largest of a vector's lanes; NaN lanes may be passed over."""

    def codegen(context, builder, sig, args):
        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, args[0], larger)

    return x.dtype(x), codegen


def _tile_addresses(builder, tile, base, row_stride):
    """(index, address) of every vector of a tile stored with this stride in elements between rows."""
    count = lanes_of(tile.dtype)
    for row in range(tile.rows):
        start = builder.gep(base, [builder.mul(row_stride, I64(row))])
        for column in range(tile.columns):
            yield row * tile.columns + column, builder.gep(start, [I64(column * count)])


def _width_type(width):
    """The type of a tile function's `width`: None for whole vectors, which need no masks."""
    return types.none if isinstance(width, types.NoneType) else types.intp


def _column_masks(builder, tile, width, width_type):
    if width_type == types.none:
        return [None] * tile.columns
    count = lanes_of(tile.dtype)
    return [_lane_mask(builder, width, count, column * count) for column in range(tile.columns)]


def _load_where(builder, address, mask, vector):
    return _plain_load(builder, address, vector) if mask is None else _masked_load(builder, address, mask, vector)


@intrinsic(prefer_literal=True)
def tile_zeros(typingctx, rows, columns, p):
    """A tile of zeros of p's element type."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    tile = Tile(p.dtype, rows.literal_value, columns.literal_value)

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.ArrayType(_llvm_vector(tile.dtype), tile.rows * tile.columns), None)

    return tile(rows, columns, p), codegen


@intrinsic
def tile_sum(typingctx, tile, other):
    """The sum of two tiles."""

    def codegen(context, builder, sig, args):
        value, other = args
        for index in range(tile.rows * tile.columns):
            total = builder.fadd(builder.extract_value(value, index), builder.extract_value(other, index))
            value = builder.insert_value(value, total, index)
        return value

    return tile(tile, tile), codegen


@intrinsic
def tile_add(typingctx, tile, p, row_stride, width):
    """Tile += `width` elements of each row at p, all where it is None; stride 0 adds one row to all."""

    def codegen(context, builder, sig, args):
        value, base, stride, width = args
        vector, masks = _llvm_vector(tile.dtype), _column_masks(builder, tile, width, sig.args[3])
        for index, address in _tile_addresses(builder, tile, base, stride):
            loaded = _load_where(builder, address, masks[index % tile.columns], vector)
            value = builder.insert_value(value, builder.fadd(builder.extract_value(value, index), loaded), index)
        return value

    return tile(tile, p, types.intp, _width_type(width)), codegen


@intrinsic
def tile_store(typingctx, tile, p, row_stride, width):
    """Write `width` elements of each row of a tile, all where it is None, and nothing beyond them."""

    def codegen(context, builder, sig, args):
        value, base, stride, width = args
        masks = _column_masks(builder, tile, width, sig.args[3])
        for index, address in _tile_addresses(builder, tile, base, stride):
            mask, vector = masks[index % tile.columns], builder.extract_value(value, index)
            if mask is None:
                _plain_store(builder, vector, address)
            else:
                _masked_store(builder, vector, address, mask)
        return context.get_dummy_value()

    return types.void(tile, p, types.intp, _width_type(width)), codegen


def _opaque(builder, value):
    """The value, about which LLVM can assume nothing."""
    kind = ir.FunctionType(value.type, [value.type])
    return builder.call(ir.InlineAsm(kind, "", "=r,0", side_effect=True), [value])


@intrinsic
def tile_multiply_add(typingctx, tile, a, a_row, b, width):
    """Tile += outer product of a[0], a[a_row], ... (one element a row) and the first `width` elements at b, or all.

    Elements may be pairs.

    The rows' addresses are worked out anew: LLVM would make them a chain of additions that takes as long as the
    multiply-adds, so that no load could run ahead of them.
    """

    def codegen(context, builder, sig, args):
        value, a, a_row, b, width = args
        a_row = _opaque(builder, a_row)
        vector, masks = _llvm_vector(tile.dtype), _column_masks(builder, tile, width, sig.args[4])
        b_vectors = [
            _load_where(builder, builder.gep(b, [I64(column * vector.count)]), masks[column], vector)
            for column in range(tile.columns)
        ]
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(a, [builder.mul(a_row, I64(row))]))
            repeated = _splat(builder, scalar, vector.count)
            for column, b_vector in enumerate(b_vectors):
                index = row * tile.columns + column
                old = builder.extract_value(value, index)
                value = builder.insert_value(
                    value, _multiply_add(builder, sig.args[1].dtype, repeated, b_vector, old), index
                )
        return value

    return tile(tile, a, types.intp, b, _width_type(width)), codegen


@intrinsic(prefer_literal=True)
def tile_splat(typingctx, rows, columns, p, row_stride):
    """A tile whose rows are filled with the elements p[0], p[row_stride], ..."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    tile = Tile(p.dtype, rows.literal_value, columns.literal_value)

    def codegen(context, builder, sig, args):
        vector = _llvm_vector(tile.dtype)
        value = ir.Constant(ir.ArrayType(vector, tile.rows * tile.columns), ir.Undefined)
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(args[2], [builder.mul(args[3], I64(row))]))
            repeated = _splat(builder, scalar, vector.count)
            for column in range(tile.columns):
                value = builder.insert_value(value, repeated, row * tile.columns + column)
        return value

    return tile(rows, columns, p, types.intp), codegen


@intrinsic
def tile_dot_add(typingctx, tile, a, a_row, b, b_row, width):
    """Element (i, j), a vector, += the vector at row i of a times that at row j of b, in their first `width` lanes."""

    def codegen(context, builder, sig, args):
        value, a, a_row, b, b_row, width = args
        vector = _llvm_vector(tile.dtype)
        mask = _lane_mask(builder, width, vector.count)
        a_vectors, b_vectors = (
            [_masked_load(builder, builder.gep(p, [builder.mul(step, I64(row))]), mask, vector) for row in range(count)]
            for p, step, count in ((a, a_row, tile.rows), (b, b_row, tile.columns))
        )
        for index in range(tile.rows * tile.columns):
            operands = [a_vectors[index // tile.columns], b_vectors[index % tile.columns]]
            new = _intrinsic_call(builder, "fma", vector, [*operands, builder.extract_value(value, index)])
            value = builder.insert_value(value, new, index)
        return value

    return tile(tile, a, types.intp, b, types.intp, types.intp), codegen


@intrinsic
def tile_lane_sums(typingctx, tile, p, row_stride, width, adds):
    """Write the sum of each vector's lanes, `width` numbers a row, to p; `adds` adds what was there before the first.

    Vectors are folded in pairs, half of the lanes of one onto half of the other's, until one vector holds all the sums:
    the same tree for each.
    """

    def codegen(context, builder, sig, args):
        value, base, stride, width, adds = args
        vector = _llvm_vector(tile.dtype)
        lanes = ir.VectorType(I32, vector.count)
        zero = ir.Constant(vector, None)
        total = tile.rows * tile.columns
        pieces = []
        for start in range(0, total, vector.count):
            count = min(vector.count, total - start)
            folded = [builder.extract_value(value, start + index) for index in range(count)]
            folded += [zero] * (vector.count - count)
            half = vector.count // 2
            while half:
                upper, lower = (
                    ir.Constant(
                        lanes,
                        [
                            (vector.count + lane - half + shift if lane & half else lane + shift)
                            for lane in range(vector.count)
                        ],
                    )
                    for shift in (0, half)
                )
                folded = [
                    builder.fadd(builder.shuffle_vector(a, b, upper), builder.shuffle_vector(a, b, lower))
                    for a, b in zip(folded[:half], folded[half:], strict=True)
                ]
                half //= 2
            row, column, lane = start // tile.columns, start % tile.columns, 0
            while lane < count:
                length = min(tile.columns - column, count - lane)
                indices = ir.Constant(ir.VectorType(I32, length), list(range(lane, lane + length)))
                address = builder.gep(base, [builder.add(builder.mul(stride, I64(row)), I64(column))])
                mask = _lane_mask(builder, width, length, column)
                pieces.append((builder.shuffle_vector(folded[0], zero, indices), address, mask))
                row, column, lane = row + 1, 0, lane + length
        with builder.if_else(adds) as (then, otherwise):
            with then:
                olds = [_masked_load(builder, address, mask, piece.type) for piece, address, mask in pieces]
                for (piece, address, mask), old in zip(pieces, olds, strict=True):
                    _masked_store(builder, builder.fadd(piece, old), address, mask)
            with otherwise:
                for piece, address, mask in pieces:
                    _masked_store(builder, piece, address, mask)
        return context.get_dummy_value()

    return types.void(tile, p, types.intp, types.intp, types.boolean), codegen


@intrinsic
def tile_at_least(typingctx, tile, floor):
    """Every element below `floor` becomes `floor`; NaN stays NaN."""

    def codegen(context, builder, sig, args):
        value, floor = args
        limit = _splat(builder, floor, lanes_of(tile.dtype))
        for index in range(tile.rows * tile.columns):
            old = builder.extract_value(value, index)
            value = builder.insert_value(
                value, builder.select(builder.fcmp_ordered("<", old, limit), limit, old), index
            )
        return value

    return tile(tile, tile.dtype), codegen


def _transposed(builder, rows):
    """The columns of a square of vectors.

    Blocks of half the size change places, then blocks of a quarter within each, down to single elements.
    """
    count = len(rows)
    indices = ir.VectorType(I32, count)
    half = count // 2
    while half:
        upper = ir.Constant(indices, [count + lane - half if lane & half else lane for lane in range(count)])
        lower = ir.Constant(indices, [count + lane if lane & half else lane + half for lane in range(count)])
        for index in range(count):
            if not index & half:
                a, b = rows[index], rows[index + half]
                rows[index] = builder.shuffle_vector(a, b, upper)
                rows[index + half] = builder.shuffle_vector(a, b, lower)
        half //= 2
    return rows


@intrinsic
def transpose_square(typingctx, source, source_row, target, target_row):
    """target[j, i] = source[i, j] for a square of one vector's lanes; the strides are in elements between rows."""

    def codegen(context, builder, sig, args):
        vector = _llvm_vector(source.dtype)
        addresses = [builder.gep(args[0], [builder.mul(args[1], I64(row))]) for row in range(vector.count)]
        columns = _transposed(builder, [_plain_load(builder, address, vector) for address in addresses])
        for index, column in enumerate(columns):
            _plain_store(builder, column, builder.gep(args[2], [builder.mul(args[3], I64(index))]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


@intrinsic
def transpose_picked(typingctx, source, source_row, picks, width, target, target_row):
    """target[j, i] = source[picks[i], j], j < width, for one vector of i; reads and writes nothing beyond the width."""

    def codegen(context, builder, sig, args):
        source_at, source_step, picks_at, width, target_at, target_step = args
        vector = _llvm_vector(source.dtype)
        mask = _lane_mask(builder, width, vector.count)
        rows = []
        for index in range(vector.count):
            pick = builder.load(builder.gep(picks_at, [I64(index)]))
            address = builder.gep(source_at, [builder.mul(source_step, pick)])
            rows.append(_masked_load(builder, address, mask, vector))
        for index, column in enumerate(_transposed(builder, rows)):
            with builder.if_then(builder.icmp_signed("<", I64(index), width)):
                _plain_store(builder, column, builder.gep(target_at, [builder.mul(target_step, I64(index))]))
        return context.get_dummy_value()

    return types.void(source, types.intp, Pointer(types.int64), types.intp, target, types.intp), codegen
