"""Attention of a single query a head, as decoding has it: one key in each lane of the vectors.

Every number is made in the same order as in `attention.py`, so a token by itself has the bits of the whole sentence.
"""

import math

import numpy as np

from .heads import careful_product, finite_row, in_lanes
from .jit import kernel
from .lanes import exp, magnitude
from .simd import LANES, flat, fma, greater, load, load_tail, max_lanes, select, splat, store, store_tail, sum_lanes

KEYS = 4096  # at most: their weights are one chunk of `reduce`


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], T[:, :, :, :], T, int")
def attend_one(lo, hi, q, k, v, mask, out, scale, group):
    """out (B, H, 1, Kv) of q (B, H, 1, K), k (B, H, n, K) and v (B, H, n, Kv) with n <= KEYS; no dropout."""
    (outer, inner, _, depth), (n, values) = q.shape, v.shape[2:]
    room = (n + LANES - 1) // LANES * LANES
    packed, w = np.empty(room * (depth + LANES), q.dtype), np.empty(room, q.dtype)
    ok = np.zeros(room, np.int32)
    for head in range(lo * group, min(hi * group, outer * inner)):
        o, h = head // inner, head % inner
        one_q, one_k, one_v, to = q[o, h], k[o, h], v[o, h], flat(out[o, h])
        in_lanes(one_k, 0, n, room, packed)
        for s in range(n):
            ok[s] = 1
        if mask.size:
            seen = mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1), 0]
            step = 0 if len(seen) == 1 else 1
            for s in range(n):
                ok[s] = seen[s * step] != 0
        nothing, lowest = splat(0.0, w), splat(-math.inf, w)
        top = lowest
        for s in range(0, room, LANES):
            x = nothing
            for j in range(depth):
                x = fma(one_q[0, j], load(packed, j * room + s), x)
            x = x * scale
            store(w, s, x)
            top = greater(select(load(ok, s) != 0, x, lowest), top)
        highest = max_lanes(top)
        highest = highest if highest - highest == 0 else w.dtype.type(0)
        sums = nothing
        for s in range(0, room, LANES):
            e = select(load(ok, s) != 0, exp(load(w, s) - highest), nothing)
            store(w, s, e)
            sums = sums + e
        total = sum_lanes(sums)
        total = total if total != 0 else w.dtype.type(1)
        for s in range(0, room, LANES):
            store(w, s, magnitude(select(load(ok, s) != 0, load(w, s) / total, nothing)))
        source, row = flat(one_v), one_v.strides[0] // one_v.itemsize
        for j in range(0, values, LANES):
            y = nothing
            for s in range(n):
                y = fma(w[s], load_tail(source, s * row + j, values - j), y)
            store_tail(to, j, y, values - j)
        if mask.size and not finite_row(to, 0, values):
            careful_product(w, ok, 1, 1, one_v, 0, to, 0, values, 1, n, True)
