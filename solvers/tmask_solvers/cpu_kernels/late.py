# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""Functions that are compiled when a kernel first calls them, and never in most processes.

The fallback of a search is half of its code, and a call on ordinary weights does not run it. So the kernel holds a
pointer in its place, which is null until it is needed: then the code asks Python (`_resolve`), which compiles the
function, or loads it from disk, and hands over its address. That the kernel itself came from disk makes no difference,
since what it asks for stands in its code: the function's name and types.
"""

from __future__ import annotations

import _thread
import ctypes
import inspect
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.compiling import cached_apart

log = logging.getLogger("tmask")

Function = TypeVar("Function", bound=Callable[..., Any])

_RESOLVER = "tmask_resolve_late_kernel"
_RESULTS = {"float": types.float64, "bool": types.boolean, "int": types.int64}
_I64, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
_LATER = 0.05  # seconds
_kernels: dict[str, Any] = {}


def late_kernel(function: Function) -> Function:
    """A function that allocates nothing, is called by kernels alone, and that few calls need.

    Its annotation says whether it returns a float, a bool or an int.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    _kernels[name] = cached_apart(function)
    result = _RESULTS[function.__annotations__["return"]]

    def call(typingctx: Any, *arguments: Any) -> Any:
        signature = result(*map(types.unliteral, arguments))
        return signature, _calling(pickle.dumps((name, signature.args, result)))

    parameters = inspect.signature(function).parameters.values()
    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # numba reads it to sort arguments; `*arguments` alone would be one tuple of all.
    call.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return cast("Function", intrinsic(call))


def _calling(wanted: bytes) -> Callable[..., Any]:
    """What writes the call of a late kernel, of this name and these types."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        module, kind = builder.module, context.call_conv.get_function_type(sig.return_type, sig.args)
        slot = cgutils.add_global_variable(module, _I64, module.get_unique_name("late_kernel"))
        slot.initializer, slot.linkage = ir.Constant(_I64, 0), "internal"
        missing = cgutils.is_null(builder, builder.load(slot))
        with builder.if_then(missing, likely=False):
            takes = [_POINTER, _I64, _POINTER]
            resolver = cgutils.get_or_insert_function(module, ir.FunctionType(ir.VoidType(), takes), _RESOLVER)
            text = context.insert_const_bytes(module, wanted)
            builder.call(resolver, [text, ir.Constant(_I64, len(wanted)), builder.bitcast(slot, _POINTER)])
            with builder.if_then(cgutils.is_null(builder, builder.load(slot)), likely=False):
                context.call_conv.return_user_exc(builder, RuntimeError, ("a kernel could not be compiled",))
        code = builder.inttoptr(builder.load(slot), kind.as_pointer())
        status, result = context.call_conv.call_function(builder, code, sig.return_type, sig.args, args)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return result

    return codegen


def _resolve(place: int, size: int, slot: int) -> None:
    """Write the address of the kernel whose name and types stand there, if it can be had. Called by compiled code.

    Not returned, since what is returned where an interrupt ends a function that C calls is anything.
    """
    interrupted = False
    while True:
        try:
            name, arguments, result = pickle.loads(ctypes.string_at(place, size))
            ctypes.c_int64.from_address(slot).value = address_of(_kernels[name], arguments, result)
            break
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            log.exception("a kernel could not be compiled")
            return
    if interrupted:
        # Compiled code cannot hand it on: so it comes once that is under way, to be seen when it has ended.
        threading.Timer(_LATER, _thread.interrupt_main).start()


def address_of(dispatcher: Any, arguments: tuple[Any, ...], result: Any) -> int:
    """Where the code of a kernel for these types begins; its caller expects this type of result."""
    dispatcher.compile(arguments)
    compiled = dispatcher.overloads[arguments]
    if compiled.signature.return_type != result:
        raise TypeError(f"{dispatcher.__name__} returns {compiled.signature.return_type}, and is annotated {result}")
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


# Kept here, since compiled code calls it as long as there is any.
_for_c = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(_resolve)
llvm.add_symbol(_RESOLVER, ctypes.cast(_for_c, ctypes.c_void_p).value)
