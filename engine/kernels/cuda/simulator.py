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
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .memory import Memory, SimulatedFault, poisoned

WARP = 32
MOST_THREADS = 1024  # of a block, on every card
MOST_SHARED = 227 * 1024  # bytes of a block, on a card of compute capability 9.0
_FILES = ("lockstep.py", "lockstep_cuda.py", "lockstep_functions.py", "lockstep_values.py", "memory.py", "simulator.py",
          "stand_in.py")  # fmt: skip
_OWN = {str(Path(__file__).with_name(name)) for name in _FILES}
_ORDERS = ("forward", "reversed")
_order: contextvars.ContextVar[str | None] = contextvars.ContextVar("simulated_order", default=None)


@contextmanager
def order(name: str) -> Iterator[None]:
    """Let the threads of a block run one by one, "forward" or "reversed" between barriers."""
    if name not in _ORDERS:
        raise ValueError(f"threads run {' or '.join(_ORDERS)}, not {name!r}")
    token = _order.set(name)
    try:
        yield
    finally:
        _order.reset(token)


def ordered() -> bool:
    """Whether an order has been asked for, and so threads that run one by one."""
    return _order.get() is not None


def _greenlet() -> Any:
    try:
        import greenlet
    except ImportError:
        raise ImportError("the CUDA simulator needs the package greenlet: pip install greenlet, or microtfm[test]"
                          ) from None
    return greenlet


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


def current_thread() -> Any:
    return _CURRENT()


def wait(kind: str, value: Any = None, mask: int = 0xFFFFFFFF) -> Any:
    """Stop until all that take part are here: -> what each of them brought, by thread (block) or by lane (warp)."""
    thread = _CURRENT()
    thread.waits, thread.brought, thread.mask = kind, value, int(mask) & 0xFFFFFFFF
    return thread.parent.switch()


def _line(thread: Any) -> tuple[str, int]:
    """Where in the kernel's source a waiting thread stands."""
    frame = thread.gr_frame
    while frame is not None and frame.f_code.co_filename in _OWN:
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
        self.queue = self.threads if _order.get() != "reversed" else self.threads[::-1]
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
        file, line = _line(thread) if error is None else raised_at(error)
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
            for t in (group if _order.get() != "reversed" else group[::-1]):
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


TWIN = "_twin"                           # how the names of twins end


def raised_at(error: BaseException) -> tuple[str, int]:
    """The innermost line of a kernel that an exception passed; the twin of an intrinsic stands for an instruction."""
    found, trace = ("?", 0), error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_name.endswith(TWIN):
        if trace.tb_frame.f_code.co_filename not in _OWN:
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


def _memory(argument: Any, what: str) -> Any:
    if isinstance(argument, list):
        return [_memory(array, f"{what}, array {i}") for i, array in enumerate(argument)]
    return Memory(argument, what, own=False) if isinstance(argument, np.ndarray) else argument


def check_launch(name: str, block: tuple[int, ...], shared_bytes: int) -> None:
    """Refuse what no card runs."""
    if math.prod(block) > MOST_THREADS:
        raise SimulatedFault(f"kernel {name}: a block of {math.prod(block)} threads; a card takes {MOST_THREADS}")
    if shared_bytes > MOST_SHARED:
        raise SimulatedFault(f"kernel {name}: {shared_bytes} bytes of shared memory; a block has {MOST_SHARED}")


def launch(function: Callable[..., None], grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int,
           arguments: tuple[Any, ...], name: str) -> None:
    """Run all blocks, in order. Raises SimulatedFault where the kernel does what a card forbids."""
    check_launch(name, block, shared_bytes)
    g, b = _Dim3(*grid), _Dim3(*block)
    given = tuple(_memory(a, f"argument {i}") for i, a in enumerate(arguments))
    with np.errstate(all="ignore"):
        for z in range(g.z):
            for y in range(g.y):
                for x in range(g.x):
                    _Run(name, function, Block(_Dim3(x, y, z), b, g, shared_bytes), given).finish()
