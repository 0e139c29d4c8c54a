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
    twice(1, x, out, n)                               # one block: in this thread, ~0.4 µs (so: make small work 1 block)

Types of parameters:
    T[::1]      any-rank C-contiguous ndarray, seen in the kernel as a flat 1-D array
    T[:, :]     ndarray of exactly this rank with any strides (also 0, negative, read-only)
    T           a number of the floating type;  int (int64), float (float64), bool: numbers
    element types: T (float32 or float64: the dtype of the first T array that is not None), float32, float64,
                   int64, int32, uint64, uint32, uint8, bool
`None` may be passed for any array: the kernel sees one of size 0.

float32 and float64 are compiled separately, each on its first call, and kept on disk. Blocks are handed out to threads
one by one, in no fixed order: a block must not depend on another one. Aim at 20 µs to 200 µs a block; the launch of a
parallel loop costs 0.5 to 1 µs. Block sizes must not depend on the number of threads where that could change a bit.
A kernel is not called from another kernel; share code through @jit and @separate functions, which neither make arrays
nor return any. A kernel itself can allocate small ones (np.empty). Division is NumPy's (x / 0 is inf), no fastmath.
@kernel("...", bare=True): where it makes none, references need not be counted, which can cost as much as a short row.
"""

import re
from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import config

from . import launch
from .launch import Parameter
from .native import BARE, builtin, compiled, jit, separate
from .tape import CURRENT, Launch
from .team import TEAM

__all__ = ["MOST_THREADS", "Kernel", "get_threads", "jit", "kernel", "separate", "set_threads"]

MOST_THREADS = config.NUMBA_NUM_THREADS  # that a kernel can ever have: an upper bound of its `worker`

_FLOATS = {"float32": types.float32, "float64": types.float64}
_NUMBERS = {
    "int": types.int64, "float": types.float64, "bool": types.boolean, **_FLOATS,
    "int64": types.int64, "int32": types.int32, "uint64": types.uint64, "uint32": types.uint32, "uint8": types.uint8,
}  # fmt: skip


class Kernel:
    """A compiled kernel: call it with the number of blocks and its arguments. See the module's docstring."""

    def __init__(self, signature: str, function: Callable[..., None], bare: bool = False) -> None:
        self.__name__, self.__doc__, self.__module__ = function.__name__, function.__doc__, function.__module__
        self.function, self._options = function, BARE if bare else {}
        self._parameters = _parameters(signature)
        self._typed = [i for i, (element, kind) in enumerate(self._parameters) if element == "T" and kind is not None]
        self._first = self._typed[0] if self._typed else 0
        self._takes_worker = function.__code__.co_varnames[0] == "worker"
        self._shared: dict[Any, Callable[..., None]] = {}
        self._alone: dict[Any, Callable[..., None]] = {}
        self._rules: dict[Any, launch.Rules] = {}

    def __call__(self, blocks: int, *arguments: Any) -> None:
        """Run all blocks, in parallel if there are several."""
        tape = CURRENT.tape
        if tape is not None:
            tape.steps.append(Launch(self, blocks, arguments, False))
            return
        try:
            call = self._shared[arguments[self._first].dtype]
        except (KeyError, AttributeError, IndexError):
            call = self._shared[self._compiled_for(arguments)]
        call(blocks, *arguments)

    def serial(self, blocks: int, *arguments: Any) -> None:
        """Run all blocks in the calling thread."""
        tape = CURRENT.tape
        if tape is not None:
            tape.steps.append(Launch(self, blocks, arguments, True))
            return
        try:
            call = self._alone[arguments[self._first].dtype]
        except (KeyError, AttributeError, IndexError):
            call = self._alone[self._compiled_for(arguments)]
        call(blocks, *arguments)

    def rules(self, arguments: tuple[Any, ...]) -> launch.Rules:
        """How arguments of these dtypes are packed, and the machine code for them, compiled if need be."""
        return self._rules[self._compiled_for(arguments)]

    def _compiled_for(self, arguments: tuple[Any, ...]) -> Any:
        """The dtype for which these arguments ask, after compiling for it if need be."""
        given = (arguments[i] for i in self._typed if i < len(arguments))
        array = next((argument for argument in given if argument is not None), None)
        dtype = getattr(array, "dtype", None if array is None else type(array).__name__)
        if dtype not in self._shared:
            self._compile(dtype)
        return dtype

    def _compile(self, dtype: Any) -> None:
        if dtype is not None and str(dtype) not in _FLOATS:
            raise TypeError(f"the kernel {self.__name__} works on float32 and float64 arrays, not on {dtype}")
        generic = None if dtype is None else _FLOATS[str(dtype)]
        parameters = [Parameter(generic if element == "T" else _NUMBERS[element], rank)
                      for element, rank in self._parameters]  # fmt: skip
        position = [types.int64] * (2 + self._takes_worker)
        signature = types.void(*position, *(parameter.native for parameter in parameters))
        thunk = compiled(self.function, signature, pipeline_class=launch.KernelCompiler, **self._options)
        rules = self._rules.setdefault(dtype, launch.Rules(self.__name__, thunk, parameters))
        self._alone[dtype] = builtin(launch.launch, rules.alone)
        self._shared[dtype] = builtin(launch.launch, rules.shared)


def kernel(signature: str, bare: bool = False) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: `signature` gives the types of its parameters after the range of blocks."""
    return lambda function: Kernel(signature, function, bare)


def set_threads(n: int) -> None:
    """Use n threads (at most NUMBA_NUM_THREADS) for parallel kernels from now on."""
    if not 1 <= n <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"the number of threads must be between 1 and {config.NUMBA_NUM_THREADS}, not {n}")
    TEAM.threads = n


def get_threads() -> int:
    """The number of threads of parallel kernels."""
    return TEAM.threads


def _parameters(signature: str) -> list[tuple[str, Any]]:
    """[(element type, rank | 0 for flat | None for a number)] from a text such as "T[::1], bool[:, :], int"."""
    parameters: list[tuple[str, Any]] = []
    for element, axes in re.findall(r"(\w+)(?:\[([:1, ]*)\])?", signature):
        rank = None if not axes else 0 if axes == "::1" else axes.count(":")
        if element != "T" and element not in _NUMBERS:
            raise ValueError(f"unknown type {element!r} in the kernel signature {signature!r}")
        parameters.append((element, rank))
    return parameters
