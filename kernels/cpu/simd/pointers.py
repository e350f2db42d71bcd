"""Pointers: made from arrays and addresses, asked for what their type says, added to, read and written as in C.

`specialised`, which takes none, tells the compiler about the function it is called in.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic

from .registers import I64, PAIRS, Pointer, lanes_of, llvm_element


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
        return builder.inttoptr(args[0], llvm_element(sig.return_type.dtype).as_pointer())

    return Pointer(like.dtype)(types.intp, like), codegen


def _typed_pointer_at(dtype):
    @intrinsic
    def pointer_at(typingctx, address):
        def codegen(context, builder, sig, args):
            return builder.inttoptr(args[0], llvm_element(dtype).as_pointer())

        return Pointer(dtype)(types.intp), codegen

    return pointer_at


int64_at, float64_at = _typed_pointer_at(types.int64), _typed_pointer_at(types.float64)
float32_at = _typed_pointer_at(types.float32)
pairs_at, pairs_in_two_at, pairs_in_three_at = map(_typed_pointer_at, PAIRS)
"""The pointer to int64, float64, float32 or pairs at an integer address in bytes."""


def _call_at_for(result):
    @intrinsic
    def call_at(typingctx, address, arguments):
        def codegen(context, builder, sig, args):
            values = cgutils.unpack_tuple(builder, args[1])
            returned = ir.VoidType() if result == types.void else context.get_value_type(result)
            function = ir.FunctionType(returned, [value.type for value in values])
            value = builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
            return context.get_dummy_value() if result == types.void else value

        return result(types.int64, arguments), codegen

    return call_at


call_at, float64_from = _call_at_for(types.void), _call_at_for(types.float64)
"""Call the C function at an address (compile.Routine) with a tuple of arguments, numbers and pointers alone; the second
one gives back what it returns."""


@intrinsic
def address_of(typingctx, p):
    """The integer address in bytes that a pointer holds."""
    return types.intp(p), lambda context, builder, sig, args: builder.ptrtoint(args[0], I64)


@intrinsic
def element(typingctx, p, value):
    """A Python scalar rounded to p's element type."""
    return p.dtype(p, value), lambda context, builder, sig, args: context.cast(
        builder, args[1], sig.args[1], sig.return_type
    )


@intrinsic
def lanes(typingctx, p):
    """How many elements of p's type one vector holds, a compile-time constant."""
    return types.intp(p), lambda context, builder, sig, args: I64(lanes_of(sig.args[0].dtype))


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


def _with_attribute(name):
    """What gives LLVM's attribute to the function it is called in."""

    @intrinsic
    def function(typingctx):
        def codegen(context, builder, sig, args):
            builder.function.attributes.add(name)
            return context.get_dummy_value()

        return types.void(), codegen

    return function


specialised = _with_attribute("alwaysinline")
"""Compile the function this is called in into each of its callers, for the constants that they pass."""

kept_apart = _with_attribute("noinline")
"""Compile it into none of them: it seldom runs, and would take registers from what always does."""
