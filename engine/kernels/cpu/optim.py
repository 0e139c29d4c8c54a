"""Updates of parameters in place: Adam, AdamW, SGD, and the norm of all gradients that clipping asks for.

Every function takes lists of arrays (float32 or float64, C-contiguous where they are changed) and goes through all of
them in one launch for each dtype. A number that may change from step to step (learning rate, step, norm, divisor) may
be a 0-d array. With NUMBA_DISABLE_JIT=1 the same updates run in NumPy.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import jit_disabled, tape

Array = np.ndarray
Number = float | Array  # an array is 0-d

BLOCK = 2  # chunks of one block of work


def bias_corrected(lr, beta1, beta2, step):
    """Adam's step size lr / (1 - beta1^step), and 1 / sqrt(1 - beta2^step)."""
    return lr / (1.0 - beta1**step), 1.0 / math.sqrt(1.0 - beta2**step)


def gradient_factor(norm, divisor, clip_norm):
    """What gradients are multiplied by; NaN says that nothing may be changed. Without clipping `norm` is 0."""
    if not math.isfinite(norm):
        return math.nan
    length = norm / divisor
    return (clip_norm / length if 0.0 < clip_norm < length else 1.0) / divisor


if not jit_disabled():
    from .jit import jit, kernel
    from .lanes import sqrt, widened
    from .reduce import sum_row
    from .segments import CHUNK, array_at, segment_at, starts
    from .simd import LANES, fma, load, load_tail, splat, store, store_tail, sum_lanes

    bias_corrected_jit, gradient_factor_jit = jit(bias_corrected), jit(gradient_factor)

    @kernel("T[::1], int64[:, :], int64[::1], float64[::1]")
    def _square_sums(lo, hi, like, table, starts, sums):
        """The sum of the squares of each chunk, in float64, in 32 lanes."""
        for chunk in range(lo * BLOCK, min(hi * BLOCK, len(sums))):
            place, end = chunk * CHUNK, min((chunk + 1) * CHUNK, starts[len(starts) - 1])
            s = segment_at(starts, place)
            total, other = splat(0.0, sums), splat(0.0, sums)
            while place < end:
                x = array_at(table, s, like)
                i, last = place - starts[s], min(len(x), end - starts[s])
                while i + 2 * LANES <= last:
                    a, b = widened(load(x, i)), widened(load(x, i + LANES))
                    total, other = fma(a, a, total), fma(b, b, other)
                    i += 2 * LANES
                a, b = widened(load_tail(x, i, last - i)), widened(load_tail(x, i + LANES, last - i - LANES))
                total, other = fma(a, a, total), fma(b, b, other)
                s, place = s + 1, starts[s + 1]
            sums[chunk] = sum_lanes(total + other)

    @kernel("float64[::1], float64[::1], float64[::1]")
    def _norm(lo, hi, sums, scale, out):
        out[0] = math.sqrt(sum_row(sums, 0, len(sums))) * scale[0]

    @jit
    def _adam_lanes(p, g, m, v, factor, keep1, keep2, rate, root2, eps, decay, l2):
        """The new (p, m, v) of 16 elements."""
        gradient = fma(p, l2, g * factor)
        m = fma(m, keep1, gradient * (1.0 - keep1))
        v = fma(v, keep2, gradient * gradient * (1.0 - keep2))
        return p * decay - m * rate / (sqrt(v) * root2 + eps), m, v

    @jit
    def _adam_run(p, g, m, v, i, last, factor, keep1, keep2, rate, root2, eps, decay, l2):
        """Elements i to last of one parameter."""
        while i + LANES <= last:
            p1, m1, v1 = _adam_lanes(
                load(p, i), load(g, i), load(m, i), load(v, i), factor, keep1, keep2, rate, root2, eps, decay, l2
            )
            store(p, i, p1)
            store(m, i, m1)
            store(v, i, v1)
            i += LANES
        n = last - i
        if n > 0:
            p1, m1, v1 = _adam_lanes(
                load_tail(p, i, n), load_tail(g, i, n), load_tail(m, i, n), load_tail(v, i, n),
                factor, keep1, keep2, rate, root2, eps, decay, l2,
            )  # fmt: skip
            store_tail(p, i, p1, n)
            store_tail(m, i, m1, n)
            store_tail(v, i, v1, n)

    @kernel(
        "T[::1], int64[:, :], int64[:, :], int64[:, :], int64[:, :], int64[::1], float64[::1], float64[::1],"
        "int64[::1], float64[::1], float64[::1], float, float, float, float, bool"
    )
    def _adam(
        lo, hi, like, ps, gs, ms, vs, starts, decays, lr, step, norm, divisor, beta1, beta2, eps, clip_norm, decoupled
    ):
        factor = gradient_factor_jit(norm[0], divisor[0], clip_norm)
        if math.isnan(factor):
            return
        rate, root2 = bias_corrected_jit(lr[0], beta1, beta2, float(step[0]))
        place, end = lo * BLOCK * CHUNK, min(hi * BLOCK * CHUNK, starts[len(starts) - 1])
        s = segment_at(starts, place)
        while place < end:
            p, g, m, v = array_at(ps, s, like), array_at(gs, s, like), array_at(ms, s, like), array_at(vs, s, like)
            decay, l2 = (1.0 - lr[0] * decays[s], 0.0) if decoupled else (1.0, decays[s])
            i, last = place - starts[s], min(len(p), end - starts[s])
            _adam_run(p, g, m, v, i, last, factor, beta1, beta2, rate, root2, eps, decay, l2)
            s, place = s + 1, starts[s + 1]

    @jit
    def _sgd_run(p, g, u, i, last, factor, lr, momentum, l2, nesterov):
        """Elements i to last of one parameter; u of size 0: plain gradient descent."""
        while i < last:
            n = last - i
            x = load_tail(p, i, n)
            gradient = fma(x, l2, load_tail(g, i, n) * factor)
            if len(u) > 0:
                velocity = fma(load_tail(u, i, n), momentum, gradient)
                store_tail(u, i, velocity, n)
                gradient = fma(velocity, momentum, gradient) if nesterov else velocity
            store_tail(p, i, fma(gradient, -lr, x), n)
            i += LANES

    @kernel(
        "T[::1], int64[:, :], int64[:, :], int64[:, :], int64[::1], float64[::1], float64[::1], float64[::1],"
        "float64[::1], float, float, bool"
    )
    def _sgd(lo, hi, like, ps, gs, us, starts, decays, lr, norm, divisor, clip_norm, momentum, nesterov):
        factor = gradient_factor_jit(norm[0], divisor[0], clip_norm)
        if math.isnan(factor):
            return
        place, end = lo * BLOCK * CHUNK, min(hi * BLOCK * CHUNK, starts[len(starts) - 1])
        s = segment_at(starts, place)
        while place < end:
            p, g = array_at(ps, s, like), array_at(gs, s, like)
            u = array_at(us, s, like) if len(us) > 0 else p[:0]
            i, last = place - starts[s], min(len(p), end - starts[s])
            _sgd_run(p, g, u, i, last, factor, lr[0], momentum, decays[s], nesterov)
            s, place = s + 1, starts[s + 1]

    @kernel("int64[::1], float64[::1]")
    def _count(lo, hi, steps, norm):
        if math.isfinite(norm[0]):
            for i in range(len(steps)):
                steps[i] += 1


def global_norm(arrays: Sequence[Array], scale: Number = 1.0) -> Array:
    """The square root of the sum of the squares of all elements, times `scale`, as a 0-d float64 array.

    Squares and sums in float64, in an order that follows from the sizes of the arrays alone.
    """
    if jit_disabled():
        return np.sqrt(np.asarray(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays), np.float64)) * scale
    lists = _by_dtype([tape.contiguous(a) for a in arrays])
    places = [starts(*many) for many in lists]
    counts = [-(-int(ends[-1]) // CHUNK) for ends in places]
    sums, done = tape.empty(sum(counts), np.float64), 0
    for (many,), ends, count in zip(lists, places, counts, strict=True):
        table = tape.addresses(many)
        _square_sums(-(-count // BLOCK), many[0], table, ends, sums[done : done + count])
        done += count
    out = tape.empty((), np.float64)
    _norm(1, sums, number(scale), out)
    return out


def adam(
    params: Sequence[Array],
    grads: Sequence[Array],
    m: Sequence[Array],
    v: Sequence[Array],
    *,
    lr: Number,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: Sequence[float],
    step: Number,
    decoupled: bool = True,
    norm: Number | None = None,
    clip_norm: float = 0.0,
    divisor: Number = 1.0,
) -> None:
    """One step of Adam (Kingma & Ba 2015) on params, m and v, in place; `step` counts from 1.

    Gradients are divided by `divisor`, then scaled by min(1, clip_norm / (norm / divisor)) where clip_norm > 0 and
    their norm is given; where that norm is not finite, nothing is changed. weight_decay, one per parameter: with
    decoupled=True the parameter shrinks by lr * weight_decay (AdamW, Loshchilov & Hutter 2019), else weight_decay times
    the parameter joins the gradient.
    """
    numbers = (number(lr), number(step, np.int64), number(0.0 if norm is None else norm), number(divisor))
    settings: Sequence[Any] = (beta1, beta2, eps, clip_norm, decoupled)
    if jit_disabled():
        _adam_numpy(zip(params, grads, m, v, weight_decay, strict=True), *(n[()] for n in numbers), *settings)
        return
    for (p, g, m1, v1), decays in _launches(weight_decay, params, grads, m, v):
        ends = starts(p)
        tables = [tape.addresses(many) for many in (p, g, m1, v1)]
        _adam(_blocks(ends), p[0], *tables, ends, decays, *numbers, *settings)


def sgd(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocity: Sequence[Array] | None = None,
    *,
    lr: Number,
    momentum: float = 0.0,
    weight_decay: Sequence[float],
    nesterov: bool = False,
    norm: Number | None = None,
    clip_norm: float = 0.0,
    divisor: Number = 1.0,
) -> None:
    """One step of gradient descent in place, with momentum where `velocity` is given (all zeros before the first step).

    g = gradient (divided and clipped as by `adam`) + weight_decay * p;  velocity = momentum * velocity + g;
    p -= lr * velocity, or, with Nesterov's momentum, p -= lr * (g + momentum * velocity).
    """
    numbers = (number(lr), number(0.0 if norm is None else norm), number(divisor))
    settings: Sequence[Any] = (clip_norm, momentum, nesterov)
    if jit_disabled():
        slots = [None] * len(params) if velocity is None else velocity
        _sgd_numpy(zip(params, grads, slots, weight_decay, strict=True), *(n[()] for n in numbers), *settings)
        return
    kept = [] if velocity is None else [velocity]
    for (p, g, *u), decays in _launches(weight_decay, params, grads, *kept):
        ends = starts(p)
        tables = [tape.addresses(many) for many in (p, g, u[0] if u else [])]
        _sgd(_blocks(ends), p[0], *tables, ends, decays, *numbers, *settings)


def count(steps: Sequence[Array], *, norm: Number | None = None) -> None:
    """Add one to every element of int64 arrays, in place, unless the norm of the gradients is not finite."""
    finite = number(0.0 if norm is None else norm)
    for counter in steps:
        if jit_disabled():
            counter += bool(np.isfinite(finite))
        else:
            _count(1, counter, finite)


def number(value: Number, dtype: Any = np.float64) -> Array:
    """A number as the 0-d array that a kernel reads, also where it has its value only when a recording runs."""
    if not isinstance(value, np.ndarray):
        return np.array(value, dtype)
    if value.dtype == dtype:
        return value
    out = tape.empty((), dtype)
    tape.copy_to(out, value.reshape(()))
    return out


def _by_dtype(first: Sequence[Array], *others: Sequence[Array]) -> list[list[list[Array]]]:
    """The lists, once for each dtype of the first one, without arrays of size 0."""
    rows = [row for row in zip(first, *others, strict=True) if row[0].size]
    return [
        [list(column) for column in zip(*(row for row in rows if row[0].dtype == dtype), strict=True)]
        for dtype in dict.fromkeys(row[0].dtype for row in rows)
    ]


def _launches(weight_decay: Sequence[float], params: Sequence[Array], grads: Sequence[Array], *kept: Any) -> Any:
    """(params, gradients, what is kept), weight decays: for each dtype."""
    for p, g, *slots in zip(params, grads, *kept, strict=True):
        if any(a.dtype != p.dtype or a.shape != p.shape for a in (g, *slots)):
            raise TypeError(f"a parameter {p.dtype} {p.shape} has a gradient {g.dtype} {g.shape}")
        if not all(a.flags.c_contiguous for a in (p, *slots)):
            raise TypeError("what is changed in place must be C-contiguous")
    decays = [np.array(decay, np.float64) for decay in weight_decay]
    for p, g, *slots, decay in _by_dtype(params, [tape.contiguous(g) for g in grads], *kept, decays):
        yield (p, g, *slots), np.array(decay, np.float64)


def _blocks(ends: Array) -> int:
    return -(-int(ends[-1]) // (BLOCK * CHUNK))


def _adam_numpy(rows, lr, step, norm, divisor, beta1, beta2, eps, clip_norm, decoupled):
    """rows: (parameter, gradient, m, v, weight decay)."""
    factor = gradient_factor(norm, divisor, clip_norm)
    if math.isnan(factor):
        return
    rate, root2 = bias_corrected(lr, beta1, beta2, float(step))
    for p, g, m1, v1, wd in rows:
        gradient = g * p.dtype.type(factor) + p.dtype.type(0 if decoupled else wd) * p
        m1[...] = beta1 * m1 + (1 - beta1) * gradient
        v1[...] = beta2 * v1 + (1 - beta2) * (gradient * gradient)
        decay = p.dtype.type(1 - lr * wd if decoupled else 1)
        p[...] = p * decay - p.dtype.type(rate) * m1 / (np.sqrt(v1) * p.dtype.type(root2) + eps)


def _sgd_numpy(rows, lr, norm, divisor, clip_norm, momentum, nesterov):
    """rows: (parameter, gradient, velocity or None, weight decay)."""
    factor = gradient_factor(norm, divisor, clip_norm)
    if math.isnan(factor):
        return
    for p, g, u, wd in rows:
        gradient = g * p.dtype.type(factor) + p.dtype.type(wd) * p
        if u is not None:
            u[...] = momentum * u + gradient
            gradient = gradient + momentum * u if nesterov else u
        p -= p.dtype.type(lr) * gradient
