"""The largest and the smallest element over any axes, and the place of the largest."""

import math
from builtins import min as lesser
from typing import Any

import numpy as np

from . import tape
from .jit import jit, kernel, separate
from .lanes import lanes_below, mask_word
from .lift import FLOATS
from .reduce import normalised
from .simd import LANES, greater, load, load_tail, max_lanes, select, splat, store_tail, sum_lanes

Array = np.ndarray

BLOCK = 16384  # elements of one block of work
_ONE = np.uint64(1)


@jit
def _larger(top, nan, x, at, sign):
    """Sixteen more elements times sign: the larger ones so far, and NaN where there has been one."""
    value = load(x, at) * sign
    return greater(value, top), select(value != value, value, nan)


@separate
def _top(x, at, n, sign):
    """The largest of n elements times sign: -> (it, or NaN where there is one, and whether it is NaN)."""
    lowest, none = splat(-math.inf, x), splat(0.0, x)
    top0, top1, top2, top3 = lowest, lowest, lowest, lowest
    nan0, nan1 = none, none
    end = at + n
    while at + 4 * LANES <= end:
        top0, nan0 = _larger(top0, nan0, x, at, sign)
        top1, nan1 = _larger(top1, nan1, x, at + LANES, sign)
        top2, nan0 = _larger(top2, nan0, x, at + 2 * LANES, sign)
        top3, nan1 = _larger(top3, nan1, x, at + 3 * LANES, sign)
        at += 4 * LANES
    while at < end:
        rest = end - at
        value = select(lanes_below(rest), load_tail(x, at, rest) * sign, lowest)
        top0, nan0 = greater(value, top0), select(value != value, value, nan0)
        at += LANES
    nan = nan0 + nan1
    wrong = sum_lanes(select(nan != nan, splat(1.0, x), none)) != 0
    top = max_lanes(greater(greater(top0, top1), greater(top2, top3)))
    return (splat(math.nan, x) if wrong else splat(top, x)), wrong


@separate
def _place(x, at, n, top, wrong):
    """Where the first of n elements stands that equals `top`, or is NaN."""
    for i in range(0, n, LANES):
        value = load_tail(x, at + i, n - i)
        found = mask_word((value != value) if wrong else (value == top)) & mask_word(lanes_below(n - i))
        if found != 0:
            while found & _ONE == 0:
                found, i = found >> _ONE, i + 1
            return i
    return 0


@kernel("T[::1], T[::1], int64[::1], int, int, int, T")
def _extremes(lo, hi, x, out, places, rows, n, per_block, sign):
    """The largest of each row of sign times x, and (where `places` has room) the place of the first such element."""
    for row in range(lo * per_block, lesser(hi * per_block, rows)):
        top, wrong = _top(x, row * n, n, sign)
        if len(out) > 0:
            store_tail(out, row, top * sign, 1)
        if len(places) > 0:
            places[row] = _place(x, row * n, n, top * sign, wrong)


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
