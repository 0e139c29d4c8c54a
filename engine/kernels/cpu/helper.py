"""How Numba compiles a function that runs only inside kernels.

It is linked into each kernel that calls it, and optimised and made machine code there. (Numba does both to every
function, so that Python can call it, too: a fifth of the time of compiling kernels that are built of forty.)
"""

from typing import Any

from numba import _dynfunc, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering, NopythonTypeInference


@register_pass(mutates_CFG=False, analysis_only=True)
class _ReturnsNoArray(AnalysisPass):
    """Refuses a result that its caller would believe to own."""

    _name = "returns_no_array"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        parts = state.return_type.types if isinstance(state.return_type, types.BaseTuple) else [state.return_type]
        if any(isinstance(part, types.Array) for part in parts):
            raise TypeError(f"{state.func_id.func_name} returns an array, which a function inside kernels may not do: "
                            "give it the array to write to, or return where it begins")
        return False


class _LinkedLibrary(JITCodeLibrary):
    """LLVM code that is only linked into others'."""

    def _optimize_final_module(self) -> None:
        """Leave that to those."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(NativeLowering):
    """Numba's lowering to LLVM code, without machine code."""

    _name = "helper_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_compile = True
        super().run_pass(state)
        made = state.cr
        function = _of_no_address(made.fndesc, made.env, state.library)
        state.targetctx.insert_user_function(function, made.fndesc, [state.library])
        state.cr = _LowerResult(made.fndesc, made.call_helper, cfunc=function, env=made.env)
        return True


def _of_no_address(description: Any, environment: Any, library: Any) -> Any:
    """What stands for a compiled function in Numba's tables."""
    name = description.qualname.rsplit(".", 1)[-1]
    return _dynfunc.make_function(description.lookup_module(), name, "runs inside kernels", 0, environment, (library,))


class HelperCompiler(CompilerBase):
    """Numba's compiler, but for what is said above, and for the refusal."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_ReturnsNoArray, NopythonTypeInference)
        passes.passes = [(_HelperLowering if p is NativeLowering else p, text) for p, text in passes.passes]
        passes.finalize()
        return [passes]
