"""Softmax and its logarithm along one axis, and their pullbacks. Sums keep the order of `reduce`."""

import math

import numpy as np

from ..compiled import like, log
from . import tape
from .jit import Kernel, jit, kernel
from .lanes import exp, inline, lanes_below, log_all, scratch, sums_of_four, tops_of_four
from .lift import FLOATS, LONGEST
from .reduce import CHUNK
from .simd import LANES, greater, load, load_tail, max_lanes, select, splat, store, store_tail, sum_lanes

Array = np.ndarray

BLOCK = 8192  # elements of one block of work
GROUPED = 256  # elements of the longest row of which sixteen are in the cache together


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


@inline
def _four_starts(at, last, n):
    """Where four rows of n begin, from `at` on, none behind `last`."""
    return at, min(at + n, last), min(at + 2 * n, last), min(at + 3 * n, last)


@inline
def _four_tops(x, at, n):
    """What to subtract from each of four rows of at most two vectors, which begin at `at`."""
    lowest, (at0, at1, at2, at3) = splat(-math.inf, x), at
    first, rest = lanes_below(n), lanes_below(n - LANES)
    a, b = select(first, load_tail(x, at0, n), lowest), select(first, load_tail(x, at1, n), lowest)
    c, d = select(first, load_tail(x, at2, n), lowest), select(first, load_tail(x, at3, n), lowest)
    if n > LANES:
        a = greater(select(rest, load_tail(x, at0 + LANES, n - LANES), lowest), a)
        b = greater(select(rest, load_tail(x, at1 + LANES, n - LANES), lowest), b)
        c = greater(select(rest, load_tail(x, at2 + LANES, n - LANES), lowest), c)
        d = greater(select(rest, load_tail(x, at3 + LANES, n - LANES), lowest), d)
    t0, t1, t2, t3 = tops_of_four((a, b, c, d))
    return finite(t0), finite(t1), finite(t2), finite(t3)


@inline
def _part(x, at, first, n, top):
    """eˣ⁻ᵗᵒᵖ of up to sixteen numbers of a row from the one at `first`; 0 behind its end."""
    return select(lanes_below(n - first), exp(load_tail(x, at + first, n - first) - top), splat(0.0, x))


@inline
def _four_parts(x, at, first, n, tops):
    return (_part(x, at[0], first, n, tops[0]), _part(x, at[1], first, n, tops[1]),
            _part(x, at[2], first, n, tops[2]), _part(x, at[3], first, n, tops[3]))  # fmt: skip


@inline
def _plus(x, y):
    return x[0] + y[0], x[1] + y[1], x[2] + y[2], x[3] + y[3]


@inline
def _put_shares(out, at, first, end, parts, totals):
    _put(out, at[0] + first, parts[0] / totals[0], end)
    _put(out, at[1] + first, parts[1] / totals[1], end)
    _put(out, at[2] + first, parts[2] / totals[2], end)
    _put(out, at[3] + first, parts[3] / totals[3], end)


@kernel("T[::1], T[::1], int, int, int", bare=True)
def _short_softmax(lo, hi, x, out, rows, n, per_block):
    """Rows of one or two vectors, four at a time, stay in registers."""
    end = min(hi * per_block, rows) * n
    for first in range(lo * per_block * n, end, 4 * n):
        at = _four_starts(first, end - n, n)
        tops = _four_tops(x, at, n)
        parts = _four_parts(x, at, 0, n, tops)
        if n <= LANES:
            _put_shares(out, at, 0, end, parts, sums_of_four(parts))
        else:
            rest = _four_parts(x, at, LANES, n, tops)
            totals = sums_of_four(_plus(parts, rest))
            for k in range(4):  # a row is whole before the next one begins, which its last vector may reach into
                store(out, at[k], parts[k] / totals[k])
                _put(out, at[k] + LANES, rest[k] / totals[k], end)


@kernel("T[::1], T[::1], int, int, int", bare=True)
def _softmax(lo, hi, x, out, rows, n, per_block):
    end = min(hi * per_block, rows) * n
    for at in range(lo * per_block * n, end, n):
        total = _exp_sum(x, at, n, _top(x, at, n, end), out, end, True)
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


@inline
def _read_four(x, at, first, n):
    """Up to sixteen numbers of each of four rows from the one at `first`; 0 behind their ends."""
    return (load_tail(x, at[0] + first, n - first), load_tail(x, at[1] + first, n - first),
            load_tail(x, at[2] + first, n - first), load_tail(x, at[3] + first, n - first))  # fmt: skip


@inline
def _times(x, y):
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@kernel("T[::1], T[::1], T[::1], int, int, int", bare=True)
def _short_softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    """Rows of one or two vectors, four at a time."""
    end = min(hi * per_block, rows) * n
    for first in range(lo * per_block * n, end, 4 * n):
        at = _four_starts(first, end - n, n)
        a, b = _read_four(g, at, 0, n), _read_four(y, at, 0, n)
        if n <= LANES:
            dots = sums_of_four(_times(a, b))
            for k in range(4):
                _put(out, at[k], b[k] * (a[k] - dots[k]), end)
        else:
            c, d = _read_four(g, at, LANES, n), _read_four(y, at, LANES, n)
            dots = sums_of_four(_plus(_times(a, b), _times(c, d)))
            for k in range(4):  # a row is whole before the next one begins
                store(out, at[k], b[k] * (a[k] - dots[k]))
                _put(out, at[k] + LANES, d[k] * (c[k] - dots[k]), end)


@kernel("T[::1], T[::1], T[::1], int, int, int", bare=True)
def _softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    end = min(hi * per_block, rows) * n
    for row in range(lo * per_block, min(hi * per_block, rows)):
        at, dot = row * n, _dot(g, y, row * n, n)
        for i in range(0, n, LANES):
            slope = _get(y, at + i, end) * (_get(g, at + i, end) - dot)
            _put(out, at + i, slope, end)


@kernel("T[::1], T[::1], int, int, int", bare=True)
def _short_log_softmax(lo, hi, x, out, rows, n, per_block):
    """Rows of one or two vectors, four at a time; the logarithms of sixteen rows are taken side by side."""
    tops, sums, end = scratch(x), scratch(x), min(hi * per_block, rows) * n
    store(sums, 0, splat(1.0, x))
    for first in range(lo * per_block * n, end, LANES * n):
        rest = min(LANES, (end - first) // n)
        for row in range(0, rest, 4):
            at = _four_starts(first + row * n, end - n, n)
            four = _four_tops(x, at, n)
            parts = _four_parts(x, at, 0, n, four)
            if n > LANES:
                parts = _plus(parts, _four_parts(x, at, LANES, n, four))
            tops[row], tops[row + 1], tops[row + 2], tops[row + 3] = four
            sums[row], sums[row + 1], sums[row + 2], sums[row + 3] = sums_of_four(parts)
        log_all(sums)
        for row in range(0, rest, 4):
            at = _four_starts(first + row * n, end - n, n)
            for k in range(4):
                i = row + min(k, rest - 1 - row)
                if n > LANES:
                    store(out, at[k], (load(x, at[k]) - tops[i]) - sums[i])
                    _put(out, at[k] + LANES, (load_tail(x, at[k] + LANES, n - LANES) - tops[i]) - sums[i], end)
                else:
                    _put(out, at[k], (load_tail(x, at[k], n) - tops[i]) - sums[i], end)


@kernel("T[::1], T[::1], int, int, int", bare=True)
def _log_softmax(lo, hi, x, out, rows, n, per_block):
    """The logarithms of sixteen rows are taken side by side, if these are short."""
    last, group = min(hi * per_block, rows), LANES if n <= GROUPED else 1
    tops, sums, end = scratch(x), scratch(x), last * n
    store(sums, 0, splat(1.0, x))
    for first in range(lo * per_block, last, group):
        count = min(group, last - first)
        for row in range(count):
            at = (first + row) * n
            tops[row] = _top(x, at, n, end)
            sums[row] = _exp_sum(x, at, n, tops[row], out, end, False)
        if group == 1:
            sums[0] = log(sums[0])
        else:
            log_all(sums)
        for row in range(count):
            at, top, shift = (first + row) * n, tops[row], sums[row]
            for i in range(0, n, LANES):
                _put(out, at + i, (_get(x, at + i, end) - top) - shift, end)


@kernel("T[::1], T[::1], T[::1], int, int, int", bare=True)
def _short_log_softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    """Rows of one or two vectors, four at a time."""
    end = min(hi * per_block, rows) * n
    for first in range(lo * per_block * n, end, 4 * n):
        at = _four_starts(first, end - n, n)
        a = _read_four(g, at, 0, n)
        if n <= LANES:
            totals = sums_of_four(a)
            for k in range(4):
                _put(out, at[k], a[k] - exp(load_tail(y, at[k], n)) * totals[k], end)
        else:
            c = _read_four(g, at, LANES, n)
            totals = sums_of_four(_plus(a, c))
            for k in range(4):
                store(out, at[k], a[k] - exp(load(y, at[k])) * totals[k])
                _put(out, at[k] + LANES, c[k] - exp(load_tail(y, at[k] + LANES, n - LANES)) * totals[k], end)


@kernel("T[::1], T[::1], T[::1], int, int, int", bare=True)
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
    if _unfit(x, x, axis) or (mask is not None and mask.dtype != np.bool_):
        return NotImplemented
    if mask is None:
        return _along(axis, _short_softmax if x.shape[axis] <= 2 * LANES else _softmax, x)
    if np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        return NotImplemented
    return _along(axis, _masked_softmax, x, mask=np.broadcast_to(mask, x.shape))


def softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = softmax(x): y (g - sum(g y))."""
    if _unfit(g, y, axis):
        return NotImplemented
    return _along(axis, _short_softmax_vjp if y.shape[axis] <= 2 * LANES else _softmax_vjp, g, y)


def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """x - max - log(sum(exp(x - max))) along `axis`."""
    if _unfit(x, x, axis):
        return NotImplemented
    return _along(axis, _short_log_softmax if x.shape[axis] <= 2 * LANES else _log_softmax, x)


def log_softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = log_softmax(x): g - exp(y) sum(g)."""
    if _unfit(g, y, axis):
        return NotImplemented
    return _along(axis, _short_log_softmax_vjp if y.shape[axis] <= 2 * LANES else _log_softmax_vjp, g, y)


def _unfit(g: Array, y: Array, axis: int) -> bool:
    return g.dtype not in FLOATS or y.dtype != g.dtype or y.shape != g.shape or not y.ndim or y.shape[axis] > LONGEST


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
