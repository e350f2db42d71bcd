"""Tiles: rows x columns vectors in registers, for the products of matrices."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .bfloat16 import emit_multiply_add
from .memory import emit_lane_mask, emit_load, emit_masked_load, emit_masked_store, emit_store, emit_transposed
from .registers import I32, I64, Tile, lanes_of, llvm_vector
from .vectors import emit_call, emit_splat


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
    return [emit_lane_mask(builder, width, count, column * count) for column in range(tile.columns)]


def _load_where(builder, address, mask, vector):
    return emit_load(builder, address, vector) if mask is None else emit_masked_load(builder, address, mask, vector)


@intrinsic(prefer_literal=True)
def tile_zeros(typingctx, rows, columns, p):
    """A tile of zeros of p's element type."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    tile = Tile(p.dtype, rows.literal_value, columns.literal_value)

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.ArrayType(llvm_vector(tile.dtype), tile.rows * tile.columns), None)

    return tile(rows, columns, p), codegen


@intrinsic(prefer_literal=True)
def tile_splat(typingctx, rows, columns, p, row_stride):
    """A tile whose rows are filled with the elements p[0], p[row_stride], ..."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    tile = Tile(p.dtype, rows.literal_value, columns.literal_value)

    def codegen(context, builder, sig, args):
        vector = llvm_vector(tile.dtype)
        value = ir.Constant(ir.ArrayType(vector, tile.rows * tile.columns), ir.Undefined)
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(args[2], [builder.mul(args[3], I64(row))]))
            repeated = emit_splat(builder, scalar, vector.count)
            for column in range(tile.columns):
                value = builder.insert_value(value, repeated, row * tile.columns + column)
        return value

    return tile(rows, columns, p, types.intp), codegen


@intrinsic
def tile_square(typingctx, p):
    """A tile of one vector a row and as many rows as that has lanes, the vector at p in each."""
    count = lanes_of(p.dtype)
    tile = Tile(p.dtype, count, 1)

    def codegen(context, builder, sig, args):
        vector = llvm_vector(tile.dtype)
        row, value = emit_load(builder, args[0], vector), ir.Constant(ir.ArrayType(vector, count), ir.Undefined)
        for index in range(count):
            value = builder.insert_value(value, row, index)
        return value

    return tile(p), codegen


@intrinsic
def tile_transposed(typingctx, tile):
    """A `tile_square` whose rows are the columns of this one."""

    def codegen(context, builder, sig, args):
        value = args[0]
        columns = emit_transposed(builder, [builder.extract_value(value, row) for row in range(tile.rows)])
        for index, column in enumerate(columns):
            value = builder.insert_value(value, column, index)
        return value

    return tile(tile), codegen


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
        vector, masks = llvm_vector(tile.dtype), _column_masks(builder, tile, width, sig.args[3])
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
                emit_store(builder, vector, address)
            else:
                emit_masked_store(builder, vector, address, mask)
        return context.get_dummy_value()

    return types.void(tile, p, types.intp, _width_type(width)), codegen


@intrinsic
def tile_at_least(typingctx, tile, floor):
    """Every element below `floor` becomes `floor`; NaN stays NaN."""

    def codegen(context, builder, sig, args):
        value, floor = args
        limit = emit_splat(builder, floor, lanes_of(tile.dtype))
        for index in range(tile.rows * tile.columns):
            old = builder.extract_value(value, index)
            value = builder.insert_value(
                value, builder.select(builder.fcmp_ordered("<", old, limit), limit, old), index
            )
        return value

    return tile(tile, tile.dtype), codegen


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
        vector, masks = llvm_vector(tile.dtype), _column_masks(builder, tile, width, sig.args[4])
        b_vectors = [
            _load_where(builder, builder.gep(b, [I64(column * vector.count)]), masks[column], vector)
            for column in range(tile.columns)
        ]
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(a, [builder.mul(a_row, I64(row))]))
            repeated = emit_splat(builder, scalar, vector.count)
            for column, b_vector in enumerate(b_vectors):
                index = row * tile.columns + column
                old = builder.extract_value(value, index)
                value = builder.insert_value(
                    value, emit_multiply_add(builder, sig.args[1].dtype, repeated, b_vector, old), index
                )
        return value

    return tile(tile, a, types.intp, b, _width_type(width)), codegen


@intrinsic
def tile_dot_add(typingctx, tile, a, a_row, b, b_row, width):
    """Element (i, j), a vector, += the vector at row i of a times that at row j of b, in their first `width` lanes."""

    def codegen(context, builder, sig, args):
        value, a, a_row, b, b_row, width = args
        vector = llvm_vector(tile.dtype)
        mask = emit_lane_mask(builder, width, vector.count)
        a_vectors, b_vectors = (
            [
                emit_masked_load(builder, builder.gep(p, [builder.mul(step, I64(row))]), mask, vector)
                for row in range(count)
            ]
            for p, step, count in ((a, a_row, tile.rows), (b, b_row, tile.columns))
        )
        for index in range(tile.rows * tile.columns):
            operands = [a_vectors[index // tile.columns], b_vectors[index % tile.columns]]
            new = emit_call(builder, "fma", vector, [*operands, builder.extract_value(value, index)])
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
        vector = llvm_vector(tile.dtype)
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
                mask = emit_lane_mask(builder, width, length, column)
                pieces.append((builder.shuffle_vector(folded[0], zero, indices), address, mask))
                row, column, lane = row + 1, 0, lane + length
        with builder.if_else(adds) as (then, otherwise):
            with then:
                olds = [emit_masked_load(builder, address, mask, piece.type) for piece, address, mask in pieces]
                for (piece, address, mask), old in zip(pieces, olds, strict=True):
                    emit_masked_store(builder, builder.fadd(piece, old), address, mask)
            with otherwise:
                for piece, address, mask in pieces:
                    emit_masked_store(builder, piece, address, mask)
        return context.get_dummy_value()

    return types.void(tile, p, types.intp, types.intp, types.boolean), codegen
