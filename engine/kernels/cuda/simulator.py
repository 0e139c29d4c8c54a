"""A CUDA simulator: every thread of a block is a greenlet that runs the kernel's own Python.

`launch(function, grid, block, shared_bytes, arguments, name)` runs a kernel on NumPy memory, block after block. Threads
run one at a time and change only where they wait for each other: at a barrier of the block (`syncthreads`), or where a
warp exchanges numbers (shuffles, votes, intrinsics of a whole warp). So a run is deterministic; `order("reversed")`
lets the threads run in another order, which a kernel that forgets a barrier does not survive.

What a card would do wrong in silence is an error here, `SimulatedFault`, that names the kernel, the block, the thread
and the line: an index outside an array (a negative one too), a barrier that not all threads of the block or warp reach,
threads that wait at different barriers, warps that lack a lane, and a block larger than a card takes. Shared and local
memory begin as NaN or as large numbers, never as zeros; dynamic shared memory, too.

Numbers have their types: floats are NumPy scalars, `math` gives what it is given. Python's integers stand for indices
and never overflow. Python's floats are float64, so `x * 0.5` of a float32 x is float32 here and float64 on a card: the
other simulator (`lockstep.py`) and the tests of the compiled code find that.
"""

import contextvars
import math as _math
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

WARP = 32
MOST_THREADS = 1024  # of a block, on every card
MOST_SHARED = 227 * 1024  # bytes of a block, on a card of compute capability 9.0
_ORDERS = ("forward", "reversed")
_order = contextvars.ContextVar("simulated_order", default="forward")


class SimulatedFault(Exception):
    """What a kernel did that a card forbids, or leaves undefined."""


@contextmanager
def order(name: str) -> Iterator[None]:
    """Let the threads of a block run "forward" or "reversed" between barriers."""
    if name not in _ORDERS:
        raise ValueError(f"threads run {' or '.join(_ORDERS)}, not {name!r}")
    token = _order.set(name)
    try:
        yield
    finally:
        _order.reset(token)


def _greenlet() -> Any:
    try:
        import greenlet
    except ImportError:
        raise ImportError("the CUDA simulator needs the package greenlet: pip install greenlet, or microtfm[test]"
                          ) from None
    return greenlet


# --- memory ---------------------------------------------------------------------------------------
class Memory:
    """An array as a kernel sees it: indices are checked, and negative ones are refused."""

    __slots__ = ("array", "dtype", "ndim", "shape", "size", "strides", "what")

    def __init__(self, array: np.ndarray, what: str) -> None:
        self.array, self.what = array, what
        self.shape, self.dtype, self.size = array.shape, array.dtype, array.size
        self.ndim, self.strides = array.ndim, array.strides

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check(index)
        self.array[index] = value

    def __len__(self) -> int:
        return self.shape[0]

    def _check(self, index: Any) -> None:
        if type(index) is tuple:
            if len(index) == self.ndim and all(0 <= i < n for i, n in zip(index, self.shape, strict=True)):
                return
        elif self.ndim == 1 and 0 <= index < self.size:
            return
        raise IndexError(f"index {index} is outside {self.what} of shape {self.shape}")


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """Memory that nobody has written: NaN, or a large number."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    memory = np.empty(shape, dtype)
    memory.view(np.uint8).fill(0x7F) if memory.ndim else memory.fill(1)
    return memory


# --- threads --------------------------------------------------------------------------------------
class _Dim3:
    __slots__ = ("x", "y", "z")

    def __init__(self, x: int, y: int = 1, z: int = 1) -> None:
        self.x, self.y, self.z = x, y, z


class Block:
    """A block of threads, and its shared memory."""

    def __init__(self, index: _Dim3, dims: _Dim3, grid: _Dim3, shared_bytes: int) -> None:
        self.index, self.dims, self.grid = index, dims, grid
        self.dynamic = np.full(shared_bytes, 0xFF, np.uint8)  # as floats of any width: NaN
        self.static: dict[Any, Memory] = {}
        self.shared_bytes = shared_bytes
        self.threads: list[Any] = []

    def shared(self, key: Any, shape: Any, dtype: np.dtype) -> Memory:
        """The static shared array of one place in the source; the dynamic memory where the shape is 0."""
        if shape == 0:
            count = len(self.dynamic) // dtype.itemsize
            return Memory(np.frombuffer(self.dynamic.data, dtype, count), "dynamic shared memory")
        if key not in self.static:
            self.static[key] = Memory(poisoned(shape, dtype), "shared memory")
            self.shared_bytes += self.static[key].array.nbytes
            if self.shared_bytes > MOST_SHARED:
                raise SimulatedFault(f"{self.shared_bytes} bytes of shared memory; a block has {MOST_SHARED}")
        return self.static[key]


_CURRENT: Any = None  # greenlet.getcurrent, once there is a simulated thread


def _thread() -> Any:
    return _CURRENT()


def _wait(kind: str, value: Any = None, mask: int = 0xFFFFFFFF) -> Any:
    """Stop until all that take part are here: -> what each of them brought, by thread (block) or by lane (warp)."""
    thread = _CURRENT()
    thread.waits, thread.brought, thread.mask = kind, value, int(mask) & 0xFFFFFFFF
    return thread.parent.switch()


def _line(thread: Any) -> tuple[str, int]:
    """Where in the kernel's source a waiting thread stands."""
    frame = thread.gr_frame
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("?", 0)


class _Run:
    """One block's threads, from their start to their end."""

    def __init__(self, name: str, function: Callable[..., None], block: Block, arguments: tuple[Any, ...]) -> None:
        module = _greenlet()
        global _CURRENT
        _CURRENT = module.getcurrent
        self.name, self.block = name, block
        d = block.dims
        for z in range(d.z):
            for y in range(d.y):
                for x in range(d.x):
                    t = _thread_class()(function)
                    t.gr_context = contextvars.copy_context()
                    t.threadIdx, t.block, t.number, t.copies = _Dim3(x, y, z), block, len(block.threads), [[]]
                    block.threads.append(t)
        self.threads = block.threads
        self.warps = [self.threads[i:i + WARP] for i in range(0, len(self.threads), WARP)]
        self.queue = self.threads if _order.get() == "forward" else self.threads[::-1]
        for t in self.queue:
            self._go_on(t, *arguments)

    def _go_on(self, thread: Any, *values: Any) -> None:
        try:
            thread.switch(*values)
        except SimulatedFault as e:
            raise SimulatedFault(f"{self._where(thread, e)}: {e}") from e
        except Exception as e:
            raise SimulatedFault(f"{self._where(thread, e)}: {type(e).__name__}: {e}") from e

    def _where(self, thread: Any, error: BaseException | None = None) -> str:
        b, t = self.block.index, thread.threadIdx
        file, line = _line(thread) if error is None else _raised_at(error)
        return (f"kernel {self.name}, block ({b.x}, {b.y}, {b.z}), thread ({t.x}, {t.y}, {t.z}), "
                f"{file.rsplit('/', 1)[-1]}:{line}")

    def finish(self) -> None:
        """Let the threads meet until all have ended."""
        while True:
            moved = [self._meet_warp(warp) for warp in self.warps]
            alive = [t for t in self.threads if not t.dead]
            if not alive:
                return
            if all(t.waits == "syncthreads" for t in alive):
                self._meet_block(alive)
            elif not any(moved):
                raise SimulatedFault(self._deadlock(alive))

    def _meet_block(self, alive: list[Any]) -> None:
        if len(alive) < len(self.threads):
            ended = next(t for t in self.threads if t.dead)
            e = ended.threadIdx
            raise SimulatedFault(f"{self._where(alive[0])}: a divergent barrier: thread ({e.x}, {e.y}, {e.z}) has ended"
                                 " and never reaches this syncthreads()")
        places = {_line(t): t for t in alive}
        if len(places) > 1:
            one, other, *_ = places.values()
            raise SimulatedFault(f"{self._where(one)}: a divergent barrier: {self._where(other)} waits at another "
                                 "syncthreads()")
        brought = [t.brought for t in self.threads]
        for t in alive:
            t.waits = None
        for t in self.queue:
            self._go_on(t, brought)

    def _meet_warp(self, warp: list[Any]) -> bool:
        """Let lanes that wait for each other exchange what they brought, as often as they can."""
        moved = False
        while True:
            group = self._ready(warp)
            if not group:
                return moved
            lanes = [t.brought if t in group else None for t in warp]
            for t in group:
                t.waits = None
            for t in (group if _order.get() == "forward" else group[::-1]):
                self._go_on(t, lanes)
            moved = True

    def _ready(self, warp: list[Any]) -> list[Any]:
        for t in warp:
            if t.dead or t.waits in (None, "syncthreads"):
                continue
            group = [u for lane, u in enumerate(warp) if t.mask >> lane & 1]
            if t not in group:
                raise SimulatedFault(f"{self._where(t)}: the mask {t.mask:#010x} of {t.waits} leaves out its own lane")
            gone = next((u for u in group if u.dead), None)
            missing = t.mask >> len(warp)
            if gone is not None or (missing and t.mask != 0xFFFFFFFF):
                raise SimulatedFault(f"{self._where(t)}: {t.waits} waits for lanes that have ended or do not exist")
            if all((u.waits, u.mask) == (t.waits, t.mask) for u in group):
                return group
        return []

    def _deadlock(self, alive: list[Any]) -> str:
        first = alive[0]
        other = next((t for t in alive if t.waits != first.waits or _line(t) != _line(first)), first)
        return (f"{self._where(first)}: a divergent barrier: this thread waits at {first.waits}, while "
                f"{self._where(other)} waits at {other.waits}")


def _raised_at(error: BaseException) -> tuple[str, int]:
    """The innermost line outside this file that an exception passed."""
    found, trace = ("?", 0), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            found = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


_thread_classes: list[type] = []


def _thread_class() -> type:
    """A greenlet with what a CUDA thread knows of itself."""
    if not _thread_classes:
        slots = ("block", "brought", "copies", "mask", "number", "threadIdx", "waits")
        _thread_classes.append(type("SimulatedThread", (_greenlet().greenlet,), {"__slots__": slots}))
    return _thread_classes[0]


# --- what kernels call `cuda` ---------------------------------------------------------------------
class _Shared:
    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Memory:
        import sys
        frame = sys._getframe(1)
        return _thread().block.shared((frame.f_code, frame.f_lasti), shape, np.dtype(dtype))


class _Local:
    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Memory:
        return Memory(poisoned(shape, dtype), "local memory")


class _Atomic:
    """Read-modify-write of one element: -> the old value. (Threads run one at a time, so nothing comes between.)"""

    def add(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: old + value)

    def sub(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: old - value)

    def max(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: max(old, value))

    def min(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: min(old, value))

    def exch(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: value)

    def and_(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: old & value)

    def or_(self, array: Memory, index: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: old | value)

    def cas(self, array: Memory, index: Any, expected: Any, value: Any) -> Any:
        return self._change(array, index, lambda old: value if old == expected else old)

    def _change(self, array: Memory, index: Any, new: Callable[[Any], Any]) -> Any:
        old = array[index]
        array[index] = new(old)
        return old


class Cuda:
    """The names of `numba.cuda` that kernels use."""

    shared, local, atomic = _Shared(), _Local(), _Atomic()
    warpsize = WARP

    threadIdx = property(lambda self: _thread().threadIdx)
    blockIdx = property(lambda self: _thread().block.index)
    blockDim = property(lambda self: _thread().block.dims)
    gridDim = property(lambda self: _thread().block.grid)
    laneid = property(lambda self: _thread().number % WARP)

    def grid(self, ndim: int) -> Any:
        """The thread's position in the grid."""
        b, d, t = self.blockIdx, self.blockDim, self.threadIdx
        place = b.x * d.x + t.x, b.y * d.y + t.y, b.z * d.z + t.z
        return place[0] if ndim == 1 else place[:ndim]

    def gridsize(self, ndim: int) -> Any:
        """How many threads the grid has."""
        g, d = self.gridDim, self.blockDim
        size = g.x * d.x, g.y * d.y, g.z * d.z
        return size[0] if ndim == 1 else size[:ndim]

    def syncthreads(self) -> None:
        _wait("syncthreads")

    def syncthreads_count(self, predicate: Any) -> int:
        return sum(1 for p in _wait("syncthreads", predicate) if p)

    def syncthreads_and(self, predicate: Any) -> int:
        return int(all(_wait("syncthreads", predicate)))

    def syncthreads_or(self, predicate: Any) -> int:
        return int(any(_wait("syncthreads", predicate)))

    def syncwarp(self, mask: int = 0xFFFFFFFF) -> None:
        _wait("syncwarp", None, mask)

    def threadfence(self) -> None:
        """Memory is one here."""

    threadfence_block = threadfence_system = threadfence

    def shfl_sync(self, mask: int, value: Any, lane: int) -> Any:
        return self._from(_wait("shfl_sync", value, mask), lane % WARP, value)

    def shfl_xor_sync(self, mask: int, value: Any, lanes: int) -> Any:
        return self._from(_wait("shfl_xor_sync", value, mask), self.laneid ^ lanes, value)

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._from(_wait("shfl_up_sync", value, mask), self.laneid - delta, value)

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._from(_wait("shfl_down_sync", value, mask), self.laneid + delta, value)

    @staticmethod
    def _from(lanes: list[Any], lane: int, own: Any) -> Any:
        """The value of another lane; one's own beyond the warp's ends, and a poisoned one from a lane left out."""
        if not 0 <= lane < WARP:
            return own
        if lane >= len(lanes) or lanes[lane] is None:
            raise SimulatedFault(f"a shuffle reads lane {lane}, which takes no part in it")
        return lanes[lane]

    def ballot_sync(self, mask: int, predicate: Any) -> int:
        return sum(1 << i for i, p in enumerate(_wait("ballot_sync", bool(predicate), mask)) if p)

    def any_sync(self, mask: int, predicate: Any) -> int:
        return int(any(p for p in _wait("any_sync", bool(predicate), mask) if p is not None))

    def all_sync(self, mask: int, predicate: Any) -> int:
        return int(all(p for p in _wait("all_sync", bool(predicate), mask) if p is not None))

    def popc(self, x: int) -> int:
        return int(x).bit_count()

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return type(x)(np.float64(x) * np.float64(y) + np.float64(z))


cuda = Cuda()


def warp_wide(name: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic of a whole warp: the twin gets every operand of all lanes at once. See `jit.intrinsic`."""

    def call(*operands: Any) -> Any:
        lanes = _wait(name, operands)
        if len(lanes) < WARP:
            raise SimulatedFault(f"{name} needs a whole warp of {WARP} lanes; this one has {len(lanes)}")
        thread = _thread()
        if thread.number % WARP == 0:
            results = _unstacked(twin(*(_stacked([lane[i] for lane in lanes]) for i in range(len(operands)))))
        else:
            results = None
        return _wait(f"{name} (result)", results)[0][thread.number % WARP]

    call.__name__ = name
    return call


def _stacked(values: list[Any]) -> Any:
    """The operand of each lane as one array (32,), or a tuple of them; an array in memory stays as it is."""
    if isinstance(values[0], tuple):
        return tuple(_stacked([v[i] for v in values]) for i in range(len(values[0])))
    if isinstance(values[0], Memory):
        return values[0]
    return np.array(values)


def _unstacked(result: Any) -> list[Any]:
    """What each lane gets of arrays (32,) or tuples of them."""
    if isinstance(result, tuple):
        return list(zip(*(_unstacked(part) for part in result), strict=True))
    return [None] * WARP if result is None else list(result)


# --- copies from global to shared memory that a thread does not wait for ----------------------------
def async_copy(target: Memory, to: Any, source: Memory, at: Any, count: int) -> None:
    """cp.async: `count` neighbours (along the last axis) arrive when the group that they are committed to is waited
    for, and not before."""
    for i in range(count):
        target._check(_beyond(to, i))
        source._check(_beyond(at, i))
    _thread().copies[-1].append((target, to, source, at, count))


def async_commit() -> None:
    """cp.async.commit_group: what was asked for since the last commit is one group."""
    _thread().copies.append([])


def async_wait(open_groups: int) -> None:
    """cp.async.wait_group: all groups have arrived but the last `open_groups`."""
    copies = _thread().copies
    while len(copies) - 1 > open_groups:
        for target, to, source, at, count in copies.pop(0):
            for i in range(count):
                target[_beyond(to, i)] = source[_beyond(at, i)]


def _beyond(index: Any, i: int) -> Any:
    return (*index[:-1], index[-1] + i) if isinstance(index, tuple) else index + i


# --- running --------------------------------------------------------------------------------------
def _typed(function: Callable[..., float]) -> Callable[..., Any]:
    """A function of `math` in the precision of its argument; where Python raises, NaN or infinity as on a card."""

    def call(x: Any, *rest: Any) -> Any:
        kind = type(x) if isinstance(x, np.floating) else float
        try:
            return kind(function(x, *rest))
        except OverflowError:
            return kind(_math.inf)
        except ValueError:
            return kind(-_math.inf if function is _math.log and x == 0 else _math.nan)

    return call


typed_math = types.SimpleNamespace(**{
    name: (value if not callable(value) or name in ("isnan", "isinf", "isfinite", "floor", "ceil", "trunc")
           else _typed(value))
    for name, value in vars(_math).items() if not name.startswith("_")})  # fmt: skip


def device_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with `math` in the types of CUDA. What it calls by name is looked up when it runs."""
    if all(function.__globals__.get(name) is not _math for name in function.__code__.co_names):
        return function
    names = _Globals(function.__globals__)
    return types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


class _Globals(dict):
    """A module's names as they are now, with typed mathematics."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__({"__builtins__": names.get("__builtins__", __builtins__)})
        self._names = names

    def __missing__(self, name: str) -> Any:
        value = self._names[name]
        return typed_math if value is _math else value


def launch(function: Callable[..., None], grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int,
           arguments: tuple[Any, ...], name: str) -> None:
    """Run all blocks, in order. Raises SimulatedFault where the kernel does what a card forbids."""
    g, b = _Dim3(*grid), _Dim3(*block)
    if b.x * b.y * b.z > MOST_THREADS:
        raise SimulatedFault(f"kernel {name}: a block of {b.x * b.y * b.z} threads; a card takes {MOST_THREADS}")
    if shared_bytes > MOST_SHARED:
        raise SimulatedFault(f"kernel {name}: {shared_bytes} bytes of shared memory; a block has {MOST_SHARED}")
    run = device_function(function)
    given = tuple(Memory(a, f"argument {i}") if isinstance(a, np.ndarray) else a for i, a in enumerate(arguments))
    with np.errstate(all="ignore"):
        for z in range(g.z):
            for y in range(g.y):
                for x in range(g.x):
                    _Run(name, run, Block(_Dim3(x, y, z), b, g, shared_bytes), given).finish()
