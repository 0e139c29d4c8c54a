"""The kernels of attention: tiles of 32 queries and 32 keys, whose weights never leave the multiprocessor.

The structure is that of Dao, "FlashAttention-2" (2023): forward goes through the keys once, keeping of each query the
largest score, the sum of exponentials under it, and the weighted sum of values, which are rescaled where a larger score
turns up; backward makes the weights again from that score and one over that sum. The gradients of keys and values have
a kernel of their own, so every sum has one order and nothing is added by atomics.

A block has 64 threads; thread (ty, tx) makes 4 × 4 of a tile's weights, and of the block's results 4 rows by 4 columns
of every 32. Matrices lie in shared memory "turned", column by column, where they are summed over their columns, else
row by row. Keys that are masked, or behind the end, have the weight 0, and what lies there is left out (`unseen.py`).
"""

import numpy as np

from ..compiled import exp
from .jit import cuda, jit
from .ptx import add_outer, divided, load4, store4, times_rows, zeros
from .random import keep4
from .rows import EVERYBODY, LOWEST, ZERO, finite, get4, greater, put4
from .template import registers, template, unroll
from .unseen import UNSEEN, not_finite, rows_of_seen

SIDE = 32  # queries and keys of a tile
THREADS = 64
ROW = SIDE + 4  # floats from one column of a turned matrix to the next
FOURTH = SIDE // 4 * ROW  # of a tile's columns every fourth lies beside each other, so that no bank is stored to twice
ONE = np.float32(1)


@jit
def turned(x, at, step, first, rows, depth, wide, to, start, padded):
    """Rows first .. first + 31 of a matrix, column by column; 0 where there is no row or column."""
    for e in range(cuda.threadIdx.x, SIDE * (padded // 4), THREADS):
        row, d = e % SIDE, e // SIDE * 4
        a, b, c, f = get4(x, at + (first + row) * np.int64(step), d, depth if first + row < rows else 0, wide, ZERO)
        to[start + d * ROW + row], to[start + (d + 1) * ROW + row] = a, b
        to[start + (d + 2) * ROW + row], to[start + (d + 3) * ROW + row] = c, f


@jit
def straight(x, at, step, first, rows, depth, wide, to, start, padded):
    """Rows first .. first + 31 of a matrix, row by row; 0 where there is no row or column. 1 if one of this thread's
    numbers is not finite, else 0."""
    broken = np.int32(0)
    for e in range(cuda.threadIdx.x, SIDE * (padded // 4), THREADS):
        row, four = divided(e, padded // 4)
        d = 4 * four
        a, b, c, f = get4(x, at + (first + row) * np.int64(step), d, depth if first + row < rows else 0, wide, ZERO)
        store4(to, start + row * (padded + 4) + d, a, b, c, f)
        if not_finite(a, b, c, f):
            broken = np.int32(1)
    return broken


@jit
def outer_sum(x, start_x, y, start_y, depth):
    """4 × 4 sums over d of x[d, 4 ty ..] y[d, 4 tx ..] for two turned matrices that begin there."""
    tile = zeros(16)
    for d in range(depth):
        tile = add_outer(tile, load4(x, start_x + d * ROW), load4(y, start_y + d * ROW))
    return tile


@jit
def attended(mask, at, step_i, step_j, i, j, queries, keys, reach, masked):
    """Whether query i sees key j."""
    if i >= queries or j >= keys or j > i + reach:
        return False
    return mask[at + i * step_i + j * step_j] != 0 if masked else True


@jit
def seen_bits(mask, at, step_i, step_j, i, j, queries, keys, reach, masked):
    """Which of queries i .. i + 3 see which of keys j .. j + 3: bit 4 e + c says of query i + e and key j + c."""
    if not masked and i + 3 < queries and j + 3 < keys and j + 3 <= i + reach:
        return np.uint64(0xFFFF)
    seen = np.uint64(0)
    for n in range(16):
        if attended(mask, at, step_i, step_j, i + n // 4, j + n % 4, queries, keys, reach, masked):
            seen |= np.uint64(1) << np.uint64(n)
    return seen


@jit
def bit(bits, n):
    return bits >> np.uint64(n) & np.uint64(1) != np.uint64(0)


@jit
def over_row(x):
    """The sum over the 8 threads that share rows."""
    for lanes in (1, 2, 4):
        x = x + cuda.shfl_xor_sync(EVERYBODY, x, lanes)
    return x


@jit
def products_of_row(x, x_at, y, y_at, n, wide, padded):
    """The sum of x y over rows of n numbers (0: none is read) that 8 threads share; each of them gets it."""
    total = ZERO
    for part in range(padded // 32):
        d = (cuda.threadIdx.x & 7) * 4 + 32 * part
        a, b = get4(x, x_at, d, n, wide, ZERO), get4(y, y_at, d, n, wide, ZERO)
        total = cuda.fma(a[1], b[1], cuda.fma(a[0], b[0], total))
        total = cuda.fma(a[3], b[3], cuda.fma(a[2], b[2], total))
    return over_row(total)


@jit
def under(top):
    """What is subtracted from scores: the largest, and 0 where none is seen."""
    return top if top > ZERO else finite(top)


@jit
def top_of_row(x):
    """The largest number of the 8 threads that share rows, passing over NaN."""
    for lanes in (1, 2, 4):
        x = greater(cuda.shfl_xor_sync(EVERYBODY, x, lanes), x)
    return x


@jit
def place(z, inner, outer_step, inner_step):
    """Where head z begins."""
    outer, inner = divided(z, inner)
    return outer * np.int64(outer_step) + inner * np.int64(inner_step)


@jit
def bits_of_rows(key, start, step, threshold):
    """What dropout keeps of four runs of four weights, `step` apart: 16 bits."""
    kept = np.uint64(0)
    for e in range(4):
        kept |= keep4(key, start + e * np.int64(step), threshold) << np.uint64(4 * e)
    return kept


_STEPS = "int, int, int32, "  # from one batch, head and position to the next
_SIZES = "int32, int32, int32, int32, int32, "  # inner, queries, keys, depth, values
_REST = "int, int, int32, int32, bool, bool, bool, int32, float32, uint32, float32"  # from m_b on
FORWARD = (
    "float32[...], float32[...], float32[...], uint8[...], int64[::1], float32[...], float32[::1], "
    + _SIZES + 4 * _STEPS + _REST
)  # fmt: skip
BACKWARD = (
    "float32[...], float32[...], float32[...], float32[...], uint8[...], int64[::1], float32[...], float32[::1], "
    "float32[::1], float32[...], float32[...], " + _SIZES + 7 * _STEPS + _REST
)


@template
def forward(
    q, k, v, mask, key, out, normal, inner, queries, keys, depth, values, q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h,
    v_t, o_b, o_h, o_t, m_b, m_h, m_t, m_s, masked, dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """out (B, H, T, values) and normal (B H T, 2), by which backward finds the weights: of each query the largest
    score, and 1 / the sum of exponentials under it; grid (tiles of queries, heads)."""
    turned_q = cuda.shared.array(DEPTH * ROW, np.float32, 16)
    other = cuda.shared.array(DEPTH * ROW, np.float32, 16)  # keys turned, then values
    weights = cuda.shared.array(SIDE * ROW, np.float32, 16)
    t, z, i0 = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.x * SIDE
    tx, ty, mine = t % 8 * 4, t // 8 * 4, t % 8 * ROW + t // 8 * 4  # mine: where in a tile this thread's numbers begin
    q_at, k_at = place(z, inner, q_b, q_h), place(z, inner, k_b, k_h)
    v_at, o_at, m_at = place(z, inner, v_b, v_h), place(z, inner, o_b, o_h), place(z, inner, m_b, m_h)
    o, top, total, p, s = registers(DEPTH // 32), registers(4), registers(4), registers(4, 4), registers(4)
    for part in unroll(DEPTH // 32):
        o[part] = zeros(16)
    for e in unroll(4):
        top[e], total[e] = LOWEST, ZERO
    turned(q, q_at, q_t, i0, queries, depth, wide, turned_q, 0, DEPTH)
    end = min(keys, max(0, i0 + SIDE + reach))
    for j0 in range(0, end, SIDE):
        turned(k, k_at, k_t, j0, keys, depth, wide, other, 0, DEPTH)
        cuda.syncthreads()
        tile = outer_sum(turned_q, ty, other, tx, DEPTH)
        kept = np.uint64(0)
        if dropping:
            kept = bits_of_rows(key, (z * np.int64(queries) + i0 + ty) * keys + j0 + tx, keys, threshold)
        seen = seen_bits(mask, m_at, m_t, m_s, i0 + ty, j0 + tx, queries, keys, reach, masked)
        for e in unroll(4):
            now = top[e]
            for c in unroll(4):
                p[e, c] = tile[4 * e + c] * scale if bit(seen, 4 * e + c) else LOWEST
                now = greater(p[e, c], now)
            now = top_of_row(now)
            s[e] = exp(finite(top[e]) - finite(now)) if top[e] != LOWEST else ONE
            top[e] = now
            for c in unroll(4):
                p[e, c] = exp(p[e, c] - finite(now)) if bit(seen, 4 * e + c) else UNSEEN
            total[e] = cuda.fma(total[e], s[e], (p[e, 0] + p[e, 1]) + (p[e, 2] + p[e, 3]))
            for c in unroll(4):
                if dropping:
                    dropped = ZERO if bit(seen, 4 * e + c) else UNSEEN
                    p[e, c] = p[e, c] * keep if bit(kept, 4 * e + c) else dropped
        for c in unroll(4):
            store4(weights, c * FOURTH + mine, p[0, c], p[1, c], p[2, c], p[3, c])
        cuda.syncthreads()
        broken = cuda.syncthreads_or(straight(v, v_at, v_t, j0, keys, values, wide, other, 0, DEPTH))
        for part in unroll(DEPTH // 32):
            o[part] = times_rows(o[part], (s[0], s[1], s[2], s[3]))
        for n in range(0 if broken else SIDE // 4):
            for c in unroll(4):
                four = load4(weights, c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(other, (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    o[part] = add_outer(o[part], four, x)
        for n in range(SIDE // 4 if broken else 0):
            for c in unroll(4):
                four = load4(weights, c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(other, (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    o[part] = rows_of_seen(add_outer(o[part], four, x), o[part], four)
        cuda.syncthreads()
    for e in unroll(4):
        i = i0 + ty + e
        sum_of_row = over_row(total[e])
        divisor = sum_of_row if sum_of_row != ZERO else ONE
        inverse = ONE / divisor
        if i < queries:
            if tx == 0:
                at = 2 * (z * np.int64(queries) + i)
                normal[at], normal[at + 1] = under(top[e]), inverse
            for part in unroll(DEPTH // 32):
                a, b = o[part][4 * e] * inverse, o[part][4 * e + 1] * inverse
                c, d = o[part][4 * e + 2] * inverse, o[part][4 * e + 3] * inverse
                put4(out, o_at + i * np.int64(o_t), tx + 32 * part, values, wide, a, b, c, d)


@template
def query_gradients(
    g, q, k, v, mask, key, out, normal, delta, dq, unused, inner, queries, keys, depth, values, g_b, g_h, g_t, q_b,
    q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t, dq_b, dq_h, dq_t, u_b, u_h, u_t, m_b, m_h, m_t, m_s, masked,
    dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """dq (B, H, T, depth) and delta (B H T), of each query the sum of g out; grid (tiles of queries, heads)."""
    memory = cuda.shared.array(0, np.float32, 16)  # queries and g turned; keys or values; slopes
    turned_g, other, slopes = DEPTH * ROW, 2 * DEPTH * ROW, 3 * DEPTH * ROW
    t, z, i0 = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.x * SIDE
    tx, ty, mine = t % 8 * 4, t // 8 * 4, t % 8 * ROW + t // 8 * 4  # mine: where in a tile this thread's numbers begin
    g_at, q_at, o_at = place(z, inner, g_b, g_h), place(z, inner, q_b, q_h), place(z, inner, o_b, o_h)
    k_at, v_at, m_at = place(z, inner, k_b, k_h), place(z, inner, v_b, v_h), place(z, inner, m_b, m_h)
    turned(q, q_at, q_t, i0, queries, depth, wide, memory, 0, DEPTH)
    turned(g, g_at, g_t, i0, queries, values, wide, memory, turned_g, DEPTH)
    o, top, inverse = registers(DEPTH // 32), registers(4), registers(4)
    own, p = registers(4), registers(4, 4)
    for part in unroll(DEPTH // 32):
        o[part] = zeros(16)
    for e in unroll(4):
        i = i0 + ty + e
        own[e] = products_of_row(g, g_at + i * np.int64(g_t), out, o_at + i * np.int64(o_t),
                                 values if i < queries else 0, wide, DEPTH)  # fmt: skip
        if tx == 0 and i < queries:
            delta[z * np.int64(queries) + i] = own[e]
        at = 2 * (z * np.int64(queries) + min(i, queries - 1))
        top[e], inverse[e] = normal[at], normal[at + 1]
    end = min(keys, max(0, i0 + SIDE + reach))
    for j0 in range(0, end, SIDE):
        turned(k, k_at, k_t, j0, keys, depth, wide, memory, other, DEPTH)
        cuda.syncthreads()
        tile = outer_sum(memory, ty, memory, other + tx, DEPTH)
        cuda.syncthreads()
        turned(v, v_at, v_t, j0, keys, values, wide, memory, other, DEPTH)
        cuda.syncthreads()
        rise = outer_sum(memory, turned_g + ty, memory, other + tx, DEPTH)
        kept = np.uint64(0)
        if dropping:
            kept = bits_of_rows(key, (z * np.int64(queries) + i0 + ty) * keys + j0 + tx, keys, threshold)
        seen = seen_bits(mask, m_at, m_t, m_s, i0 + ty, j0 + tx, queries, keys, reach, masked)
        for e in unroll(4):
            for c in unroll(4):
                p[e, c] = rise[4 * e + c]
                if dropping:
                    p[e, c] = p[e, c] * keep if bit(kept, 4 * e + c) else ZERO
                p[e, c] = exp(tile[4 * e + c] * scale - top[e]) * inverse[e] * (p[e, c] - own[e]) * scale
                p[e, c] = p[e, c] + ZERO if bit(seen, 4 * e + c) else UNSEEN  # a 0 of what is seen is positive
        for c in unroll(4):
            store4(memory, slopes + c * FOURTH + mine, p[0, c], p[1, c], p[2, c], p[3, c])
        cuda.syncthreads()
        broken = cuda.syncthreads_or(straight(k, k_at, k_t, j0, keys, depth, wide, memory, other, DEPTH))
        for n in range(0 if broken else SIDE // 4):
            for c in unroll(4):
                four = load4(memory, slopes + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    o[part] = add_outer(o[part], four, x)
        for n in range(SIDE // 4 if broken else 0):
            for c in unroll(4):
                four = load4(memory, slopes + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    o[part] = rows_of_seen(add_outer(o[part], four, x), o[part], four)
        cuda.syncthreads()
    to = place(z, inner, dq_b, dq_h)
    for e in unroll(4):
        i = i0 + ty + e
        if i < queries:
            for part in unroll(DEPTH // 32):
                put4(dq, to + i * np.int64(dq_t), tx + 32 * part, depth, wide, o[part][4 * e], o[part][4 * e + 1],
                     o[part][4 * e + 2], o[part][4 * e + 3])  # fmt: skip


@template
def key_gradients(
    g, q, k, v, mask, key, out, normal, delta, dk, dv, inner, queries, keys, depth, values, g_b, g_h, g_t, q_b, q_h,
    q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t, dk_b, dk_h, dk_t, dv_b, dv_h, dv_t, m_b, m_h, m_t, m_s, masked,
    dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """dk (B, H, S, depth) and dv (B, H, S, values); grid (tiles of keys, heads). Rows of a tile are keys here."""
    memory = cuda.shared.array(0, np.float32, 16)  # keys and values turned; queries or g; weights; slopes
    turned_v, other, weights, slopes = DEPTH * ROW, 2 * DEPTH * ROW, 3 * DEPTH * ROW, 3 * DEPTH * ROW + SIDE * ROW
    t, z, j0 = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.x * SIDE
    tx, ty, mine = t % 8 * 4, t // 8 * 4, t % 8 * ROW + t // 8 * 4  # mine: where in a tile this thread's numbers begin
    g_at, q_at, m_at = place(z, inner, g_b, g_h), place(z, inner, q_b, q_h), place(z, inner, m_b, m_h)
    turned(k, place(z, inner, k_b, k_h), k_t, j0, keys, depth, wide, memory, 0, DEPTH)
    turned(v, place(z, inner, v_b, v_h), v_t, j0, keys, values, wide, memory, turned_v, DEPTH)
    a, b, p, s = registers(DEPTH // 32), registers(DEPTH // 32), registers(4, 4), registers(4, 4)
    for part in unroll(DEPTH // 32):
        a[part], b[part] = zeros(16), zeros(16)
    for i0 in range(max(0, (j0 - reach) // SIDE * SIDE), queries, SIDE):
        turned(q, q_at, q_t, i0, queries, depth, wide, memory, other, DEPTH)
        cuda.syncthreads()
        tile = outer_sum(memory, ty, memory, other + tx, DEPTH)
        cuda.syncthreads()
        turned(g, g_at, g_t, i0, queries, values, wide, memory, other, DEPTH)
        cuda.syncthreads()
        rise = outer_sum(memory, turned_v + ty, memory, other + tx, DEPTH)
        kept = np.uint64(0)
        if dropping:
            kept = bits_of_rows(key, (z * np.int64(queries) + i0 + tx) * keys + j0 + ty, keys, threshold)
        seen = seen_bits(mask, m_at, m_t, m_s, i0 + tx, j0 + ty, queries, keys, reach, masked)
        for c in unroll(4):
            i = z * np.int64(queries) + min(i0 + tx + c, queries - 1)
            top, inverse, own = normal[2 * i], normal[2 * i + 1], delta[i]
            for e in unroll(4):
                p[e, c] = exp(tile[4 * e + c] * scale - top) * inverse if bit(seen, 4 * c + e) else UNSEEN
                grown = rise[4 * e + c]
                if dropping:
                    grown = grown * keep if bit(kept, 4 * c + e) else ZERO
                s[e, c] = p[e, c] * (grown - own) * scale + ZERO if bit(seen, 4 * c + e) else UNSEEN
                if dropping:
                    dropped = ZERO if bit(seen, 4 * c + e) else UNSEEN
                    p[e, c] = p[e, c] * keep if bit(kept, 4 * c + e) else dropped
        for c in unroll(4):
            store4(memory, weights + c * FOURTH + mine, p[0, c], p[1, c], p[2, c], p[3, c])
            store4(memory, slopes + c * FOURTH + mine, s[0, c], s[1, c], s[2, c], s[3, c])
        cuda.syncthreads()
        broken = cuda.syncthreads_or(straight(g, g_at, g_t, i0, queries, values, wide, memory, other, DEPTH))
        for n in range(0 if broken else SIDE // 4):
            for c in unroll(4):
                four = load4(memory, weights + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    b[part] = add_outer(b[part], four, x)
        for n in range(SIDE // 4 if broken else 0):
            for c in unroll(4):
                four = load4(memory, weights + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    b[part] = rows_of_seen(add_outer(b[part], four, x), b[part], four)
        cuda.syncthreads()
        broken = cuda.syncthreads_or(straight(q, q_at, q_t, i0, queries, depth, wide, memory, other, DEPTH))
        for n in range(0 if broken else SIDE // 4):
            for c in unroll(4):
                four = load4(memory, slopes + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    a[part] = add_outer(a[part], four, x)
        for n in range(SIDE // 4 if broken else 0):
            for c in unroll(4):
                four = load4(memory, slopes + c * FOURTH + n * ROW + ty)
                for part in unroll(DEPTH // 32):
                    x = load4(memory, other + (4 * n + c) * (DEPTH + 4) + tx + 32 * part)
                    a[part] = rows_of_seen(add_outer(a[part], four, x), a[part], four)
        cuda.syncthreads()
    to_k, to_v = place(z, inner, dk_b, dk_h), place(z, inner, dv_b, dv_h)
    for e in unroll(4):
        j = j0 + ty + e
        if j < keys:
            for part in unroll(DEPTH // 32):
                put4(dk, to_k + j * np.int64(dk_t), tx + 32 * part, depth, wide, a[part][4 * e], a[part][4 * e + 1],
                     a[part][4 * e + 2], a[part][4 * e + 3])  # fmt: skip
                put4(dv, to_v + j * np.int64(dv_t), tx + 32 * part, values, wide, b[part][4 * e], b[part][4 * e + 1],
                     b[part][4 * e + 2], b[part][4 * e + 3])  # fmt: skip
