# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""Functions that are compiled as parts of the kernels that call them, and not for themselves as well.

numba optimises each function, and makes machine code of it, when its caller is typed; then it links the result into the
caller, and does both again there, and so on up to the kernel that Python calls. What is never called from Python is
thrown away each time. Here such a function is lowered to LLVM's intermediate code, and no more, until the whole kernel
is together: that is half of the time that a first call takes.
"""

from __future__ import annotations

import sys
from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Part(JITCodeLibrary):
    """Code to be linked into a kernel: neither optimised nor made executable for itself."""

    def _optimize_final_module(self) -> None:
        """The kernel's turn, since what it calls is inlined there."""

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _Apart(_Part):
    """Code that stays a function of its own in every kernel."""

    def _finalize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.add_function_attribute("noinline")
        super()._finalize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class _LoweringOfPart(NativeLowering):
    """As numba's own, without the machine code."""

    _name = "lowering_of_part"
    library: type[_Part] = _Part

    def run_pass(self, state: Any) -> bool:
        context, function = state.targetctx, state.func_id.func
        state.library = self.library(context.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # By this object, which cannot be called, numba finds the code when it compiles a caller.
        module = sys.modules[function.__module__]
        handle = _dynfunc.make_function(module, function.__name__, "", 0, lowered.env, (state.library,))
        context.insert_user_function(handle, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=handle)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LoweringApart(_LoweringOfPart):
    _name = "lowering_apart"
    library = _Apart


class PartCompiler(CompilerBase):
    """numba's compiler, ending with a lowering of ours."""

    lowering: type[_LoweringOfPart] = _LoweringOfPart

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(self.lowering if one is NativeLowering else one, what) for one, what in passes.passes]
        passes.finalize()
        return [passes]


class ApartCompiler(PartCompiler):
    """For parts that LLVM is not to inline."""

    lowering = _LoweringApart


def refuse_python(part: Any) -> None:
    """Have a part raise where Python calls it: it has no code of its own, and numba would jump to address 0."""

    def add_overload(compiled: Any) -> None:
        part.overloads[tuple(compiled.signature.args)] = compiled  # for compiled callers; Python's table stays empty

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{part.__name__} is a part of compiled kernels, and cannot be called from Python")

    part.add_overload = add_overload
    part._compile_for_args = refuse
