"""The largest and the smallest element over any axes, and the place of the largest."""

import math
from builtins import min as lesser
from typing import Any

import numpy as np

from . import tape
from .jit import kernel
from .lift import FLOATS
from .reduce import normalised

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


@kernel("T[::1], T[::1], int64[::1], int, int, int, T")
def _extremes(lo, hi, x, out, places, rows, n, per_block, sign):
    """The largest of each row of sign times x, and (where `places` has room) the place of the first such element."""
    for row in range(lo * per_block, lesser(hi * per_block, rows)):
        a = x[row * n : (row + 1) * n]
        top, wrong = sign * a[0], 0
        for i in range(n):
            value = sign * a[i]
            top = value if value > top else top
            wrong |= value != value
        top = math.nan if wrong else top
        if len(out) > 0:
            out[row] = sign * top
        if len(places) > 0:
            place = 0
            while a[place] != top and a[place] == a[place]:
                place += 1
            places[row] = place


def max(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The largest float32 or float64 element over the given axes (None: all); NaN where there is one."""
    return _extreme(x, axis, keepdims, 1.0)


def min(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The smallest float32 or float64 element over the given axes (None: all); NaN where there is one."""
    return _extreme(x, axis, keepdims, -1.0)


def argmax(x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """The int64 index of the first largest element, or NaN, along an axis (None: of all in C order)."""
    return _extreme(x, axis, keepdims, 1.0, places=True)


def _extreme(x: Array, axis: Any, keepdims: bool, sign: float, places: bool = False) -> Array:
    if x.dtype not in FLOATS or x.size == 0:
        return NotImplemented
    axes = normalised(axis, x.ndim)
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = tuple(x.shape[i] if i in kept else 1 for i in range(x.ndim) if keepdims or i in kept)
    moved = tape.contiguous(x.transpose(*kept, *sorted(axes)))
    out = tape.empty(shape, np.int64 if places else x.dtype)
    n = math.prod(x.shape[i] for i in axes)
    per_block = -(-BLOCK // n)
    results = (None, out) if places else (out, None)
    _extremes(-(-out.size // per_block), moved, *results, out.size, n, per_block, sign)
    return out
