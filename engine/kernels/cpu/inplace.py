"""Writing into arrays that outlive a step: copies, running sums and means, and further positions of a sequence."""

import math
from collections.abc import Sequence

import numpy as np

from . import jit_disabled, tape
from .lift import FLOATS
from .optim import number

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


def mean_share(step, window):
    """The weight of the newest value in a mean over the last tenth of `step` steps, and over at most `window`."""
    return 1.0 / min(window, 1.0 + (step - 1.0) / 10.0)


if not jit_disabled():
    from .jit import jit, kernel
    from .simd import LANES, flat, load, load_tail, store, store_tail
    from .transpose import transpose

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

    @kernel("T[:, :, :, :], T[:, :, :, :], int64[::1], int, int, int")
    def _write(lo, hi, out, x, at, out_t, x_t, group):
        (outer, inner, rows, columns), size = x.shape, x.itemsize
        to, source, before = flat(out), flat(x), at[0] * out_t
        first_row, last_row = max(0, -at[0]), min(rows, out.shape[2] - at[0])
        out_o, out_i = out.strides[0] // size, out.strides[1] // size
        x_o, x_i = x.strides[0] // size, x.strides[1] // size
        for o in range(lo * group, min(hi * group, outer)):
            for i in range(inner):
                for t in range(first_row, last_row):
                    start, first = o * out_o + i * out_i + t * out_t + before, o * x_o + i * x_i + t * x_t
                    for j in range(0, columns, LANES):
                        store_tail(to, start + j, load_tail(source, first + j, columns - j), columns - j)

    @kernel("T[:, :, :, :], T[:, :, :, :], int64[::1], int, int, int")
    def _write_transposed(lo, hi, out, x, at, out_j, x_t, group):
        (outer, inner, rows, columns), size = x.shape, x.itemsize
        to, source, packed = flat(out), flat(x), np.empty(LANES * LANES, x.dtype)
        first_row, last_row = max(0, -at[0]), min(rows, out.shape[2] - at[0])
        out_o, out_i = out.strides[0] // size, out.strides[1] // size
        x_o, x_i = x.strides[0] // size, x.strides[1] // size
        for o in range(lo * group, min(hi * group, outer)):
            for i in range(inner):
                start, first = o * out_o + i * out_i + at[0], o * x_o + i * x_i
                for t in range(first_row, last_row, LANES):
                    for j in range(0, columns, LANES):
                        transpose(source, first + t * x_t + j, x_t, last_row - t, columns - j, packed, 0, LANES)
                        for c in range(min(LANES, columns - j)):
                            store_tail(to, start + (j + c) * out_j + t, load(packed, c * LANES), last_row - t)


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
    at, length = number(step, np.int64), number(0.0 if norm is None else norm)
    for a, b in zip(out, x, strict=True):
        if not jit_disabled():
            _average(-(-a.size // BLOCK), a, tape.contiguous(b), a.size, at, length, float(window))
        elif math.isfinite(length):
            a[...] = a + (b - a) * np.float64(mean_share(float(at), window))


def write(out: Sequence[Array], x: Sequence[Array], *, at: Array) -> None:
    """out[..., at + t, :] = x[..., t, :] for each out (..., C, K) and x (..., T, K) of up to four axes.

    `at` is an int64 array of one element; what would lie outside is left out.
    """
    at = number(at, np.int64)
    for a, b in zip(out, x, strict=True):
        if jit_disabled() or a.dtype not in FLOATS:
            tape.call(_write_numbers, a, b, at)
        else:
            _run_write(a[(None,) * (4 - a.ndim)], b[(None,) * (4 - b.ndim)], at)


def _run_write(out: Array, x: Array, at: Array) -> None:
    """The kernel for arrays of four axes, by which axis of `out` is contiguous."""
    x = x if x.strides[3] == x.itemsize else tape.contiguous(x)
    group = max(1, BLOCK // (math.prod(x.shape[1:]) or 1))
    blocks, x_t = -(-len(x) // group), x.strides[2] // x.itemsize
    if out.strides[3] == out.itemsize:
        _write(blocks, out, x, at, out.strides[2] // out.itemsize, x_t, group)
    elif out.strides[2] == out.itemsize:
        _write_transposed(blocks, out, x, at, out.strides[3] // out.itemsize, x_t, group)
    else:
        tape.call(_write_numbers, out, x, at)


def _write_numbers(out: Array, x: Array, at: Array) -> None:
    at, rows = at.item(), x.shape[-2]
    first, last = max(0, -at), max(0, min(rows, out.shape[-2] - at))
    if first < last:
        out[..., at + first : at + last, :] = x[..., first:last, :]


def _add_numbers(out: Array, x: Array) -> None:
    out += x


def _all(out: Sequence[Array], x: Sequence[Array], add: bool) -> None:
    for a, b in zip(out, x, strict=True):
        if jit_disabled() or a.dtype not in FLOATS:
            tape.call(_add_numbers if add else np.copyto, a, b)
        else:
            _take_up(-(-a.size // BLOCK), a, tape.contiguous(b), a.size, add)
