"""A played card: what the engine uses of CuPy and of the driver, with NumPy's memory, and this machine for kernels.

With `played()` and NUMBA_ENABLE_CUDASIM=0 the engine runs as on a card: Numba compiles, arguments are packed for the
driver and read from where it would read them, and steps are captured as graphs. Work that is given to a stream while it
is captured is noted, and done when the graph is launched; whoever waits meanwhile breaks the capture off, and products
of the array library, which are cuBLAS's, cannot be captured. Left out: memory pools, and two streams at once.
"""
from __future__ import annotations

import ctypes
import sys
import time
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import numpy as np

from engine.kernels.cuda import assembler
from engine.kernels.cuda.arrays import SimulatedArray

from .arithmetic import HELD
from .machine import machine

UNASKED = 48 * 1024  # bytes of shared memory that a kernel may have
PRODUCTS = {"dot", "einsum", "inner", "matmul", "tensordot", "vdot"}
BLAS = "calling cuBLAS API during stream capture is currently unsupported"


class CUDADriverError(RuntimeError):
    """The driver refuses."""


class CUDARuntimeError(RuntimeError):
    """The runtime refuses."""


class Pointer:
    """An address in an array's memory."""

    def __init__(self, owner: np.ndarray, ptr: int) -> None:
        self.owner, self.ptr = owner, ptr

    def __add__(self, nbytes: int) -> Pointer:
        return Pointer(self.owner, self.ptr + nbytes)


# --- memory ---------------------------------------------------------------------------------------
_live: dict[int, Any] = {}  # address -> an array that owns its memory, weakly


def _known(array: np.ndarray) -> None:
    """Note where an array's memory lies, for kernels that are given addresses."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    at = owner.ctypes.data
    if owner.size and (at not in _live or _live[at]() is not owner):
        _live[at] = weakref.ref(owner)


def _owners(addresses: Sequence[int]) -> list[np.ndarray]:
    """The arrays in whose memory these addresses are, and those to which tables of addresses there lead."""
    found: dict[int, np.ndarray] = {}
    wanted = {a for a in addresses if a}
    while wanted:
        more: set[int] = set()
        for at, reference in list(_live.items()):
            owner = reference()
            if owner is None:
                del _live[at]
            elif at not in found and any(at <= a < at + owner.nbytes for a in wanted):
                found[at] = owner
                if owner.dtype == np.int64 and owner.size < 4096:
                    more |= {int(a) for a in owner.ravel().tolist()}
        wanted = more
    return list(found.values())


def empty(shape: Any, dtype: Any = float) -> SimulatedArray:
    return SimulatedArray.poisoned(shape, dtype)


def asarray(array: Any, dtype: Any = None, order: Any = None) -> SimulatedArray:
    if isinstance(array, SimulatedArray):
        return array
    return SimulatedArray(np.array(array, dtype, order=order or "K"))


def ndarray(shape: Any, dtype: Any, memptr: Pointer, strides: Any = None) -> SimulatedArray:
    """An array in the memory of another."""
    start = memptr.ptr - memptr.owner.ctypes.data
    return SimulatedArray(np.ndarray(shape, dtype, memptr.owner.reshape(-1).view(np.uint8), start, strides))


# --- streams and graphs ---------------------------------------------------------------------------
class Stream:
    """A stream, whose work is done at once unless it is captured."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr, self._spoilt = id(self), False
        self._noted: list[Callable[[], Any]] | None = None
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        global _stream
        self._before.append(_stream)
        _stream = self
        return self

    def __exit__(self, *_: Any) -> None:
        global _stream
        _stream = self._before.pop()

    def do(self, work: Callable[[], Any]) -> None:
        if self._noted is None:
            work()
        else:
            self._noted.append(work)

    @property
    def captured(self) -> bool:
        return self._noted is not None

    def refuse_to_wait(self) -> None:
        """Waiting breaks a capture off (CUDA Runtime API, cudaErrorStreamCaptureUnsupported)."""
        if self._noted is not None:
            self._spoilt = True
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: not permitted when a stream is capturing")

    def synchronize(self) -> None:
        self.refuse_to_wait()

    def record(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, event: Event) -> None:
        """All work is done in order as it is."""

    def begin_capture(self) -> None:
        self._noted, self._spoilt = [], False

    def is_capturing(self) -> bool:
        if self._spoilt:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated")
        return self._noted is not None

    def end_capture(self) -> Any:
        noted, self._noted = self._noted, None
        if self._spoilt or noted is None:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated")
        return types.SimpleNamespace(upload=lambda: None, launch=partial(_run_all, noted))


def _run_all(noted: list[Callable[[], Any]]) -> None:
    global GRAPHS
    GRAPHS += 1
    for work in noted:
        _stream.do(work)


class Event:
    """A mark in a stream."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.time = time.perf_counter()

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        _stream.refuse_to_wait()


_stream = Stream()
GRAPHS = 0
"""Graphs that have been launched."""
LAUNCHES = 0
"""Kernels that have run."""


# --- kernels --------------------------------------------------------------------------------------
_functions: list[str] = []
_allowed: dict[int, int] = {}


class Module:
    """A kernel's PTX."""

    def load(self, code: bytes) -> None:
        self.text = code.decode()

    def get_function(self, name: str) -> Any:
        if machine(self.text).program.name != name:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        _functions.append(self.text)
        return types.SimpleNamespace(ptr=len(_functions))


def set_attribute(function: int, attribute: int, value: int) -> None:
    _allowed[function] = value


def launch(function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, params: int,
           extra: int) -> None:  # fmt: skip
    """cuLaunchKernel: `params` is the address of a table of the arguments' addresses, which are copied."""
    global LAUNCHES
    if shared > _allowed.get(function, UNASKED):
        raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {shared} bytes of shared memory")
    if stream != _stream.ptr:
        raise CUDADriverError("CUDA_ERROR_INVALID_HANDLE: not the current stream")
    kernel = machine(_functions[function - 1])
    kinds = [kernel.program.registers[name] for name in kernel.program.parameters]
    table = (ctypes.c_void_p * len(kinds)).from_address(params)
    values = [np.frombuffer(ctypes.string_at(at, np.dtype(HELD[kind]).itemsize), HELD[kind])[0]
              for at, kind in zip(table, kinds, strict=True)]  # fmt: skip
    LAUNCHES += 1

    def run() -> None:
        addresses = [int(v) for v, kind in zip(values, kinds, strict=True) if kind == "b64"]
        kernel.launch((gx, gy, gz), (bx, by, bz), shared, values, _owners(addresses))

    _stream.do(run)


# --- array operations -----------------------------------------------------------------------------
def _noting(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method of arrays that also notes what it does, while a stream is captured."""

    @wraps(method)
    def call(*given: Any, **options: Any) -> Any:
        if not _stream.captured:
            return _seen(method(*given, **options))
        if name == "get" or _is_product(name, given):
            if name == "get":
                _stream.refuse_to_wait()
            raise NotImplementedError(BLAS)
        if _writes(name, given, options):
            _stream.do(partial(method, *given, **options))
            return options["out"][0] if type(options.get("out")) is tuple else options.get("out")
        result = method(*given, **options)
        _stream.do(partial(_again, method, given, options, result))
        return _seen(result)

    return call


def _is_product(name: str, given: Sequence[Any]) -> bool:
    if name == "__array_function__":
        return given[1].__name__ in PRODUCTS
    return name in ("__matmul__", "__rmatmul__") or (name == "__array_ufunc__" and given[1] is np.matmul)


def _writes(name: str, given: Sequence[Any], options: dict[str, Any]) -> bool:
    """Whether a method writes into an array that there is already, and makes none."""
    copies = name == "__array_function__" and given[1].__name__ == "copyto"
    return name in ("__setitem__", "fill", "set") or copies or options.get("out") is not None


def _again(method: Callable[..., Any], given: Any, options: Any, result: Any) -> None:
    """Do it once more, into the memory of the first result; a view needs nothing."""
    if _views(result, given):
        return
    made = method(*given, **options)
    for old, new in zip(_listed(result), _listed(made), strict=True):
        if old.memory.flags.writeable and not np.shares_memory(old.memory, new.memory):  # else a number, broadcast
            old.memory[...] = new.memory


def _views(result: Any, given: Any) -> bool:
    arrays = [a for a in _listed(given) if isinstance(a, SimulatedArray)]
    made = _listed(result)
    return bool(made) and isinstance(result, SimulatedArray) and not any(result is a for a in arrays) and any(
        np.shares_memory(result.memory, a.memory) for a in arrays)


def _listed(x: Any) -> list[SimulatedArray]:
    if isinstance(x, SimulatedArray):
        return [x]
    return [a for part in x for a in _listed(part)] if isinstance(x, (tuple, list)) else []


def _seen(result: Any) -> Any:
    for array in _listed(result):
        _known(array.memory)
    return result


NOTED = ["__array_ufunc__", "__array_function__", "__getitem__", "__setitem__", "astype", "copy", "fill", "ravel",
         "reshape", "sum", "max", "min", "mean", "all", "any", "get", "set"]  # fmt: skip


@contextmanager
def played() -> Any:
    """A card, for as long as this lasts. It takes PTX: there is no ptxas for it."""
    usable, assembler.usable = assembler.usable, lambda: False
    init, methods = SimulatedArray.__init__, {name: getattr(SimulatedArray, name) for name in NOTED}

    def known(self: SimulatedArray, memory: np.ndarray) -> None:
        init(self, memory)
        _known(memory)

    modules = _modules()
    before = {name: sys.modules.get(name) for name in modules}
    SimulatedArray.__init__ = known  # type: ignore[method-assign]
    SimulatedArray.data = property(lambda self: Pointer(self.memory, self.memory.ctypes.data))  # type: ignore[attr-defined]
    for name, method in methods.items():
        setattr(SimulatedArray, name, _noting(method, name))
    sys.modules.update(modules)
    try:
        yield
    finally:
        assembler.usable = usable
        SimulatedArray.__init__ = init  # type: ignore[method-assign]
        del SimulatedArray.data  # type: ignore[attr-defined]
        for name, method in methods.items():
            setattr(SimulatedArray, name, method)
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _modules() -> dict[str, types.ModuleType]:
    """The modules that the engine imports on a card."""
    driver = _module("cupy_backends.cuda.api.driver", CUDADriverError=CUDADriverError, launchKernel=launch,
                     funcSetAttribute=set_attribute, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)  # fmt: skip
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1, getDevice=lambda: 0, free=lambda pointer: None,
        getDeviceProperties=lambda number: {"name": b"a played card", "major": 9, "minor": 0,
                                            "sharedMemPerBlockOptin": 227 * 1024},
        driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, memGetInfo=lambda: (2**34, 2**35),
        deviceSynchronize=lambda: _stream.refuse_to_wait())  # fmt: skip
    pool = types.SimpleNamespace(malloc=None, total_bytes=lambda: 1, set_limit=lambda size: None, used_bytes=lambda: 0)
    cuda = types.SimpleNamespace(
        Stream=Stream, Event=Event, MemoryPool=lambda: pool, get_current_stream=lambda: _stream, runtime=runtime,
        using_allocator=_nothing, driver=driver, function=types.SimpleNamespace(Module=Module),
        Device=lambda *_: types.SimpleNamespace(compute_capability="90"),
        get_elapsed_time=lambda a, b: (b.time - a.time) * 1e3)  # fmt: skip
    cupy = _module("cupy", empty=empty, asarray=asarray, ndarray=ndarray, cuda=cuda, __version__="played",
                   get_default_memory_pool=lambda: pool)  # fmt: skip
    special = _module("cupyx.scipy.special", erf=_erf)
    names = ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.api", "cupyx", "cupyx.scipy")
    found = {name: _module(name) for name in names} | {m.__name__: m for m in (driver, cupy, special)}
    found["cupy_backends.cuda.api"].driver = driver  # type: ignore[attr-defined]
    return found


def _module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(names)
    return made


@contextmanager
def _nothing(malloc: Any) -> Any:
    yield


def _erf(x: SimulatedArray) -> SimulatedArray:
    from math import erf
    return SimulatedArray(np.asarray(np.frompyfunc(erf, 1, 1)(x.memory)).astype(x.dtype))
