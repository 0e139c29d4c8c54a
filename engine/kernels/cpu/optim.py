"""Updates of parameters in place: Adam, AdamW, SGD, and the sum of squares that gradient clipping asks for.

Every function takes lists of C-contiguous arrays (of one dtype, float32 or float64; they may be views into one arena)
and works through each in blocks. A launch costs microseconds, so many small parameters are best laid into one arena
and given as one array. With NUMBA_DISABLE_JIT=1 the same updates run in NumPy.
"""

import math
from collections.abc import Sequence

import numpy as np

from . import jit_disabled

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


def _adam(lo, hi, p, g, m, v, n, rate, keep1, keep2, eps, root2, decay, l2, scale, one):
    """rate = lr / (1 - beta1^step), root2 = sqrt(1 - beta2^step), decay = 1 - lr weight_decay or one."""
    for block in range(lo, hi):
        start, end = block * BLOCK, min(n, (block + 1) * BLOCK)
        pb, gb, mb, vb = p[start:end], g[start:end], m[start:end], v[start:end]
        for i in range(end - start):
            gradient = gb[i] * scale + l2 * pb[i]
            mb[i] = keep1 * mb[i] + (one - keep1) * gradient
            vb[i] = keep2 * vb[i] + (one - keep2) * (gradient * gradient)
            pb[i] = pb[i] * decay - rate * (mb[i] / (np.sqrt(vb[i]) / root2 + eps))


def _sgd(lo, hi, p, g, velocity, n, lr, momentum, weight_decay, nesterov, scale):
    """velocity of size 0: plain gradient descent."""
    for block in range(lo, hi):
        start, end = block * BLOCK, min(n, (block + 1) * BLOCK)
        pb, gb = p[start:end], g[start:end]
        if len(velocity) == 0:
            for i in range(end - start):
                pb[i] -= lr * (gb[i] * scale + weight_decay * pb[i])
        else:
            vb = velocity[start:end]
            for i in range(end - start):
                gradient = gb[i] * scale + weight_decay * pb[i]
                vb[i] = momentum * vb[i] + gradient
                pb[i] -= lr * (gradient + momentum * vb[i] if nesterov else vb[i])


if not jit_disabled():
    from .jit import kernel
    from .reduce import CHUNK, dot_chunk

    @kernel("T[::1], float64[::1], int")
    def _square_sums(lo, hi, x, out, n):
        for block in range(lo, hi):
            total = 0.0
            for start in range(block * BLOCK, min(n, (block + 1) * BLOCK), CHUNK):
                total += dot_chunk(x, x, start, min(CHUNK, n - start))
            out[block] = total

    _adam_kernel = kernel("T[::1], T[::1], T[::1], T[::1], int, T, T, T, T, T, T, T, T, T")(_adam)
    _sgd_kernel = kernel("T[::1], T[::1], T[::1], int, T, T, T, bool, T")(_sgd)


def sum_of_squares(arrays: Sequence[Array]) -> float:
    """The sum of the squares of all elements, in an order that no number of threads changes.

    Chunks of 4096 in the arrays' dtype, in the order of `reduce`; their sums in float64.
    """
    if jit_disabled():
        return float(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays))
    parts = np.empty(sum(_blocks(a) for a in arrays))
    done = 0
    for a in arrays:
        blocks = _blocks(a)
        _square_sums(blocks, a, parts[done : done + blocks], a.size)
        done += blocks
    return float(parts.sum())


def adam(
    params: Sequence[Array],
    grads: Sequence[Array],
    m: Sequence[Array],
    v: Sequence[Array],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: Sequence[float],
    step: int,
    scale: float = 1.0,
    decoupled: bool = True,
) -> None:
    """One step of Adam (Kingma & Ba 2015) on params, m and v, in place; `step` counts from 1.

    Gradients are taken times `scale`. weight_decay, one per parameter: with decoupled=True the parameter shrinks by
    lr * weight_decay (AdamW, Loshchilov & Hutter 2019), else weight_decay times the parameter joins the gradient.
    """
    rate, root2 = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    for p, g, m1, v1, wd in zip(params, grads, m, v, weight_decay, strict=True):
        decay, l2 = (1 - lr * wd, 0.0) if decoupled else (1.0, wd)
        numbers = (rate, beta1, beta2, eps, root2, decay, l2, scale, 1.0)
        if jit_disabled():
            _adam_numpy(p, g, m1, v1, *(p.dtype.type(number) for number in numbers))
        else:
            _adam_kernel(_blocks(p), p, g, m1, v1, p.size, *numbers)


def sgd(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocity: Sequence[Array] | None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: Sequence[float],
    nesterov: bool = False,
    scale: float = 1.0,
) -> None:
    """One step of gradient descent in place, with momentum where `velocity` is given (all zeros before the first step).

    g = scale * gradient + weight_decay * p;  velocity = momentum * velocity + g;  p -= lr * velocity, or, with
    Nesterov's momentum, p -= lr * (g + momentum * velocity).
    """
    velocities = [None] * len(params) if velocity is None else velocity
    for p, g, u, wd in zip(params, grads, velocities, weight_decay, strict=True):
        if jit_disabled():
            _sgd_numpy(p, g, u, nesterov, *(p.dtype.type(number) for number in (lr, momentum, wd, scale)))
        else:
            _sgd_kernel(_blocks(p), p, g, u, p.size, lr, momentum, wd, nesterov, scale)


def _adam_numpy(p, g, m, v, rate, keep1, keep2, eps, root2, decay, l2, scale, one):
    gradient = g * scale + l2 * p
    m[...] = keep1 * m + (one - keep1) * gradient
    v[...] = keep2 * v + (one - keep2) * (gradient * gradient)
    p[...] = p * decay - rate * (m / (np.sqrt(v) / root2 + eps))


def _sgd_numpy(p, g, velocity, nesterov, lr, momentum, weight_decay, scale):
    gradient = g * scale + weight_decay * p
    if velocity is not None:
        velocity[...] = momentum * velocity + gradient
        gradient = gradient + momentum * velocity if nesterov else velocity
    p -= lr * gradient


def _blocks(a: Array) -> int:
    return -(-a.size // BLOCK)
