"""Layer normalisation over the last axis (Ba, Kiros & Hinton 2016), alone and with the residual connection before it.

Variance is the population's. Sums along a row keep the order of `reduce`. Those over rows (the gradients of weight and
bias) are made while the rows are at hand: of every sentence (the axis before the features) in runs of rows, in
ascending order, and then over all runs. So rows behind the end of a sentence whose gradient is 0 change no bit, nor do
such sentences behind the last one.
"""

import math

import numpy as np

from . import tape
from .dropout import keep_factors, key_of, rule
from .jit import kernel
from .lift import FLOATS, LONGEST
from .norm_rows import (
    SLAB,
    add_means,
    add_rows,
    clear,
    four,
    means_of,
    rstds_of,
    scale_rows,
    slope_rows,
    variances_of,
)
from .simd import LANES

Array = np.ndarray

BLOCK = 8192  # elements of one block of rows
SMALL = 8192  # up to here one thread does all
RUN = 16  # rows of one run of a sum over rows, or a multiple where they are short


@kernel("T[::1], T[::1], int64[::1], T[::1], T[::1], T[::1], int32[::1], T[::1], T[::1], T[::1], T[::1], "
        "int, int, int, uint32, T, float", bare=True)  # fmt: skip
def _add_norm(
    lo, hi, x, h, key, weight, bias, sums, kept, factors, out, means, rstds, rows, n, per_block, threshold, scale, eps
):  # fmt: skip
    """sums = x + dropout(h) and their layer norm; without h (of size 0) that of x. Each block has factors (4, n)."""
    s, words, end, bits = sums if h.size else x, -(-n // LANES), min(hi * per_block, rows), key_of(key)
    scratch = 4 * lo * n
    for first in range(lo * per_block, end, 4):
        last = end - 1
        at = four(first, last, n)
        if h.size:
            f = scratch - at[0]
            places, places_kept = (f + at[0], f + at[1], f + at[2], f + at[3]), four(first, last, words)
            if kept.size:
                keep_factors(factors, scratch, bits, first * n, min(4, end - first) * n, threshold, scale)
                m = add_means(x, h, at, n, factors, places, kept, places_kept, sums)
            else:
                m = add_means(x, h, at, n, factors, places, None, places_kept, sums)
        else:
            m = means_of(x, at, n)
        r = rstds_of(variances_of(s, at, n, m), eps, x)
        for k in range(4):
            row = min(first + k, last)
            means[row], rstds[row] = m[k], r[k]
        scale_rows(s, at, n, m, r, weight, bias, out)


@kernel("T[::1], T[::1], T[::1], T[::1], T[::1], int32[::1], T[::1], T[::1], T[::1], int, int, int, int, int, T",
        bare=True)  # fmt: skip
def _add_norm_vjp(
    lo, hi, g, s, weight, means, rstds, kept, dx, dh, sums, length, n, run, runs, per_block, scale
):  # fmt: skip
    """The gradients of x and h from that of s, and for each run of rows its share of those of weight and bias: a row
    (2 n) of `sums`. Sentences have `length` rows, `runs` runs each."""
    for i in range(lo * per_block, min(hi * per_block, sums.size // (2 * n))):
        start, to = i // runs * length, 2 * i * n
        first = start + i % runs * run
        last = min(first + run, start + length) - 1
        clear(sums, to, 2 * n)
        for row in range(first, last + 1, 4):
            slope_rows(g, s, weight, row, last, n, means, rstds, dx, kept, scale, dh, sums, to)


@kernel("T[::1], T[::1], int, int", bare=True)
def _sum_runs(lo, hi, x, out, rows, n):
    for column in range(lo * SLAB, min(hi * SLAB, n), SLAB):
        if column + SLAB <= n:
            add_rows(x, rows, n, column, SLAB, out)
        else:
            add_rows(x, rows, n, column, n - column, out)


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
) -> tuple[Array, Array, Array, Array, Array | None]:
    """layer_norm(x + dropout(h)) for x and h (..., D); `key` is an int64 array of one element, needed where p is not 0.

    Returns (y, mean, rstd, s, kept): mean and rstd as in `layer_norm`, s = x + dropout(h), and where p is not 0 a bit
    for each element of h: an int32 for every 16 of a row.
    """
    if _unfit(x, weight, bias) or h.dtype != x.dtype or h.shape != x.shape:
        return NotImplemented
    sums = tape.empty(x.shape, x.dtype)
    kept = tape.empty((*x.shape[:-1], -(-x.shape[-1] // LANES)), np.int32) if p else None
    return *_normalise(x, h, key, weight, bias, sums, kept, p, eps), sums, kept


def layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + eps) weight + bias over the last axis of length D; weight and bias are (D,) or None.

    Returns (y, mean, rstd), the residuals in the shape of x without its last axis, rstd = 1 / sqrt(variance + eps).
    """
    if _unfit(x, weight, bias):
        return NotImplemented
    return _normalise(x, None, None, weight, bias, None, None, 0.0, eps)


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
    kept: Array | None = None,
) -> Array:
    """The pullback of add_norm as one 1-D array: the gradients of x (flat), of h (flat) if p is not 0 (else it is that
    of x), of weight (D,) and of bias (D,)."""
    if _unfit(x, weight) or any(a.dtype != x.dtype or a.shape != x.shape for a in (g, h)):
        return NotImplemented
    if mean is None or rstd is None or s is None:
        _, mean, rstd, s, kept = add_norm(x, h, key, p=p, eps=eps)
    return _pull_back(g, s, weight, mean, rstd, kept, p)


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
    if _unfit(x, weight) or g.dtype != x.dtype or g.shape != x.shape:
        return NotImplemented
    if mean is None or rstd is None:
        _, mean, rstd = layer_norm(x, eps=eps)
    return _pull_back(g, x, weight, mean, rstd, None, 0.0)


def _unfit(x: Array, *rows: Array | None) -> bool:
    dtype, features = x.dtype, x.shape[-1:]
    for a in rows:
        if a is not None and (a.dtype != dtype or a.shape != features):
            return True
    return dtype not in FLOATS or not features or features[0] > LONGEST


def _normalise(
    x: Array,
    h: Array | None,
    key: Array | None,
    weight: Array | None,
    bias: Array | None,
    sums: Array | None,
    kept: Array | None,
    p: float,
    eps: float,
) -> tuple[Array, Array, Array]:
    """(y, mean, rstd) of x + dropout(h), which goes to `sums`, or of x where there is no h."""
    x, dtype, each = tape.contiguous(x), x.dtype, x.shape[:-1]
    h = h if h is None else tape.contiguous(h)
    out, mean, rstd = tape.empty(x.shape, dtype), tape.empty(each, dtype), tape.empty(each, dtype)
    rows, n = mean.size, x.shape[-1]
    if n == 0:
        tape.fill(mean, math.nan)
        tape.fill(rstd, math.nan)
    elif rows:
        per_block = rows if x.size <= SMALL else _rows_of_a_block(n)
        blocks = -(-rows // per_block)
        factors = None if kept is None else tape.empty(4 * n * blocks, x.dtype)
        _add_norm(blocks, x, h, key, _row(weight, 1, x), _row(bias, 0, x), sums, kept, factors, out, mean, rstd,
                  rows, n, per_block, *rule(p), eps)  # fmt: skip
    return out, mean, rstd


def _pull_back(
    g: Array, s: Array, weight: Array | None, mean: Array, rstd: Array, kept: Array | None, p: float
) -> Array:
    """The packed gradients: of s, of h if p is not 0, of weight and bias."""
    g, s, mean, rstd = tape.contiguous(g), tape.contiguous(s), tape.contiguous(mean), tape.contiguous(rstd)
    size, rows, n = s.size, mean.size, s.shape[-1]
    packed = tape.empty(size * (2 if p else 1) + 2 * n, s.dtype)
    if not n:
        return packed
    length, run = s.shape[-2] if s.ndim > 1 else 1, RUN * max(1, BLOCK // (RUN * n))
    runs = -(-length // run) if rows else 0
    count = rows // length * runs if rows else 0
    sums, per_block = tape.empty(2 * n * count, s.dtype), max(1, run // max(1, length))
    vjp, add = (_add_norm_vjp, _sum_runs) if size > SMALL else (_add_norm_vjp.serial, _sum_runs.serial)
    vjp(-(-count // per_block), g, s, _row(weight, 1, s), mean, rstd, kept, packed[:size], packed[size : -2 * n], sums,
        length, n, run, runs, per_block, rule(p)[1])  # fmt: skip
    add(-(-2 * n // SLAB), sums, packed[-2 * n :], count, 2 * n)
    return packed


def _rows_of_a_block(n: int) -> int:
    return 4 * max(1, BLOCK // (4 * n))


def _row(given: Array | None, value: float, x: Array) -> Array:
    """A weight or bias, contiguous; `value` everywhere where none is given."""
    if given is not None:
        return tape.contiguous(given)
    row = tape.empty(x.shape[-1:], x.dtype)
    tape.fill(row, value)
    return row
