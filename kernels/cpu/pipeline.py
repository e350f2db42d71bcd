"""Numba's pipeline, as lean as kernels allow: what it leaves out and does once. Everything here is about compile time.

Compiled by Numba's own, a training entry of some 130 pieces would have each of them optimised and turned into machine
code by itself and again in its callers. Here a piece is only analysed, and an entry is optimised as a whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering
from numba.core.types.functions import BaseFunction

INLINING_THRESHOLD = 75
"""What a function may cost, in LLVM's own measure, to become part of its callers; by default 225."""


class PieceLibrary(JITCodeLibrary):
    """Code that exists only to be linked into an entry's: not optimised and not turned into machine code by itself."""

    def _optimize_functions(self, ll_module):
        """The entry is optimised as a whole. A function of vectors is to be part of its callers, all in registers."""
        ll_module.data_layout = self._codegen._data_layout
        for function in ll_module.functions:
            if any("<" in str(argument.type) for argument in function.arguments):
                function.add_function_attribute("alwaysinline")

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
        gathered = dict.fromkeys(self._linking_libraries)
        left = list(gathered)
        while left:
            library = left.pop()
            if isinstance(library, PieceLibrary):
                left += [each for each in library._linking_libraries if each not in gathered]
                gathered |= dict.fromkeys(library._linking_libraries)
        self._linking_libraries = list(gathered)
        self._own = {each.name for each in self._defined()}
        super().finalize()

    def _defined(self):
        module = self._final_module
        return [each for each in (*module.functions, *module.global_variables) if not each.is_declaration]

    def _optimize_final_module(self):
        """Once: Numba optimises twice, for the sake of reference counts, which kernels do not have.

        And without a search for loops to vectorise, for kernels are written in vectors, and with less zeal to
        inline than usual: with all of it compiling takes a tenth longer and the kernels are no faster.
        """
        for each in self._defined():
            if each.name not in self._own:
                each.linkage = "internal"
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.inlining_threshold = INLINING_THRESHOLD
        options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = False
        builder = llvm.create_pass_builder(self._codegen._tm, options)
        builder.getModulePassManager().run(self._final_module, builder)


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
    passes.passes = [each for each in passes.passes if each[0].__name__ not in needless]
    return passes


class PieceCompiler(CompilerBase):
    """Numba's pipeline for a piece: the analysis that it needs, none of the code generation."""

    def define_pipelines(self):
        """The one pipeline."""
        state = self.state
        state.flags.no_compile = True
        state["library"] = PieceLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = _passes_without(_NEEDLESS | _NEEDLESS_IN_PIECES, state)
        passes.add_pass_after(_PublishPiece, NativeLowering)
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
def resolved_once() -> Iterator[None]:
    """Inside, Numba remembers of every function that it knows what it means for which types of arguments.

    By itself it asks all implementations in turn at each call: for the sum of two integers, those of NumPy's ufuncs
    first, which takes a sixth of the time to compile a training entry. Its lock keeps others from compiling meanwhile.
    """
    with global_compiler_lock:
        resolve, known = BaseFunction.get_call_type, {}

        def remembered(function, context, args, kws):
            if kws:
                return resolve(function, context, args, kws)
            call = id(function), tuple(args)
            if call not in known:
                known[call] = function, resolve(function, context, args, kws)  # who keeps the function keeps its number
            return known[call][1]

        BaseFunction.get_call_type = remembered  # type: ignore[method-assign]
        try:
            yield
        finally:
            BaseFunction.get_call_type = resolve  # type: ignore[method-assign]
