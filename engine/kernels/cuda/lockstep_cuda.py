"""What rewritten kernels call `cuda`: where threads are, memory of blocks, barriers, exchanges. See `lockstep.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import scalar
from . import stand_in
from .lockstep_values import COLLECTIVE, KNOWN, RUN, WARP, Either, Memory, Misstep, first_of, lane_array, truth
from .memory import poisoned

Array = np.ndarray


# --- exchanges ------------------------------------------------------------------------------------
def _whole(mask: Any, what: str) -> None:
    """Every block is here with all its threads, or with none."""
    if mask is True:
        return
    there = mask.reshape(RUN.blocks, RUN.threads)
    broken = there.any(1) & ~there.all(1)
    if broken.any():
        block = int(np.argmax(broken))
        missing = block * RUN.threads + int(np.argmin(there[block]))
        x, y, z = (int(lane_array(i)[missing]) for i in (RUN.thread.x, RUN.thread.y, RUN.thread.z))
        present = block * RUN.threads + int(np.argmax(there[block]))
        raise Misstep(present, f"a divergent barrier: thread ({x}, {y}, {z}) does not reach this {what}()")


def _warps(mask: Any, wanted: int, what: str) -> tuple[Array, Array]:
    """(which warps take part, which lanes of them): those named by the lane mask `wanted` must all be there."""
    count = -(-RUN.count // WARP)
    flat = np.zeros(count * WARP, bool)
    flat[:RUN.count] = mask
    there = flat.reshape(count, WARP)
    named = np.array([int(wanted) >> lane & 1 for lane in range(WARP)], bool)
    exists = (np.arange(count * WARP) < RUN.count).reshape(count, WARP)
    needed = named & exists if int(wanted) & 0xFFFFFFFF == 0xFFFFFFFF else np.broadcast_to(named, exists.shape)
    takes_part = (there & named).any(1)
    lacking = takes_part & (needed & ~there).any(1)
    if lacking.any():
        warp = int(np.argmax(lacking))
        raise Misstep(warp * WARP + int(np.argmax(there[warp])),
                      f"a divergent barrier: {what} waits for lanes that have ended or are elsewhere")  # fmt: skip
    if (there & ~named & takes_part[:, None]).any():
        raise Misstep(int(np.argmax((there & ~named).reshape(-1))), f"the mask of {what} leaves out its own lane")
    return takes_part, needed


def _by_warp(x: Any) -> Array:
    """The lanes as (warps, 32); lanes that do not exist repeat the first."""
    x = lane_array(x)
    short = -len(x) % WARP
    return (np.concatenate([x, np.repeat(x[:1], short)]) if short else x).reshape(-1, WARP)


def _shuffled(what: str, source: Callable[[Array, Any], Array]) -> Any:
    def shuffle(self: Any, mask: Any, where: Any, wanted: int, value: Any, by: Any) -> Any:
        takes_part, named = _warps(mask, wanted, what)
        x, lane = _by_warp(value), np.arange(WARP)
        at = np.broadcast_to(source(lane, _by_warp(by) if isinstance(by, Array) else by), x.shape)
        inside = (at >= 0) & (at < WARP)
        at = np.where(inside, at, lane)
        read = np.take_along_axis(named, at, 1)
        if (takes_part[:, None] & named & ~read & inside).any():
            raise Misstep(first_of(mask), f"{what} reads a lane which takes no part in it")
        return np.take_along_axis(x, at, 1).reshape(-1)[:RUN.count]

    return _marked(shuffle)


def _voted(what: str, count: Callable[[Array], Any]) -> Any:
    def vote(self: Any, mask: Any, where: Any, wanted: int, predicate: Any) -> Any:
        _, named = _warps(mask, wanted, what)
        there = _by_warp(np.ones(RUN.count, bool) if mask is True else mask) & named
        said = count(truth(_by_warp(predicate)) & there if what != "all_sync" else
                     truth(_by_warp(predicate)) | ~there)  # fmt: skip
        return np.repeat(said, WARP)[:RUN.count]

    return _marked(vote)


def _collective(mask: Any, name: str, twin: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    """An intrinsic of whole warps: the twin once a warp."""
    takes_part, _ = _warps(mask, 0xFFFFFFFF, name)
    if RUN.count % WARP:
        raise Misstep(first_of(mask), f"{name} needs whole warps of {WARP} lanes")
    made = []
    for warp in range(len(takes_part)):
        mine = slice(warp * WARP, (warp + 1) * WARP)
        made.append(twin(*(_of_warp(x, mine) for x in operands)))
    return _joined(made)


def _of_warp(x: Any, mine: slice) -> Any:
    if isinstance(x, tuple):
        return tuple(_of_warp(part, mine) for part in x)
    return x if isinstance(x, (Memory, Either)) else lane_array(x)[mine]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], tuple):
        return tuple(_joined([p[i] for p in parts]) for i in range(len(parts[0])))
    return None if parts[0] is None else np.concatenate(parts)


def _of_block(mask: Any, what: str, count: Callable[[Array], Any], x: Any) -> Array:
    _whole(mask, what)
    return np.repeat(count(truth(lane_array(x)).reshape(RUN.blocks, RUN.threads)), RUN.threads)


def _marked(function: Any) -> Any:
    function.in_lockstep = True
    return function


class _Shared:
    @_marked
    def array(self, mask: Any, where: Any, shape: Any, dtype: Any, alignment: Any = None) -> Memory:
        dtype = np.dtype(dtype)
        owner = RUN.owner
        if shape == 0:
            return Memory(RUN.dynamic[:, : RUN.shared_bytes // dtype.itemsize * dtype.itemsize].view(dtype),
                          "dynamic shared memory", owner)  # fmt: skip
        key = (where, shape, dtype)
        if key not in RUN.shared:
            inner = shape if isinstance(shape, tuple) else (shape,)
            RUN.shared[key] = Memory(poisoned((RUN.blocks, *inner), dtype), "shared memory", owner)
        return RUN.shared[key]


class _Local:
    @_marked
    def array(self, mask: Any, where: Any, shape: Any, dtype: Any, alignment: Any = None) -> Memory:
        inner = shape if isinstance(shape, tuple) else (shape,)
        return Memory(poisoned((RUN.count, *inner), dtype), "local memory", RUN.lanes)


class _Atomic:
    """One thread after another, in ascending order."""

    def __getattr__(self, name: str) -> Any:
        one = getattr(stand_in.cuda.atomic, name)

        @_marked
        def change(mask: Any, where: Any, x: Memory, index: Any, *values: Any) -> Any:
            place = x.place(mask, index)
            old = np.zeros(RUN.count, x.dtype)
            for lane in np.flatnonzero(np.ones(RUN.count, bool) if mask is True else mask):
                at = tuple(_at(p, lane) for p in place) if isinstance(place, tuple) else _at(place, lane)
                old[lane] = one(x.array, at, *(_at(v, lane) for v in values))
            return old

        return change


def _at(x: Any, lane: Any) -> Any:
    return x[lane] if isinstance(x, Array) else x


class LockstepCuda:
    """What rewritten kernels call `cuda`."""

    shared, local, atomic, warpsize = _Shared(), _Local(), _Atomic(), WARP
    threadIdx = property(lambda self: RUN.thread)
    blockIdx = property(lambda self: RUN.block)
    blockDim = property(lambda self: RUN.block_dim)
    gridDim = property(lambda self: RUN.grid_dim)
    laneid = property(lambda self: RUN.lanes % WARP)

    @_marked
    def grid(self, mask: Any, where: Any, ndim: int) -> Any:
        b, d, t = RUN.block, RUN.block_dim, RUN.thread
        place = b.x * d.x + t.x, b.y * d.y + t.y, b.z * d.z + t.z
        return place[0] if ndim == 1 else place[:ndim]

    @_marked
    def gridsize(self, mask: Any, where: Any, ndim: int) -> Any:
        g, d = RUN.grid_dim, RUN.block_dim
        size = g.x * d.x, g.y * d.y, g.z * d.z
        return size[0] if ndim == 1 else size[:ndim]

    @_marked
    def syncthreads(self, mask: Any, where: Any) -> None:
        _whole(mask, "syncthreads")

    @_marked
    def syncthreads_count(self, mask: Any, where: Any, x: Any) -> Any:
        return _of_block(mask, "syncthreads_count", lambda p: p.sum(1), x)

    @_marked
    def syncthreads_and(self, mask: Any, where: Any, x: Any) -> Any:
        return _of_block(mask, "syncthreads_and", lambda p: p.all(1).astype(np.int64), x)

    @_marked
    def syncthreads_or(self, mask: Any, where: Any, x: Any) -> Any:
        return _of_block(mask, "syncthreads_or", lambda p: p.any(1).astype(np.int64), x)

    @_marked
    def syncwarp(self, mask: Any, where: Any, wanted: int = 0xFFFFFFFF) -> None:
        _warps(mask, wanted, "syncwarp")

    @_marked
    def threadfence(self, mask: Any, where: Any) -> None:
        """Memory is one here."""

    threadfence_block = threadfence_system = threadfence
    shfl_sync = _shuffled("shfl_sync", lambda lane, by: by % WARP)
    shfl_xor_sync = _shuffled("shfl_xor_sync", lambda lane, by: lane ^ by)
    shfl_up_sync = _shuffled("shfl_up_sync", lambda lane, by: lane - by)
    shfl_down_sync = _shuffled("shfl_down_sync", lambda lane, by: lane + by)
    ballot_sync = _voted("ballot_sync", lambda p: (p << np.arange(WARP)).sum(1).astype(np.int32).astype(np.int64))
    any_sync = _voted("any_sync", lambda p: p.any(1).astype(np.int64))
    all_sync = _voted("all_sync", lambda p: p.all(1).astype(np.int64))

    @_marked
    def popc(self, mask: Any, where: Any, x: Any) -> Any:
        return np.bitwise_count(np.where(np.less(x, 0), np.bitwise_and(x, 0xFFFFFFFF), x))

    @_marked
    def fma(self, mask: Any, where: Any, x: Any, y: Any, z: Any) -> Any:
        return KNOWN[scalar.fma](x, y, z)


COLLECTIVE.append(_collective)
