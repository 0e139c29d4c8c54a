"""Words of memory, atomic operations and the C interfaces of Python, for functions compiled by Numba.

Addresses are int64 numbers. What one thread writes before `publish`, another sees after it has read the published word
by `observe`, `exchange` or `add` (release and acquire).
"""

import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cache
from .helper import HelperCompiler
from .signals import outside_callbacks

I32, I64 = ir.IntType(32), ir.IntType(64)
THUNK = ir.FunctionType(ir.VoidType(), [I64] * 4)  # worker, lo, hi, address of the record
WORD = 8  # bytes

OPTIONS = {"nogil": True, "error_model": "numpy"}
BARE = {"_nrt": False}  # counts no references to arrays: it can neither make one nor own one
NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """A function to be called from kernels. It makes no arrays and returns none, so it counts no references to those
    that it is given, which can cost as much as what it does with them."""
    return numba.njit(**OPTIONS, **BARE, **NO_WRAPPERS, pipeline_class=HelperCompiler, **options)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Like @jit, but always compiled into its callers, where a call would spill every vector."""
    return jit(function, forceinline=True)


def compiled(function: Callable[..., Any], signature: Any, **options: Any) -> int:
    """The address of a function's C form: compiled for one signature, or taken from the disk, once in a process."""
    if (function, signature) not in _ADDRESSES:
        with _COMPILING, outside_callbacks():
            if (function, signature) not in _ADDRESSES:
                dispatcher = numba.njit(**{**OPTIONS, **options}, no_cpython_wrapper=True)(function)
                dispatcher._cache = cache.DiskCache(function)
                dispatcher.compile(signature)
                (result,) = dispatcher.overloads.values()
                _KEPT.append(result)
                name = result.fndesc.llvm_cfunc_wrapper_name
                _ADDRESSES[function, signature] = result.library.get_pointer_to_function(name)
    return _ADDRESSES[function, signature]


_COMPILING = threading.RLock()
_ADDRESSES: dict[Any, int] = {}
_KEPT: list[Any] = []  # the machine code at these addresses
if hasattr(os, "register_at_fork"):  # a child must not begin with a lock that nobody in it will ever open
    os.register_at_fork(before=_COMPILING.acquire, after_in_parent=_COMPILING.release,
                        after_in_child=_COMPILING.release)  # fmt: skip


def separate(function: Callable[..., Any]) -> Any:
    """Like @jit, for longer functions with several callers: compiled once for each set of types and never inlined.

    (Numba compiles a @jit function again for every constant that is passed to it, and LLVM inlines what it can.)
    """
    dispatcher = jit(function)

    def call(typingctx, *arguments):
        argument_types = tuple(types.unliteral(argument) for argument in arguments)
        found = types.Dispatcher(dispatcher).get_call_type(typingctx, argument_types, {})

        def codegen(context, builder, signature, values):
            compiled = dispatcher.get_compile_result(found)
            context.add_linking_libs([compiled.library])
            native, kernel = context.declare_function(builder.module, compiled.fndesc), compiled.fndesc
            status, result = context.call_conv.call_function(
                builder, native, kernel.restype, kernel.argtypes, values, attrs=("noinline",)
            )
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value() if kernel.restype == types.none else result

        return found.return_type(*argument_types), codegen

    names = ", ".join(function.__code__.co_varnames[: function.__code__.co_argcount])
    namespace: dict[str, Any] = {"__name__": __name__, "call": call}
    exec(f"def {function.__name__}(typingctx, {names}):\n    return call(typingctx, {names})\n", namespace)
    wrapper = namespace[function.__name__]
    wrapper.__doc__ = function.__doc__
    return intrinsic(wrapper)


def _external(name: str, result: Any, *arguments: Any) -> Any:
    """A C function that every Python process holds. (What a function without a result gives is garbage.)"""
    return types.ExternalFunction(name, result(*arguments))


PyErr_CheckSignals = _external("PyErr_CheckSignals", types.int32)
PyErr_Occurred = _external("PyErr_Occurred", types.int64)
PyErr_SetString = _external("PyErr_SetString", types.int32, types.int64, types.int64)
PyEval_RestoreThread = _external("PyEval_RestoreThread", types.int32, types.int64)
PyEval_SaveThread = _external("PyEval_SaveThread", types.int64)
PyFloat_AsDouble = _external("PyFloat_AsDouble", types.float64, types.int64)
PyLong_AsLongLong = _external("PyLong_AsLongLong", types.int64, types.int64)
PyLong_AsUnsignedLongLongMask = _external("PyLong_AsUnsignedLongLongMask", types.int64, types.int64)
PyLong_FromLongLong = _external("PyLong_FromLongLong", types.int64, types.int64)
PyNumber_Index = _external("PyNumber_Index", types.int64, types.int64)
PyObject_CallNoArgs = _external("PyObject_CallNoArgs", types.int64, types.int64)
PyObject_IsTrue = _external("PyObject_IsTrue", types.int32, types.int64)
PyThread_acquire_lock = _external("PyThread_acquire_lock", types.int32, types.int64, types.int32)
PyThread_release_lock = _external("PyThread_release_lock", types.int32, types.int64)
PyType_IsSubtype = _external("PyType_IsSubtype", types.int32, types.int64, types.int64)
Py_DecRef = _external("Py_DecRef", types.int32, types.int64)
Py_IncRef = _external("Py_IncRef", types.int32, types.int64)


def _pointer(builder: Any, address: Any, kind: Any = I64) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def peek(typingctx, address):
    """The word at an address."""

    def codegen(context, builder, signature, values):
        return builder.load(_pointer(builder, values[0]))

    return types.int64(types.int64), codegen


@intrinsic
def peek32(typingctx, address):
    """The C int at an address."""

    def codegen(context, builder, signature, values):
        return builder.sext(builder.load(_pointer(builder, values[0], I32)), I64)

    return types.int64(types.int64), codegen


@intrinsic
def poke(typingctx, address, value):
    """Write a word."""

    def codegen(context, builder, signature, values):
        builder.store(values[1], _pointer(builder, values[0]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def bits_of(typingctx, number):
    """The 64 bits of a float64."""

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], I64)

    return types.int64(types.float64), codegen


@intrinsic
def observe(typingctx, address):
    """Read a word that another thread writes."""

    def codegen(context, builder, signature, values):
        return builder.load_atomic(_pointer(builder, values[0]), "acquire", WORD)

    return types.int64(types.int64), codegen


@intrinsic
def publish(typingctx, address, value):
    """Write a word that another thread reads."""

    def codegen(context, builder, signature, values):
        builder.store_atomic(values[1], _pointer(builder, values[0]), "release", WORD)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def exchange(typingctx, address, expected, new):
    """Write a word if it is what was expected: whether it was. A full barrier."""

    def codegen(context, builder, signature, values):
        address, expected, new = values
        found = builder.cmpxchg(_pointer(builder, address), expected, new, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def add(typingctx, address, value):
    """Add to a word in one step. A full barrier."""

    def codegen(context, builder, signature, values):
        builder.atomic_rmw("add", _pointer(builder, values[0]), values[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tell the processor that this thread waits in a loop."""

    def codegen(context, builder, signature, values):
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            pause = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            hint = ir.FunctionType(ir.VoidType(), [I32])
            builder.call(cgutils.get_or_insert_function(builder.module, hint, "llvm.aarch64.hint"), [I32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_thunk(typingctx, thunk, worker, lo, hi, record):
    """Run the blocks from lo to hi of a kernel."""

    def codegen(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], THUNK.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def call_plain(typingctx, function):
    """Call a C function without arguments, by its address."""

    def codegen(context, builder, signature, values):
        kind = ir.FunctionType(I32, [])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def call_clock(typingctx, function, which, scale):
    """Nanoseconds of a clock whose C function fills two words: the first times `scale`, and the second."""

    def codegen(context, builder, signature, values):
        function, which, scale = values
        place = cgutils.alloca_once_value(builder, ir.Constant(ir.ArrayType(I64, 2), [0, 0]))
        address = builder.ptrtoint(place, I64)
        # Windows: QueryPerformanceCounter(place), which ignores what follows; elsewhere: clock_gettime(which, place)
        order = [address, which] if platform.system() == "Windows" else [which, address]
        builder.call(builder.inttoptr(function, ir.FunctionType(I32, [I64, I64]).as_pointer()), order)
        first, second = (builder.load(cgutils.gep_inbounds(builder, place, 0, i)) for i in range(2))
        return builder.add(builder.mul(first, scale), second)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def stack(typingctx, words):
    """The address of so many words, which live until the function returns. Not for use in a loop."""

    def codegen(context, builder, signature, values):
        return builder.ptrtoint(builder.alloca(I64, values[0]), I64)

    return types.int64(types.int64), codegen


class _Method(ctypes.Structure):
    """PyMethodDef of Python's C interface."""

    _fields_ = (("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p))  # fmt: skip


_FASTCALL = 0x0080
_new_builtin = ctypes.pythonapi.PyCFunction_NewEx
_new_builtin.restype = ctypes.py_object
_new_builtin.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]


_methods: dict[int, _Method] = {}  # Python keeps their addresses, not them


def builtin(function: Callable[..., Any], bound: Any) -> Any:
    """A Python callable of a C function `(bound, address of the arguments, their number) -> result`, all addresses."""
    address = compiled(function, types.int64(types.int64, types.int64, types.int64))
    method = _methods.get(address) or _Method(function.__name__.encode(), address, _FASTCALL, None)
    return _new_builtin(ctypes.addressof(_methods.setdefault(address, method)), bound, None)


if ctypes.sizeof(ctypes.c_void_p) != 8:
    raise ImportError("the kernels need a 64-bit processor; set NUMBA_DISABLE_JIT=1 to run without them")
