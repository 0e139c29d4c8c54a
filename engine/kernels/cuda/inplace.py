"""Writing into arrays that outlive a step: copies, running sums and means, and further positions of a sequence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compiled import scalar
from . import plain, tape
from .jit import cuda, jit, kernel
from .optim import PIECE, THREADS, Number, arranged, converted, fit, number
from .ptx import divided, load4, store4
from .rows import FLOAT32
from .template import registers, template, unroll

Array = Any


FOURS = PIECE // (4 * THREADS)  # loads of four numbers that a thread makes of a piece, all under way together


@template
def _took_up(outs, xs, pieces, sizes, adding):
    s, first = pieces[2 * cuda.blockIdx.x], pieces[2 * cuda.blockIdx.x + 1] * PIECE
    out, x, end = outs[s], xs[s], min(sizes[2 * s], first + PIECE)
    if sizes[2 * s + 1] and first + PIECE <= end:
        v, w = registers(FOURS, 4), registers(FOURS, 4)
        for k in unroll(FOURS):
            v[k, 0], v[k, 1], v[k, 2], v[k, 3] = load4(x, first + 4 * (cuda.threadIdx.x + THREADS * k))
        if adding:
            for k in unroll(FOURS):
                w[k, 0], w[k, 1], w[k, 2], w[k, 3] = load4(out, first + 4 * (cuda.threadIdx.x + THREADS * k))
            for k in unroll(FOURS):
                for q in unroll(4):
                    v[k, q] = w[k, q] + v[k, q]
        for k in unroll(FOURS):
            store4(out, first + 4 * (cuda.threadIdx.x + THREADS * k), v[k, 0], v[k, 1], v[k, 2], v[k, 3])
    else:
        for i in range(first + cuda.threadIdx.x, end, THREADS):
            out[i] = out[i] + x[i] if adding else x[i]


_take_up = kernel("float32[[]], float32[[]], int32[::1], int32[::1], bool", threads=THREADS)(_took_up("_take_up"))


@kernel("int64[::1], int, bool, float64[::1], float, bool, float, float32[::1]", threads=1)
def _share(step_at, step, step_stored, norm_at, norm, norm_stored, window, out):
    """The weight of the newest value in a mean, as the CPU's kernel has it (NaN: nothing may change)."""
    if step_stored:
        step = step_at[0]
    if norm_stored:
        norm = norm_at[0]
    out[0] = np.float32(1.0 / min(window, 1.0 + (np.float64(step) - 1.0) / 10.0) + (norm - norm))


@jit
def moved(mean, x, share):
    return scalar.fma(x - mean, share, mean)


@kernel("float32[[]], float32[[]], int32[::1], int32[::1], float32[::1]", threads=THREADS)
def _average(means, xs, pieces, sizes, shares):
    s, first = pieces[2 * cuda.blockIdx.x], pieces[2 * cuda.blockIdx.x + 1] * PIECE
    mean, x, share, end = means[s], xs[s], shares[0], min(sizes[2 * s], first + PIECE)
    if share != share:
        return
    for i in range(first + 4 * cuda.threadIdx.x, end, 4 * THREADS):
        if sizes[2 * s + 1] and i + 4 <= end:
            a, b = load4(mean, i), load4(x, i)
            store4(mean, i, moved(a[0], b[0], share), moved(a[1], b[1], share), moved(a[2], b[2], share),
                   moved(a[3], b[3], share))  # fmt: skip
        else:
            for n in range(i, min(i + 4, end)):
                mean[n] = moved(mean[n], x[n], share)


@kernel("float32[...], float32[...], int64[::1]" + 12 * ", int32", threads=THREADS)
def _write(out, x, at, capacity, n, inner, rows, columns, o_b, o_h, o_t, o_j, x_b, x_h, x_t):
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < n:
        row, j = divided(i, columns)
        line, t = divided(row, rows)
        b, h = divided(line, inner)
        first, start = x_h * np.int64(h) + x_t * t + j, o_h * np.int64(h) + o_t * (at[0] + t) + o_j * np.int64(j)
        if 0 <= at[0] + t < capacity:
            out[o_b * np.int64(b) + start] = x[x_b * np.int64(b) + first]


def copy(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Write each of x over its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, False)


def accumulate(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Add each of x to its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, True)


def _all(out: Sequence[Array], x: Sequence[Array], adding: bool) -> None:
    x = [tape.contiguous(a) for a in x]
    if not fit(out, x):
        (plain.accumulate if adding else plain.copy)(out, x)
        return
    lists, _, how = arranged([0.0] * len(x), out, x)
    if how is not None:
        pieces, sizes, count = how
        _take_up[count, THREADS](*lists, pieces, sizes, adding)


def average(out: Sequence[Array], x: Sequence[Array], *, step: Number, window: float, norm: Number | None = None
            ) -> None:  # fmt: skip
    """Move each of out towards its counterpart in x, C-contiguous, of one shape and dtype, by the share
    1 / min(window, 1 + (step - 1) / 10); not at all where the norm is not finite."""
    x = [tape.contiguous(a) for a in x]
    if not fit(out, x):
        plain.average(out, x, step=step, window=window, norm=norm)
        return
    lists, _, how = arranged([0.0] * len(x), out, x)
    if how is not None:
        share, (pieces, sizes, count) = tape.empty(1, FLOAT32), how
        _share[1, 1](*number(step, np.int64), *number(0.0 if norm is None else norm), float(window), share)
        _average[count, THREADS](*lists, pieces, sizes, share)


def write(out: Sequence[Array], x: Sequence[Array], *, at: Array) -> None:
    """out[..., at + t, :] = x[..., t, :] for each out (..., C, K) and x (..., T, K); `at` is an int64 array of one
    element; what would lie outside is left out."""
    host = isinstance(at, (int, np.generic, np.ndarray))
    at = tape.from_numpy(np.asarray(at, np.int64)) if host else converted(at, np.int64)
    for to, source in zip(out, x, strict=True):
        if to.dtype != FLOAT32 or to.ndim > 4 or min(to.strides) < 0 or max(to.size, source.size) > 2**31 - THREADS:
            plain.write([to], [source], at=at)
        elif source.size:
            _run_write(to[(None,) * (4 - to.ndim)], source[(None,) * (4 - source.ndim)], at)


def _run_write(out: Array, x: Array, at: Array) -> None:
    x = x if x.strides[3] == x.itemsize and min(x.strides) >= 0 else tape.contiguous(x)
    steps = [stride // x.itemsize for stride in (*out.strides, *x.strides[:3])]
    _write[-(-x.size // THREADS), THREADS](out, x, at, out.shape[2], x.size, *x.shape[1:], *steps)
