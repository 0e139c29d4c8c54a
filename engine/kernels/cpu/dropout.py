"""Dropout and uniform numbers from counter-based bits: see `philox.py` for the bits.

Element i (its flat index in C order) is kept if its uniform number is at least float32(p), so any part of an array can
be done by anyone at any time, and the backward pass makes the same bits again instead of keeping a mask.
"""

import numpy as np

from ..compiled import keep_from, philox, unit
from .jit import kernel
from .lift import FLOATS

Array = np.ndarray

GROUPS = 2048  # counters of one block of work, four elements each


@kernel("T[::1], uint64, T[::1], int, uint32, T")
def _dropout(lo, hi, x, key, out, n, threshold, scale):
    zero = x.dtype.type(0)
    whole = n // 4
    for block in range(lo, hi):
        first = block * GROUPS
        count = min(GROUPS, whole - first)
        a, o = x[4 * first : 4 * (first + count)], out[4 * first : 4 * (first + count)]
        for i in range(count):
            w0, w1, w2, w3 = philox(key, np.uint64(first + i))
            o[4 * i] = a[4 * i] * scale if np.uint32(w0) >> 8 >= threshold else zero
            o[4 * i + 1] = a[4 * i + 1] * scale if np.uint32(w1) >> 8 >= threshold else zero
            o[4 * i + 2] = a[4 * i + 2] * scale if np.uint32(w2) >> 8 >= threshold else zero
            o[4 * i + 3] = a[4 * i + 3] * scale if np.uint32(w3) >> 8 >= threshold else zero
        if first + GROUPS > whole:
            w0, w1, w2, _ = philox(key, np.uint64(whole))
            for i in range(4 * whole, n):
                word = w0 if i % 4 == 0 else w1 if i % 4 == 1 else w2
                out[i] = x[i] * scale if np.uint32(word) >> 8 >= threshold else zero


@kernel("float32[::1], uint64, int")
def _uniform(lo, hi, out, key, n):
    whole = n // 4
    for block in range(lo, hi):
        first = block * GROUPS
        count = min(GROUPS, whole - first)
        o = out[4 * first : 4 * (first + count)]
        for i in range(count):
            w0, w1, w2, w3 = philox(key, np.uint64(first + i))
            o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3] = unit(w0), unit(w1), unit(w2), unit(w3)
        if first + GROUPS > whole:
            w0, w1, w2, _ = philox(key, np.uint64(whole))
            for i in range(4 * whole, n):
                out[i] = unit(w0 if i % 4 == 0 else w1 if i % 4 == 1 else w2)


def dropout(x: Array, key: Array, *, p: float) -> Array:
    """x / (1 - p) where uniform(key, i) >= p, else 0; `key` is a 0-d int64 array, taken as uint64; 0 <= p <= 1."""
    if x.dtype not in FLOATS or key.dtype != np.int64 or key.size != 1:
        return NotImplemented
    x = np.asarray(x, order="C")
    out = np.empty(x.shape, x.dtype)
    scale = 1 / (1 - p) if p < 1 else 0.0
    _dropout(_blocks(x.size), x, _unsigned(key), out, x.size, keep_from(p), scale)
    return out


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform float32 numbers in [0, 1) of a 0-d int64 key, element i by its flat index."""
    out = np.empty(shape, np.float32)
    _uniform(_blocks(out.size), out, _unsigned(key), out.size)
    return out


def _unsigned(key: Array) -> int:
    return int(key) & 0xFFFFFFFFFFFFFFFF


def _blocks(n: int) -> int:
    return max(1, -(-n // (4 * GROUPS)))
