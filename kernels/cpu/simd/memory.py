"""Between memory and registers: vectors whole and cut off, lines asked for ahead, squares transposed on the way."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .registers import I32, I64, Pointer, Vector, llvm_vector
from .vectors import emit_operand, emit_splat


def emit_lane_mask(builder, count, lanes, first_lane=0):
    """Lanes whose index, counted from first_lane, is below the run-time `count`."""
    indices = ir.VectorType(I32, lanes)
    numbers = ir.Constant(indices, list(range(first_lane, first_lane + lanes)))
    most = I64(first_lane + lanes)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)  # so that it fits 32 bits
    return builder.icmp_signed("<", numbers, emit_splat(builder, builder.trunc(count, I32), lanes))


def emit_masked_load(builder, address, mask, vector):
    """Load the lanes where the mask holds, zeros in the others."""
    element = "f32" if vector.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [address.type, I32, mask.type, vector]),
        f"llvm.masked.load.v{vector.count}{element}.p0",
    )
    align = 4 if element == "f32" else 8
    return builder.call(function, [address, I32(align), mask, ir.Constant(vector, [0.0] * vector.count)])


def emit_masked_store(builder, value, address, mask):
    """Store the lanes where the mask holds."""
    vector = value.type
    element = "f32" if vector.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [vector, address.type, I32, mask.type]),
        f"llvm.masked.store.v{vector.count}{element}.p0",
    )
    builder.call(function, [value, address, I32(4 if element == "f32" else 8), mask])


def emit_load(builder, address, vector):
    """Load a vector of this type, aligned as its elements are."""
    value = builder.load(builder.bitcast(address, vector.as_pointer()))
    value.align = 4 if vector.element == ir.FloatType() else 8
    return value


def emit_store(builder, value, address):
    """Store a vector, aligned as its elements are."""
    store = builder.store(value, builder.bitcast(address, value.type.as_pointer()))
    store.align = 4 if value.type.element == ir.FloatType() else 8


@intrinsic
def load(typingctx, p):
    """The vector at p."""
    return Vector(p.dtype)(p), lambda context, builder, sig, args: emit_load(
        builder, args[0], llvm_vector(sig.args[0].dtype)
    )


@intrinsic
def store(typingctx, p, value):
    """Write a vector at p."""

    def codegen(context, builder, sig, args):
        emit_store(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(p, value), codegen


@intrinsic
def load_first(typingctx, p, count):
    """The first `count` elements at p, zeros in the other lanes; reads nothing beyond them."""

    def codegen(context, builder, sig, args):
        vector = llvm_vector(sig.args[0].dtype)
        return emit_masked_load(builder, args[0], emit_lane_mask(builder, args[1], vector.count), vector)

    return Vector(p.dtype)(p, types.intp), codegen


@intrinsic
def store_first(typingctx, p, value, count):
    """Write the first `count` lanes at p and nothing beyond them."""

    def codegen(context, builder, sig, args):
        emit_masked_store(builder, args[1], args[0], emit_lane_mask(builder, args[2], args[1].type.count))
        return context.get_dummy_value()

    return types.void(p, value, types.intp), codegen


@intrinsic
def keep_first(typingctx, x, count, other):
    """X in its first `count` lanes, the scalar `other` in those beyond."""

    def codegen(context, builder, sig, args):
        mask = emit_lane_mask(builder, args[1], args[0].type.count)
        return builder.select(mask, args[0], emit_operand(context, builder, args[2], sig.args[2], sig.args[0]))

    return x(x, types.intp, other), codegen


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


def emit_transposed(builder, rows):
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
        vector = llvm_vector(source.dtype)
        addresses = [builder.gep(args[0], [builder.mul(args[1], I64(row))]) for row in range(vector.count)]
        columns = emit_transposed(builder, [emit_load(builder, address, vector) for address in addresses])
        for index, column in enumerate(columns):
            emit_store(builder, column, builder.gep(args[2], [builder.mul(args[3], I64(index))]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


@intrinsic
def transpose_picked(typingctx, source, source_row, picks, width, target, target_row):
    """target[j, i] = source[picks[i], j], j < width, for one vector of i; reads and writes nothing beyond the width."""

    def codegen(context, builder, sig, args):
        source_at, source_step, picks_at, width, target_at, target_step = args
        vector = llvm_vector(source.dtype)
        mask = emit_lane_mask(builder, width, vector.count)
        rows = []
        for index in range(vector.count):
            pick = builder.load(builder.gep(picks_at, [I64(index)]))
            address = builder.gep(source_at, [builder.mul(source_step, pick)])
            rows.append(emit_masked_load(builder, address, mask, vector))
        for index, column in enumerate(emit_transposed(builder, rows)):
            with builder.if_then(builder.icmp_signed("<", I64(index), width)):
                emit_store(builder, column, builder.gep(target_at, [builder.mul(target_step, I64(index))]))
        return context.get_dummy_value()

    return types.void(source, types.intp, Pointer(types.int64), types.intp, target, types.intp), codegen
