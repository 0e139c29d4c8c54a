"""Updates of parameters in place: Adam, AdamW, SGD, and the norm of all gradients that clipping asks for.

Every function takes lists of float32 arrays and goes through all of them in one launch: a block works on one piece of
one array, and a table says which. What varies from step to step (learning rate, step, norm, divisor) is read from the
card's memory by a first kernel of one thread, in float64, which leaves float32 numbers for the others. Other dtypes are
left to `plain.py`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..compiled import scalar
from ..cpu.tape import Addresses
from . import plain, tape
from .jit import cuda, jit, kernel
from .ptx import load4, store4
from .rows import FLOAT32, ZERO, aligned, block_sum

Array = Any
Number = Any  # a float, or an array of no axes

THREADS = 256
PIECE = 4096  # elements of a block
FACTOR, RATE, ROOT, LR = range(4)  # places of the numbers for a step
ONE = np.float32(1)
LARGE, TINY = np.float32(2.0**57), np.float32(2.0**-50)  # what is beyond is squared 2^75 times smaller, or larger
SHRINK, GROW = np.float32(2.0**-75), np.float32(2.0**75)
SUMS = 3  # of a piece: of what is tiny, of most numbers, of what is large


# --- the norm --------------------------------------------------------------------------------------------------------


@jit
def squared(x, tiny, most, large):
    """The three sums with the square of x in one of them (Blue, "A portable Fortran program to find the Euclidean norm
    of a vector", 1978)."""
    size = abs(x)
    if size >= LARGE:
        large = scalar.fma(x * SHRINK, x * SHRINK, large)
    elif size < TINY:
        tiny = scalar.fma(x * GROW, x * GROW, tiny)
    else:
        most = scalar.fma(x, x, most)
    return tiny, most, large


@kernel("float32[[]], int32[::1], int32[::1], float32[::1]", threads=THREADS)
def _square_sums(xs, pieces, sizes, sums):
    """The SUMS sums of the squares of each piece."""
    s, first = pieces[2 * cuda.blockIdx.x], pieces[2 * cuda.blockIdx.x + 1] * PIECE
    x, end, a, b, c, d = xs[s], min(sizes[2 * s], first + PIECE), ZERO, ZERO, ZERO, ZERO
    tiny, large = ZERO, ZERO
    for i in range(first + 4 * cuda.threadIdx.x, end, 4 * THREADS):
        if sizes[2 * s + 1] and i + 4 <= end:
            p, q, r, t = load4(x, i)
            tiny, a, large = squared(p, tiny, a, large)
            tiny, b, large = squared(q, tiny, b, large)
            tiny, c, large = squared(r, tiny, c, large)
            tiny, d, large = squared(t, tiny, d, large)
        else:
            for k in range(i, min(i + 4, end)):
                tiny, a, large = squared(x[k], tiny, a, large)
    most, tiny, large = block_sum((a + b) + (c + d)), block_sum(tiny), block_sum(large)
    if cuda.threadIdx.x == 0:
        sums[SUMS * cuda.blockIdx.x] = tiny
        sums[SUMS * cuda.blockIdx.x + 1] = most
        sums[SUMS * cuda.blockIdx.x + 2] = large


@kernel("float32[::1], int32, float64[::1], float, bool, float64[::1]", threads=THREADS)
def _norm(sums, count, scale_at, scale, stored, out):
    """out = the square root of all `count` pieces' sums, times a scale, which is `stored` in memory or given."""
    parts, t, total = cuda.shared.array(THREADS, np.float64), cuda.threadIdx.x, 0.0
    for i in range(t, count, THREADS):
        tiny, most, large = sums[SUMS * i], sums[SUMS * i + 1], sums[SUMS * i + 2]
        total += np.float64(tiny) * 2.0**-150 + np.float64(most) + np.float64(large) * 2.0**150
    parts[t] = total
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if t < step:
            parts[t] += parts[t + step]
        cuda.syncthreads()
        step >>= 1
    if t == 0:
        out[0] = scalar.sqrt(parts[0]) * (scale_at[0] if stored else scale)


def global_norm(arrays: Sequence[Array], scale: Number = 1.0) -> Array:
    """The square root of the sum of the squares of all elements, times `scale`: a float64 array of no axes.

    Squares and the sums of 4096 of them in float32, none of which overflows or vanishes, what follows in float64, in an
    order that follows from the sizes.
    """
    arrays = [a for a in arrays if a.size]
    if not arrays or any(unfit(a) for a in arrays):
        return plain.global_norm(arrays, scale)
    pieces, sizes, count = _cut(tuple((a.size, aligned(a)) for a in arrays))
    sums, out = tape.empty(SUMS * count, FLOAT32), tape.empty((), np.float64)
    _square_sums[count, THREADS](Addresses(arrays), pieces, sizes, sums)
    _norm[1, THREADS](sums, count, *number(scale), out)
    return out


# --- the updates -----------------------------------------------------------------------------------------------------


@kernel("float64[::1], float, bool, int64[::1], int, bool, float64[::1], float, bool, float64[::1], float, bool, "
        "float, float, float, float32[::1]", threads=1)  # fmt: skip
def _prepare(
    lr_at, lr, lr_stored, step_at, step, step_stored, norm_at, norm, norm_stored, divisor_at, divisor, divisor_stored,
    clip_norm, beta1, beta2, out
):  # fmt: skip
    """What gradients are multiplied by in a step (NaN: nothing may change), and Adam's bias corrections."""
    if lr_stored:
        lr = lr_at[0]
    if step_stored:
        step = step_at[0]
    if norm_stored:
        norm = norm_at[0]
    if divisor_stored:
        divisor = divisor_at[0]
    length = norm / divisor
    factor = 1.0 / divisor
    if 0.0 < clip_norm < length:
        factor = clip_norm / length / divisor
    if norm - norm != 0.0:
        factor = norm - norm
    count = np.float64(step)
    out[FACTOR] = np.float32(factor)
    out[RATE] = np.float32(lr / (1.0 - beta1**count))
    out[ROOT] = np.float32(1.0 / scalar.sqrt(1.0 - beta2**count))
    out[LR] = np.float32(lr)


@jit
def adam_of(p, g, m, v, how):
    """The new parameter and moments."""
    factor, beta1, rest1, beta2, rest2, rate, root, eps, decay, l2 = how
    gradient = scalar.fma(p, l2, g * factor)
    m = scalar.fma(m, beta1, gradient * rest1)
    v = scalar.fma(v, beta2, gradient * gradient * rest2)
    return p * decay - m * rate / (scalar.sqrt(v) * root + eps), m, v


@kernel("float32[[]], float32[[]], float32[[]], float32[[]], int32[::1], int32[::1], float32[::1], float32[::1], "
        "float32, float32, float32, float32, float32, bool", threads=THREADS)  # fmt: skip
def _adam(ps, gs, ms, vs, pieces, sizes, decays, numbers, beta1, rest1, beta2, rest2, eps, decoupled):
    """One block: a piece of one parameter, its gradient and its moments."""
    factor, rate, root = numbers[FACTOR], numbers[RATE], numbers[ROOT]
    if factor != factor:
        return
    s, first = pieces[2 * cuda.blockIdx.x], pieces[2 * cuda.blockIdx.x + 1] * PIECE
    p, g, m, v, end = ps[s], gs[s], ms[s], vs[s], min(sizes[2 * s], first + PIECE)
    decay, l2 = (ONE - numbers[LR] * decays[s], ZERO) if decoupled else (ONE, decays[s])
    how = (factor, beta1, rest1, beta2, rest2, rate, root, eps, decay, l2)
    for i in range(first + 4 * cuda.threadIdx.x, end, 4 * THREADS):
        if sizes[2 * s + 1] and i + 4 <= end:
            p4, g4, m4, v4 = load4(p, i), load4(g, i), load4(m, i), load4(v, i)
            a, d, h = adam_of(p4[0], g4[0], m4[0], v4[0], how)
            b, e, j = adam_of(p4[1], g4[1], m4[1], v4[1], how)
            c, f, k = adam_of(p4[2], g4[2], m4[2], v4[2], how)
            w, x, y = adam_of(p4[3], g4[3], m4[3], v4[3], how)
            store4(p, i, a, b, c, w)
            store4(m, i, d, e, f, x)
            store4(v, i, h, j, k, y)
        else:
            for n in range(i, min(i + 4, end)):
                p[n], m[n], v[n] = adam_of(p[n], g[n], m[n], v[n], how)


@kernel("float32[[]], float32[[]], float32[[]], int32[::1], int32[::1], float32[::1], float32[::1], float32, bool, "
        "bool", threads=THREADS)  # fmt: skip
def _sgd(ps, gs, us, pieces, sizes, decays, numbers, momentum, moving, nesterov):
    factor, lr = numbers[FACTOR], numbers[LR]
    if factor != factor:
        return
    s, first = pieces[2 * cuda.blockIdx.x], pieces[2 * cuda.blockIdx.x + 1] * PIECE
    p, g, end = ps[s], gs[s], min(sizes[2 * s], first + PIECE)
    for i in range(first + cuda.threadIdx.x, end, THREADS):
        gradient = scalar.fma(p[i], decays[s], g[i] * factor)
        if moving:
            u = us[s]
            velocity = scalar.fma(u[i], momentum, gradient)
            u[i] = velocity
            gradient = scalar.fma(velocity, momentum, gradient) if nesterov else velocity
        p[i] = scalar.fma(gradient, -lr, p[i])


@kernel("int64[::1], int32, float64[::1], float, bool", threads=THREADS)
def _count(steps, n, norm_at, norm, norm_stored):
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if norm_stored:
        norm = norm_at[0]
    if i < n and norm - norm == 0.0:
        steps[i] += 1


# --- the functions ---------------------------------------------------------------------------------------------------


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
    if not fit(params, grads, m, v):
        plain.adam(params, grads, m, v, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step,
                   decoupled=decoupled, norm=norm, clip_norm=clip_norm, divisor=divisor)  # fmt: skip
        return
    lists, decays, how = arranged(weight_decay, params, grads, m, v)
    if how is not None:
        numbers = _numbers(lr, step, norm, divisor, clip_norm, beta1, beta2)
        pieces, sizes, count = how
        _adam[count, THREADS](
            *lists, pieces, sizes, decays, numbers, beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps, decoupled
        )


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
    kept = [] if velocity is None else [velocity]
    if not fit(params, grads, *kept):
        plain.sgd(params, grads, velocity, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov,
                  norm=norm, clip_norm=clip_norm, divisor=divisor)  # fmt: skip
        return
    lists, decays, how = arranged(weight_decay, params, grads, *kept)
    if how is not None:
        numbers = _numbers(lr, 1, norm, divisor, clip_norm, 0.0, 0.0)
        pieces, sizes, count = how
        _sgd[count, THREADS](
            *lists[:2], lists[-1], pieces, sizes, decays, numbers, momentum, velocity is not None, nesterov
        )


def count(steps: Sequence[Array], *, norm: Number | None = None) -> None:
    """Add one to every element of int64 arrays, in place, unless the norm of the gradients is not finite."""
    for counter in steps:
        if counter.size:
            _count[-(-counter.size // THREADS), THREADS](counter, counter.size, *number(0.0 if norm is None else norm))


def unfit(a: Array) -> bool:
    return a.dtype != FLOAT32 or not a.flags.c_contiguous or a.size > 2**31 - PIECE


def fit(params: Sequence[Array], grads: Sequence[Array], *kept: Sequence[Array]) -> bool:
    """Whether the kernels serve these. Raises TypeError where a gradient is not like its parameter."""
    for p, g, *slots in zip(params, grads, *kept, strict=True):
        if any(a.dtype != p.dtype or a.shape != p.shape for a in (g, *slots)):
            raise TypeError(f"a parameter {p.dtype} {p.shape} has a gradient {g.dtype} {g.shape}")
        if not all(a.flags.c_contiguous for a in (p, *slots)):
            raise TypeError("what is changed in place must be C-contiguous")
    return not any(unfit(p) for p in params)


def arranged(weight_decay: Sequence[float], *lists: Sequence[Array]) -> tuple[list[Any], Any, Any]:
    """(addresses of each list, weight decays, how they are cut) without arrays of size 0; None if none is left."""
    rows = [row for row in zip(weight_decay, *lists, strict=True) if row[1].size]
    if not rows:
        return [], None, None
    decays, *several = zip(*rows, strict=True)
    flat = [[tape.contiguous(a) for a in many] for many in several]
    how = _cut(tuple((row[0].size, all(aligned(a) for a in row)) for row in zip(*flat, strict=True)))
    return [Addresses(many) for many in flat], _decays(tuple(map(float, decays))), how


@lru_cache(maxsize=64)
def _cut(sizes: tuple[tuple[int, bool], ...]) -> tuple[Any, Any, int]:
    """(array, piece) for each block, (size, whether four at a time) for each array, both flat on the card; the blocks.
    """
    counts = [-(-n // PIECE) for n, _ in sizes]
    arrays = np.repeat(np.arange(len(counts)), counts)
    pieces = np.concatenate([np.arange(n) for n in counts])
    table = np.stack([arrays, pieces], axis=1).astype(np.int32)
    return tape.from_numpy(table), tape.from_numpy(np.array(sizes, np.int32)), len(table)


@lru_cache(maxsize=64)
def _decays(decays: tuple[float, ...]) -> Any:
    return tape.from_numpy(np.array(decays, np.float32))


def number(value: Number, dtype: Any = np.float64) -> tuple[Any, Any, bool]:
    """(where it lies, its value, whether it lies in memory) for a kernel that reads a number."""
    if isinstance(value, (int, float, np.generic, np.ndarray)):
        return None, dtype(np.asarray(value).item()), False
    return converted(value, dtype), dtype(0), True


def converted(value: Array, dtype: Any) -> Array:
    """A number in the card's memory as an array of this dtype: itself, if it is one."""
    if value.dtype == dtype:
        return value
    out = tape.empty((), dtype)
    tape.copy_to(out, value.reshape(()))
    return out


def _numbers(
    lr: Number, step: Number, norm: Number | None, divisor: Number, clip_norm: float, beta1: float, beta2: float
) -> Array:
    """The launch of `_prepare`."""
    out = tape.empty(4, FLOAT32)
    _prepare[1, 1](
        *number(lr), *number(step, np.int64), *number(0.0 if norm is None else norm), *number(divisor), clip_norm,
        beta1, beta2, out,
    )  # fmt: skip
    return out
