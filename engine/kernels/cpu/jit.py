"""The one wrapper that carries every kernel.

A kernel is a *serial* function over a range of blocks. Its first two parameters are the range; a parameter named
`worker` may come before them (0 ≤ worker < get_threads(): index of a private scratch buffer).

    @jit                                              # a function used inside kernels
    def double(x):
        return x + x

    @kernel("T[::1], T[::1], int")                    # types of the parameters after (lo, hi)
    def twice(lo, hi, x, out, n):
        for i in range(lo * BLOCK, min(hi * BLOCK, n)):
            out[i] = double(x[i])

    twice(-(-n // BLOCK), x, out, n)                  # blocks, arguments: in parallel if there is more than one block
    twice.serial(3, x, out, n)                        # all blocks in this thread
    twice(1, x, out, n)                               # one block: in this thread, ~0.5 µs (so: make small work 1 block)

Types of parameters:
    T[::1]      any-rank C-contiguous ndarray, seen in the kernel as a flat 1-D array
    T[:, :]     ndarray of exactly this rank with any strides (also 0, negative, read-only)
    T           a number of the floating type;  int (int64), float (float64), bool: numbers
    element types: T (float32 or float64: the dtype of the first T array that is not None), float32, float64,
                   int64, int32, uint64, uint32, uint8, bool
`None` may be passed for any array: the kernel sees one of size 0.

float32 and float64 are compiled separately, each on its first call, and kept on disk. Blocks are handed out to threads
one by one, in no fixed order: a block must not depend on another one. Aim at 20 µs to 200 µs a block; the launch of a
parallel loop costs 5 to 10 µs. Block sizes must not depend on the number of threads where that could change a bit.
A kernel is not called from another kernel; share code through @jit and @separate functions. Arrays can be allocated
inside (np.empty) when they are small. Division is NumPy's (x / 0 is inf), no fastmath.
"""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import config

from . import cache, launch
from .tape import CURRENT, Launch

OPTIONS = {"nogil": True, "error_model": "numpy"}
NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_FLOATS = {"float32": types.float32, "float64": types.float64}
_NUMBERS = {
    "int": types.int64, "float": types.float64, "bool": types.boolean, **_FLOATS,
    "int64": types.int64, "int32": types.int32, "uint64": types.uint64, "uint32": types.uint32, "uint8": types.uint8,
}  # fmt: skip


def jit(function: Callable[..., Any]) -> Any:
    """A function to be called from kernels."""
    return numba.njit(**OPTIONS, **NO_WRAPPERS)(function)


def separate(function: Callable[..., Any]) -> Any:
    """Like @jit, for longer functions with several callers: compiled once for each set of types and never inlined.

    (Numba compiles a @jit function again for every constant that is passed to it, and LLVM inlines what it can.)
    """
    return launch.called_apart(jit(function))


class Kernel:
    """A compiled kernel: call it with the number of blocks and its arguments. See the module's docstring."""

    def __init__(self, signature: str, function: Callable[..., None]) -> None:
        self.__name__, self.__doc__, self.__module__ = function.__name__, function.__doc__, function.__module__
        self.function = function
        self._parameters = _parameters(signature)
        self._typed = [i for i, (element, kind) in enumerate(self._parameters) if element == "T" and kind != "number"]
        self._takes_worker = function.__code__.co_varnames[0] == "worker"
        self._entries: dict[Any, Any] = {}

    def __call__(self, blocks: int, *arguments: Any) -> None:
        """Run all blocks, in parallel if there are several."""
        tape = CURRENT.tape
        if tape is not None:
            tape.steps.append(Launch(self, blocks, arguments, False))
            return
        entry = self._entry(arguments)
        if blocks <= 1 or _team.threads == 1:
            entry(0, 1, blocks, *arguments)
        else:
            with _team.lock:
                entry(_team.address, _team.threads, blocks, *arguments)

    def serial(self, blocks: int, *arguments: Any) -> None:
        """Run all blocks in the calling thread."""
        tape = CURRENT.tape
        if tape is not None:
            tape.steps.append(Launch(self, blocks, arguments, True))
            return
        self._entry(arguments)(0, 1, blocks, *arguments)

    def _entry(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return self._entries[arguments[self._typed[0]].dtype]
        except (KeyError, AttributeError, IndexError):  # a new dtype, None instead of an array, no T at all
            dtype = next((arguments[i].dtype for i in self._typed if arguments[i] is not None), None)
            return self._entries.get(dtype) or self._compile(dtype)

    def _compile(self, dtype: Any) -> Any:
        if dtype is not None and dtype.name not in _FLOATS:
            raise TypeError(f"the kernel {self.__name__} works on float32 and float64 arrays, not on {dtype}")
        generic = None if dtype is None else _FLOATS[dtype.name]
        arguments = tuple(_numba_type(parameter, generic) for parameter in self._parameters)
        signature = types.void(*[types.int64] * (2 + self._takes_worker), *map(launch.native_type, arguments))
        function = _compiled(self.function, f"{self.__module__}.{self.__name__}", signature, **NO_WRAPPERS)
        address = function.library.get_pointer_to_function(function.fndesc.llvm_func_name)
        self._entries[dtype] = functools.partial(_entry_for(arguments, self._takes_worker), address)
        return self._entries[dtype]


def kernel(signature: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: `signature` gives the types of its parameters after the range of blocks."""
    return lambda function: Kernel(signature, function)


def set_threads(n: int) -> None:
    """Use n threads (at most NUMBA_NUM_THREADS) for parallel kernels from now on."""
    if not 1 <= n <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"the number of threads must be between 1 and {config.NUMBA_NUM_THREADS}, not {n}")
    _team.threads = n


def get_threads() -> int:
    """The number of threads of parallel kernels."""
    return _team.threads


def _parameters(signature: str) -> list[tuple[str, Any]]:
    """[(element type, "number" | None for flat | rank)] from a text such as "T[::1], bool[:, :], int"."""
    parameters: list[tuple[str, Any]] = []
    for element, axes in re.findall(r"(\w+)(?:\[([:1, ]*)\])?", signature):
        kind: Any = "number" if not axes else None if axes == "::1" else axes.count(":")
        if element != "T" and element not in _NUMBERS:
            raise ValueError(f"unknown type {element!r} in the kernel signature {signature!r}")
        parameters.append((element, kind))
    return parameters


def _numba_type(parameter: tuple[str, Any], generic: Any) -> Any:
    element, kind = parameter
    dtype = generic if element == "T" else _NUMBERS[element]
    return dtype if kind == "number" else launch.ArrayArgument(dtype, kind)


def _compiled(function: Callable[..., Any], name: str, signature: Any, **options: Any) -> Any:
    """Compile a function for one signature, or take it from the disk: -> Numba's record of the result."""
    dispatcher = numba.njit(**OPTIONS, **options)(function)
    dispatcher._cache = cache.DiskCache(name)
    dispatcher.compile(signature)
    return next(iter(dispatcher.overloads.values()))


@functools.cache
def _entry_for(arguments: tuple[Any, ...], takes_worker: bool) -> Callable[..., None]:
    """The native entry for kernels with these types of parameters."""
    function = launch.entry_function("entry", len(arguments), takes_worker)
    return _compiled(function, f"entry{int(takes_worker)}", launch.entry_signature(arguments)).entry_point


class _Team:
    """The threads that share the blocks of a kernel."""

    def __init__(self) -> None:
        self.threads = config.NUMBA_NUM_THREADS
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @functools.cached_property
    def address(self) -> int:
        """The parallel loop's, compiled on first use."""
        return launch.c_address(_compiled(launch.workers, "workers", launch.WORKERS_SIGNATURE, parallel=True))

    @functools.cached_property
    def lock(self) -> Any:
        """A lock where Numba's threads cannot serve two Python threads at once (its "workqueue")."""
        _ = self.address
        return threading.Lock() if numba.threading_layer() == "workqueue" else contextlib.nullcontext()

    def _forked(self) -> None:
        """A child forked after a parallel kernel cannot use its parent's threads: it works alone."""
        if "address" in self.__dict__:
            self.threads = 1


_team = _Team()
