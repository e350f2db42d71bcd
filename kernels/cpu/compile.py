"""How kernels are compiled: `jit` for pieces, `entry` for what a team runs, `Routine` for what it calls, the cache.

Numba's own cache watches one source file a function and lets two writers swap files. Here a folder stands for one
state of all kernel sources, library versions and CPU, and a file for one function and signature, replaced atomically
and carrying its own digest: a stale, torn or foreign file is compiled again. They are pickles, which run code when
read, so the folder must belong to this user alone (mode 0700).
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import sys
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.registry import CPUDispatcher
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.extending import intrinsic

from ..caches import USUAL_KIB, cache_bytes
from ..cores import usable_cores
from ..disk import replace, state_folder
from ..processor import cpu_model
from .amx import configure_tiles, release_tiles
from .pipeline import PieceCompiler, WholeCompiler, lean
from .simd import HAS_BFLOAT16, I64, PAIRS, ROUNDED, VECTOR_BYTES, Pointer, float32_at
from .units import UNIT


class _PieceDispatcher(CPUDispatcher):
    """Compiles a piece once, whatever constants its callers pass: LLVM propagates those where it inlines."""

    def get_call_template(self, args, kws):
        """Numba's own, for the arguments' plain types."""
        return super().get_call_template(tuple(types.unliteral(each) for each in args), kws)


class Piece:
    """A function that other compiled code calls, made known to Numba when the first of them is compiled."""

    def __init__(self, function):
        self.py_func = function

    @functools.cached_property
    def dispatcher(self):
        """Numba's object for it: of some 200 pieces, a process that finds its kernels in the cache needs none."""
        options = {"nopython": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        return _PieceDispatcher(self.py_func, targetoptions=options, pipeline_class=PieceCompiler)

    @functools.cached_property
    def _numba_type_(self):
        return types.Dispatcher(self.dispatcher)


def jit(function):
    """A piece of a kernel, callable from other compiled code only.

    The machine code is its callers' (pipeline.py).
    """
    return Piece(function)


class PieceFor:
    """Two pieces under one name: the first for the argument types of which `takes` says so, the other for the rest."""

    def __init__(self, takes, first, other):
        self._takes, self._first, self._other = takes, first, other

    @functools.cached_property
    def _numba_type_(self):
        return types.Dispatcher(self)

    @property
    def is_compiling(self):
        """Whether one of them is."""
        return self._first.dispatcher.is_compiling or self._other.dispatcher.is_compiling

    @property
    def nopython_signatures(self):
        """Of both."""
        return self._first.dispatcher.nopython_signatures + self._other.dispatcher.nopython_signatures

    def _chosen(self, arguments):
        return (self._first if self._takes(arguments) else self._other).dispatcher

    def get_call_template(self, args, kws):
        """The chosen one's."""
        return self._chosen(args).get_call_template(args, kws)

    def get_overload(self, args):
        """The chosen one's."""
        return self._chosen(args).get_overload(args)


class _CalledDispatcher(CPUDispatcher):
    def compile(self, sig):
        """Numba's own, the lean way."""
        with lean():
            return super().compile(sig)


def _for_python(function):
    options = {"nopython": True, "nogil": True, "error_model": "numpy"}
    return _CalledDispatcher(function, targetoptions=options, pipeline_class=WholeCompiler)


def called(function):
    """A function that Python calls: releases the GIL and is kept in the cache on disk."""
    dispatcher = _for_python(function)
    dispatcher._cache = _DiskCache(function)
    return dispatcher


def c_function(run, function, signature):
    """`run` compiled as a C function, kept in the cache on disk under the name of `function`."""
    for name in "__module__", "__name__", "__qualname__":  # by which other processes' machine code knows it
        setattr(run, name, getattr(function, name))
    compiled = CFunc(run, (signature.args, signature.return_type), {}, {"error_model": "numpy"}, WholeCompiler)
    compiled._cache = _DiskCache(function)
    with lean():
        compiled.compile()
    return compiled


@intrinsic(prefer_literal=True)
def _integers(typingctx, p, first, count):
    """`count` integers from p[first] on."""
    kind, start = types.UniTuple(types.int64, count.literal_value), first.literal_value

    def codegen(context, builder, sig, args):
        values = [builder.load(builder.gep(args[0], [I64(start + index)])) for index in range(kind.count)]
        return context.make_tuple(builder, kind, values)

    return kind(p, first, count), codegen


@intrinsic
def _member(typingctx, me, job):
    """A member's own counters as they are."""
    return me(me, job), lambda context, builder, sig, args: args[0]


MOST_INTEGERS = 64
"""In a job, at most."""


class Entry:
    """A kernel as a team runs it: `function(shared, me, like, *job)`, compiled when an element type first needs it.

    `shared` and `me` are the team's counters (phases.py); `like` is a pointer to elements, by which addresses among the
    integers of the job become pointers. The machine code is a C function of (shared, me, the job's address, like).

    A `function(shared, me, like, pairs, *job)` makes four entries: in the one `pairs` is None, in the others,
    `in_parts(1)` to `in_parts(3)`, for float32 alone, it is a pointer to the pairs of bfloat16 that products read.

    `timed` is the entry with time stamps (stamps.py), whose job begins with two numbers more: phases.timed_member's.
    """

    def __init__(self, function, pairs=None, is_timed=False):
        self._function = function
        self._pairs = pairs
        self._is_timed = is_timed
        self._others = {}
        self._addresses = {}
        self._compiled = {}

    def in_parts(self, parts):
        """The entry of the same function with its operands in so many parts of bfloat16; 0 is this one."""
        if parts == 0:
            return self
        if parts not in self._others:
            self._others[parts] = Entry(self._function, PAIRS[parts - 1], self._is_timed)
        return self._others[parts]

    @functools.cached_property
    def rounding(self):
        """The entry of the same function, whose `pairs` points to float32 that products round as they read them."""
        return Entry(self._function, ROUNDED, self._is_timed)

    @functools.cached_property
    def timed(self):
        """The entry of the same function with time stamps."""
        return Entry(self._function, self._pairs, True)

    def address(self, dtype):
        """Where the machine code for elements of this dtype begins."""
        address = self._addresses.get(dtype.char)
        return self._compile(dtype) if address is None else address

    def _compile(self, dtype):
        piece, parameters = jit(self._function), inspect.signature(self._function).parameters
        fields = len(parameters) - 3 - ("pairs" in parameters)
        kind = numba.from_dtype(dtype)
        counters = job_type = Pointer(types.int64)
        member, first = _member, 0
        if self._is_timed:
            from .phases import timed_member
            from .stamps import TimedPointer

            job_type, member, first = TimedPointer(), timed_member, 2
        assert first + fields <= MOST_INTEGERS, f"{self._function.__name__} has {fields} integers"
        if self._pairs is not None:
            kind = self._pairs

            def run(shared, me, job, pairs):
                configure_tiles()
                piece(shared, member(me, job), float32_at(0), pairs, *_integers(job, first, fields))
                release_tiles()
        elif "pairs" in parameters:

            def run(shared, me, job, like):
                piece(shared, member(me, job), like, None, *_integers(job, first, fields))
        else:

            def run(shared, me, job, like):
                piece(shared, member(me, job), like, *_integers(job, first, fields))

        signature = types.void(counters, counters, job_type, Pointer(kind))
        compiled = c_function(run, self._function, signature)
        self._compiled[dtype.char] = compiled  # which holds the machine code
        self._addresses[dtype.char] = compiled.address
        return compiled.address


class Routine:
    """A function of numbers and pointers that compiled code calls at its address (simd.call_at).

    It is compiled when an element type first needs it, and is no part of those that call it. `signature(p)` is Numba's,
    p being the type of a pointer to elements; `name` is its own in the cache, where several are made by one function.
    """

    def __init__(self, function, signature, name):
        function.__name__ = function.__qualname__ = name
        self._function, self._signature = function, signature
        self._compiled = {}

    def address(self, dtype):
        """Where the machine code for elements of this dtype begins."""
        compiled = self._compiled.get(dtype.char)
        if compiled is None:
            signature = self._signature(Pointer(numba.from_dtype(dtype)))
            compiled = self._compiled[dtype.char] = c_function(self._function, self._function, signature)
        return compiled.address


def entry(function):
    """The `Entry` of this function."""
    return Entry(function)


def _state_digest() -> str:
    """One name for everything compiled code depends on besides its own signature."""
    digest = hashlib.sha256()
    versions = (sys.version, np.__version__, numba.__version__, llvmlite.__version__)
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), VECTOR_BYTES, HAS_BFLOAT16, UNIT)
    sizes = [cache_bytes(name) for name in USUAL_KIB]
    digest.update(repr((versions, cpu, sizes)).encode())
    kernels = Path(__file__).parent.parent
    for source in [*sorted(kernels.glob("*.py")), *sorted(kernels.glob("cpu/**/*.py"))]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


@functools.cache
def cache_folder() -> Path | None:
    """The folder for this state, made and checked once a process; None, with one warning, where there can be none."""
    return state_folder(_state_digest())


def machine_file(kind: str) -> Path | None:
    """Where what was measured is kept: beside the kernels, for this processor and as many cores as may be used."""
    folder = cache_folder()
    machine = hashlib.sha256(repr((cpu_model(), os.cpu_count(), usable_cores())).encode()).hexdigest()[:16]
    return None if folder is None else folder / f"{kind}-{machine}.json"


class _DiskCache(NullCache):
    """The part of Numba's cache interface that its dispatcher calls, on our files."""

    def __init__(self, function):
        self._name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")

    @property
    def cache_path(self):
        folder = cache_folder()
        return None if folder is None else str(folder)

    def _file(self, sig, codegen):
        folder = cache_folder()
        if folder is None:
            return None
        key = hashlib.sha256(repr((str(sig), codegen.magic_tuple())).encode()).hexdigest()[:16]
        return folder / f"{self._name}-{key}"

    def load_overload(self, sig, target_context):
        """The compiled function of an earlier process, or None."""
        rtsys.initialize(target_context)
        path = self._file(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, sig, data):
        """Keep a compiled function; a full or vanished disk only means that it is compiled again."""
        path = self._file(sig, data.codegen)
        if path is None:
            return
        payload = dumps(data._reduce())
        with contextlib.suppress(OSError):
            replace(path, hashlib.sha256(payload).digest(), payload)
