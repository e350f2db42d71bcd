"""Vectors: operators and functions lane by lane, polynomials, and what the lanes come to: reductions and wide sums."""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from .registers import I32, Mask, Vector, Wide, lanes_of, llvm_vector, llvm_wide


def emit_call(builder, name, vector_type, arguments):
    """Call an LLVM intrinsic whose operands and result are all of one vector type."""
    element = "f32" if vector_type.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector_type, [vector_type] * len(arguments)),
        f"llvm.{name}.v{vector_type.count}{element}",
    )
    return builder.call(function, arguments)


def emit_splat(builder, scalar, count):
    """A vector of `count` lanes, the scalar in each."""
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    lane0 = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(lane0, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


def emit_operand(context, builder, value, from_type, vector):
    """A Vector operand as it is, a Python scalar in every lane."""
    if isinstance(from_type, Vector):
        return value
    return emit_splat(builder, context.cast(builder, value, from_type, vector.dtype), lanes_of(vector.dtype))


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
        return emit(
            builder, *(emit_operand(context, builder, a, t, vector) for a, t in zip(args, sig.args, strict=True))
        )

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
        return x(x), lambda context, builder, sig, args: emit_call(builder, name, args[0].type, args)

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
        operands = [emit_operand(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True)]
        return emit_call(builder, "fma", llvm_vector(vector.dtype), operands)

    return vector(a, b, c), codegen


@intrinsic
def copysign(typingctx, magnitude, sign):
    """`magnitude` with the signs of `sign`."""

    def codegen(context, builder, sig, args):
        return emit_call(builder, "copysign", args[0].type, args)

    return magnitude(magnitude, sign), codegen


@intrinsic
def select(typingctx, mask, chosen, other):
    """Lane by lane `chosen` where the mask holds, else `other`; either may be a scalar."""
    vector = Vector(mask.dtype)

    def codegen(context, builder, sig, args):
        a = emit_operand(context, builder, args[1], sig.args[1], vector)
        b = emit_operand(context, builder, args[2], sig.args[2], vector)
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
        return emit_operand(context, builder, args[1], sig.args[1], vector)

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
                result = emit_call(builder, "fma", x.type, [result, x, constant])
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
            return emit_call(builder, "fma", vector, [odd, args[0], even])

        return x(x), codegen

    return evaluate


def constant(float32, float64):
    """A function that gives a constant, by element type, as a vector like its argument."""
    return polynomial((float32,), (float64,))


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
def largest_lane(typingctx, x):
    """The largest of a vector's lanes; NaN lanes may be passed over."""

    def codegen(context, builder, sig, args):
        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, args[0], larger)

    return x.dtype(x), codegen


@intrinsic
def wide_zeros(typingctx, p):
    """Sums that are all zero, for vectors of p's element type."""
    wide = Wide(p.dtype)
    return wide(p), lambda context, builder, sig, args: ir.Constant(llvm_wide(wide.dtype), None)


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
