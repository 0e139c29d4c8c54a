"""Dropout and uniform numbers from counter-based bits: see `../philox.py` for the bits."""

from typing import Any

import numpy as np

from . import tape
from .jit import cuda, kernel
from .random import dropped, keep4, numbers4, rule
from .rows import MOST, ZERO, aligned, get4, put4, served

Array = Any

THREADS = 256
BLOCK = 4 * THREADS  # elements of a block
_ULP = np.float32(2.0**-24)


@kernel("float32[::1], int64[::1], float32[::1], int32, uint32, float32, bool", threads=THREADS)
def _dropout(x, key, out, n, threshold, scale, flat):
    i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if i < n:
        whole = flat and i + 4 <= n
        y = dropped(get4(x, 0, i, n, whole, ZERO), keep4(key, i, threshold), scale)
        put4(out, 0, i, n, whole, y[0], y[1], y[2], y[3])


@kernel("float32[::1], int64[::1], int32", threads=THREADS)
def _uniform(out, key, n):
    i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if i < n:
        a, b, c, d = numbers4(key, i)
        put4(out, 0, i, n, i + 4 <= n, np.float32(np.int32(a)) * _ULP, np.float32(np.int32(b)) * _ULP,
             np.float32(np.int32(c)) * _ULP, np.float32(np.int32(d)) * _ULP)  # fmt: skip


def dropout(x: Array, key: Array, *, p: float) -> Any:
    """float32 x / (1 - p) where uniform(key, i) >= p, else 0; `key` is an int64 array of one element; 0 <= p <= 1.

    Returns (out, None): the pullback makes the bits again, which is faster than to keep them.
    """
    if not served(x) or key.dtype != np.int64 or key.size != 1:
        return NotImplemented
    x = tape.contiguous(x)
    out = tape.empty(x.shape, x.dtype)
    if x.size:
        _dropout[-(-x.size // BLOCK), THREADS](x, key, out, x.size, *rule(p), aligned(x))
    return out, None


def dropout_in_place(x: Array, key: Array, p: float) -> None:
    """The same, of a C-contiguous array, over itself."""
    _dropout[-(-x.size // BLOCK), THREADS](x, key, x, x.size, *rule(p), aligned(x))


def dropout_vjp(g: Array, key: Array, *, p: float, kept: None = None) -> Array:
    """The pullback of dropout: g / (1 - p) where an element is kept, else 0."""
    made = dropout(g, key, p=p)
    return made if made is NotImplemented else made[0]


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform float32 numbers in [0, 1) of an int64 key, element i by its flat index."""
    out = tape.empty(shape, np.float32)
    if out.size > MOST:
        return NotImplemented
    if out.size:
        _uniform[-(-out.size // BLOCK), THREADS](out, key, out.size)
    return out
