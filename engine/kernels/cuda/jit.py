"""The one wrapper that carries every CUDA kernel: how kernels are written, launched and tested.

    from .jit import cuda, jit, kernel
    from . import tape                                # memory: empty, contiguous, copy_to, as for the CPU's kernels

    @jit                                              # a device function: a function used inside kernels
    def double(x):
        return x + x

    @kernel("T[::1], T[::1], int32", threads=256)     # types of the parameters; the largest block
    def _twice(x, out, n):
        i = cuda.grid(1)
        if i < n:
            out[i] = double(x[i])

    def twice(x):                                     # the op's name: device arrays in, device arrays out
        x = tape.contiguous(x)
        out = tape.empty(x.shape, x.dtype)
        if out.size:                                  # a grid without blocks is an error
            _twice[-(-x.size // 256), 256](x, out, x.size)
        return out

`_twice[grid, block](…)` or `_twice[grid, block, shared_bytes](…)`: numbers or tuples of up to three, as in Numba. A
launch returns at once; it runs on CuPy's current stream, after all launches before it. While a step is recorded it is
written down on the tape instead. `twice` may look at shapes, strides and dtypes, never at an array's numbers.

**Types of parameters** are the CPU kernels': `T[::1]` (any rank, C-contiguous, seen flat: an address on a card, so that
x[i] is all a kernel may say of it), `T[...]` (the same for any strides that are not negative: x[i] is what lies i
elements behind the first), `T[[]]` (several flat arrays, given as `Addresses`: x[i] is one of them),
`T[:, :]` (this rank, any strides), `T`, `int` (int64), `int32`, `uint32`, `uint64`, `float`
(float64), `float32`, `bool`; element types T (float32 or float64: the dtype of the first T array that is not None),
float32, float64, int64, int32, int16, int8 and their unsigned forms, uint8, bool. `None` for an array is one of size 0.
T may be narrowed: `kernel("T[::1]", floats=("float32",))`.

**Inside a kernel** there are `cuda` from here (never `from numba import cuda`: it would not be simulated), `math`,
NumPy's dtypes (`np.float32(0.5)`, `cuda.shared.array(64, np.float32)`), the functions of `..compiled` (exp, log,
like, philox …), constants of the module or of an enclosing function, and intrinsics. Of `cuda`: threadIdx, blockIdx,
blockDim, gridDim, laneid, grid, gridsize, shared.array, local.array, syncthreads (_count, _and, _or), syncwarp,
shfl_sync (_xor, _up, _down), ballot_sync, any_sync, all_sync, atomic.*, fma, popc, threadfence. In float32 code every
literal says so, `np.float32(2)` or `like(2, x)`: `x * 2.0` is float64 on a card. No float atomics: they have no
order. Kernels made for several tile sizes come from a function that defines and returns the kernel, or from source
text through `written`.

**Intrinsics** (PTX) have a twin in Python, so that the simulator can run them:

    def _ld4_twin(x, i):                              # of one thread: like a device function; its name ends so
        return x[i], x[i + 1], x[i + 2], x[i + 3]

    @intrinsic(thread=_ld4_twin)
    def ld4(typing_context, x, i): …                  # Numba's own way; imports from `provider`, inside

    def _mma_twin(a, b, c): …                         # of a whole warp: every operand of all lanes, as arrays (32,)
                                                      # or tuples of them; gives the same. Computes once a warp.
    @intrinsic(warp=_mma_twin)
    def mma(typing_context, a, b, c): …

`stand_in.async_copy`, `async_commit` and `async_wait` are twins for cp.async that bring the data when they are
waited for; in lockstep they come at once.

**Precision**: `precision()` is "float32", "tf32x3", "tf32" or "bf16": what `engine.precision` or `--precision` chose. A
matmul of float32 arrays may then compute on tensor cores with float32 sums; whatever it does, arrays that come in and
go out stay float32, and float64 arrays are not affected. Masters (weights, moments of Adam) are always float32.

**Where kernels run.** With a card, Numba compiles each kernel for float32 or float64 at its first launch, ptxas (or the
driver) assembles it, and CuPy loads and launches it. With NUMBA_ENABLE_CUDASIM=1 (read when this module is imported)
they run on NumPy memory: in the lockstep simulator where it can (all threads of many blocks at once, as NumPy
operations; fast), else, or with `simulation("threads")`, as greenlets (slow, thread by thread). Arrays are
`SimulatedArray`s, which behave as CuPy's do; kernels themselves, called directly, take NumPy arrays as well.
`python -m tests.ptx FILE` runs tests so with the PTX that a card would get, where numba-cuda is installed.
`provider.ptx(kernel, "float32", (9, 0))` compiles one without a card or a driver; `KERNELS` lists them all.

    NUMBA_ENABLE_CUDASIM=1 python -c "
    import numpy as np; from engine.kernels import cuda; from engine.kernels.cuda import tape
    print(cuda.kernel('softmax')(tape.from_numpy(np.random.randn(5, 7).astype('f4'))).get().sum(1))"

A kernel that does not compile raises `CompileFailure`; the device then runs the op's meaning instead, with one
warning. Where a kernel does not serve an input, its function returns NotImplemented before it launches anything.
"""

import linecache
import math
import operator
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from ..cpu.tape import CURRENT, Addresses, Launch
from .card import simulated
from .precision import precision, set_precision

__all__ = ["KERNELS", "SIMULATED", "Kernel", "cuda", "intrinsic", "jit", "kernel", "precision",
           "set_precision", "simulation", "written"]  # fmt: skip

SIMULATED = simulated()

if SIMULATED:
    from . import lockstep_functions, simulator, stand_in
    from .lockstep_values import NotLockstep
    from .stand_in import cuda
else:
    from . import provider
    from .provider import cuda

_STREAM = threading.Lock()  # simulated launches come one after the other, from whatever thread
if SIMULATED and hasattr(os, "register_at_fork"):  # a child has the forking thread alone, and nothing under way
    os.register_at_fork(before=_STREAM.acquire, after_in_parent=_STREAM.release, after_in_child=_STREAM.release)

KERNELS: list["Kernel"] = []
"""Every kernel that has been declared: their modules must have been imported."""

_ELEMENTS = ("T", "float32", "float64", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
             "bool")  # fmt: skip
_NUMBERS = {"int": "int64", "float": "float64"}
FLOATS = ("float32", "float64")
DTYPES = {element: np.dtype(element) for element in _ELEMENTS if element != "T"}


class Parameter(NamedTuple):
    """A kernel's parameter: element type, and rank (None: a number; 0: C-contiguous; -1: any strides; -2: several)."""

    element: str
    rank: int | None

    def typed(self, dtype: str | None) -> "Parameter":
        """With T replaced."""
        return self._replace(element=dtype or "float32") if self.element == "T" else self


class Kernel:
    """A CUDA kernel: `kernel[grid, block](*arguments)`. See the module's docstring."""

    def __init__(self, signature: str, function: Callable[..., None], threads: int, floats: Sequence[str],
                 fastmath: bool, blocks_per_multiprocessor: int) -> None:
        self.__name__, self.__doc__, self.__module__ = function.__name__, function.__doc__, function.__module__
        self.function, self.threads, self.floats, self.fastmath = function, threads, tuple(floats), fastmath
        self.blocks_per_multiprocessor = blocks_per_multiprocessor
        self.parameters = _parameters(signature)
        self.generic = any(p.element == "T" for p in self.parameters)
        self._typed = {dtype: [p.typed(dtype) for p in self.parameters] for dtype in (None, *self.floats)}
        self._loaded: dict[Any, Any] = {}
        KERNELS.append(self)

    def __getitem__(self, configuration: tuple[Any, ...]) -> Callable[..., None]:
        grid, block, shared = (*configuration, 0) if len(configuration) == 2 else configuration
        shape = _three(grid), _three(block), int(shared)
        if min(shape[0]) < 1 or min(shape[1]) < 1:
            raise ValueError(f"the kernel {self.__name__} is launched with the grid {grid} of blocks of {block}")
        if shape[0][0] > 2**31 - 1 or max(shape[0][1:]) > 65535:
            raise ValueError(f"the kernel {self.__name__} is launched with the grid {grid}: a card takes up to "
                             "2^31 - 1 blocks along x, 65,535 along y and z")  # fmt: skip
        if math.prod(shape[1]) > self.threads:
            raise ValueError(f"the kernel {self.__name__} is made for {self.threads} threads a block, not {block}")
        return lambda *arguments: self._launch(shape, arguments)

    def _launch(self, shape: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        run = self.loaded(arguments)
        tape = CURRENT.tape
        if tape is not None:
            if not SIMULATED:
                run.reserve(shape[2])  # type: ignore[attr-defined]  # what a card refuses is known before the step runs
            tape.steps.append(Launch(self, shape, arguments, False))
        else:
            run(shape, self.packed(arguments))

    def run(self, shape: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        """Launch now, whether a tape records or not."""
        self.loaded(arguments)(shape, self.packed(arguments))

    def loaded(self, arguments: tuple[Any, ...]) -> Callable[..., None]:
        """What launches the kernel for these arguments' dtype, compiled and loaded if need be."""
        dtype = self._dtype(arguments)
        if dtype not in self._loaded:
            self._loaded[dtype] = self._simulated if SIMULATED else provider.load(self, dtype)
        return self._loaded[dtype]

    def packed(self, arguments: tuple[Any, ...]) -> list[Any]:
        """The arguments as the launch takes them. Raises TypeError where one is not what the kernel takes."""
        dtype = self._dtype(arguments)
        if len(arguments) != len(self.parameters):
            raise TypeError(f"the kernel {self.__name__} takes {len(self.parameters)} arguments, not {len(arguments)}")
        packed: list[Any] = []
        for i, (argument, p) in enumerate(zip(arguments, self._typed[dtype], strict=True)):
            if p.rank is None:
                packed.append(_number(argument, p.element) if SIMULATED else argument)
                continue
            if argument is not None and not _fits(argument, p):
                what = f"{getattr(argument, 'dtype', type(argument).__name__)}{getattr(argument, 'shape', '')}"
                raise TypeError(f"the kernel {self.__name__} takes {_described(p)} as argument {i}, not {what}")
            packed += [_seen(argument, p)] if SIMULATED else provider.words(argument, p)
        return packed

    def _simulated(self, shape: tuple[Any, ...], packed: list[Any]) -> None:
        grid, block, shared = shape
        arguments = tuple(packed)
        with _STREAM:
            if _simulation.get() == "lockstep" and not simulator.ordered():
                try:
                    lockstep_functions.launch(self.function, grid, block, shared, arguments, self.__name__)
                    return
                except NotLockstep:
                    pass
            function = stand_in.device_function(self.function)
            simulator.launch(function, grid, block, shared, arguments, self.__name__)

    def _dtype(self, arguments: tuple[Any, ...]) -> str | None:
        """The T for which these arguments ask."""
        if not self.generic:
            return None
        given = (a for a, p in zip(arguments, self.parameters, strict=False)
                 if p.element == "T" and p.rank is not None and a is not None)
        array = next(given, None)
        name = str(array.dtype) if array is not None else self.floats[0]
        if name not in self.floats:
            raise TypeError(f"the kernel {self.__name__} works on {' and '.join(self.floats)} arrays, not on {name}")
        return name


def kernel(signature: str, *, threads: int = 1024, floats: Sequence[str] = FLOATS, fastmath: bool = False,
           blocks_per_multiprocessor: int = 1) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: the types of its parameters, and its launch bounds (the largest block, and how many of them
    should fit on a multiprocessor: together they limit the registers of a thread)."""
    return lambda function: Kernel(signature, function, threads, floats, fastmath, blocks_per_multiprocessor)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A device function, inlined where it is called."""
    return stand_in.device_function(function) if SIMULATED else provider.device_function(function)


def intrinsic(*, thread: Callable[..., Any] | None = None, warp: Callable[..., Any] | None = None,
              lanes: Callable[..., Any] | None = None,
              lockstep: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an intrinsic in Numba's way, with its twin in Python, of one thread or of a whole warp.

    lanes: the thread's twin for arrays of a number a thread, where that is faster. lockstep: another twin of a thread
    for the lockstep simulator, where the first is for threads that run by themselves.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        if not SIMULATED:
            return provider.intrinsic(function)
        if warp is not None:
            return stand_in.warp_wide(function.__name__, warp)
        if thread is None:
            raise TypeError(f"the intrinsic {function.__name__} has no twin for the simulator")
        twin = stand_in.device_function(thread)
        if lanes is not None:
            twin.lanes_twin = lanes  # type: ignore[attr-defined]
        if lockstep is not None:
            twin.lockstep_twin = lockstep  # type: ignore[attr-defined]
        return twin

    return declare


def written(source: str, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function `name` that a generated source text defines; `names` are its globals. Errors can show its lines."""
    file = f"<generated {name} {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = {"__name__": f"{__package__}.generated", **names}
    exec(compile(source, file, "exec"), names)
    return names[name]


_simulation: ContextVar[str] = ContextVar("cuda_simulation", default="lockstep")


@contextmanager
def simulation(kind: str) -> Iterator[None]:
    """How kernels are simulated: in "lockstep", or by "threads" (greenlets)."""
    if kind not in ("lockstep", "threads"):
        raise ValueError(f"there is no simulation {kind!r}")
    token = _simulation.set(kind)
    try:
        yield
    finally:
        _simulation.reset(token)


def _three(n: Any) -> tuple[int, int, int]:
    given = tuple(int(i) for i in n) if isinstance(n, tuple) else (int(n),)
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z


def _parameters(signature: str) -> list[Parameter]:
    """From a text such as "T[::1], bool[:, :], int"."""
    found: list[Parameter] = []
    for element, axes in re.findall(r"(\w+)(?:\[([:1, .\[\]]*)\])?", signature):
        rank = None if not axes else {"::1": 0, "...": -1, "[]": -2}.get(axes, axes.count(":"))
        name = _NUMBERS.get(element, element) if rank is None else element
        if name not in _ELEMENTS:
            raise ValueError(f"unknown type {element!r} in the kernel signature {signature!r}")
        found.append(Parameter(name, rank))
    return found


def _described(p: Parameter) -> str:
    kind = {0: "a C-contiguous {} array", -1: "a {} array with strides that are not negative",
            -2: "Addresses of C-contiguous {} arrays"}  # fmt: skip
    return kind.get(p.rank or 0, f"a {p.rank}-D {{}} array").format(p.element)


def _fits(argument: Any, p: Parameter) -> bool:
    if isinstance(argument, Addresses):
        return p.rank == -2 and all(_fits(array, Parameter(p.element, 0)) for array in argument.arrays)
    if getattr(argument, "dtype", None) != DTYPES[p.element]:
        return False
    if p.rank in (0, -1) and argument.flags.c_contiguous:
        return True
    if p.rank == -1:
        return all(stride >= 0 and stride % argument.itemsize == 0 for stride in argument.strides)
    return argument.ndim == p.rank


def _number(argument: Any, element: str) -> Any:
    """A number in the parameter's type, as the simulator sees it; whole numbers are Python's there."""
    kind = DTYPES[element].type
    return int(kind(operator.index(argument))) if issubclass(kind, np.integer) else kind(argument)


def _seen(argument: Any, p: Parameter) -> Any:
    """The memory behind an array (or several), as the simulated kernel sees it."""
    if isinstance(argument, Addresses):
        return [_seen(array, Parameter(p.element, 0)) for array in argument.arrays]
    if argument is None:
        return np.empty((0,) * max(p.rank or 1, 1), p.element)
    memory = getattr(argument, "memory", argument)
    if p.rank == -1 and memory.size:
        last = sum((n - 1) * stride for n, stride in zip(memory.shape, memory.strides, strict=True))
        return np.lib.stride_tricks.as_strided(memory, (1 + last // memory.itemsize,), (memory.itemsize,))
    return memory.reshape(-1) if p.rank in (0, -1) else memory
