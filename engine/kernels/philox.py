"""Counter-based random bits, on one number or, in NumPy, on many at once; no Numba is needed here.

Philox-4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a key and a
counter into four 32-bit words with no state in between, so every element of every array has bits of its own whatever
the order, the layout or the number of threads. Element `i` of an array takes word `i % 4` of counter `i // 4`.
"""

import math
from typing import Any

import numpy as np

ROUNDS = 10
MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
WEYL_0 = np.uint64(0x9E3779B9)  # golden ratio
WEYL_1 = np.uint64(0xBB67AE85)  # sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_8 = np.uint64(8)
_2 = np.uint64(2)
_3 = np.uint64(3)
_ZERO = np.uint64(0)
_ULP = np.float32(2.0**-24)


def philox4x32(x0, x1, x2, x3, k0, k1):
    """Philox-4x32-10: four counter words and two key words -> four random words, each a 32-bit value in a uint64.

    Also works elementwise on NumPy arrays of uint64.
    """
    for _ in range(ROUNDS):
        a = MULTIPLIER_0 * x0
        b = MULTIPLIER_1 * x2
        x0, x1, x2, x3 = (b >> _32) ^ x1 ^ k0, b & _LOW, (a >> _32) ^ x3 ^ k1, a & _LOW
        k0 = (k0 + WEYL_0) & _LOW
        k1 = (k1 + WEYL_1) & _LOW
    return x0, x1, x2, x3


def philox(key, counter):
    """The four 32-bit words (each in a uint64) of a 64-bit key at a 64-bit counter; both are uint64."""
    return philox4x32(counter & _LOW, counter >> _32, _ZERO, _ZERO, key & _LOW, key >> _32)


def unit(word):
    """A random 32-bit word (in a uint64) as a float32 in [0, 1): its upper 24 bits, exact in float64 too."""
    return np.float32(np.int32(word >> _8)) * _ULP


def uniform(key, i):
    """The random float32 in [0, 1) of flat element `i` under `key` (both uint64), the same for every dtype."""
    w0, w1, w2, w3 = philox(key, i >> _2)
    lane = i & _3
    low = w0 if lane == _ZERO else w1
    high = w2 if lane == _2 else w3
    return unit(low if lane < _2 else high)


def keep_from(p: float) -> int:
    """The dropout rule in integers: uniform(key, i) >= float32(p) where the word's upper 24 bits reach this number."""
    return math.ceil(float(np.float32(p)) * 2**24)


def philox_numpy(key: Any, counters: Any) -> Any:
    """All words of many counters in NumPy: uint64 counters of shape (n,) -> uint32 words of shape (n, 4).

    `philox_numpy(key, np.arange((n + 3) // 4, dtype=np.uint64)).ravel()[:n]` are the words of an array of n elements.
    `key` is any integer, of which the low 64 bits count; or, like the counters, a uint64 array of a card.
    """
    words = philox(np.uint64(key & 0xFFFFFFFFFFFFFFFF) if isinstance(key, int) else key, counters)
    return np.stack(words, axis=-1).astype(np.uint32)
