"""The largest and the smallest element over any axes, and the place of the largest: a block of threads a row."""

import math
from typing import Any

import numpy as np

from . import tape
from .jit import cuda, jit, kernel
from .reduce import normalised
from .rows import EVERYBODY, served

Array = Any

THREADS = 256


@jit
def _before(x, i, y, j):
    """Whether x at place i comes before y at place j: a NaN before any number, larger before smaller, then places."""
    if x != x or y != y:
        return y == y or (x != x and i < j)
    return x > y or (x == y and i < j)


@jit
def _warp_first(x, i):
    """The (number, place) among the lanes of a warp that comes first."""
    for lanes in (16, 8, 4, 2, 1):
        y, j = cuda.shfl_xor_sync(EVERYBODY, x, lanes), cuda.shfl_xor_sync(EVERYBODY, i, lanes)
        if _before(y, j, x, i):
            x, i = y, j
    return x, i


@kernel("float32[::1], float32[::1], int64[::1], int32, float32, bool", threads=THREADS)
def _extremes(x, out, places, n, sign, placing):
    """The largest of each row of sign times x, or the place of the first such element."""
    tops, tops_at = cuda.shared.array(32, np.float32), cuda.shared.array(32, np.int32)
    t, at = cuda.threadIdx.x, cuda.blockIdx.x * np.int64(n)
    top, place = np.float32(-math.inf), np.int32(n)
    for i in range(t, n, THREADS):
        value = sign * x[at + i]
        if _before(value, i, top, place):
            top, place = value, np.int32(i)
    top, place = _warp_first(top, place)
    if t & 31 == 0:
        tops[t >> 5], tops_at[t >> 5] = top, place
    cuda.syncthreads()
    if t == 0:
        for warp in range(1, THREADS // 32):
            if _before(tops[warp], tops_at[warp], top, place):
                top, place = tops[warp], tops_at[warp]
        if placing:
            places[cuda.blockIdx.x] = place
        else:
            out[cuda.blockIdx.x] = sign * top


def max(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The largest float32 element over the given axes (None: all); NaN where there is one."""
    return _extreme(x, axis, keepdims, 1.0)


def min(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The smallest float32 element over the given axes (None: all); NaN where there is one."""
    return _extreme(x, axis, keepdims, -1.0)


def argmax(x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """The int64 index of the first largest element, or NaN, along an axis (None: of all in C order)."""
    return _extreme(x, axis, keepdims, 1.0, placing=True)


def _extreme(x: Array, axis: Any, keepdims: bool, sign: float, placing: bool = False) -> Array:
    if not served(x) or x.size == 0:
        return NotImplemented
    axes = normalised(axis, x.ndim)
    kept = [i for i in range(x.ndim) if i not in axes]
    moved = tape.contiguous(x.transpose(*kept, *sorted(axes)))
    shape = [1 if i in axes else x.shape[i] for i in range(x.ndim) if keepdims or i in kept]
    out = tape.empty(shape, np.int64 if placing else x.dtype)
    n = math.prod(x.shape[i] for i in axes)
    results = (None, out) if placing else (out, None)
    _extremes[out.size, THREADS](moved, *results, n, sign, placing)
    return out
