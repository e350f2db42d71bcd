"""How kernels are compiled: `jit` for pieces, `entry` for what a team runs, `called` for what Python calls; the cache.

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
import re
import shutil
import stat
import sys
import tempfile
import warnings
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba import _dynfunc, types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.registry import CPUDispatcher
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic

from ..caches import USUAL_KIB, cache_bytes
from .simd import I64, VECTOR_BYTES, Pointer


class _PieceLibrary(JITCodeLibrary):
    """Code that exists only to be linked into an entry's: not optimised and not turned into machine code by itself."""

    def _optimize_functions(self, ll_module):
        """The entry is optimised as a whole."""
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self):
        """What it calls is linked to the entry beside it."""
        self._finalized = True


class _WholeLibrary(JITCodeLibrary):
    """Code with all the pieces it calls, directly or through others: each is linked once, and is nobody else's.

    Numba tells two pieces of one name apart by a number that counts within the process, and a linker takes the first of
    all equal names: machine code of two processes, loaded into a third, must not share names.
    """

    def finalize(self):
        """Gather the pieces, then as Numba does."""
        gathered = dict.fromkeys(self._linking_libraries)
        left = list(gathered)
        while left:
            library = left.pop()
            if isinstance(library, _PieceLibrary):
                left += [each for each in library._linking_libraries if each not in gathered]
                gathered |= dict.fromkeys(library._linking_libraries)
        self._linking_libraries = list(gathered)
        self._own = {each.name for each in self._defined()}
        super().finalize()

    def _defined(self):
        module = self._final_module
        return [each for each in (*module.functions, *module.global_variables) if not each.is_declaration]

    def _optimize_final_module(self):
        """Once: Numba optimises twice, for the sake of reference counts, which kernels do not have."""
        for each in self._defined():
            if each.name not in self._own:
                each.linkage = "internal"
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)


@register_pass(mutates_CFG=False, analysis_only=True)
class _PublishPiece(AnalysisPass):
    """Make a piece known to other compiled code under a stand-in for the machine code it does not have."""

    _name = "publish_piece"

    def __init__(self):
        AnalysisPass.__init__(self)

    def run_pass(self, state):
        """Replace the lowering's empty result."""
        result, library = state["cr"], state["library"]
        module, name = result.fndesc.lookup_module(), result.fndesc.qualname.split(".")[-1]
        stand_in = _dynfunc.make_function(module, name, "a piece of a kernel", 0, result.env, (library,))
        state.targetctx.insert_user_function(stand_in, result.fndesc, [library])
        state["cr"] = result._replace(cfunc=stand_in)
        return False


_NEEDLESS = {
    "AnnotateTypes",
    "DumpParforDiagnostics",
    "FindLiterallyCalls",
    "GenericRewrites",
    "InlineClosureLikes",
    "InlineInlinables",
    "InlineOverloads",
    "LiteralPropagationSubPipelinePass",
    "LiteralUnroll",
    "MakeFunctionToJitFunction",
    "NoPythonSupportedFeatureValidation",
    "NopythonRewrites",
    "RewriteDynamicRaises",
    "WithLifting",
}
"""Passes of Numba's that serve what no kernel uses: array expressions, closures, with blocks, exceptions, literals."""


def _needed_passes(state):
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    passes.passes = [each for each in passes.passes if each[0].__name__ not in _NEEDLESS]
    return passes


class _PieceCompiler(CompilerBase):
    """Numba's pipeline for a piece: the analysis that it needs, none of the code generation."""

    def define_pipelines(self):
        """The one pipeline."""
        state = self.state
        state.flags.no_compile = True
        state["library"] = _PieceLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = _needed_passes(state)
        passes.add_pass_after(_PublishPiece, NativeLowering)
        passes.finalize()
        return [passes]


class _WholeCompiler(CompilerBase):
    """Numba's pipeline for what is to run."""

    def define_pipelines(self):
        """The one pipeline."""
        state = self.state
        state["library"] = _WholeLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state["library"].enable_object_caching()
        passes = _needed_passes(state)
        passes.finalize()
        return [passes]


_compile = functools.partial(numba.njit, nogil=True, error_model="numpy", pipeline_class=_WholeCompiler)


class _PieceDispatcher(CPUDispatcher):
    """Compiles a piece once, whatever constants its callers pass: LLVM propagates those where it inlines."""

    def get_call_template(self, args, kws):
        """Numba's own, for the arguments' plain types."""
        return super().get_call_template(tuple(types.unliteral(each) for each in args), kws)


def jit(function):
    """A piece of a kernel, callable from other compiled code only.

    Numba would optimise and generate machine code for every function by itself and again in each of its callers, which
    costs several times what the entry alone does.
    """
    options = {"nopython": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _PieceDispatcher(function, targetoptions=options, pipeline_class=_PieceCompiler)


def called(function):
    """A function that Python calls: releases the GIL and is kept in the cache on disk."""
    dispatcher = _compile()(function)
    dispatcher._cache = _DiskCache(function)
    return dispatcher


@intrinsic(prefer_literal=True)
def _integers(typingctx, p, count):
    """The first `count` integers at p."""
    kind = types.UniTuple(types.int64, count.literal_value)

    def codegen(context, builder, sig, args):
        values = [builder.load(builder.gep(args[0], [I64(index)])) for index in range(kind.count)]
        return context.make_tuple(builder, kind, values)

    return kind(p, count), codegen


class Entry:
    """A kernel as a team runs it: `function(shared, me, like, *job)`, compiled when an element type first needs it.

    `shared` and `me` are the team's counters (team.py); `like` is a pointer to elements, by which addresses among the
    integers of the job become pointers. The machine code is a C function of (shared, me, the job's address, like).
    """

    def __init__(self, function):
        self._function = function
        self._addresses = {}
        self._compiled = {}

    def address(self, dtype):
        """Where the machine code for elements of this dtype begins."""
        address = self._addresses.get(dtype.char)
        return self._compile(dtype) if address is None else address

    def _compile(self, dtype):
        piece, fields = jit(self._function), len(inspect.signature(self._function).parameters) - 3

        def run(shared, me, job, like):
            piece(shared, me, like, *_integers(job, fields))

        for name in "__module__", "__name__", "__qualname__":  # by which other processes' machine code knows it
            setattr(run, name, getattr(self._function, name))
        counters, like = Pointer(types.int64), Pointer(numba.from_dtype(dtype))
        signature = (counters, counters, counters, like), types.void
        compiled = CFunc(run, signature, {}, {"error_model": "numpy"}, _WholeCompiler)
        compiled._cache = _DiskCache(self._function)
        compiled.compile()
        self._compiled[dtype.char] = compiled  # which holds the machine code
        self._addresses[dtype.char] = compiled.address
        return compiled.address


def entry(function):
    """The `Entry` of this function."""
    return Entry(function)


def cache_root() -> Path | None:
    """The folder for compiled kernels: FASTMLP_CACHE_DIR, else the platform's cache folder; None without a home."""
    chosen = os.environ.get("FASTMLP_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "fastmlp" / "cache" if base else None
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "fastmlp"
    try:
        return Path.home() / ".cache" / "fastmlp"
    except RuntimeError:
        return None


def _state_digest() -> str:
    """One name for everything compiled code depends on besides its own signature."""
    digest = hashlib.sha256()
    versions = (sys.version, np.__version__, numba.__version__, llvmlite.__version__)
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), VECTOR_BYTES)
    sizes = [cache_bytes(name) for name in USUAL_KIB]
    digest.update(repr((versions, cpu, sizes)).encode())
    kernels = Path(__file__).parent.parent
    for source in [*sorted(kernels.glob("*.py")), *sorted(kernels.glob("cpu/*.py"))]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


STATES_KEPT = 16
"""Folders of other states, of releases before or other CPUs of a cluster, that are kept beside a new one."""


def _forget_old_states(root: Path, folder: Path) -> None:
    """Delete the folders of other states that have been unused for longest; a process that uses one compiles again."""
    with contextlib.suppress(OSError):  # another process does the same
        others = [each for each in root.iterdir() if re.fullmatch(r"[0-9a-f]{20}", each.name) and each != folder]
        others = sorted((each for each in others if each.is_dir()), key=lambda each: each.stat().st_mtime)
        for each in others[:-STATES_KEPT]:
            shutil.rmtree(each, ignore_errors=True)


@functools.cache
def cache_folder() -> Path | None:
    """The folder for this state, made and checked once a process; None, with one warning, where there can be none."""
    root = cache_root()
    if root is None:
        reason = "there is no home folder"
    else:
        try:
            folder = root / _state_digest()
            is_new = not folder.exists()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
            private = os.name == "nt" or (status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o022)
            if private and os.access(folder, os.W_OK):
                os.utime(folder)  # when it was used last
                if is_new:
                    _forget_old_states(root, folder)
                return folder
            reason = f"{folder} can be written by others" if not private else f"{folder} is read-only"
        except OSError as error:
            reason = str(error)
    warnings.warn(
        f"compiled kernels are not kept between processes ({reason}); set FASTMLP_CACHE_DIR to a private folder",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


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
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(payload).digest() + payload)
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
