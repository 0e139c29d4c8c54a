"""What kernels call `cuda` and `math` while they are simulated, thread by thread (`simulator.py`).

The names are Numba's. Numbers keep their types, floats are NumPy scalars; where `math` would raise
there is NaN or infinity.
"""

import math as _math
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from .memory import Memory, SimulatedFault, poisoned
from .simulator import WARP, current_thread, wait


# --- what kernels call `cuda` ---------------------------------------------------------------------
class _Shared:
    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Memory:
        import sys
        frame = sys._getframe(1)
        return current_thread().block.shared((frame.f_code, frame.f_lasti), shape, np.dtype(dtype))


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

    threadIdx = property(lambda self: current_thread().threadIdx)
    blockIdx = property(lambda self: current_thread().block.index)
    blockDim = property(lambda self: current_thread().block.dims)
    gridDim = property(lambda self: current_thread().block.grid)
    laneid = property(lambda self: current_thread().number % WARP)

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
        wait("syncthreads")

    def syncthreads_count(self, predicate: Any) -> int:
        return sum(1 for p in wait("syncthreads", predicate) if p)

    def syncthreads_and(self, predicate: Any) -> int:
        return int(all(wait("syncthreads", predicate)))

    def syncthreads_or(self, predicate: Any) -> int:
        return int(any(wait("syncthreads", predicate)))

    def syncwarp(self, mask: int = 0xFFFFFFFF) -> None:
        wait("syncwarp", None, mask)

    def threadfence(self) -> None:
        """Memory is one here."""

    threadfence_block = threadfence_system = threadfence

    def shfl_sync(self, mask: int, value: Any, lane: int) -> Any:
        return self._from(wait("shfl_sync", value, mask), lane % WARP, value)

    def shfl_xor_sync(self, mask: int, value: Any, lanes: int) -> Any:
        return self._from(wait("shfl_xor_sync", value, mask), self.laneid ^ lanes, value)

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._from(wait("shfl_up_sync", value, mask), self.laneid - delta, value)

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        return self._from(wait("shfl_down_sync", value, mask), self.laneid + delta, value)

    @staticmethod
    def _from(lanes: list[Any], lane: int, own: Any) -> Any:
        """The value of another lane; one's own beyond the warp's ends, and a poisoned one from a lane left out."""
        if not 0 <= lane < WARP:
            return own
        if lane >= len(lanes) or lanes[lane] is None:
            raise SimulatedFault(f"a shuffle reads lane {lane}, which takes no part in it")
        return lanes[lane]

    def ballot_sync(self, mask: int, predicate: Any) -> int:
        votes = sum(1 << i for i, p in enumerate(wait("ballot_sync", bool(predicate), mask)) if p)
        return votes - (votes >> 31 << 32)  # signed, as on a card

    def any_sync(self, mask: int, predicate: Any) -> int:
        return int(any(p for p in wait("any_sync", bool(predicate), mask) if p is not None))

    def all_sync(self, mask: int, predicate: Any) -> int:
        return int(all(p for p in wait("all_sync", bool(predicate), mask) if p is not None))

    def popc(self, x: int) -> int:
        return (int(x) & 0xFFFFFFFF if x < 0 else int(x)).bit_count()

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return type(x)(np.float64(x) * np.float64(y) + np.float64(z))


cuda = Cuda()


def warp_wide(name: str, twin: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic of a whole warp: the twin gets every operand of all lanes at once. See `jit.intrinsic`."""

    def call(*operands: Any) -> Any:
        lanes = wait(name, operands)
        if len(lanes) < WARP:
            raise SimulatedFault(f"{name} needs a whole warp of {WARP} lanes; this one has {len(lanes)}")
        thread = current_thread()
        if thread.number % WARP == 0:
            results = _unstacked(twin(*(_stacked([lane[i] for lane in lanes]) for i in range(len(operands)))))
        else:
            results = None
        return wait(f"{name} (result)", results)[0][thread.number % WARP]

    call.__name__, call.warp_twin = name, twin  # type: ignore[attr-defined]
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
    current_thread().copies[-1].append((target, to, source, at, count))


def async_commit() -> None:
    """cp.async.commit_group: what was asked for since the last commit is one group."""
    current_thread().copies.append([])


def async_wait(open_groups: int) -> None:
    """cp.async.wait_group: all groups have arrived but the last `open_groups`."""
    copies = current_thread().copies
    while len(copies) - 1 > open_groups:
        for target, to, source, at, count in copies.pop(0):
            for i in range(count):
                target[_beyond(to, i)] = source[_beyond(at, i)]


def _beyond(index: Any, i: int) -> Any:
    return (*index[:-1], index[-1] + i) if isinstance(index, tuple) else index + i


# --- functions of a device, and mathematics in their numbers' types ---------------------------------
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
