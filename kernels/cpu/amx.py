"""AMX: products of pairs of bfloat16 on tiles of 16 rows of 64 bytes, the processor's matrix registers.

Tiles 0 to 3 hold a block of C, up to 2 x 2 of them; 4 and 5 are A's, 16 pairs of 16 rows each, 6 and 7 B's, 16 pairs
of 16 columns. A step of the loop loads four tiles and multiplies four times. Tiles do not survive calls, and LLVM knows
them as numbers alone, so the whole loop is one intrinsic.

The same code runs on processors without AMX when each tile instruction is done on memory instead (UNIT "modelled"),
as Intel's manual describes it: for tests.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64
from .simd.bfloat16 import emit_halves
from .simd.vectors import emit_call
from .units import UNIT

EDGE = 16
"""Rows of a tile, and how many float32 or pairs of bfloat16 one holds."""

ROW_BYTES = 4 * EDGE
TILES = 8

_I8, _VOID = ir.IntType(8), ir.VoidType()
_POINTER = _I8.as_pointer()
_ROW = ir.VectorType(ir.FloatType(), EDGE)

_CONFIGURATION = bytes([1, *[0] * 15, *[ROW_BYTES, 0] * TILES, *[0] * 16, *[EDGE] * TILES, *[0] * 8])
"""What ldtilecfg reads: palette 1, then the bytes of a row of each tile, as 16 bits, and its rows."""


def _call(builder, name, *arguments):
    kind = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


class _Tiles:
    """Emits the instructions."""

    def __init__(self, builder):
        self._builder = builder

    def zero(self, tile):
        _call(self._builder, "tilezero", _I8(tile))

    def load(self, tile, address, stride):
        _call(self._builder, "tileloadd64", _I8(tile), address, stride)

    def store(self, tile, address, stride):
        _call(self._builder, "tilestored64", _I8(tile), address, stride)

    def multiply_add(self, total, a, b):
        _call(self._builder, "tdpbf16ps", _I8(total), _I8(a), _I8(b))


class _ModelledTiles:
    """Emits the same on arrays in memory.

    Of a row of A and a column of B the products of all first and of all second numbers are summed by themselves, from
    zero, with one rounding each; then the two sums are added, and that to the tile. What is subnormal is zero.
    """

    def __init__(self, builder):
        self._builder = builder
        kind = ir.ArrayType(ir.ArrayType(ir.FloatType(), EDGE), EDGE)
        self._tiles = [cgutils.alloca_once(builder, kind) for _ in range(TILES)]

    def _row(self, tile, index):
        address = self._builder.gep(self._tiles[tile], [I32(0), index])
        return self._builder.bitcast(address, _ROW.as_pointer())

    def _load(self, address):
        return self._builder.load(address, align=4)

    def _store(self, value, address):
        self._builder.store(value, address, align=4)

    def _copy(self, tile, address, stride, stores):
        builder = self._builder
        with cgutils.for_range(builder, I64(EDGE)) as loop:
            there = builder.gep(address, [builder.mul(stride, loop.index)])
            there = builder.bitcast(there, _ROW.as_pointer())
            source, target = (self._row(tile, loop.index), there)[:: -1 if not stores else 1]
            self._store(self._load(source), target)

    def zero(self, tile):
        with cgutils.for_range(self._builder, I64(EDGE)) as loop:
            self._store(ir.Constant(_ROW, None), self._row(tile, loop.index))

    def load(self, tile, address, stride):
        self._copy(tile, address, stride, False)

    def store(self, tile, address, stride):
        self._copy(tile, address, stride, True)

    def _normal(self, value):
        """The vector with zeros of the same sign for what is subnormal."""
        builder = self._builder
        integers = ir.VectorType(I32, EDGE)
        exponent, sign = (ir.Constant(integers, [bits] * EDGE) for bits in (0x7F800000, 0x80000000))
        bits = builder.bitcast(value, integers)
        is_small = builder.icmp_unsigned("==", builder.and_(bits, exponent), ir.Constant(integers, None))
        return builder.bitcast(builder.select(is_small, builder.and_(bits, sign), bits), _ROW)

    def multiply_add(self, total, a, b):
        builder = self._builder
        sums = [cgutils.alloca_once(builder, _ROW) for _ in range(2)]
        with cgutils.for_range(builder, I64(EDGE)) as row:
            for each in sums:
                builder.store(ir.Constant(_ROW, None), each)
            with cgutils.for_range(builder, I64(EDGE)) as pair:
                place = builder.gep(self._tiles[a], [I32(0), row.index, pair.index])
                lanes = ir.Constant(ir.VectorType(I32, EDGE), [0] * EDGE)
                one = builder.insert_element(ir.Constant(_ROW, ir.Undefined), builder.load(place), I32(0))
                left = emit_halves(builder, builder.shuffle_vector(one, one, lanes))
                right = emit_halves(builder, self._load(self._row(b, pair.index)))
                for each, x, y in zip(sums, left, right, strict=True):
                    operands = [self._normal(x), self._normal(y), builder.load(each)]
                    builder.store(self._normal(emit_call(builder, "fma", _ROW, operands)), each)
            both = self._normal(builder.fadd(*(builder.load(each) for each in sums)))
            target = self._row(total, row.index)
            self._store(self._normal(builder.fadd(self._normal(self._load(target)), both)), target)


_EMITTERS = {"amx": _Tiles, "modelled": _ModelledTiles}


@intrinsic
def configure_tiles(typingctx):
    """Make the eight tiles ready for this thread, until `release_tiles`: an entry's first and last act (compile.py)."""

    def codegen(context, builder, sig, args):
        if UNIT == "amx":
            content = cgutils.global_constant(builder.module, "tiles", cgutils.make_bytearray(_CONFIGURATION))
            _call(builder, "ldtilecfg", builder.bitcast(content, _POINTER))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def release_tiles(typingctx):
    """Give the tiles back."""

    def codegen(context, builder, sig, args):
        if UNIT == "amx":
            _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


def emit_product(builder, tiles, shape, steps, a, b, c, is_first):
    """The loop of `multiply_tiles`, by an emitter of tile instructions; addresses are LLVM pointers to bytes."""
    rows, columns = shape
    total = [(row, column) for row in range(rows) for column in range(columns)]

    def at(base, offset):
        return builder.gep(base, [offset if isinstance(offset, ir.Value) else I64(offset)])

    def places():
        for row, column in total:
            yield 2 * row + column, at(c, row * EDGE * 2 * ROW_BYTES + column * ROW_BYTES), I64(2 * ROW_BYTES)

    with builder.if_else(is_first) as (first, later):
        with first:
            for tile, _, _ in places():
                tiles.zero(tile)
        with later:
            for tile, place, stride in places():
                tiles.load(tile, place, stride)
    with cgutils.for_range(builder, steps) as loop:
        a_step = at(a, builder.mul(loop.index, I64(2 * EDGE * ROW_BYTES)))
        b_step = at(b, builder.mul(loop.index, I64(2 * EDGE * ROW_BYTES)))
        for row in range(rows):
            tiles.load(4 + row, at(a_step, row * EDGE * ROW_BYTES), I64(ROW_BYTES))
            for column in range(columns):
                if row == 0:
                    tiles.load(6 + column, at(b_step, column * EDGE * ROW_BYTES), I64(ROW_BYTES))
                tiles.multiply_add(2 * row + column, 4 + row, 6 + column)
    for tile, place, stride in places():
        tiles.store(tile, place, stride)


@intrinsic(prefer_literal=True)
def multiply_tiles(typingctx, rows, columns, steps, a, b, c, is_first):
    """c[2, 16, 2, 16] (+)= a b, of which `rows` x `columns` tiles count: a and b[steps, 2, 16, 16], squares.

    c is float32: 32 rows of 32. Of a and b a step is 16 pairs deep: 2 tiles of 16 rows of A, and 2 of 16 columns of B.
    Where `is_first` the old c is ignored.
    """
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        _, _, steps, a, b, c, is_first = args
        a, b, c = (builder.bitcast(each, _POINTER) for each in (a, b, c))
        shape = rows.literal_value, columns.literal_value
        emit_product(builder, _EMITTERS[UNIT](builder), shape, steps, a, b, c, is_first)
        return context.get_dummy_value()

    return types.void(rows, columns, types.intp, a, b, c, types.boolean), codegen


ROUND_FLOPS = 4 * 2 * EDGE * EDGE * 2 * EDGE
"""FLOPs of one round of `repeat_tiles`."""


@intrinsic
def repeat_tiles(typingctx, rounds, start, out):
    """The product's four multiplications, on four tiles at `start`, over and over; out[4, 16, 16] are their totals."""

    def codegen(context, builder, sig, args):
        rounds, start, out = args
        start, out = (builder.bitcast(each, _POINTER) for each in (start, out))
        tiles = _EMITTERS[UNIT](builder)
        for tile in range(4):
            tiles.zero(tile)
            tiles.load(4 + tile, builder.gep(start, [I64(tile * EDGE * ROW_BYTES)]), I64(ROW_BYTES))
        with cgutils.for_range(builder, rounds):
            for tile in range(4):
                tiles.multiply_add(tile, 4 + tile // 2, 6 + tile % 2)
        for tile in range(4):
            tiles.store(tile, builder.gep(out, [I64(tile * EDGE * ROW_BYTES)]), I64(ROW_BYTES))
        return context.get_dummy_value()

    return types.void(types.intp, start, out), codegen
