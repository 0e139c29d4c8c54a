"""Layer normalisation over the last axis (Ba, Kiros & Hinton 2016), alone and with the residual connection before it.

Variance is the population's. Sums along a row keep the order of `reduce`. Those over rows (the gradients of weight and
bias) are chains in ascending row order, made by blocks of their own that own some columns: rows whose gradient is 0
change no bit.
"""

import math

import numpy as np

from . import tape
from .dropout import keep_factors, key_of, rule
from .jit import kernel
from .lift import FLOATS
from .norm_rows import SLAB, add_means, chains, four, means_of, rstds_of, scale_rows, slope_rows, variances_of
from .simd import LANES

Array = np.ndarray

BLOCK = 8192  # elements of one block of rows
SMALL = 8192  # up to here one thread does all


@kernel("T[::1], T[::1], int64[::1], T[::1], T[::1], T[::1], int32[::1], T[::1], T[::1], T[::1], T[::1], "
        "int, int, int, uint32, T, float")  # fmt: skip
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


@kernel("T[::1], T[::1], T[::1], T[::1], T[::1], int32[::1], T[::1], T[::1], T[::1], T[::1], int, int, int, int, T")
def _add_norm_vjp(
    lo, hi, g, s, weight, means, rstds, kept, dx, dh, dweight, dbias, rows, n, slabs, per_block, scale
):  # fmt: skip
    """The first `slabs` blocks make the gradients of weight and bias, the others those of x and h from that of s."""
    for column in range(lo * SLAB, min(hi * SLAB, n), SLAB):
        if column + SLAB <= n:
            chains(g, s, means, rstds, rows, n, column, SLAB, dweight, dbias)
        else:
            chains(g, s, means, rstds, rows, n, column, n - column, dweight, dbias)
    last = min((hi - slabs) * per_block, rows) - 1
    for first in range(max(lo - slabs, 0) * per_block, last + 1, 4):
        slope_rows(g, s, weight, first, last, n, means, rstds, dx, kept, scale, dh)


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
    wrong = any(a is not None and (a.dtype != x.dtype or a.shape != x.shape[-1:]) for a in rows)
    return x.dtype not in FLOATS or x.ndim == 0 or wrong


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
    x = tape.contiguous(x)
    h = h if h is None else tape.contiguous(h)
    out, mean, rstd = (tape.empty(shape, x.dtype) for shape in (x.shape, x.shape[:-1], x.shape[:-1]))
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
    g, s, mean, rstd = (tape.contiguous(a) for a in (g, s, mean, rstd))
    size, rows, n = s.size, mean.size, s.shape[-1]
    packed = tape.empty(size * (2 if p else 1) + 2 * n, s.dtype)
    dx, dh, dweight, dbias = packed[:size], packed[size : -2 * n], packed[-2 * n : -n], packed[-n:]
    if n:
        slabs, per_block, (_, scale) = -(-n // SLAB), _rows_of_a_block(n), rule(p)
        run = _add_norm_vjp if size > SMALL else _add_norm_vjp.serial
        run(slabs + -(-rows // per_block), g, s, _row(weight, 1, s), mean, rstd, kept, dx, dh, dweight, dbias,
            rows, n, slabs, per_block, scale)  # fmt: skip
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
