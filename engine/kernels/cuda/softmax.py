"""Softmax and its logarithm along one axis, and their pullbacks: each row is read once and written once."""

import math
from typing import Any

import numpy as np

from ..compiled import exp, log
from . import tape
from .ptx import divided
from .rows import LOWEST, MOST, ZERO, Rows, finite, get4, greater, put4, row_of, served, wide
from .template import registers, template, unroll

Array = Any

ONE = np.float32(1)


@template
def _softmax(x, out, flat, rows, n, *, THREADS, PARTS, ROWS, SUM, MAX, LOGARITHM):
    """softmax, or (LOGARITHM) its logarithm."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, v, top = row * np.int64(n), registers(PARTS, 4), LOWEST
    if flat:
        for p in unroll(PARTS):
            v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, True, LOWEST)
    else:
        for p in unroll(PARTS):
            v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, False, LOWEST)
    for p in unroll(PARTS):
        top = greater(greater(v[p, 0], v[p, 1]), greater(greater(v[p, 2], v[p, 3]), top))
    top, total = finite(MAX(top)), ZERO
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            for q in unroll(4):
                v[p, q] = v[p, q] - top
                e = exp(v[p, q])  # 0 behind the row's end
                total += e
                if not LOGARITHM:
                    v[p, q] = e
    total = SUM(total)
    last = log(total) if LOGARITHM else ONE / total
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            for q in unroll(4):
                v[p, q] = v[p, q] - last if LOGARITHM else v[p, q] * last
            put4(out, at, (p * THREADS + t) * 4, n, flat, v[p, 0], v[p, 1], v[p, 2], v[p, 3])


@template
def _masked_softmax(
    x, mask, out, size_b, size_c, step_a, step_b, step_c, step_n, flat, rows, n, *, THREADS, PARTS, ROWS, SUM, MAX
):
    """The mask has three axes before its own, of any strides; the rows count through them in C order."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, v, seen, top = row * np.int64(n), registers(PARTS, 4), registers(PARTS, 4), LOWEST
    lines, c = divided(row, size_c)
    a, b = divided(lines, size_b)
    line = a * step_a + b * step_b + c * step_c
    if flat:
        for p in unroll(PARTS):
            v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, True, LOWEST)
    else:
        for p in unroll(PARTS):
            v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, False, LOWEST)
    for p in unroll(PARTS):
        i = (p * THREADS + t) * 4
        for q in unroll(4):
            seen[p, q] = False
            if i + q < n:
                seen[p, q] = mask[line + (i + q) * step_n] != 0
            v[p, q] = v[p, q] if seen[p, q] else LOWEST
            top = greater(v[p, q], top)
    top, total = finite(MAX(top)), ZERO
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            for q in unroll(4):
                v[p, q] = exp(v[p, q] - top) if seen[p, q] else ZERO
                total += v[p, q]
    total = SUM(total)
    if total == ZERO:
        total = ONE
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            for q in unroll(4):
                v[p, q] = v[p, q] / total if seen[p, q] else ZERO
            put4(out, at, (p * THREADS + t) * 4, n, flat, v[p, 0], v[p, 1], v[p, 2], v[p, 3])


@template
def _pullback(g, y, out, flat, rows, n, *, THREADS, PARTS, ROWS, SUM, MAX, LOGARITHM):
    """y (g - sum(g y)), or (LOGARITHM) g - exp(y) sum(g)."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, u, v, total = row * np.int64(n), registers(PARTS, 4), registers(PARTS, 4), ZERO
    for some in unroll(0, PARTS, 4):  # more loads than that, and their numbers, have no room
        if flat:
            for p in unroll(some, some + 4):
                u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(g, at, (p * THREADS + t) * 4, n, True, ZERO)
                v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(y, at, (p * THREADS + t) * 4, n, True, ZERO)
        else:
            for p in unroll(some, some + 4):
                u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(g, at, (p * THREADS + t) * 4, n, False, ZERO)
                v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(y, at, (p * THREADS + t) * 4, n, False, ZERO)
        for p in unroll(some, some + 4):
            for q in unroll(4):
                total += u[p, q] if LOGARITHM else u[p, q] * v[p, q]
    total = SUM(total)
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            if PARTS > 4:  # registers for one of the two: the other comes from the cache
                v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(y, at, (p * THREADS + t) * 4, n, flat, ZERO)
            for q in unroll(4):
                v[p, q] = u[p, q] - exp(v[p, q]) * total if LOGARITHM else v[p, q] * (u[p, q] - total)
            put4(out, at, (p * THREADS + t) * 4, n, flat, v[p, 0], v[p, 1], v[p, 2], v[p, 3])


_ONE = "float32[::1], float32[::1], bool, int32, int32"
_TWO = "float32[::1], float32[::1], float32[::1], bool, int32, int32"
_MASKED = "float32[::1], uint8[...], float32[::1], int32, int32, int, int, int, int32, bool, int32, int32"
softmax_rows = Rows("softmax", _ONE, _softmax, parts=8, LOGARITHM=False)
log_softmax_rows = Rows("log_softmax", _ONE, _softmax, parts=8, LOGARITHM=True)
masked_rows = Rows("masked_softmax", _MASKED, _masked_softmax, "middle")
softmax_vjp_rows = Rows("softmax_vjp", _TWO, _pullback, LOGARITHM=False)
log_softmax_vjp_rows = Rows("log_softmax_vjp", _TWO, _pullback, LOGARITHM=True)


def softmax(x: Array, mask: Array | None = None, *, axis: int = -1) -> Array:
    """exp(x - max) / its sum along `axis`, float32. `mask` (bool, broadcastable to x): True = attend.

    What is masked contributes nothing, even a NaN; a fully masked row gives zeros.
    """
    if mask is None:
        return _along(axis, softmax_rows, x)
    if mask.dtype != np.bool_ or mask.size > MOST or np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        return NotImplemented
    return _along(axis, masked_rows, x, mask=np.broadcast_to(mask, x.shape))


def softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = softmax(x): y (g - sum(g y))."""
    return _along(axis, softmax_vjp_rows, g, y)


def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """x - max - log(sum(exp(x - max))) along `axis`."""
    return _along(axis, log_softmax_rows, x)


def log_softmax_vjp(g: Array, y: Array, *, axis: int = -1) -> Array:
    """The pullback of y = log_softmax(x): g - exp(y) sum(g)."""
    return _along(axis, log_softmax_vjp_rows, g, y)


def _along(axis: int, run: Rows, *arrays: Array, mask: Array | None = None) -> Array:
    """Run a row kernel on arrays of one shape (and a mask of that shape), whose rows lie along `axis`."""
    x = arrays[0]
    if not served(*arrays) or x.ndim == 0 or not run.fits(x.shape[axis]) or any(a.shape != x.shape for a in arrays):
        return NotImplemented
    last = axis in (-1, x.ndim - 1)
    rows = [tape.contiguous(a if last else np.moveaxis(a, axis, -1)) for a in arrays]
    out = tape.empty(rows[0].shape, x.dtype)
    if out.size:
        n = out.shape[-1]
        how: tuple[Any, ...] = ()
        if mask is not None:
            mask, how = _steps(mask if last else np.moveaxis(mask, axis, -1))
            rows.insert(1, mask)
        run(out.size // n, n, *rows, out, *how, wide(n, *arrays))
    if last:
        return out
    result = tape.empty(x.shape, out.dtype)
    tape.copy_to(result, np.moveaxis(out, -1, axis))
    return result


def _steps(mask: Array) -> tuple[Array, tuple[int, ...]]:
    """A mask as bytes, the sizes of the last two of the axes before its rows, and four strides."""
    if mask.ndim > 4 or min(mask.strides) < 0:
        mask = tape.contiguous(mask)
        mask = mask.reshape(1, 1, math.prod(mask.shape[:-1]), mask.shape[-1])
    mask = mask.view(np.uint8)
    shape, strides = (1,) * (4 - mask.ndim) + mask.shape, (0,) * (4 - mask.ndim) + mask.strides
    return mask, (shape[1], shape[2], *strides)
