"""Dropout and uniform numbers from counter-based bits: see `philox.py` for the bits.

Element i (its flat index in C order) is kept if its uniform number is at least float32(p), so any part of an array can
be done by anyone at any time. A vector of 16 counters goes through the rounds side by side and decides 64 elements.
That takes several times as long as reading them, so the forward pass keeps its decisions for the backward pass, as
bits.
"""

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .. import philox
from ..compiled import keep_from
from . import tape
from .jit import jit, kernel, separate
from .lanes import as_floats
from .lift import FLOATS
from .philox import GROUP, random_numbers
from .simd import I32, LANES, Vector, load_tail, select, splat, store, store_tail

Array = np.ndarray

I16 = ir.IntType(16)
BLOCK = 16384  # elements of one block of work, a multiple of GROUP
MOVED = 65536  # the same where the work is to move memory: long runs of it for each core
_ULP = np.float32(2.0**-24)

@intrinsic
def bits_of(typingctx, mask):
    """The lanes of a mask as the 16 lower bits of an int32."""

    def codegen(context, builder, sig, values):
        return builder.zext(builder.bitcast(values[0], I16), I32)

    return types.int32(mask), codegen


@intrinsic
def mask_of(typingctx, number):
    """The mask whose `bits_of` is this int32."""
    mask = Vector(types.boolean)

    def codegen(context, builder, sig, values):
        return builder.bitcast(builder.trunc(values[0], I16), mask.native)

    return mask(types.int32), codegen


@jit
def key_of(key):
    """The 64 bits of a key, which comes as an array of one int64 (none: 0)."""
    return np.uint64(key[0]) if key.size else np.uint64(0)


@jit
def _number(key, i):
    """The 24 bits of flat element i."""
    w0, w1, w2, w3 = philox.philox(key, np.uint64(i // 4))
    low, high = (w0, w2) if i % 2 == 0 else (w1, w3)
    return np.int64((low if i % 4 < 2 else high) >> np.uint64(8))


@separate
def keep_factors(out, at, key, first, n, threshold, scale):
    """out[at : at + n] = scale where flat elements first .. first + n - 1 of a key are kept, else 0."""
    yes, no = splat(scale, out), splat(0.0, out)
    start = min(n, -first % 4)  # up to the first element of a counter
    for i in range(start):
        out[at + i] = scale if _number(key, first + i) >= threshold else out.dtype.type(0)
    end = start + (n - start) // GROUP * GROUP
    for i in range(start, end, GROUP):
        a, b, c, d = random_numbers(key, np.uint64((first + i) // 4))
        store(out, at + i, select(a >= threshold, yes, no))
        store(out, at + i + LANES, select(b >= threshold, yes, no))
        store(out, at + i + 2 * LANES, select(c >= threshold, yes, no))
        store(out, at + i + 3 * LANES, select(d >= threshold, yes, no))
    if end < n:
        a, b, c, d = random_numbers(key, np.uint64((first + end) // 4))
        store_tail(out, at + end, select(a >= threshold, yes, no), n - end)
        store_tail(out, at + end + LANES, select(b >= threshold, yes, no), n - end - LANES)
        store_tail(out, at + end + 2 * LANES, select(c >= threshold, yes, no), n - end - 2 * LANES)
        store_tail(out, at + end + 3 * LANES, select(d >= threshold, yes, no), n - end - 3 * LANES)


@jit
def dropped(x, factors):
    """x times its factors, and 0 where the factor is 0, whatever x is: vectors."""
    return select(factors != 0.0, x * factors, splat(0.0, x))


@jit
def _drop(x, i, count, out, kept, numbers, threshold, scale):
    if count > 0:
        mask = numbers >= threshold
        kept[i // LANES] = bits_of(mask)
        store_tail(out, i, select(mask, load_tail(x, i, count) * scale, splat(0.0, x)), count)


@kernel("T[::1], int64[::1], T[::1], int32[::1], int, uint32, T")
def _dropout(lo, hi, x, key, out, kept, n, threshold, scale):
    bits = key_of(key)
    start, end = lo * BLOCK, min(hi * BLOCK, n)
    whole = start + (end - start) // GROUP * GROUP
    for i in range(start, whole, GROUP):
        a, b, c, d = random_numbers(bits, np.uint64(i // 4))
        _drop(x, i, LANES, out, kept, a, threshold, scale)
        _drop(x, i + LANES, LANES, out, kept, b, threshold, scale)
        _drop(x, i + 2 * LANES, LANES, out, kept, c, threshold, scale)
        _drop(x, i + 3 * LANES, LANES, out, kept, d, threshold, scale)
    if whole < end:
        a, b, c, d = random_numbers(bits, np.uint64(whole // 4))
        _drop(x, whole, end - whole, out, kept, a, threshold, scale)
        _drop(x, whole + LANES, end - whole - LANES, out, kept, b, threshold, scale)
        _drop(x, whole + 2 * LANES, end - whole - 2 * LANES, out, kept, c, threshold, scale)
        _drop(x, whole + 3 * LANES, end - whole - 3 * LANES, out, kept, d, threshold, scale)


@jit
def _keep(g, i, count, kept, out, scale):
    store_tail(out, i, select(mask_of(kept[i // LANES]), load_tail(g, i, count) * scale, splat(0.0, g)), count)


@kernel("T[::1], int32[::1], T[::1], int, T")
def _dropout_vjp(lo, hi, g, kept, out, n, scale):
    start, end = lo * MOVED, min(hi * MOVED, n)
    whole = end - (end - start) % LANES
    for i in range(start, whole, LANES):
        _keep(g, i, LANES, kept, out, scale)
    if whole < end:
        _keep(g, whole, end - whole, kept, out, scale)


@kernel("float32[::1], int64[::1], int", bare=True)
def _uniform(lo, hi, out, key, n):
    bits, end = key_of(key), min(hi * BLOCK, n)
    for i in range(lo * BLOCK, end, GROUP):
        a, b, c, d = random_numbers(bits, np.uint64(i // 4))
        store_tail(out, i, as_floats(a) * _ULP, end - i)
        store_tail(out, i + LANES, as_floats(b) * _ULP, end - i - LANES)
        store_tail(out, i + 2 * LANES, as_floats(c) * _ULP, end - i - 2 * LANES)
        store_tail(out, i + 3 * LANES, as_floats(d) * _ULP, end - i - 3 * LANES)


def dropout(x: Array, key: Array, *, p: float) -> tuple[Array, Array]:
    """x / (1 - p) where uniform(key, i) >= p, else 0; `key` is a 0-d int64 array, taken as uint64; 0 <= p <= 1.

    Returns (out, kept): what is kept, an int32 for every 16 elements, one bit each.
    """
    if x.dtype not in FLOATS or key.dtype != np.int64 or key.size != 1:
        return NotImplemented
    x = tape.contiguous(x)
    out, kept = tape.empty(x.shape, x.dtype), tape.empty(-(-x.size // LANES), np.int32)
    _dropout(-(-x.size // BLOCK), x, key, out, kept, x.size, *rule(p))
    return out, kept


def dropout_vjp(g: Array, key: Array, *, p: float, kept: Array | None = None) -> Array:
    """The pullback of dropout: g / (1 - p) where an element is kept, else 0."""
    if g.dtype not in FLOATS:
        return NotImplemented
    if kept is None:
        made = dropout(g, key, p=p)
        return made if made is NotImplemented else made[0]
    g = tape.contiguous(g)
    out = tape.empty(g.shape, g.dtype)
    _dropout_vjp(-(-g.size // MOVED), g, kept, out, g.size, rule(p)[1])
    return out


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform float32 numbers in [0, 1) of a 0-d int64 key, element i by its flat index."""
    out = tape.empty(shape, np.float32)
    _uniform(-(-out.size // BLOCK), out, key, out.size)
    return out


@lru_cache(maxsize=64)
def rule(p: float) -> tuple[int, float]:
    """(threshold, scale): 24-bit numbers that reach the threshold are kept, and their elements multiplied by scale."""
    return keep_from(p), 1 / (1 - p) if p < 1 else 0.0
