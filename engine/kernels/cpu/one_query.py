"""Attention of a single query a head, as decoding has it: one key in each lane of the vectors.

Every number is made in the same order as in `attention.py`, so a token by itself has the bits of the whole sentence.
"""

import math

import numpy as np

from .heads import careful_product, finite_row
from .jit import kernel, separate
from .lanes import broadcast, exp, magnitude
from .native import inlined
from .simd import (
    LANES,
    flat,
    fma,
    greater,
    load,
    load_tail,
    max_lanes,
    select,
    splat,
    store,
    store_tail,
    sum_lanes,
)
from .transpose import transpose

KEYS = 4096  # at most: their weights are one chunk of `reduce`
TOGETHER = 8  # heads that go through each stage together, so that none waits for the end of another's


@separate
def _open(ok, mask, n):
    """Set ok[s] to whether key s < n may be attended to, 0 for lanes behind: -> the number of keys up to the last that
    may. A mask (1, n or 1) of size 0 hides none."""
    reach = 0
    for s in range(n):
        ok[s] = 1 if mask.size == 0 else mask[0, min(s, mask.shape[1] - 1)] != 0
        reach = s + 1 if ok[s] != 0 else reach
    for s in range(n, len(ok)):
        ok[s] = 0
    return reach


@inlined
def _by_rows(q, q_at, k, at, k_i, n, depth, packed):
    """The products of the query with n keys, whose rows lie k_i apart."""
    for j in range(0, depth, LANES):
        transpose(k, at + j, k_i, n, depth - j, packed, j * LANES, LANES)
    x = splat(0.0, packed)
    for j in range(depth):
        x = fma(broadcast(q, q_at + j), load(packed, j * LANES), x)
    return x


@inlined
def _by_columns(q, q_at, k, at, k_j, n, depth, packed):
    """The products of the query with n keys that lie side by side, their features k_j apart."""
    x = splat(0.0, packed)
    if n >= LANES:
        for j in range(depth):
            x = fma(broadcast(q, q_at + j), load(k, at + j * k_j), x)
    else:
        for j in range(depth):
            x = fma(broadcast(q, q_at + j), load_tail(k, at + j * k_j, n), x)
    return x


@inlined
def _score(w, w_at, q, q_at, k, k_at, k_i, k_j, n, depth, packed, scale):
    """Write the scores of the query at q_at for all keys."""
    for s in range(0, n, LANES):
        if k_i == 1:
            x = _by_columns(q, q_at, k, k_at + s, k_j, n - s, depth, packed)
        else:
            x = _by_rows(q, q_at, k, k_at + s * k_i, k_i, n - s, depth, packed)
        store(w, w_at + s, x * scale)


@inlined
def _weigh(w, w_at, ok, ok_at, n):
    """The softmax of n scores, in place."""
    nothing, lowest = splat(0.0, w), splat(-math.inf, w)
    top = lowest
    for s in range(0, n, LANES):
        top = greater(select(load(ok, ok_at + s) != 0, load(w, w_at + s), lowest), top)
    highest = max_lanes(top)
    highest = highest if highest - highest == 0 else w.dtype.type(0)
    sums = nothing
    for s in range(0, n, LANES):
        e = select(load(ok, ok_at + s) != 0, exp(load(w, w_at + s) - highest), nothing)
        store(w, w_at + s, e)
        sums = sums + e
    total = sum_lanes(sums)
    total = total if total != 0 else w.dtype.type(1)
    for s in range(0, n, LANES):
        store(w, w_at + s, magnitude(select(load(ok, ok_at + s) != 0, load(w, w_at + s) / total, nothing)))


@inlined
def _mix(w, w_at, n, v, v_at, v_i, to, to_at, values):
    """Write the first n rows of v, weighted: -> zeros, NaN where a sum is not finite."""
    j, strange = 0, splat(0.0, w)
    while j + 2 * LANES <= values:
        y, z = splat(0.0, w), splat(0.0, w)
        for s in range(n):
            at, weight = v_at + s * v_i + j, broadcast(w, w_at + s)
            y, z = fma(weight, load(v, at), y), fma(weight, load(v, at + LANES), z)
        store(to, to_at + j, y)
        store(to, to_at + j + LANES, z)
        strange = strange + (y - y) + (z - z)
        j += 2 * LANES
    for j in range(values - values % (2 * LANES), values, LANES):
        y = splat(0.0, w)
        for s in range(n):
            y = fma(broadcast(w, w_at + s), load_tail(v, v_at + s * v_i + j, values - j), y)
        store_tail(to, to_at + j, y, values - j)
        strange = strange + (y - y)
    return strange


@separate
def _mix_carefully(w, ok, ok_at, v, out, first, count):
    """What `_mix` wrote of these heads, where it is not finite, without the keys that may not be attended to."""
    to, inner, values, room = flat(out), v.shape[1], v.shape[3], len(w) // TOGETHER
    for i in range(count):
        o, h = (first + i) // inner, (first + i) % inner
        at = (o * out.strides[0] + h * out.strides[1]) // out.itemsize
        if not finite_row(to, at, values):
            careful_product(w[i * room :], ok[ok_at[i] :], 1, 1, v[o, h], 0, to, at, values, 1, v.shape[2], True)


@inlined
def _steps(x):
    """The strides of an array with four axes, in elements."""
    size, strides = x.itemsize, x.strides
    return strides[0] // size, strides[1] // size, strides[2] // size, strides[3] // size


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], T[:, :, :, :], T, int")
def attend_one(lo, hi, q, k, v, mask, out, scale, group):
    """out (B, H, 1, Kv) of q (B, H, 1, K), k (B, H, n, K) and v (B, H, n, Kv) with n <= KEYS; no dropout.

    The features of q, v and out are contiguous; in k either they are, or the keys.
    """
    (outer, inner, _, depth), (n, values) = q.shape, v.shape[2:]
    room = (n + LANES - 1) // LANES * LANES
    packed, w = np.empty((depth + LANES - 1) // LANES * LANES * LANES, q.dtype), np.empty(TOGETHER * room, q.dtype)
    ok, reach, ok_at = np.empty(TOGETHER * room, np.int32), np.empty(TOGETHER, np.int64), np.empty(TOGETHER, np.int64)
    line_q, line_k, line_v, to = flat(q), flat(k), flat(v), flat(out)
    (q_o, q_h, _, _), (k_o, k_h, k_i, k_j) = _steps(q), _steps(k)
    (v_o, v_h, v_i, _), (to_o, to_h, _, _) = _steps(v), _steps(out)
    end = min(hi * group, outer * inner)
    for first in range(lo * group, end, TOGETHER):
        count, row, column = min(TOGETHER, end - first), -1, -1
        o, h = first // inner, first % inner
        for i in range(count):
            a, b = min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)
            if i == 0 or row != a or column != b:
                row, column, ok_at[i] = a, b, i * room
                reach[i] = _open(ok[i * room : (i + 1) * room], mask[a, b], n)
            else:
                reach[i], ok_at[i] = reach[i - 1], ok_at[i - 1]
            _score(w, i * room, line_q, o * q_o + h * q_h, line_k, o * k_o + h * k_h, k_i, k_j, n, depth, packed, scale)
            o, h = (o, h + 1) if h + 1 < inner else (o + 1, 0)
        for i in range(count):
            _weigh(w, i * room, ok, ok_at[i], n)
        strange, o, h = splat(0.0, w), first // inner, first % inner
        for i in range(count):
            v_at, at = o * v_o + h * v_h, o * to_o + h * to_h
            strange = strange + _mix(w, i * room, reach[i], line_v, v_at, v_i, to, at, values)
            o, h = (o, h + 1) if h + 1 < inner else (o + 1, 0)
        if mask.size and sum_lanes(strange) != 0:
            _mix_carefully(w, ok, ok_at, v, out, first, count)
