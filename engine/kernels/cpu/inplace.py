"""Writing into arrays that outlive a step: copies, running sums and means, and one more position of a sequence."""

import math
from collections.abc import Sequence

import numpy as np

from . import jit_disabled, tape

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


def mean_share(step, window):
    """The weight of the newest value in a mean over the last tenth of `step` steps, and over at most `window`."""
    return 1.0 / min(window, 1.0 + (step - 1.0) / 10.0)


if not jit_disabled():
    from .jit import jit, kernel
    from .simd import LANES, flat, load, load_tail, store, store_tail

    mean_share_jit = jit(mean_share)

    @kernel("T[::1], T[::1], int, int64[::1], float64[::1], float")
    def _average(lo, hi, out, x, n, step, norm, window):
        if math.isfinite(norm[0]):
            share = mean_share_jit(float(step[0]), window)
            for i in range(lo * BLOCK, min(hi * BLOCK, n)):
                out[i] = out[i] + (x[i] - out[i]) * share

    @kernel("T[::1], T[::1], int, bool")
    def _take_up(lo, hi, out, x, n, add):
        end = min(hi * BLOCK, n)
        tail = end - end % LANES
        if add:
            for i in range(lo * BLOCK, tail, LANES):
                store(out, i, load(out, i) + load(x, i))
            store_tail(out, tail, load_tail(out, tail, end - tail) + load_tail(x, tail, end - tail), end - tail)
        else:
            for i in range(lo * BLOCK, tail, LANES):
                store(out, i, load(x, i))
            store_tail(out, tail, load_tail(x, tail, end - tail), end - tail)

    @kernel("T[:, :, :], T[:, :, :], int64[::1], int")
    def _write(lo, hi, out, x, at, group):
        to, source = flat(out), flat(x)
        row, step, first = out.strides[0] // out.itemsize, x.strides[0] // x.itemsize, at[0] * out.shape[2]
        for i in range(lo * group, min(hi * group, out.shape[0])):
            for j in range(0, out.shape[2], LANES):
                n = out.shape[2] - j
                store_tail(to, i * row + first + j, load_tail(source, i * step + j, n), n)


def copy(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Write each of x over its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, False)


def accumulate(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Add each of x to its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, True)


def average(out: Sequence[Array], x: Sequence[Array], *, step: Array, window: float, norm: Array | None = None) -> None:
    """Move each of out towards its counterpart in x, by `mean_share`; not at all where the norm is not finite.

    step (int64) and norm (float64) have one element.
    """
    at, length = np.asarray(step, np.int64), np.asarray(0.0 if norm is None else norm, np.float64)
    for a, b in zip(out, x, strict=True):
        if not jit_disabled():
            _average(-(-a.size // BLOCK), a, tape.contiguous(b), a.size, at, length, float(window))
        elif math.isfinite(length):
            a[...] = a + (b - a) * np.float64(mean_share(float(at), window))


def write(out: Sequence[Array], x: Sequence[Array], *, at: Array) -> None:
    """out[:, at] = x[:, 0] for each out (B, C, D) and x (B, 1, D); `at` is an int64 array of one element."""
    for a, b in zip(out, x, strict=True):
        if jit_disabled():
            a[:, np.asarray(at).item()] = b[:, 0]
        else:
            b = b if b.strides[2] == b.itemsize else tape.contiguous(b)
            group = max(1, BLOCK // (a.shape[2] or 1))
            _write(-(-a.shape[0] // group), a, b, np.asarray(at, np.int64), group)


def _all(out: Sequence[Array], x: Sequence[Array], add: bool) -> None:
    for a, b in zip(out, x, strict=True):
        if jit_disabled():
            np.add(a, b, out=a) if add else np.copyto(a, b)
        else:
            _take_up(-(-a.size // BLOCK), a, tape.contiguous(b), a.size, add)
