"""Softmax and its logarithm along one axis, and their pullbacks. Sums keep the order of `reduce`."""

import math

import numpy as np

from ..compiled import like, log
from . import tape
from .jit import Kernel, jit, kernel
from .lanes import exp, inline, lanes_below
from .lift import FLOATS
from .reduce import CHUNK
from .simd import LANES, greater, load, load_tail, max_lanes, select, splat, store, store_tail, sum_lanes

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


@jit
def finite(top):
    """A maximum to subtract: 0 where it is infinite or NaN."""
    return top if top - top == 0 else like(0.0, top)


@inline
def _put(out, at, vector, end):
    """Write a vector of a row, all of it where it does not reach beyond `end`: what follows the row is written later.

    (Where a processor has masked stores, they are slow.)
    """
    if at + LANES <= end:
        store(out, at, vector)
    else:
        store_tail(out, at, vector, end - at)


@inline
def _get(x, at, end):
    """Read a vector of a row and of what follows it before `end`, where whole ones pass faster from writes to reads."""
    return load(x, at) if at + LANES <= end else load_tail(x, at, end - at)


@inline
def _top(x, at, n, end):
    """What to subtract from n numbers: the largest, passing over NaN."""
    lowest = splat(-math.inf, x)
    top, whole = lowest, n - n % LANES
    for i in range(at, at + whole, LANES):
        top = greater(load(x, i), top)
    if whole < n:
        top = greater(select(lanes_below(n - whole), _get(x, at + whole, end), lowest), top)
    return finite(max_lanes(top))


@inline
def _exp_sum(x, at, n, top, out, limit, writes):
    """The sum of eˣ⁻ᵗᵒᵖ in the order of `sum_row`; the terms are written to `out` if wished."""
    nothing, total = splat(0.0, x), x.dtype.type(0)
    for first in range(0, n, CHUNK):
        acc, end = nothing, min(n, first + CHUNK)
        whole = end - (end - first) % LANES
        for i in range(at + first, at + whole, LANES):
            e = exp(load(x, i) - top)
            if writes:
                store(out, i, e)
            acc = acc + e
        if whole < end:
            e = exp(_get(x, at + whole, limit) - top)
            if writes:
                _put(out, at + whole, e, limit)
            acc = acc + select(lanes_below(end - whole), e, nothing)
        part = sum_lanes(acc)
        total = part if first == 0 else total + part
    return total


@inline
def _dot(x, y, at, n):
    """The sum of x y in the order of `sum_row`."""
    total = x.dtype.type(0)
    for first in range(0, n, CHUNK):
        acc, end = splat(0.0, x), min(n, first + CHUNK)
        whole = end - (end - first) % LANES
        for i in range(at + first, at + whole, LANES):
            acc = acc + load(x, i) * load(y, i)
        if whole < end:
            acc = acc + load_tail(x, at + whole, end - whole) * load_tail(y, at + whole, end - whole)
        part = sum_lanes(acc)
        total = part if first == 0 else total + part
    return total


@inline
def _sum(x, at, n, limit):
    """The sum of x in the order of `sum_row`."""
    total = x.dtype.type(0)
    for first in range(0, n, CHUNK):
        acc, end = splat(0.0, x), min(n, first + CHUNK)
        whole = end - (end - first) % LANES
        for i in range(at + first, at + whole, LANES):
            acc = acc + load(x, i)
        if whole < end:
            acc = acc + select(lanes_below(end - whole), _get(x, at + whole, limit), splat(0.0, x))
        part = sum_lanes(acc)
        total = part if first == 0 else total + part
    return total


@kernel("T[::1], T[::1], int, int, int")
def _softmax(lo, hi, x, out, rows, n, per_block):
    """Rows of one or two vectors stay in registers."""
    lowest, nothing, whole, end = splat(-math.inf, x), splat(0.0, x), n - n % LANES, min(hi * per_block, rows) * n
    for at in range(lo * per_block * n, end, n):
        acc = lowest
        for i in range(at, at + whole, LANES):
            acc = greater(load(x, i), acc)
        if whole < n:
            acc = greater(select(lanes_below(n - whole), load_tail(x, at + whole, n - whole), lowest), acc)
        top = finite(max_lanes(acc))
        if n <= LANES:
            e = select(lanes_below(n), exp(load_tail(x, at, n) - top), nothing)
            _put(out, at, e / sum_lanes(e), end)
            continue
        if n <= 2 * LANES:
            e, rest = exp(load(x, at) - top), exp(load_tail(x, at + LANES, n - LANES) - top)
            total = sum_lanes(e + select(lanes_below(n - LANES), rest, nothing))
            store(out, at, e / total)
            _put(out, at + LANES, rest / total, end)
            continue
        total = _exp_sum(x, at, n, top, out, end, True)
        for i in range(at, at + n, LANES):
            _put(out, i, _get(out, i, end) / total, end)


@inline
def _see(mask, row, at, n, seen):
    """Copy a row of the mask, unless it is where the last one was (`at`): -> where it is."""
    _, b, c, _ = mask.shape
    line = mask[row // (b * c), row // c % b, row % c]
    i, j, k, _ = mask.strides
    here = row // (b * c) * i + row // c % b * j + row % c * k
    if here != at:
        for s in range(n):
            seen[s] = line[s]
    return here


@kernel("T[::1], uint8[:, :, :, :], T[::1], int, int, int")
def _masked_softmax(lo, hi, x, mask, out, rows, n, per_block):
    seen, known = np.empty(n + LANES, np.int32), -1
    lowest, nothing = splat(-math.inf, x), splat(0.0, x)
    end = min(hi * per_block, rows) * n
    for row in range(lo * per_block, min(hi * per_block, rows)):
        known = _see(mask, row, known, n, seen)
        at = row * n
        for i in range(0, n, LANES):
            _put(out, at + i, select(load(seen, i) != 0, _get(x, at + i, end), lowest), end)
        top = _top(out, at, n, end)
        for i in range(0, n, LANES):
            e = exp(_get(x, at + i, end) - top)
            _put(out, at + i, select(load(seen, i) != 0, e, nothing), end)
        total = _sum(out, at, n, end)
        if total == 0:
            total += 1
        for i in range(0, n, LANES):
            y = _get(out, at + i, end) / total
            _put(out, at + i, select(load(seen, i) != 0, y, nothing), end)


@kernel("T[::1], T[::1], T[::1], int, int, int")
def _softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    end = min(hi * per_block, rows) * n
    for row in range(lo * per_block, min(hi * per_block, rows)):
        at, dot = row * n, _dot(g, y, row * n, n)
        for i in range(0, n, LANES):
            slope = _get(y, at + i, end) * (_get(g, at + i, end) - dot)
            _put(out, at + i, slope, end)


@kernel("T[::1], T[::1], int, int, int")
def _log_softmax(lo, hi, x, out, rows, n, per_block):
    end = min(hi * per_block, rows) * n
    for row in range(lo * per_block, min(hi * per_block, rows)):
        at = row * n
        top = _top(x, at, n, end)
        shift = log(_exp_sum(x, at, n, top, out, end, False))
        for i in range(0, n, LANES):
            _put(out, at + i, (_get(x, at + i, end) - top) - shift, end)


@kernel("T[::1], T[::1], T[::1], int, int, int")
def _log_softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    end = min(hi * per_block, rows) * n
    for row in range(lo * per_block, min(hi * per_block, rows)):
        at, total = row * n, _sum(g, row * n, n, end)
        for i in range(0, n, LANES):
            slope = _get(g, at + i, end) - exp(_get(y, at + i, end)) * total
            _put(out, at + i, slope, end)


def softmax(x: Array, mask: Array | None = None, *, axis: int = -1) -> Array:
    """exp(x - max) / its sum along `axis`. `mask` (bool, broadcastable to x): True = attend.

    What is masked contributes nothing, even a NaN; a fully masked row gives zeros.
    """
    if x.dtype not in FLOATS or x.ndim == 0 or (mask is not None and mask.dtype != np.bool_):
        return NotImplemented
    if mask is None:
        return _along(axis, _softmax, x)
    if np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        return NotImplemented
    return _along(axis, _masked_softmax, x, mask=np.broadcast_to(mask, x.shape))


def softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = softmax(x): y (g - sum(g y))."""
    return NotImplemented if _unfit(g, y) else _along(axis, _softmax_vjp, g, y)


def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """x - max - log(sum(exp(x - max))) along `axis`."""
    return NotImplemented if _unfit(x, x) else _along(axis, _log_softmax, x)


def log_softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = log_softmax(x): g - exp(y) sum(g)."""
    return NotImplemented if _unfit(g, y) else _along(axis, _log_softmax_vjp, g, y)


def _unfit(g: Array, y: Array) -> bool:
    return g.dtype not in FLOATS or y.dtype != g.dtype or y.shape != g.shape or y.ndim == 0


def _four_axes(mask: Array) -> Array:
    """A mask as bytes with three axes before its rows."""
    if mask.ndim > 4:
        mask = tape.contiguous(mask).reshape(1, 1, -1, mask.shape[-1])
    return mask[(None,) * (4 - mask.ndim)].view(np.uint8)


def _along(axis: int, run: Kernel, *arrays: Array, mask: Array | None = None) -> Array:
    """Run a row-wise kernel on arrays of one shape (and a mask), whose rows lie along `axis`."""
    last = axis in (-1, arrays[0].ndim - 1)
    rows = [tape.contiguous(a if last else np.moveaxis(a, axis, -1)) for a in arrays]
    if mask is not None:
        rows.insert(1, _four_axes(mask if last else np.moveaxis(mask, axis, -1)))
    out = tape.empty(rows[0].shape, rows[0].dtype)
    if out.size:
        n = out.shape[-1]
        count, per_block = out.size // n, max(1, BLOCK // n)
        run(-(-count // per_block), *rows, out, count, n, per_block)
    if last:
        return out
    result = tape.empty(arrays[0].shape, out.dtype)
    tape.copy_to(result, np.moveaxis(out, -1, axis))
    return result
