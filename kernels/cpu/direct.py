"""Compiled functions that Python calls as it calls C functions, in 0.1 us; Numba's dispatcher takes 0.2 us an array.

They are builtin functions of CPython (METH_FASTCALL) and get their arguments as Python objects. Integers they read by
the C interface, arrays where NumPy keeps them: the fields of PyArrayObject in the order of its C header
(ndarraytypes.h), by which C programs read them too. `reads_arrays` says whether that order was found here.
"""

import ctypes
import functools
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import c_function, jit
from .simd import I64, Pointer, int64_at

_TYPE, _DATA, _RANK, _SHAPE, _DTYPE, _FLAGS = 1, 2, 3, 4, 7, 8
"""Fields of an array, in int64 from its beginning; rank and flags are the lower halves of theirs."""

PLAIN, WRITABLE = 0x101, 0x501
"""Flags of an array that is C-contiguous and aligned to its element, and of one that may be written besides."""

ARRAY, FLOAT32, FLOAT64, TRUE, FALSE, OWN = range(6)
"""What a direct function knows, in its table: the addresses of these objects; what it was bound to follows."""


@jit
def dtype_of(known, value):
    """The address of the array's dtype, 0 for what is not just a NumPy array."""
    fields = int64_at(value)
    return fields[_DTYPE] if fields[_TYPE] == known[ARRAY] else 0


@jit
def is_array(known, value, dtype, rank, flags):
    """Whether this is just a NumPy array, of that dtype and rank, and with those flags."""
    if dtype_of(known, value) != dtype:
        return False
    fields = int64_at(value)
    return fields[_RANK] & 0xFFFFFFFF == rank and fields[_FLAGS] & flags == flags


@jit
def data_of(value):
    """The address of the array's first byte."""
    return int64_at(value)[_DATA]


@jit
def length_of(value, axis):
    """The array's length along an axis that it has."""
    return int64_at(int64_at(value)[_SHAPE])[axis]


@jit
def may_share(first, first_bytes, second, second_bytes):
    """Whether two contiguous arrays of so many bytes have one in common."""
    a, b = data_of(first), data_of(second)
    return a < b + second_bytes and b < a + first_bytes


integer_of = types.ExternalFunction("PyLong_AsLongLong", types.int64(types.int64))
"""The Python integer at this address."""

float_of = types.ExternalFunction("PyFloat_AsDouble", types.float64(types.int64))
"""The Python float at this address."""

new_integer = types.ExternalFunction("PyLong_FromLongLong", types.int64(types.int64))
"""The address of a new Python integer."""

new_float = types.ExternalFunction("PyFloat_FromDouble", types.int64(types.float64))
"""The address of a new Python float."""

unlock_python = types.ExternalFunction("PyEval_SaveThread", types.int64())
"""Let other Python threads run; what it gives is for `lock_python`. No object may be read until then."""

lock_python = types.ExternalFunction("PyEval_RestoreThread", types.void(types.int64))
"""Wait for this thread's turn to run Python."""


@intrinsic(prefer_literal=True)
def stack_integers(typingctx, count):
    """Room for `count` integers on the stack of this call."""
    length = count.literal_value

    def codegen(context, builder, sig, args):
        return builder.gep(cgutils.alloca_once(builder, ir.ArrayType(I64, length)), [I64(0), I64(0)])

    return Pointer(types.int64)(count), codegen


class _MethodDef(ctypes.Structure):
    """PyMethodDef of CPython's methodobject.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_alive: list[object] = []
"""What builtin functions point to without keeping it: machine code and definitions, for as long as the process."""

_FASTCALL = 0x80  # METH_FASTCALL: self, the arguments, how many
_new_function = ctypes.pythonapi.PyCFunction_NewEx
_new_function.restype, _new_function.argtypes = ctypes.py_object, (ctypes.c_void_p, *[ctypes.py_object] * 2)


class Direct:
    """A `function(known, arguments, count) -> int64`, compiled when it is first bound.

    `known` is its table and `arguments` are the addresses of `count` Python objects, which live as long as the call. It
    runs with Python's global lock, unless it lets go of it, and raises nothing. What it gives is an integer or, if it
    `makes_objects`, the address of a new Python object.
    """

    def __init__(self, function, makes_objects=False):
        self._function, self._makes_objects = function, makes_objects

    @functools.cached_property
    def _definition(self):
        piece, makes_objects = jit(self._function), self._makes_objects

        def run(table, arguments, count):
            answer = piece(int64_at(integer_of(table)), arguments, count)
            return answer if makes_objects else new_integer(answer)

        signature = types.int64(types.int64, Pointer(types.int64), types.int64)
        compiled = c_function(run, self._function, signature)
        definition = _MethodDef(self._function.__name__.encode(), compiled.address, _FASTCALL, None)
        _alive.extend((compiled, definition))
        return definition

    def bound(self, *own, keeps=()):
        """(the function as Python calls it, its table): the integers `own` are in the table from OWN on.

        The function keeps `keeps` alive, and its table.
        """
        objects = np.ndarray, np.dtype(np.float32), np.dtype(np.float64), True, False
        table = np.array([*map(id, objects), *own], np.int64)
        start = table.__array_interface__["data"][0]
        return _new_function(ctypes.addressof(self._definition), start, (table, keeps)), table


def direct(function):
    """The `Direct` of this function."""
    return Direct(function)


def direct_object(function):
    """The `Direct` of this function, which makes Python objects."""
    return Direct(function, True)


ENTRIES = OWN
"""What an `Operation`'s table begins with: the addresses of float32's entry and float64's, 0 while there is none."""


@jit
def element_size(known, array):
    """Bytes of an element of an array of float32 or float64, 0 for anything else."""
    dtype = dtype_of(known, array)
    return 4 if dtype == known[FLOAT32] else 8 if dtype == known[FLOAT64] else 0


@jit
def entry_for(known, size):
    """The operation's entry for elements of so many bytes."""
    return known[ENTRIES + size // 8]


class Operation:
    """An operation on arrays that is judged and done by a direct function, given what it is bound to behind ENTRIES."""

    def __init__(self, function, *own, keeps=()):
        self._function, self._keeps = function, keeps
        self._numbers = [0, 0, *own]

    @functools.cached_property
    def _bound(self):
        return self._function.bound(*self._numbers, keeps=self._keeps)

    @property
    def function(self):
        """Python's function; None where arrays cannot be read."""
        return self._bound[0] if reads_arrays() else None

    @property
    def table(self):
        """Its table."""
        return self._bound[1]

    def learn(self, entry, dtype):
        """Let it run the entry, which is compiled, on elements of this dtype."""
        self.write(ENTRIES + dtype.itemsize // 8, entry.address(dtype))

    def write(self, place, value):
        """Change a number of its table."""
        self._numbers[place - ENTRIES] = value
        if "_bound" in self.__dict__:
            self.table[place] = value


@functools.cache
def reads_arrays():
    """Whether direct functions can read arrays here, which one array is asked for."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or not has_lock or sys.byteorder != "little" or sys.maxsize < 2**62:
        return False
    array = np.zeros((3, 5), np.float32)
    fields = (ctypes.c_int64 * (_FLAGS + 1)).from_address(id(array))
    expected = id(np.ndarray), array.__array_interface__["data"][0], 2, id(array.dtype), WRITABLE
    found = fields[_TYPE], fields[_DATA], fields[_RANK] & 0xFFFFFFFF, fields[_DTYPE], fields[_FLAGS] & WRITABLE
    return found == expected and tuple((ctypes.c_int64 * 2).from_address(fields[_SHAPE])) == array.shape


@direct
def _address(known, arguments, count):
    return data_of(arguments[0])


def _interface_address(array):
    return array.__array_interface__["data"][0]


address = _address.bound()[0] if reads_arrays() else _interface_address
"""The address of an array's first byte; of nothing but an array."""
