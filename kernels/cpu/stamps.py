"""Time stamps in compiled code: nothing at all in a usual run, an event of `timeline.Timeline` in a timed one.

The type of a member's own counters, `me`, says which of the two a run is, so that all its pieces are compiled for
either; `Entry.timed` is the entry with the stamps. The clock is the processor's own: rdtsc of x86, cntvct_el0 of Arm.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_model

from ..timeline import END, EVERY, KIND, LABEL, LIMIT, NEXT, PACK, START, Timeline
from .compile import called
from .simd import I64, Pointer, PointerModel

_MACHINE = platform.machine().lower()
_ARM = _MACHINE in ("arm64", "aarch64")

HAS_CLOCK = _ARM or _MACHINE in ("x86_64", "amd64")
"""Whether a program may read this processor's clock."""


class TimedPointer(Pointer):
    """A member's own counters in the memory of a Timeline, or the job of a timed run."""

    def __init__(self):
        super().__init__(types.int64)
        self.name = "TimedPointer"


register_model(TimedPointer)(PointerModel)


def _ticks(builder):
    kind = ir.FunctionType(I64, [])
    if _ARM:
        return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], True)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])


def _at(builder, me, place):
    return builder.gep(me, [I64(place) if isinstance(place, int) else place])


def _note(builder, me, code):
    """Store the time and the code, if there is room."""
    place = builder.load(_at(builder, me, NEXT))
    with builder.if_then(builder.icmp_signed("<", place, builder.load(_at(builder, me, LIMIT))), likely=True):
        builder.store(_ticks(builder), _at(builder, me, place))
        builder.store(code, _at(builder, me, builder.add(place, I64(1))))
        builder.store(builder.add(place, I64(2)), _at(builder, me, NEXT))


def _only_if_timed(emit):
    """An intrinsic's code: that of `emit(builder, me, *arguments)` for a timed member, none for another."""

    def codegen(context, builder, sig, args):
        if isinstance(sig.args[0], TimedPointer):
            emit(builder, *args)
        return context.get_dummy_value()

    return codegen


@intrinsic
def stamp(typingctx, me, part):
    """Say that a part of what was marked last has just ended."""

    def emit(builder, me, part):
        _note(builder, me, builder.or_(builder.load(_at(builder, me, LABEL)), part))

    return types.void(me, types.int64), _only_if_timed(emit)


@intrinsic
def mark(typingctx, me, kind, index):
    """What follows is this kind of phase of this layer: a place in contract.STEP_PHASES."""

    def emit(builder, me, kind, index):
        label = builder.or_(builder.shl(index, I64(8)), builder.shl(kind, I64(3)))
        builder.store(label, _at(builder, me, LABEL))

    return types.void(me, types.int64, types.int64), _only_if_timed(emit)


@intrinsic
def begin_step(typingctx, me, step, rows):
    """A step of so many rows begins: it is recorded if it is its turn."""

    def emit(builder, me, step, rows):
        turn = builder.icmp_signed("==", builder.srem(step, builder.load(_at(builder, me, EVERY))), I64(0))
        limit = builder.select(turn, builder.load(_at(builder, me, END)), I64(0))
        builder.store(limit, _at(builder, me, LIMIT))
        _note(builder, me, builder.or_(builder.shl(rows, I64(8)), I64(START)))

    return types.void(me, types.int64, types.int64), _only_if_timed(emit)


@intrinsic
def timed_at(typingctx, address):
    """The counters at an address, timed."""
    return TimedPointer()(types.int64), lambda context, builder, sig, args: builder.inttoptr(args[0], I64.as_pointer())


@intrinsic
def _now(typingctx):
    return types.int64(), lambda context, builder, sig, args: _ticks(builder)


@called
def ticks():
    """The clock."""
    return _now()


@called
def _stamp_often(address, count):
    """So many stamps, one after another; gives the ticks that they took."""
    me = timed_at(address)
    begin_step(me, 0, 0)
    mark(me, 0, 0)
    began = _now()
    for _ in range(count):
        stamp(me, PACK)
    return _now() - began


def stamp_ticks() -> float:
    """What one stamp costs at least, in ticks."""
    count, least = 1000, float("inf")
    timeline = Timeline(1, count + 1)
    for _ in range(20):
        timeline.clear()
        least = min(least, _stamp_often(timeline.address(0), count) / count)
    return least


(
    IN_GATHER, IN_ROUNDING, IN_FORWARD, IN_LOSS, IN_INPUT_GRADIENT, IN_WEIGHT_GRADIENT, IN_OPTIMIZER, IN_PENALTY,
) = (
    KIND[name]
    for name in (
        "gather", "rounding", "forward", "loss", "input gradient", "weight gradient", "optimizer", "penalty",
    )
)  # fmt: skip
"""Kinds of phases that compiled code marks."""
