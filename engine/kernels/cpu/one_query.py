"""Attention of a single query a head, as decoding has it: one key in each lane of the vectors.

Every number is made in the same order as in `attention.py`, so a token by itself has the bits of the whole sentence.
"""

import math

import numpy as np

from .heads import careful_product, finite_row
from .jit import jit, kernel, separate
from .lanes import exp, magnitude
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
    transpose,
)

KEYS = 4096  # at most: their weights are one chunk of `reduce`


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


@jit
def _weigh(w, ok, q, q_at, k, k_at, k_i, n, depth, packed, scale):
    """w = the softmax of the scores of the query at q_at."""
    nothing, lowest = splat(0.0, w), splat(-math.inf, w)
    top = lowest
    for s in range(0, n, LANES):
        for j in range(0, depth, LANES):
            transpose(k, k_at + s * k_i + j, k_i, n - s, depth - j, packed, j * LANES, LANES)
        x = nothing
        for j in range(depth):
            x = fma(q[q_at + j], load(packed, j * LANES), x)
        x = x * scale
        store(w, s, x)
        top = greater(select(load(ok, s) != 0, x, lowest), top)
    highest = max_lanes(top)
    highest = highest if highest - highest == 0 else w.dtype.type(0)
    sums = nothing
    for s in range(0, n, LANES):
        e = select(load(ok, s) != 0, exp(load(w, s) - highest), nothing)
        store(w, s, e)
        sums = sums + e
    total = sum_lanes(sums)
    total = total if total != 0 else w.dtype.type(1)
    for s in range(0, n, LANES):
        store(w, s, magnitude(select(load(ok, s) != 0, load(w, s) / total, nothing)))


@jit
def _mix(w, n, v, v_at, v_i, to, to_at, values):
    """The rows of v, weighted."""
    j = 0
    while j + 2 * LANES <= values:
        y, z = splat(0.0, w), splat(0.0, w)
        for s in range(n):
            at = v_at + s * v_i + j
            y, z = fma(w[s], load(v, at), y), fma(w[s], load(v, at + LANES), z)
        store(to, to_at + j, y)
        store(to, to_at + j + LANES, z)
        j += 2 * LANES
    for j in range(values - values % (2 * LANES), values, LANES):
        y = splat(0.0, w)
        for s in range(n):
            y = fma(w[s], load_tail(v, v_at + s * v_i + j, values - j), y)
        store_tail(to, to_at + j, y, values - j)


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], T[:, :, :, :], T, int")
def attend_one(lo, hi, q, k, v, mask, out, scale, group):
    """out (B, H, 1, Kv) of q (B, H, 1, K), k (B, H, n, K) and v (B, H, n, Kv) with n <= KEYS; no dropout.

    Features are contiguous.
    """
    (outer, inner, _, depth), (n, values), size = q.shape, v.shape[2:], q.itemsize
    room = (n + LANES - 1) // LANES * LANES
    packed, w = np.empty((depth + LANES - 1) // LANES * LANES * LANES, q.dtype), np.empty(room, q.dtype)
    ok, last, reach = np.empty(room, np.int32), -1, 0
    line_q, line_k, line_v, to = flat(q), flat(k), flat(v), flat(out)
    k_i, v_i = k.strides[2] // size, v.strides[2] // size
    for head in range(lo * group, min(hi * group, outer * inner)):
        o, h = head // inner, head % inner
        if o != last or mask.shape[1] > 1:
            reach = _open(ok, mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)], n)
            last = o
        q_at, k_at = (o * q.strides[0] + h * q.strides[1]) // size, (o * k.strides[0] + h * k.strides[1]) // size
        v_at, to_at = (o * v.strides[0] + h * v.strides[1]) // size, (o * out.strides[0] + h * out.strides[1]) // size
        _weigh(w, ok, line_q, q_at, line_k, k_at, k_i, n, depth, packed, scale)
        _mix(w, reach, line_v, v_at, v_i, to, to_at, values)
        if mask.size and not finite_row(to, to_at, values):
            careful_product(w, ok, 1, 1, v[o, h], 0, to, to_at, values, 1, n, True)
