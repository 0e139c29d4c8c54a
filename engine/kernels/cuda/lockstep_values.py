"""What rewritten kernels call: masks, memory and exchanges of all threads of many blocks at once. See `lockstep.py`."""

import math
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import scalar
from . import memory

WARP = 32
MOST_LANES = 32768  # threads that run side by side
Array = np.ndarray


KNOWN: dict[Any, Callable[..., Any]] = {}  # functions that have their own way with lanes: filled by lockstep_functions
COLLECTIVE: list[Callable[..., Any]] = []  # how an intrinsic of a whole warp is called: from lockstep_cuda
HASHABLE = (types.FunctionType, types.BuiltinFunctionType, type)


class NotLockstep(Exception):
    """Code that cannot be run in lockstep: the other simulator runs it."""


class Misstep(Exception):
    """What a thread did wrong, to be told with its place."""

    def __init__(self, lane: int, text: str) -> None:
        super().__init__(text)
        self.lane = lane


class Memory:
    """Memory that all threads see; or, with a first axis of threads or of blocks, each its own: `owner` says which."""

    __slots__ = ("array", "dtype", "owner", "shape", "what")

    def __init__(self, array: Array, what: str, owner: Array | None = None) -> None:
        self.array, self.what, self.owner = array, what, owner
        self.shape, self.dtype = array.shape if owner is None else array.shape[1:], array.dtype

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def place(self, mask: Any, index: Any) -> Any:
        """The index, checked for the threads that take part; the others' is 0."""
        parts = index if isinstance(index, tuple) else (index,)
        if len(parts) != len(self.shape):
            raise Misstep(first_of(mask), f"{len(parts)} indices into {self.what} of shape {self.shape}")
        placed = tuple(self._within(mask, i, n) for i, n in zip(parts, self.shape, strict=True))
        return (self.owner, *placed) if self.owner is not None else placed if len(placed) > 1 else placed[0]

    def load(self, mask: Any, index: Any) -> Any:
        return self.array[self.place(mask, index)]

    def store(self, mask: Any, index: Any, value: Any) -> None:
        place: Any = self.place(mask, index)
        if self.owner is not None:
            place = tuple(lane_array(p) for p in place)
        if mask is not True:
            place = tuple(_chosen(p, mask) for p in place) if isinstance(place, tuple) else _chosen(place, mask)
            value = _chosen(value, mask)
        for_all = not any(isinstance(p, Array) for p in (place if isinstance(place, tuple) else (place,)))
        self.array[place] = value[-1] if for_all and isinstance(value, Array) else value

    def _within(self, mask: Any, i: Any, n: int) -> Any:
        if not isinstance(i, Array):
            if not 0 <= i < n:
                raise Misstep(first_of(mask), f"IndexError: index {i} is outside {self.what} of shape {self.shape}")
            return i
        if mask is not True:
            i = np.where(mask, i, 0)
        if n == 0 or int(i.min()) < 0 or int(i.max()) >= n:
            lane = int(np.flatnonzero((i < 0) | (i >= n))[0]) if n else first_of(mask)
            raise Misstep(lane, f"IndexError: index {i[lane]} is outside {self.what} of shape {self.shape}")
        return i


def together(mask: Any, x: Any, i: Any, count: int = memory.TOGETHER) -> None:
    """`memory.together` for the threads that take part."""
    if isinstance(x, Either):
        for part, of in zip(Lanes.split(mask, x.test), (x.yes, x.no), strict=True):
            if part is not None:
                together(part, of, i, count)
        return
    size = count * x.dtype.itemsize
    begin = x.array.ctypes.data % size if x.owner is None else 0
    wrong = (begin + lane_array(i) * x.dtype.itemsize) % size != 0
    wrong = wrong if mask is True else wrong & mask
    if wrong.any():
        lane = int(np.argmax(wrong))
        raise Misstep(lane, memory.misaligned(lane_array(i)[lane], x.what, count))


MASKED: dict[Any, Callable[..., None]] = {memory.together: together}      # functions that see the mask


class Either:
    """One array for some threads, another for the others."""

    def __init__(self, test: Array, yes: Any, no: Any) -> None:
        self.test, self.yes, self.no, self.dtype = test, yes, no, yes.dtype

    def load(self, mask: Any, index: Any) -> Any:
        mine, others = Lanes.split(mask, self.test)
        if mine is None:
            return self.no.load(others, index)
        if others is None:
            return self.yes.load(mine, index)
        return np.where(self.test, self.yes.load(mine, index), self.no.load(others, index))

    def store(self, mask: Any, index: Any, value: Any) -> None:
        mine, others = Lanes.split(mask, self.test)
        if mine is not None:
            self.yes.store(mine, index, value)
        if others is not None:
            self.no.store(others, index, value)


class Range:
    """A range with other bounds for each thread."""

    def __init__(self, *bounds: Any) -> None:
        self.start, self.stop, self.step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]


class _Index:
    __slots__ = ("x", "y", "z")

    def __init__(self, x: Any, y: Any, z: Any) -> None:
        self.x, self.y, self.z = x, y, z


class Run:
    """The blocks that run now, side by side."""

    def begin(self, grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int) -> None:
        self.grid, self.dims, self.shared_bytes = grid, block, shared_bytes
        self.block_dim, self.grid_dim = _Index(*block), _Index(*grid)

    def next_blocks(self, first: int, count: int) -> None:
        """Blocks `first` … of the grid, in the order of their numbers."""
        self.blocks, self.threads = count, math.prod(self.dims)
        self.count = count * self.threads
        self.lanes = np.arange(self.count)
        self.owner = self.lanes // self.threads
        self.thread = _index(self.lanes % self.threads, self.dims)
        self.block = _index(first + self.owner if count > 1 else first, self.grid)
        self.shared: dict[Any, Memory] = {}
        self.dynamic = np.full((count, self.shared_bytes), 0xFF, np.uint8)


def _index(n: Any, dims: tuple[int, int, int]) -> _Index:
    """A number as coordinates, the first one running fastest."""
    x, y, z = dims
    return _Index(n % x if x > 1 else 0, n // x % y if y > 1 else 0, n // (x * y) if z > 1 else 0)


RUN = Run()


def first_of(mask: Any) -> int:
    return 0 if not isinstance(mask, Array) else int(np.argmax(mask))


def lane_array(x: Any) -> Array:
    """A number of each thread, also where it is one for all."""
    return x if isinstance(x, Array) else np.full(RUN.count, x)


def _normal(mask: Array) -> Any:
    return True if mask.all() else mask if mask.any() else Lanes.NOBODY


def truth(x: Any) -> Any:
    return (x if x.dtype == np.bool_ else x != 0) if isinstance(x, Array) else bool(x)


class Lanes:
    """The runtime. A mask is True (everybody), NOBODY, or an array of truth values."""

    UNSET: Any = type("Unset", (), {"__repr__": lambda self: "a variable without a value"})()
    NOBODY: Any = None
    float64 = np.float64

    # -- masks
    @staticmethod
    def split(mask: Any, test: Any) -> tuple[Any, Any]:
        test = truth(test)
        if not isinstance(test, Array):
            return (mask, None) if test else (None, mask)
        if mask is True:
            return _normal(test), _normal(~test)
        return _normal(mask & test), _normal(mask & ~test)

    @staticmethod
    def without(mask: Any, *gone: Any) -> Any:
        for g in gone:
            if g is True:
                return None
            if g is not None and mask is not None:
                mask = _normal(~g if mask is True else mask & ~g)
        return mask

    @staticmethod
    def joined(a: Any, b: Any) -> Any:
        if a is None or b is True:
            return b
        return a if b is None or a is True else _normal(a | b)

    # -- values
    @staticmethod
    def choose(mask: Any, old: Any, new: Any) -> Any:
        if mask is True or old is Lanes.UNSET or old is new or new is None:
            return new
        if isinstance(new, tuple):
            return tuple([Lanes.choose(mask, a, b) for a, b in zip(old, new, strict=True)])
        if isinstance(new, (Memory, Either)):
            return Either(mask, new, old)
        return np.where(mask, new, old)

    @staticmethod
    def one_of(mask: Any, test: Any, yes: Callable[[Any], Any], no: Callable[[Any], Any]) -> Any:
        mine, others = Lanes.split(mask, test)
        if mine is None:
            return no(others)
        return yes(mine) if others is None else Lanes._merged(truth(test), yes(mine), no(others))

    @staticmethod
    def _merged(test: Array, a: Any, b: Any) -> Any:
        if isinstance(a, tuple):
            return tuple([Lanes._merged(test, x, y) for x, y in zip(a, b, strict=True)])
        return Either(test, a, b) if isinstance(a, (Memory, Either)) else np.where(test, a, b)

    @staticmethod
    def both(mask: Any, a: Any, rest: Callable[[Any], Any]) -> Any:
        left = Lanes.split(mask, a)[0]
        if left is None:
            return False
        return rest(left) if not isinstance(a, Array) else np.logical_and(a, rest(left))

    @staticmethod
    def either(mask: Any, a: Any, rest: Callable[[Any], Any]) -> Any:
        left = Lanes.split(mask, a)[1]
        if left is None:
            return True
        return rest(left) if not isinstance(a, Array) else np.logical_or(a, rest(left))

    @staticmethod
    def negated(x: Any) -> Any:
        return np.logical_not(x) if isinstance(x, Array) else not x

    # -- memory
    @staticmethod
    def load(mask: Any, x: Any, index: Any) -> Any:
        if isinstance(x, (Memory, Either)):
            return x.load(mask, index)
        return _of_several(x, index) if isinstance(x, list) and isinstance(index, Array) else x[index]

    @staticmethod
    def store(mask: Any, x: Any, index: Any, value: Any) -> None:
        x.store(mask, index, value)

    # -- loops
    @staticmethod
    def turns(mask: Any, items: Callable[[], Any], still: Callable[[], Any]) -> Iterator[tuple[Any, Any]]:
        found = items()
        if not isinstance(found, Range):
            for item in found:
                left = still()
                if left is None:
                    return
                yield left, item
            return
        i, up = lane_array(found.start), np.all(np.asarray(found.step) > 0)
        while True:
            left = Lanes.split(still() if still() is not None else np.zeros(RUN.count, bool),
                               i < found.stop if up else i > found.stop)[0]  # fmt: skip
            if left is None:
                return
            yield left, i
            i = i + found.step

    @staticmethod
    def while_turns(still: Callable[[], Any], test: Callable[[Any], Any]) -> Iterator[Any]:
        while True:
            left = still()
            left = None if left is None else Lanes.split(left, test(left))[0]
            if left is None:
                return
            yield left

    # -- calls
    @staticmethod
    def call(mask: Any, where: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        if getattr(function, "in_lockstep", False):
            return function(mask, where, *arguments, **named)
        if isinstance(function, HASHABLE):
            if function in KNOWN:
                return KNOWN[function](*arguments)
            if function in MASKED:
                return MASKED[function](mask, *arguments)
        if isinstance(function, type) and issubclass(function, np.generic):
            x = arguments[0]
            return x.astype(function) if isinstance(x, Array) else function(x)
        if hasattr(function, "warp_twin"):
            return COLLECTIVE[0](mask, function.__name__, function.warp_twin, arguments)
        if hasattr(function, "lanes_twin"):
            return function.lanes_twin(*arguments)
        function = getattr(function, "lockstep_twin", function)
        if isinstance(function, types.FunctionType):
            return Lanes._called(mask, function, arguments, named)
        return function(*arguments, **named)

    @staticmethod
    def _called(mask: Any, function: Any, arguments: Any, named: Any) -> Any:
        from .lockstep import compiled
        if function in scalar.BY_DTYPE:
            single = getattr(arguments[0], "dtype", None) == np.float32
            function = scalar.BY_DTYPE[function][0 if single else 1]
        try:
            rewritten = compiled(function)
        except NotLockstep:
            return function(*arguments, **named)
        return rewritten(mask, *arguments, **named)


def _of_several(arrays: list[Any], which: Array) -> Any:
    """The array of each thread, of a list."""
    numbers = np.unique(which)
    found = arrays[int(numbers[0])]
    for n in numbers[1:]:
        found = Either(which == n, arrays[int(n)], found)
    return found


def _chosen(x: Any, mask: Array) -> Any:
    return x[mask] if isinstance(x, Array) else x
