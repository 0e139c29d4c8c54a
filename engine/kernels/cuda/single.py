"""The kernel of attention for one query, as cached decoding asks it: a block for each head, keys and values read once.

First every warp makes the scores of 32 keys at a time, a lane each; then the weights; then a thread for each feature
adds up values, which all threads have begun to copy at the very start, 64 rows at a time into one of two buffers. The
scores of a tile are seen from the largest so far, and every sum is made in the order of `flash.py`, so that a query has
the same bits alone and among others.
"""

import numpy as np

from ..compiled import exp
from .cp_async import arrived, commit, copy1, copy4
from .flash import under
from .jit import cuda, jit
from .ptx import add_outer, load4, zeros
from .rows import EVERYBODY, LOWEST, ZERO, finite, greater, warp_max
from .template import template, unroll
from .unseen import UNSEEN, sum_of_seen

SIDE = 32  # keys of a tile
THREADS = 256
MOST = 1024  # keys
CHUNK = 64  # rows of values in a buffer
TILES = MOST // SIDE
ONE = np.float32(1)


@jit
def bring_values(v, at, step, first, keys, values, wide, to, padded):
    """Begin to copy rows first .. first + 63; 0 where there is no row or column. One group."""
    if first < keys:
        start, source = first // CHUNK % 2 * CHUNK * padded, at + first * np.int64(step)
        if wide:
            for part in range(CHUNK * padded // (4 * THREADS)):
                e = 4 * (part * THREADS + cuda.threadIdx.x)
                row, d = e // padded, e % padded
                copy4(to, start + e, v, source + row * np.int64(step) + d,
                      4 if first + row < keys and d < values else 0)  # fmt: skip
        else:
            for e in range(cuda.threadIdx.x, CHUNK * padded, THREADS):
                row, d = e // padded, e % padded
                copy1(to, start + e, v, source + row * np.int64(step) + d,
                      1 if first + row < keys and d < values else 0)  # fmt: skip
    commit()


@jit
def more(s, a, b):
    """s and four more products."""
    s = add_outer(add_outer(s, (a[0],), (b[0],)), (a[1],), (b[1],))
    return add_outer(add_outer(s, (a[2],), (b[2],)), (a[3],), (b[3],))


@jit
def product(x, at, y, row, depth, wide):
    """The sum of x[at + d] y[row + d] in ascending order; wide: 16 features are read before one is used."""
    s, d = zeros(1), 0
    if wide:
        while d + 16 <= depth:
            a, b = load4(x, at + d), load4(y, row + d)
            a1, b1 = load4(x, at + d + 4), load4(y, row + d + 4)
            a2, b2 = load4(x, at + d + 8), load4(y, row + d + 8)
            a3, b3 = load4(x, at + d + 12), load4(y, row + d + 12)
            s = more(more(more(more(s, a, b), a1, b1), a2, b2), a3, b3)
            d += 16
        while d < depth:
            s = more(s, load4(x, at + d), load4(y, row + d))
            d += 4
    while d < depth:
        s = add_outer(s, (x[at + d],), (y[row + d],))
        d += 1
    return s[0]


@template
def forward(
    q, k, v, mask, key, out, normal, queries, keys, depth, values, q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    o_b, o_h, o_t, m_b, m_h, m_t, m_s, masked, dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """out (B, H, 1, values) and normal (B H, 2), as in flash.py, without dropout; grid (1, H, B)."""
    memory = cuda.shared.array(0, np.float32, 16)  # two buffers of values
    weights, shown = cuda.shared.array(MOST, np.float32, 16), cuda.shared.array(MOST, np.uint8)
    tops, factors = cuda.shared.array(TILES, np.float32), cuda.shared.array(TILES, np.float32)
    fours = cuda.shared.array(TILES * 8, np.float32)  # sums of four weights
    t, lane, b, h = cuda.threadIdx.x, cuda.threadIdx.x & 31, cuda.blockIdx.z, cuda.blockIdx.y
    q_at, k_at, v_at = b * q_b + h * q_h, b * k_b + h * k_h, b * v_b + h * v_h
    tiles = (keys + SIDE - 1) // SIDE
    bring_values(v, v_at, v_t, 0, keys, values, wide, memory, DEPTH)
    bring_values(v, v_at, v_t, CHUNK, keys, values, wide, memory, DEPTH)
    for tile in range(t >> 5, tiles, THREADS // 32):
        j = tile * SIDE + lane
        row = k_at + min(j, keys - 1) * np.int64(k_t)
        seen = mask[b * m_b + h * m_h + min(j, keys - 1) * np.int64(m_s)] != 0 if masked else True
        x = product(q, q_at, k, row, depth, wide) * scale
        seen = seen and j < keys and j <= reach
        x = x if seen else LOWEST
        weights[j], shown[j] = x, np.uint8(1 if seen else 0)
        top = warp_max(greater(x, LOWEST))
        if lane == 0:
            tops[tile] = top
    cuda.syncthreads()
    for tile in range(t >> 5, tiles, THREADS // 32):
        before = LOWEST
        for n in range(tile):
            before = greater(tops[n], before)
        now, x = greater(tops[tile], before), weights[tile * SIDE + lane]
        grown = exp(x - finite(now))
        p = grown if shown[tile * SIDE + lane] != 0 else UNSEEN
        weights[tile * SIDE + lane] = p
        p = p + cuda.shfl_xor_sync(EVERYBODY, p, 1)
        p = p + cuda.shfl_xor_sync(EVERYBODY, p, 2)
        if lane & 3 == 0:
            fours[tile * 8 + (lane >> 2)] = p
        if lane == 0:
            factors[tile] = exp(finite(before) - finite(now)) if before != LOWEST else ONE
    total, o = ZERO, ZERO
    for first in range(0, keys, CHUNK):
        arrived(1)
        cuda.syncthreads()
        if t < DEPTH:
            for tile in range(first // SIDE, min(tiles, first // SIDE + CHUNK // SIDE)):
                total = cuda.fma(total, factors[tile], fours[tile * 8 + (lane & 7)])
                o = o * factors[tile]
                column = tile % (2 * CHUNK // SIDE) * SIDE * DEPTH + t
                for n in unroll(0, SIDE, 4):
                    p4 = load4(weights, tile * SIDE + n)
                    for e in unroll(4):
                        o = cuda.fma(p4[e], memory[column + (n + e) * DEPTH], o)
        cuda.syncthreads()
        bring_values(v, v_at, v_t, first + 2 * CHUNK, keys, values, wide, memory, DEPTH)
    if t < DEPTH:
        top = LOWEST
        for n in range(tiles):
            top = greater(tops[n], top)
        for lanes in (1, 2, 4):
            total = total + cuda.shfl_xor_sync(EVERYBODY, total, lanes)
        divisor = total if total != ZERO else ONE
        inverse = ONE / divisor
        if t == 0:
            at = 2 * (b * cuda.gridDim.y + h)
            normal[at], normal[at + 1] = under(top), inverse
        if t < values:
            if o != o:
                o = ZERO
                for tile in range(tiles):
                    first = tile * SIDE
                    o = sum_of_seen(o * factors[tile], weights, first, 1, v, v_at + first * np.int64(v_t) + t, v_t,
                                    min(SIDE, keys - first))  # fmt: skip
            out[b * o_b + h * o_h + t] = o * inverse
