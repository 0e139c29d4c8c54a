"""Layer normalisation over the last axis (Ba, Kiros & Hinton 2016), and its gradients in one pass.

Variance is the population's. Sums keep the order of `reduce`, those over rows (the gradients of weight and bias) too:
every sixteenth row belongs to one lane, a lane of a chunk of rows is one block of work, so the pass that makes the
gradient of x adds up the other two on its way.
"""

import math

import numpy as np

from .jit import jit, kernel
from .lift import FLOATS
from .reduce import CHUNK, column_chunks, combine_lanes, sum_row
from .simd import LANES, load, load_tail, splat, store, store_tail, sum_lanes

Array = np.ndarray

BLOCK = 8192  # elements of one block of work
SMALL = 16384  # up to here one thread does all


@jit
def _centre(x, start, n, mean, out):
    """out[start : start + n] = x - mean there; returns the sum of its squares."""
    total = x.dtype.type(0)
    for first in range(start, start + n, CHUNK):
        end = min(first + CHUNK, start + n)
        acc = splat(0.0, x)
        for i in range(first, end - LANES + 1, LANES):
            c = load(x, i) - mean
            store(out, i, c)
            acc = acc + c * c
        tail = (end - first) % LANES
        if tail:
            i = end - tail
            store_tail(out, i, load_tail(x, i, tail) - mean, tail)
            c = load_tail(out, i, tail)
            acc = acc + c * c
        total = total + sum_lanes(acc)
    return total


@kernel("T[::1], T[::1], T[::1], T[::1], T[::1], T[::1], int, int, int, float")
def _layer_norm(lo, hi, x, weight, bias, out, means, rstds, rows, n, per_block, eps):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        mean = x.dtype.type(sum_row(x, row * n, n) / n)
        rstd = x.dtype.type(1 / math.sqrt(_centre(x, row * n, n, mean, out) / n + eps))
        means[row], rstds[row] = mean, rstd
        o = out[row * n : (row + 1) * n]
        for i in range(n):
            o[i] = o[i] * rstd * weight[i] + bias[i]


@jit
def _gather(g, x, start, n, weight, mean, rstd, dweight, dbias):
    """Add a row's share to dweight and dbias; returns the sums of w g x̂ and of w g, x̂ the normalised row."""
    along, level = x.dtype.type(0), x.dtype.type(0)
    for first in range(0, n, CHUNK):
        end = min(first + CHUNK, n)
        along_acc, level_acc = splat(0.0, x), splat(0.0, x)
        for i in range(first, end - LANES + 1, LANES):
            b = load(g, start + i)
            normal = (load(x, start + i) - mean) * rstd
            store(dweight, i, load(dweight, i) + b * normal)
            store(dbias, i, load(dbias, i) + b)
            b = b * load(weight, i)
            along_acc = along_acc + b * normal
            level_acc = level_acc + b
        tail = (end - first) % LANES
        if tail:  # lanes past the end: b is 0 there
            i = end - tail
            b = load_tail(g, start + i, tail)
            normal = (load_tail(x, start + i, tail) - mean) * rstd
            store_tail(dweight, i, load_tail(dweight, i, tail) + b * normal, tail)
            store_tail(dbias, i, load_tail(dbias, i, tail) + b, tail)
            b = b * load_tail(weight, i, tail)
            along_acc = along_acc + b * normal
            level_acc = level_acc + b
        along = along + sum_lanes(along_acc)
        level = level + sum_lanes(level_acc)
    return along, level


@kernel("T[::1], T[::1], T[::1], T[::1], T[::1], T[::1], T[::1], int, int, int")
def _layer_norm_vjp(lo, hi, g, x, weight, means, rstds, dx, parts, rows, n, chunks):
    """parts (chunks, LANES, 2, n): sums of g times normalised x, and of g, over the rows of a lane."""
    for block in range(lo, hi):
        chunk, lane = block // LANES, block % LANES
        dweight = parts[2 * block * n : (2 * block + 1) * n]
        dbias = parts[(2 * block + 1) * n : (2 * block + 2) * n]
        dweight[:] = 0
        dbias[:] = 0
        for row in range(chunk * CHUNK + lane, min(rows, (chunk + 1) * CHUNK), LANES):
            mean, rstd = means[row], rstds[row]
            along, level = _gather(g, x, row * n, n, weight, mean, rstd, dweight, dbias)
            along, level = x.dtype.type(along / n), x.dtype.type(level / n)
            a, b, o = x[row * n : (row + 1) * n], g[row * n : (row + 1) * n], dx[row * n : (row + 1) * n]
            for i in range(n):
                o[i] = ((b[i] * weight[i] - level) - (a[i] - mean) * rstd * along) * rstd


def layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + eps) weight + bias over the last axis of length D; weight and bias are (D,) or None.

    Returns (y, mean, rstd), the residuals in the shape of x without its last axis, rstd = 1 / sqrt(variance + eps).
    """
    if x.dtype not in FLOATS or x.ndim == 0:
        return NotImplemented
    if any(a is not None and (a.dtype != x.dtype or a.shape != x.shape[-1:]) for a in (weight, bias)):
        return NotImplemented
    x = np.asarray(x, order="C")
    weight = _row(weight, 1, x)
    bias = _row(bias, 0, x)
    out = np.empty(x.shape, x.dtype)
    mean, rstd = np.empty(x.shape[:-1], x.dtype), np.empty(x.shape[:-1], x.dtype)
    rows, n = mean.size, x.shape[-1]
    if n == 0:
        mean[...], rstd[...] = math.nan, math.nan
    elif rows:
        per_block = max(1, BLOCK // n)
        _layer_norm(-(-rows // per_block), x, weight, bias, out, mean, rstd, rows, n, per_block, eps)
    return out, mean, rstd


def layer_norm_vjp(
    g: Array,
    x: Array,
    weight: Array | None = None,
    *,
    eps: float = 1e-5,
    mean: Array | None = None,
    rstd: Array | None = None,
) -> Array:
    """The pullback of layer_norm as one 1-D array: the gradients of x (flat), of weight (D,) and of bias (D,)."""
    if x.dtype not in FLOATS or g.dtype != x.dtype or g.shape != x.shape or x.ndim == 0:
        return NotImplemented
    if weight is not None and (weight.dtype != x.dtype or weight.shape != x.shape[-1:]):
        return NotImplemented
    if mean is None or rstd is None:
        _, mean, rstd = layer_norm(x, eps=eps)
    g, x, mean, rstd = (np.asarray(a, order="C") for a in (g, x, mean, rstd))
    weight = _row(weight, 1, x)
    rows, n = mean.size, x.shape[-1]
    chunks = column_chunks(rows)
    packed = np.empty(x.size + 2 * n, x.dtype)
    if n:
        parts = np.empty(chunks * LANES * 2 * n, x.dtype)
        run = _layer_norm_vjp if x.size > SMALL else _layer_norm_vjp.serial
        run(chunks * LANES, g, x, weight, mean, rstd, packed[: x.size], parts, rows, n, chunks)
        combine_lanes(1, parts, packed[x.size :], chunks, 2 * n)
    return packed


def _row(given: Array | None, default: float, x: Array) -> Array:
    """A weight or bias as a contiguous row; `default` everywhere where none is given."""
    return np.full(x.shape[-1:], default, x.dtype) if given is None else np.asarray(given, order="C")
