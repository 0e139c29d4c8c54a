"""Layer normalisation over the last axis (Ba, Kiros & Hinton 2016), alone and with the residual connection before it.

A row is read once. The gradients of weight and bias are sums over rows, made on the way: a block adds up its share of
the rows, another kernel adds up the blocks. Which row goes where follows from its number alone, so rows at the end
whose gradient is 0 change no bit.
"""

import math
from typing import Any

import numpy as np

from ..compiled import scalar
from . import tape
from .jit import cuda
from .ptx import store4
from .random import dropped, keep4, rule
from .reduce import sum_over_rows
from .rows import ZERO, Rows, get4, put4, row_of, served, wide
from .template import registers, template, unroll

Array = Any

BLOCKS = 264  # that share the sums over rows: two a multiprocessor
ONE = np.float32(1)


@template
def _add_norm(
    x, h, key, weight, bias, sums, out, means, rstds, eps, threshold, scale, dropping, weighted, biased, flat, rows, n,
    *, THREADS, PARTS, ROWS, SUM, MAX, ADDED, SOME
):  # fmt: skip
    """sums = x + dropout(h) and their layer norm; where nothing is ADDED, that of x. SOME parts' weights are asked for
    together."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, s, u, total = row * np.int64(n), registers(PARTS, 4), registers(PARTS, 4), ZERO
    if flat:
        for p in unroll(PARTS):
            s[p, 0], s[p, 1], s[p, 2], s[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, True, ZERO)
    else:
        for p in unroll(PARTS):
            s[p, 0], s[p, 1], s[p, 2], s[p, 3] = get4(x, at, (p * THREADS + t) * 4, n, False, ZERO)
    if ADDED:
        for some in unroll(0, PARTS, 4):
            if flat:
                for p in unroll(some, some + 4):
                    u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(h, at, (p * THREADS + t) * 4, n, True, ZERO)
            else:
                for p in unroll(some, some + 4):
                    u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(h, at, (p * THREADS + t) * 4, n, False, ZERO)
            for p in unroll(some, some + 4):
                i = (p * THREADS + t) * 4
                if i < n:
                    four = u[p, 0], u[p, 1], u[p, 2], u[p, 3]
                    if dropping:
                        four = dropped(four, keep4(key, at + i, threshold), scale)
                    for q in unroll(4):
                        s[p, q] = s[p, q] + four[q]
                    put4(sums, at, i, n, flat, s[p, 0], s[p, 1], s[p, 2], s[p, 3])
    for p in unroll(PARTS):
        total += (s[p, 0] + s[p, 1]) + (s[p, 2] + s[p, 3])
    count = np.float32(n)
    mean, total = SUM(total) / count, ZERO
    for p in unroll(PARTS):
        if p * THREADS * 4 < n:
            for q in unroll(4):
                s[p, q] = s[p, q] - mean if (p * THREADS + t) * 4 + q < n else ZERO
            total += (s[p, 0] * s[p, 0] + s[p, 1] * s[p, 1]) + (s[p, 2] * s[p, 2] + s[p, 3] * s[p, 3])
    w, b = registers(SOME, 4), registers(SOME, 4)
    for some in unroll(0, PARTS, SOME):
        for k in unroll(SOME):
            i = ((some + k) * THREADS + t) * 4
            w[k, 0], w[k, 1], w[k, 2], w[k, 3] = ONE, ONE, ONE, ONE
            b[k, 0], b[k, 1], b[k, 2], b[k, 3] = ZERO, ZERO, ZERO, ZERO
            if weighted:
                w[k, 0], w[k, 1], w[k, 2], w[k, 3] = get4(weight, 0, i, n, flat, ONE)
            if biased:
                b[k, 0], b[k, 1], b[k, 2], b[k, 3] = get4(bias, 0, i, n, flat, ZERO)
        if some == 0:  # the first weights come while the threads add up
            rstd = ONE / scalar.sqrt(SUM(total) / count + eps)
            if t == 0:
                means[row], rstds[row] = mean, rstd
        for k in unroll(SOME):
            i = ((some + k) * THREADS + t) * 4
            if i < n:
                for q in unroll(4):
                    s[some + k, q] = s[some + k, q] * rstd * w[k, q] + b[k, q]
                put4(out, at, i, n, flat, s[some + k, 0], s[some + k, 1], s[some + k, 2], s[some + k, 3])


@template
def _add_norm_vjp(
    g, s, key, weight, means, rstds, dx, dh, parts, threshold, scale, dropping, weighted, flat, rows, n, *,
    THREADS, PARTS, ROWS, SUM, MAX
):  # fmt: skip
    """The gradients of s, and of h where dropout was on, and this block's share of weight's and bias's."""
    first, t = row_of(ROWS, THREADS)
    dw, db, u, v = registers(PARTS, 4), registers(PARTS, 4), registers(PARTS, 4), registers(PARTS, 4)
    w = registers(PARTS, 4)
    for p in unroll(PARTS):
        for q in unroll(4):
            dw[p, q], db[p, q], w[p, q] = ZERO, ZERO, ONE
        if weighted:
            w[p, 0], w[p, 1], w[p, 2], w[p, 3] = get4(weight, 0, (p * THREADS + t) * 4, n, flat, ZERO)
    count, row = np.float32(n), first
    while row < rows:
        at, mean, rstd, along, across = row * np.int64(n), means[row], rstds[row], ZERO, ZERO
        if flat:
            for p in unroll(PARTS):
                i = (p * THREADS + t) * 4
                u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(g, at, i, n, True, ZERO)
                v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(s, at, i, n, True, ZERO)
        else:
            for p in unroll(PARTS):
                i = (p * THREADS + t) * 4
                u[p, 0], u[p, 1], u[p, 2], u[p, 3] = get4(g, at, i, n, False, ZERO)
                v[p, 0], v[p, 1], v[p, 2], v[p, 3] = get4(s, at, i, n, False, mean)
        for p in unroll(PARTS):
            if (p * THREADS + t) * 4 < n:
                for q in unroll(4):
                    v[p, q] = (v[p, q] - mean) * rstd
                    dw[p, q] += u[p, q] * v[p, q]
                    db[p, q] += u[p, q]
                    u[p, q] = u[p, q] * w[p, q]
                    along += u[p, q]
                    across += u[p, q] * v[p, q]
        along, across = SUM(along) / count, SUM(across) / count
        for p in unroll(PARTS):
            i = (p * THREADS + t) * 4
            if i < n:
                for q in unroll(4):
                    u[p, q] = rstd * (u[p, q] - along - v[p, q] * across)
                put4(dx, at, i, n, flat, u[p, 0], u[p, 1], u[p, 2], u[p, 3])
                if dropping:
                    four = dropped((u[p, 0], u[p, 1], u[p, 2], u[p, 3]), keep4(key, at + i, threshold), scale)
                    put4(dh, at, i, n, flat, four[0], four[1], four[2], four[3])
        row += cuda.gridDim.x * ROWS
    to = cuda.blockIdx.x * np.int64(2 * n)
    if ROWS > 1:  # the sums of the warps, in their order
        held = cuda.shared.array(ROWS * 8 * THREADS * PARTS, np.float32, 16)
        for p in unroll(PARTS):
            i = (cuda.threadIdx.x // THREADS * 2 * PARTS + p) * THREADS * 4 + 4 * t
            store4(held, i, dw[p, 0], dw[p, 1], dw[p, 2], dw[p, 3])
            store4(held, i + 4 * THREADS * PARTS, db[p, 0], db[p, 1], db[p, 2], db[p, 3])
        cuda.syncthreads()
        for j in range(cuda.threadIdx.x, 2 * n, THREADS * ROWS):
            i = j if j < n else j - n + 4 * THREADS * PARTS
            total = held[i]
            for turn in unroll(1, ROWS):
                total += held[turn * 8 * THREADS * PARTS + i]
            parts[to + j] = total
    else:
        for p in unroll(PARTS):
            i = (p * THREADS + t) * 4
            put4(parts, to, i, n, flat, dw[p, 0], dw[p, 1], dw[p, 2], dw[p, 3])
            put4(parts, to + n, i, n, flat, db[p, 0], db[p, 1], db[p, 2], db[p, 3])


_plain, _added = (
    Rows(
        name, "float32[::1], float32[::1], int64[::1], float32[::1], float32[::1], float32[::1], float32[::1],"
        "float32[::1], float32[::1], float32, uint32, float32, bool, bool, bool, bool, int32, int32", _add_norm,
        "middle", parts=8, resident=512, ADDED=added, SOME=some,
    )
    for name, added, some in (("layer_norm", False, 2), ("add_norm", True, 4))
)  # fmt: skip
_backward = Rows(
    "add_norm_vjp", "float32[::1], float32[::1], int64[::1], float32[::1], float32[::1], float32[::1], float32[::1],"
    "float32[::1], float32[::1], uint32, float32, bool, bool, bool, int32, int32", _add_norm_vjp, "middle",
    resident=512,
)  # fmt: skip


# --- the ops ---------------------------------------------------------------------------------------------------------


def add_norm(
    x: Array,
    h: Array,
    key: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    p: float = 0.0,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array, Array, None]:
    """layer_norm(x + dropout(h)) for float32 x and h (..., D); `key` is an int64 array of one element, for p > 0.

    Returns (y, mean, rstd, s, None): mean and rstd as in `layer_norm`, s = x + dropout(h). What dropout keeps is made
    again when it is needed.
    """
    if _unfit(x, weight, bias) or not served(h) or h.shape != x.shape or (key is not None and key.dtype != np.int64):
        return NotImplemented
    sums = tape.empty(x.shape, x.dtype)
    return *_normalise(x, h, key, weight, bias, sums, p, eps), sums, None


def layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + eps) weight + bias over the last axis of length D; weight and bias are (D,) or None.

    Returns (y, mean, rstd), the residuals in the shape of x without its last axis, rstd = 1 / sqrt(variance + eps).
    """
    if _unfit(x, weight, bias):
        return NotImplemented
    return _normalise(x, None, None, weight, bias, None, 0.0, eps)


def add_norm_vjp(
    g: Array,
    x: Array,
    h: Array,
    key: Array | None = None,
    weight: Array | None = None,
    *,
    p: float = 0.0,
    eps: float = 1e-5,
    mean: Array | None = None,
    rstd: Array | None = None,
    s: Array | None = None,
    kept: None = None,
) -> Array:
    """The pullback of add_norm as one 1-D array: the gradients of x (flat), of h (flat) if p is not 0 (else it is that
    of x), of weight (D,) and of bias (D,)."""
    if _unfit(x, weight) or not served(g, h) or not g.shape == h.shape == x.shape or not _backward.fits(x.shape[-1]):
        return NotImplemented
    if mean is None or rstd is None or s is None:
        _, mean, rstd, s, _ = add_norm(x, h, key, p=p, eps=eps)
    return _pull_back(g, s, key, weight, mean, rstd, p)


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
    if _unfit(x, weight) or not served(g) or g.shape != x.shape or not _backward.fits(x.shape[-1]):
        return NotImplemented
    if mean is None or rstd is None:
        _, mean, rstd = layer_norm(x, eps=eps)
    return _pull_back(g, x, None, weight, mean, rstd, 0.0)


def _unfit(x: Array, *rows: Array | None) -> bool:
    wrong = any(a is not None and a.shape != x.shape[-1:] for a in rows)
    return not served(x, *rows) or x.ndim == 0 or wrong or not _plain.fits(x.shape[-1])


def _normalise(
    x: Array,
    h: Array | None,
    key: Array | None,
    weight: Array | None,
    bias: Array | None,
    sums: Array | None,
    p: float,
    eps: float,
) -> tuple[Array, Array, Array]:
    """(y, mean, rstd) of x + dropout(h), which goes to `sums`, or of x where there is no h."""
    x, h, weight, bias = (a if a is None else tape.contiguous(a) for a in (x, h, weight, bias))
    out, mean, rstd = (tape.empty(shape, x.dtype) for shape in (x.shape, x.shape[:-1], x.shape[:-1]))
    n = x.shape[-1]
    if n == 0 and mean.size:
        tape.fill(mean, math.nan)
        tape.fill(rstd, math.nan)
    elif mean.size:
        run = _plain if h is None else _added
        run(
            mean.size, n, x, h, key if p else None, weight, bias, sums, out, mean, rstd, eps, *rule(p), p > 0,
            weight is not None, bias is not None, wide(n, x, h, weight, bias),
        )  # fmt: skip
    return out, mean, rstd


def _pull_back(
    g: Array, s: Array, key: Array | None, weight: Array | None, mean: Array, rstd: Array, p: float
) -> Array:
    """The packed gradients: of s, of h if p is not 0, of weight and bias."""
    g, s, weight, mean, rstd = (a if a is None else tape.contiguous(a) for a in (g, s, weight, mean, rstd))
    size, rows, n = s.size, mean.size, s.shape[-1]
    packed = tape.empty(size * (2 if p else 1) + 2 * n, s.dtype)
    if n == 0 or rows == 0:
        if packed.size:
            tape.fill(packed, 0)
        return packed
    blocks = _backward.blocks(rows, n, BLOCKS)
    parts = tape.empty((blocks, 2 * n), s.dtype)
    dx, dh = packed[:size], packed[size : 2 * size] if p else None
    _backward(
        rows, n, g, s, key if p else None, weight, mean, rstd, dx, dh, parts, *rule(p), p > 0, weight is not None,
        wide(n, g, s, weight), most=blocks,
    )  # fmt: skip
    sum_over_rows(parts, packed[-2 * n :], 1, blocks, 2 * n)
    return packed
