"""Pairs of bfloat16: float32 rounded to them and split in them, and the multiply-add of either.

The CPU's own instructions do it where it has them (HAS_BFLOAT16), else those for float32 and integers.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import emit_lane_mask, emit_masked_load, emit_masked_store, emit_store
from .registers import HAS_BFLOAT16, I32, I64, PAIRS, Pair, Rounded, Vector, lanes_of, llvm_vector
from .vectors import emit_call


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
def high_part(typingctx, x):
    """The high part of a float32, as contract.HIGH defines it: rounded to bfloat16, but never to Inf."""

    def codegen(context, builder, sig, args):
        (value,) = args
        integers = ir.VectorType(I32, value.type.count)
        infinity, upper = (ir.Constant(integers, [n] * integers.count) for n in (0x7F800000, 0xFFFF0000))
        bits = builder.bitcast(value, integers)
        nearest = builder.and_(_rounded_bits(builder, value), upper)
        leaves = builder.icmp_unsigned("==", builder.and_(nearest, infinity), infinity)
        cut_off = builder.and_(leaves, builder.fcmp_ordered("ord", value, value))
        return builder.bitcast(builder.and_(builder.select(cut_off, bits, nearest), upper), value.type)

    return x(x), codegen


@intrinsic
def numbers_of_pair(typingctx, p):
    """(first, second): the two numbers of the pair at p, as float32."""
    both = types.UniTuple(types.float32, 2)

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(builder.load(args[0]), I32)
        halves = builder.shl(bits, I32(16)), builder.and_(bits, I32(0xFFFF0000))
        return context.make_tuple(builder, both, [builder.bitcast(half, ir.FloatType()) for half in halves])

    return both(p), codegen


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

    return Vector(PAIRS[0])(first, second), codegen


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
def neighbours_of(typingctx, first, second):
    """The lanes of two vectors of float32, one behind the other, rounded, as a vector of pairs of neighbours."""

    def codegen(context, builder, sig, args):
        vector = args[0].type
        if HAS_BFLOAT16:
            halves = ir.VectorType(ir.IntType(16), 2 * vector.count)
            return builder.bitcast(_call_bfloat16(builder, "cvtne2ps2bf16", halves, args[::-1]), vector)
        pairs = [_neighbours(builder, each) for each in args]
        places = ir.Constant(ir.VectorType(I32, vector.count), list(range(vector.count)))
        return builder.shuffle_vector(*pairs, places)

    return Vector(PAIRS[0])(first, second), codegen


@intrinsic
def store_pairs(typingctx, p, x):
    """Write the lanes of x, rounded, as pairs of neighbours."""

    def codegen(context, builder, sig, args):
        emit_store(builder, _neighbours(builder, args[1]), args[0])
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
        emit_masked_store(builder, pairs, args[0], emit_lane_mask(builder, needed, pairs.type.count))
        return context.get_dummy_value()

    return types.void(p, x, types.intp), codegen


@intrinsic
def load_first_of_pairs(typingctx, p, count):
    """The first `count` numbers of the pairs at p as float32, zeros in the lanes beyond their pairs."""

    def codegen(context, builder, sig, args):
        lanes = lanes_of(types.float32)
        needed = builder.ashr(builder.add(args[1], I64(1)), I64(1))
        vector = ir.VectorType(ir.FloatType(), lanes // 2)
        pairs = emit_masked_load(builder, args[0], emit_lane_mask(builder, needed, lanes // 2), vector)
        integers = ir.VectorType(I32, lanes)
        wide = builder.zext(builder.bitcast(pairs, ir.VectorType(ir.IntType(16), lanes)), integers)
        shifted = builder.shl(wide, ir.Constant(integers, [16] * lanes))
        return builder.bitcast(shifted, llvm_vector(types.float32))

    return Vector(types.float32)(p, types.intp), codegen


def emit_halves(builder, pairs):
    """The first and the second bfloat16 of every pair, as float32."""
    integers = ir.VectorType(I32, pairs.type.count)
    sixteen, upper = (ir.Constant(integers, [value] * integers.count) for value in (16, 0xFFFF0000))
    bits = builder.bitcast(pairs, integers)
    return [builder.bitcast(half, pairs.type) for half in (builder.shl(bits, sixteen), builder.and_(bits, upper))]


def _rounded(builder, value):
    """A vector of float32 rounded to bfloat16."""
    integers = ir.VectorType(I32, value.type.count)
    if HAS_BFLOAT16:
        halves = _call_bfloat16(builder, "cvtneps2bf16", ir.VectorType(ir.IntType(16), integers.count), [value])
        wide = builder.zext(halves, integers)
        return builder.bitcast(builder.shl(wide, ir.Constant(integers, [16] * integers.count)), value.type)
    upper = ir.Constant(integers, [0xFFFF0000] * integers.count)
    return builder.bitcast(builder.and_(_rounded_bits(builder, value), upper), value.type)


def emit_multiply_add(builder, dtype, a, b, total):
    """Total + a * b lane by lane, for operands of this type; of pairs both products."""
    if isinstance(dtype, Rounded):
        a, b = _rounded(builder, a), _rounded(builder, b)
    if not isinstance(dtype, Pair):
        return emit_call(builder, "fma", total.type, [a, b, total])
    if not HAS_BFLOAT16:
        for a_half, b_half in zip(emit_halves(builder, a), emit_halves(builder, b), strict=True):
            total = emit_call(builder, "fma", total.type, [a_half, b_half, total])
        return total
    integers = ir.VectorType(I32, total.type.count)
    # The last operand is the one that may be repeated from memory.
    operands = [total, builder.bitcast(b, integers), builder.bitcast(a, integers)]
    return _call_bfloat16(builder, "dpbf16ps", total.type, operands)


@intrinsic
def multiply_add(typingctx, a, b, total):
    """Total + a * b lane by lane; of pairs both products."""

    def codegen(context, builder, sig, args):
        return emit_multiply_add(builder, a.dtype, *args)

    return total(a, b, total), codegen
