"""Softmax and its logarithm along one axis, and their pullbacks. Sums keep the order of `reduce`."""

import math

import numpy as np

from ..compiled import exp, like, log
from .jit import Kernel, jit, kernel
from .lift import FLOATS
from .reduce import dot_row, max_row, sum_row

Array = np.ndarray

BLOCK = 8192  # elements of one block of work


@jit
def finite(top):
    """A maximum to subtract: 0 where it is infinite or NaN."""
    return top if top - top == 0 else like(0.0, top)


@kernel("T[::1], T[::1], int, int, int")
def _softmax(lo, hi, x, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        top = finite(max_row(x, row * n, n))
        a, o = x[row * n : (row + 1) * n], out[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = exp(a[i] - top)
        total = sum_row(out, row * n, n)
        for i in range(n):
            o[i] /= total


@kernel("T[::1], uint8[::1], T[::1], int, int, int")
def _masked_softmax(lo, hi, x, mask, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        a, o, seen = x[row * n : (row + 1) * n], out[row * n : (row + 1) * n], mask[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = a[i] if seen[i] != 0 else -math.inf
        top = finite(max_row(out, row * n, n))
        for i in range(n):
            e = exp(o[i] - top)
            o[i] = e if seen[i] != 0 else 0.0
        total = sum_row(out, row * n, n)
        if total == 0:
            total += 1
        for i in range(n):
            e = o[i] / total
            o[i] = e if seen[i] != 0 else 0.0


@kernel("T[::1], T[::1], T[::1], int, int, int")
def _softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        dot = dot_row(g, y, row * n, n)
        b, a, o = g[row * n : (row + 1) * n], y[row * n : (row + 1) * n], out[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = a[i] * (b[i] - dot)


@kernel("T[::1], T[::1], int, int, int")
def _log_softmax(lo, hi, x, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        top = finite(max_row(x, row * n, n))
        a, o = x[row * n : (row + 1) * n], out[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = exp(a[i] - top)
        shift = log(sum_row(out, row * n, n))
        for i in range(n):
            o[i] = (a[i] - top) - shift


@kernel("T[::1], T[::1], T[::1], int, int, int")
def _log_softmax_vjp(lo, hi, g, y, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        total = sum_row(g, row * n, n)
        b, a, o = g[row * n : (row + 1) * n], y[row * n : (row + 1) * n], out[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = b[i] - exp(a[i]) * total


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
    return _along(axis, _masked_softmax, x, np.broadcast_to(mask, x.shape).view(np.uint8))


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


def _along(axis: int, run: Kernel, *arrays: Array) -> Array:
    """Run a row-wise kernel on arrays of one shape, whose rows lie along `axis`."""
    last = axis in (-1, arrays[0].ndim - 1)
    rows = [np.asarray(a if last else np.moveaxis(a, axis, -1), order="C") for a in arrays]
    shape = rows[0].shape
    out = np.empty(shape, rows[0].dtype)
    n = shape[-1]
    if out.size:
        count = out.size // n
        per_block = max(1, BLOCK // n)
        run(-(-count // per_block), *rows, out, count, n, per_block)
    return out if last else np.ascontiguousarray(np.moveaxis(out, -1, axis))
