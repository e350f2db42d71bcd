"""Numba's pipeline, as lean as kernels allow: what it leaves out and does once. Everything here is about compile time.

Compiled by Numba's own, a training entry of some 130 pieces would have each of them optimised and turned into machine
code by itself and again in its callers. Here a piece is only analysed, and an entry is optimised as a whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba import _dynfunc
from numba.core import base
from numba.core.cgutils import alloca_once, normalize_ir_text
from numba.core.codegen import CodeLibrary, JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.lowering import Lower
from numba.core.postproc import PostProcessor
from numba.core.transforms import canonicalize_cfg
from numba.core.typed_passes import NativeLowering
from numba.core.types.functions import BaseFunction

from ..collection import no_collection

INLINING_THRESHOLD = 75
"""What a function may cost, in LLVM's own measure, to become part of its callers; by default 225."""


def _keep_rolled(function):
    """Have no loop's body repeated for want of a known count of rounds: loops that gain by it are written in tiles."""
    rolled = function.module.add_metadata(["llvm.loop.unroll.runtime.disable"])
    above = set()
    for block in function.blocks:
        above.add(block)
        if not above.isdisjoint(block.terminator.operands):
            loop = ir.MDValue(function.module, (), str(len(function.module.metadata)))
            loop.operands = loop, rolled
            block.terminator.set_metadata("llvm.loop", loop)


class PieceLibrary(JITCodeLibrary):
    """Code that exists only to be linked into an entry's: kept as text, and not optimised by itself."""

    def __init__(self, codegen, name):
        CodeLibrary.__init__(self, codegen, name)  # without a module of its own
        self._linking_libraries = []
        self._text = ""

    def add_ir_module(self, ir_module):
        """A piece's only module. A function of vectors is to be part of its callers, all in registers."""
        for function in ir_module.functions:
            if any("<" in str(argument.type) for argument in function.args):
                function.attributes.add("alwaysinline")
            _keep_rolled(function)
        self._text = normalize_ir_text(str(ir_module))

    def parsed(self):
        """A module for one entry to take over."""
        return llvm.parse_assembly(self._text)

    def finalize(self):
        """What it calls is linked to the entry beside it."""
        self._finalized = True


class WholeLibrary(JITCodeLibrary):
    """Code with all the pieces it calls, directly or through others: each is linked once, and is nobody else's.

    Numba tells two pieces of one name apart by a number that counts within the process, and a linker takes the first of
    all equal names: machine code of two processes, loaded into a third, must not share names.
    """

    def finalize(self):
        """Gather the pieces, then as Numba does."""
        self._own = {each.name for each in self._defined()}
        left, gathered, others = self._linking_libraries, set(), []
        while left:
            library = left.pop()
            if library in gathered:
                continue
            gathered.add(library)
            if isinstance(library, PieceLibrary):
                left += library._linking_libraries
                self._final_module.link_in(library.parsed())
            else:
                others.append(library)
        self._linking_libraries = others
        super().finalize()

    def _defined(self):
        module = self._final_module
        return [each for each in (*module.functions, *module.global_variables) if not each.is_declaration]

    def _optimize_final_module(self):
        """Once: Numba optimises twice, for the sake of reference counts, which kernels do not have.

        And with less zeal than usual to look for what kernels written in vectors have done themselves: with all of it
        compiling takes a fifth longer and the kernels are no faster.
        """
        for each in self._defined():
            if each.name not in self._own:
                each.linkage = "internal"
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        options.inlining_threshold = INLINING_THRESHOLD
        options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = False
        builder = llvm.create_pass_builder(self._codegen._tm, options)
        builder.getModulePassManager().run(self._final_module, builder)


class _Lower(Lower):
    """Numba's own, but for the size of every variable, for which it has LLVM parse a module each: debuggers ask it."""

    def alloca_lltype(self, name, lltype, datamodel=None):
        """Room for a variable."""
        return alloca_once(self.builder, lltype, name=name)

    def storevar(self, value, name, argidx=None):
        """Store a variable; `argidx` says that it is an argument, which replaces nothing."""
        if argidx is None or name in self._singly_assigned_vars:
            super().storevar(value, name)
        else:
            self._alloca_var(name, self.typeof(name))
            self.builder.store(value, self.getvar(name))


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """From Numba's code to LLVM's by the class above."""

    _name = "kernel_lowering"
    lowering_class = _Lower


@register_pass(mutates_CFG=False, analysis_only=True)
class _PublishPiece(AnalysisPass):
    """Make a piece known to other compiled code under a stand-in for the machine code it does not have."""

    _name = "publish_piece"

    def __init__(self):
        AnalysisPass.__init__(self)

    def run_pass(self, state):
        """Replace the lowering's empty result, and let go of the types of all expressions, tens of thousands."""
        result, library = state["cr"], state["library"]
        module, name = result.fndesc.lookup_module(), result.fndesc.qualname.split(".")[-1]
        stand_in = _dynfunc.make_function(module, name, "a piece of a kernel", 0, result.env, (library,))
        state.targetctx.insert_user_function(stand_in, result.fndesc, [library])
        result.fndesc.typemap = result.fndesc.calltypes = None
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


_NEEDLESS_IN_PIECES = {"IRLegalization"}
"""It has variables let go of arrays and other things whose references are counted, which pieces never hold."""


def _passes_without(needless, state):
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    needed = [each for each in passes.passes if each[0].__name__ not in needless]
    passes.passes = [(_Lowering if each is NativeLowering else each, purpose) for each, purpose in needed]
    return passes


class PieceCompiler(CompilerBase):
    """Numba's pipeline for a piece: the analysis that it needs, none of the code generation."""

    def define_pipelines(self):
        """The one pipeline."""
        state = self.state
        state.flags.no_compile = True
        state["library"] = PieceLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = _passes_without(_NEEDLESS | _NEEDLESS_IN_PIECES, state)
        passes.add_pass_after(_PublishPiece, _Lowering)
        passes.finalize()
        return [passes]


class WholeCompiler(CompilerBase):
    """Numba's pipeline for what is to run."""

    def define_pipelines(self):
        """The one pipeline."""
        state = self.state
        state["library"] = WholeLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state["library"].enable_object_caching()
        passes = _passes_without(_NEEDLESS, state)
        passes.finalize()
        return [passes]


@contextmanager
def _replaced(owner, name, replacement) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def lean() -> Iterator[None]:
    """Inside, Numba asks itself once what it else asks again and again, and not at all what no kernel needs to know.

    What a function means for which types of arguments it remembers: by itself it asks all implementations in turn at
    each call, for the sum of two integers those of NumPy's ufuncs first. It remembers whether an implementation takes a
    location. Which variables live where it finds out only to let go of them. That takes a quarter off the analysis of a
    training entry. Python's collector rests; Numba's lock keeps others from compiling meanwhile.
    """
    with global_compiler_lock, no_collection():
        resolve, process, known = BaseFunction.get_call_type, PostProcessor.run, {}

        def remembered(function, context, args, kws):
            if kws:
                return resolve(function, context, args, kws)
            call = id(function), tuple(args)
            if call not in known:
                known[call] = function, resolve(function, context, args, kws)  # who keeps the function keeps its number
            return known[call][1]

        def canonical(processor, emit_dels=False, extend_lifetimes=False):
            if emit_dels or processor.func_ir.is_generator:
                process(processor, emit_dels, extend_lifetimes)
            else:
                processor.func_ir.blocks = canonicalize_cfg(processor.func_ir.blocks)

        with (
            _replaced(BaseFunction, "get_call_type", remembered),
            _replaced(PostProcessor, "run", canonical),
            _replaced(base, "_has_loc", cache(base._has_loc)),
        ):
            yield
