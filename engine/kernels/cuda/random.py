"""Random bits inside kernels: those of `philox.py`, four elements at a time."""

import numpy as np

from ..compiled import keep_from, philox
from .jit import jit

_8, _2 = np.uint64(8), np.uint64(2)


@jit
def numbers4(key, i):
    """The 24-bit random numbers (uint64) of flat elements i .. i + 3 under the key (an array of one int64)."""
    bits, counter = np.uint64(key[0]), np.uint64(i) >> _2
    w, x, y, z = philox(bits, counter)
    first = i & 3
    if first != 0:
        p, q, r, _ = philox(bits, counter + np.uint64(1))
        if first == 1:
            w, x, y, z = x, y, z, p
        elif first == 2:
            w, x, y, z = y, z, p, q
        else:
            w, x, y, z = z, p, q, r
    return w >> _8, x >> _8, y >> _8, z >> _8


@jit
def keep4(key, i, threshold):
    """Which of flat elements i .. i + 3 dropout keeps, as the low bits of a uint64: those that reach `threshold`."""
    w, x, y, z = numbers4(key, i)
    least, none = np.uint64(threshold), np.uint64(0)
    low = (np.uint64(1) if w >= least else none) | (np.uint64(2) if x >= least else none)
    return low | (np.uint64(4) if y >= least else none) | (np.uint64(8) if z >= least else none)


@jit
def dropped(four, kept, scale):
    """Four numbers times `scale` where their bit of `kept` is set, else 0."""
    nothing, none = np.float32(0), np.uint64(0)
    return (four[0] * scale if kept & np.uint64(1) != none else nothing,
            four[1] * scale if kept & np.uint64(2) != none else nothing,
            four[2] * scale if kept & np.uint64(4) != none else nothing,
            four[3] * scale if kept & np.uint64(8) != none else nothing)  # fmt: skip


def rule(p: float) -> tuple[int, float]:
    """(threshold, scale): 24-bit numbers that reach the threshold are kept, and their elements multiplied by scale."""
    return keep_from(p), 1 / (1 - p) if p < 1 else 0.0
