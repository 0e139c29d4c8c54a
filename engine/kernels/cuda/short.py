"""The kernels of attention for at most 32 keys: one tile holds all of a head's, so nothing waits for a second one.

Such heads are little work, and their time is that of what follows upon what. So all copies begin at once, forward has
one barrier and backward, a single kernel for queries and keys, two. A warp makes the weights of four queries: its lanes
are the keys, each with a score of every one of the four; then its lanes are features of the result. A block has as
many warps as the head needs, one for four queries or keys.

Every sum is made in the order of `flash.py`, so that a sentence's results and gradients are the same bits by either.
"""

import numpy as np

from ..compiled import exp, philox
from .cp_async import arrived, commit, copy1, copy4
from .flash import products_of_row, under
from .jit import cuda, jit
from .ptx import add_outer, load4, zeros
from .rows import EVERYBODY, LOWEST, ZERO, finite, greater
from .template import registers, template, unroll
from .unseen import UNSEEN, sum_of_seen

SIDE = 32  # the most keys, and queries of a block
THREADS = 256  # of the largest block: 32 for each four rows
ROW = SIDE + 4  # floats from one query's weights to the next's
GAP = 4  # floats between rows of a matrix in shared memory
ONE = np.float32(1)
_8 = np.uint64(8)


@jit
def bring(x, at, step, first, rows, depth, wide, to, start, padded):
    """Begin to copy this warp's four rows of a matrix; 0 where there is no row or column."""
    lane, own = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5 << 2
    if wide:
        row = own + (lane >> 3)
        source, target = at + (first + row) * np.int64(step), start + row * (padded + GAP)
        for part in range(padded // 32):
            d = (lane & 7) * 4 + 32 * part
            copy4(to, target + d, x, source + d, 4 if first + row < rows and d < depth else 0)
    else:
        for e in range(4):
            row = own + e
            for part in range(padded // 32):
                d = lane + 32 * part
                copy1(to, start + row * (padded + GAP) + d, x, at + (first + row) * np.int64(step) + d,
                      1 if first + row < rows and d < depth else 0)  # fmt: skip


@jit
def flags(mask, at, step_i, step_j, i, j, queries, keys, masked):
    """What the mask says of queries i .. i + 3 and key j, in bounds: nothing here waits for it."""
    a, b, c, d = np.uint8(1), np.uint8(1), np.uint8(1), np.uint8(1)
    if masked:
        last, place = queries - 1, at + min(j, keys - 1) * np.int64(step_j)
        a, b = mask[place + min(i, last) * step_i], mask[place + min(i + 1, last) * step_i]
        c, d = mask[place + min(i + 2, last) * step_i], mask[place + min(i + 3, last) * step_i]
    return a, b, c, d


@jit
def seen_by_rows(said, i, j, queries, keys, reach):
    """Which of queries i .. i + 3 see key j, as 4 bits."""
    first, last = max(0, j - reach - i), (queries - i if j < keys else 0)  # they are neighbours
    bits = (1 if said[0] != 0 else 0) | (2 if said[1] != 0 else 0)
    bits |= (4 if said[2] != 0 else 0) | (8 if said[3] != 0 else 0)
    return bits & (15 << min(4, first)) & ((1 << max(0, min(4, last))) - 1)


@jit
def kept_by_rows(bits, z, i, queries, keys, threshold):
    """Which weights of queries i .. i + 3 for this lane's key dropout keeps under the random key `bits`, as 4 bits.

    Eight lanes make the bits of a query: random numbers come in fours, and a row may begin anywhere in one.
    """
    lane = cuda.threadIdx.x & 31
    start = (z * np.int64(queries) + i + (lane >> 3)) * keys
    skipped, least, row = start & 3, np.uint64(threshold), np.int64(0)
    for n in range(lane & 7, (skipped + keys + 3) >> 2, 8):
        w, x, y, z4 = philox(bits, np.uint64((start >> 2) + n))
        four = (1 if w >> _8 >= least else 0) | (2 if x >> _8 >= least else 0)
        four |= (4 if y >> _8 >= least else 0) | (8 if z4 >> _8 >= least else 0)
        row |= np.int64(four) << (4 * n) >> skipped
    word = np.int32(row)
    for lanes in (1, 2, 4):
        word |= cuda.shfl_xor_sync(EVERYBODY, word, lanes)
    kept = 0
    for e in range(4):
        kept |= (cuda.shfl_sync(EVERYBODY, word, 8 * e) >> lane & 1) << e
    return kept


@jit
def sum_of_row(a, b, c, d):
    """Of four numbers a lane the sum over the lanes: lane n has that of number n & 3."""
    odd, high = cuda.threadIdx.x & 1 != 0, cuda.threadIdx.x & 2 != 0
    x = (b if odd else a) + cuda.shfl_xor_sync(EVERYBODY, a if odd else b, 1)
    y = (d if odd else c) + cuda.shfl_xor_sync(EVERYBODY, c if odd else d, 1)
    z = (y if high else x) + cuda.shfl_xor_sync(EVERYBODY, x if high else y, 2)
    for lanes in (4, 8, 16):
        z = z + cuda.shfl_xor_sync(EVERYBODY, z, lanes)
    return z


@jit
def top_of_row(a, b, c, d):
    """The same for the largest; none of the numbers is NaN."""
    odd, high = cuda.threadIdx.x & 1 != 0, cuda.threadIdx.x & 2 != 0
    x = greater(b if odd else a, cuda.shfl_xor_sync(EVERYBODY, a if odd else b, 1))
    y = greater(d if odd else c, cuda.shfl_xor_sync(EVERYBODY, c if odd else d, 1))
    z = greater(y if high else x, cuda.shfl_xor_sync(EVERYBODY, x if high else y, 2))
    for lanes in (4, 8, 16):
        z = greater(z, cuda.shfl_xor_sync(EVERYBODY, z, lanes))
    return z


@jit
def score(s, memory, x, y, step, depth):
    """s + the products of four rows from x on with the row at y, over `depth` features (rounded up to 16)."""
    for start in range(0, depth, 16):
        for n in range(4):
            d = start + 4 * n
            f = load4(memory, y + d)
            a, b = load4(memory, x + d), load4(memory, x + step + d)
            c, e = load4(memory, x + 2 * step + d), load4(memory, x + 3 * step + d)
            s = add_outer(s, (a[0], b[0], c[0], e[0]), (f[0],))
            s = add_outer(s, (a[1], b[1], c[1], e[1]), (f[1],))
            s = add_outer(s, (a[2], b[2], c[2], e[2]), (f[2],))
            s = add_outer(s, (a[3], b[3], c[3], e[3]), (f[3],))
    return s


@jit
def mend(out, at, step, memory, weights, row, along, matrix, gap, rows, columns, count, shared):
    """Make this lane's numbers of `rows` rows of a result again where they are NaN, without what is masked.

    A row's weights are `row` behind those of the last, and `along` apart; shared: its factor lies behind them.
    """
    for e in range(rows):
        for d in range(cuda.threadIdx.x & 31, columns, 32):
            place = at + e * np.int64(step) + d
            if out[place] != out[place]:
                total = sum_of_seen(ZERO, memory, weights + e * row, along, memory, matrix + d, gap, count)
                out[place] = total * memory[weights + e * row + SIDE] if shared else total


_STEPS = "int, int, int32, "  # from one batch, head and position to the next
_SIZES = "int32, int32, int32, int32, "  # queries, keys, depth, values
_REST = "int, int, int32, int32, bool, bool, bool, int32, float32, uint32, float32"  # from m_b on
FORWARD = (
    "float32[...], float32[...], float32[...], uint8[...], int64[::1], float32[...], float32[::1], "
    + _SIZES + 4 * _STEPS + _REST
)  # fmt: skip
GRADIENTS = (
    "float32[...], float32[...], float32[...], float32[...], uint8[...], int64[::1], float32[...], float32[::1], "
    "float32[...], float32[...], float32[...], " + _SIZES + 8 * _STEPS + _REST
)


@template
def forward(
    q, k, v, mask, key, out, normal, queries, keys, depth, values, q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t,
    o_b, o_h, o_t, m_b, m_h, m_t, m_s, masked, dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """out (B, H, T, values) and normal (B H T, 2), as in flash.py; grid (tiles of queries, H, B)."""
    memory = cuda.shared.array(0, np.float32, 16)  # queries, keys, values; of each query its weights
    lane, own, rows = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5 << 2, cuda.blockDim.x >> 3
    b, h, i0 = cuda.blockIdx.z, cuda.blockIdx.y, cuda.blockIdx.x * SIDE
    z, i = b * cuda.gridDim.y + h, i0 + own
    of_k, of_v, weights = rows * (DEPTH + GAP), 2 * rows * (DEPTH + GAP), 3 * rows * (DEPTH + GAP) + own * ROW
    bits = key[0] if dropping else np.int64(0)
    said = flags(mask, b * m_b + h * m_h, m_t, m_s, i, lane, queries, keys, masked)
    bring(q, b * q_b + h * q_h, q_t, i0, queries, depth, wide, memory, 0, DEPTH)
    bring(k, b * k_b + h * k_h, k_t, 0, keys, depth, wide, memory, of_k, DEPTH)
    bring(v, b * v_b + h * v_h, v_t, 0, keys, values, wide, memory, of_v, DEPTH)
    kept = 0
    if dropping:
        kept = kept_by_rows(np.uint64(bits), z, i, queries, keys, threshold)
    seen = seen_by_rows(said, i, lane, queries, keys, reach)
    commit()
    arrived(0)
    cuda.syncthreads()
    if i < queries:
        p, a, o = registers(4), registers(4), registers(DEPTH // 32)
        mine = of_k + min(lane, rows - 1) * (DEPTH + GAP)
        s = score(zeros(4), memory, own * (DEPTH + GAP), mine, DEPTH + GAP, depth)
        for e in unroll(4):
            p[e] = s[e] * scale if seen & 1 << e != 0 else LOWEST
        top = top_of_row(greater(p[0], LOWEST), greater(p[1], LOWEST), greater(p[2], LOWEST), greater(p[3], LOWEST))
        for e in unroll(4):
            grown = exp(p[e] - finite(cuda.shfl_sync(EVERYBODY, top, e)))  # of all: four branches would take turns
            p[e] = grown if seen & 1 << e != 0 else UNSEEN
        total = sum_of_row(p[0], p[1], p[2], p[3])
        for e in unroll(4):
            if dropping:
                dropped = ZERO if seen & 1 << e != 0 else UNSEEN
                p[e] = p[e] * keep if kept & 1 << e != 0 else dropped
            memory[weights + e * ROW + lane] = p[e]
        cuda.syncwarp()
        for part in unroll(DEPTH // 32):
            o[part] = zeros(4)
        for j in range(0, keys, 4):
            for e in unroll(4):
                a[e] = load4(memory, weights + e * ROW + j)
            for f in unroll(4):
                for part in unroll(DEPTH // 32):
                    o[part] = add_outer(o[part], (a[0][f], a[1][f], a[2][f], a[3][f]),
                                        (memory[of_v + (j + f) * (DEPTH + GAP) + lane + 32 * part],))  # fmt: skip
        divisor = total if total != ZERO else ONE
        inverse = ONE / divisor
        if lane < 4 and i + lane < queries:
            at = 2 * (z * np.int64(queries) + i + lane)
            normal[at], normal[at + 1] = under(top), inverse
        to, broken = b * o_b + h * o_h + lane, False
        for e in unroll(4):
            share = cuda.shfl_sync(EVERYBODY, inverse, e)
            if i + e < queries:
                for part in unroll(DEPTH // 32):
                    if lane + 32 * part < values:
                        out[to + (i + e) * np.int64(o_t) + 32 * part] = o[part][e] * share
                        broken = broken or o[part][e] != o[part][e]
        if cuda.any_sync(EVERYBODY, broken):
            if lane < 4:
                memory[weights + lane * ROW + SIDE] = inverse
            cuda.syncwarp()
            mend(out, to - lane + i * np.int64(o_t), o_t, memory, weights, ROW, 1, of_v, DEPTH + GAP,
                 min(4, queries - i), values, keys, True)  # fmt: skip


@template
def gradients(
    g, q, k, v, mask, key, out, normal, dq, dk, dv, queries, keys, depth, values, g_b, g_h, g_t, q_b, q_h, q_t, k_b,
    k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t, dq_b, dq_h, dq_t, dk_b, dk_h, dk_t, dv_b, dv_h, dv_t, m_b, m_h, m_t, m_s,
    masked, dropping, wide, reach, scale, threshold, keep, *, DEPTH
):  # fmt: skip
    """dq (B, H, T, depth), dk (B, H, S, depth) and dv (B, H, S, values) for at most 32 queries; grid (1, H, B)."""
    memory = cuda.shared.array(0, np.float32, 16)  # queries, keys, values, g; weights; slopes
    lane, own, rows = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5 << 2, cuda.blockDim.x >> 3
    b, h = cuda.blockIdx.z, cuda.blockIdx.y
    z = b * cuda.gridDim.y + h
    of_k, of_v, of_g = rows * (DEPTH + GAP), 2 * rows * (DEPTH + GAP), 3 * rows * (DEPTH + GAP)
    weights = 4 * rows * (DEPTH + GAP)
    slopes = weights + rows * ROW
    at = 2 * (z * np.int64(queries) + min(own + (lane & 3), queries - 1))
    top, inverse = normal[at], normal[at + 1]
    bits = key[0] if dropping else np.int64(0)
    said = flags(mask, b * m_b + h * m_h, m_t, m_s, own, lane, queries, keys, masked)
    bring(q, b * q_b + h * q_h, q_t, 0, queries, depth, wide, memory, 0, DEPTH)
    bring(k, b * k_b + h * k_h, k_t, 0, keys, depth, wide, memory, of_k, DEPTH)
    bring(g, b * g_b + h * g_h, g_t, 0, queries, values, wide, memory, of_g, DEPTH)
    bring(v, b * v_b + h * v_h, v_t, 0, keys, values, wide, memory, of_v, DEPTH)
    row, kept = own + (lane >> 3), 0
    delta = products_of_row(g, b * g_b + h * g_h + row * np.int64(g_t), out, b * o_b + h * o_h + row * np.int64(o_t),
                            values if row < queries else 0, wide, DEPTH)  # fmt: skip
    if dropping:
        kept = kept_by_rows(np.uint64(bits), z, own, queries, keys, threshold)
    seen = seen_by_rows(said, own, lane, queries, keys, reach)
    commit()
    arrived(0)
    cuda.syncthreads()
    p, r, a, c = registers(4), registers(4), registers(4), registers(4)
    o, w = registers(DEPTH // 32), registers(DEPTH // 32)
    mine = min(lane, rows - 1) * (DEPTH + GAP)
    s = score(zeros(4), memory, own * (DEPTH + GAP), of_k + mine, DEPTH + GAP, depth)
    rise = score(zeros(4), memory, of_g + own * (DEPTH + GAP), of_v + mine, DEPTH + GAP, values)
    for e in unroll(4):
        grown = exp(s[e] * scale - cuda.shfl_sync(EVERYBODY, top, e)) * cuda.shfl_sync(EVERYBODY, inverse, e)
        p[e] = grown if seen & 1 << e != 0 else UNSEEN
        r[e], weight = rise[e], p[e]
        if dropping:
            dropped = ZERO if seen & 1 << e != 0 else UNSEEN
            r[e] = rise[e] * keep if kept & 1 << e != 0 else ZERO
            weight = p[e] * keep if kept & 1 << e != 0 else dropped
        memory[weights + (own + e) * ROW + lane] = weight
    for e in unroll(4):
        slope = p[e] * (r[e] - cuda.shfl_sync(EVERYBODY, delta, 8 * e)) * scale
        r[e] = slope + ZERO if seen & 1 << e != 0 else UNSEEN  # a 0 of what is seen is positive
        memory[slopes + (own + e) * ROW + lane] = r[e]
    cuda.syncthreads()
    for part in unroll(DEPTH // 32):
        o[part] = zeros(4)
    for j in range(0, keys, 4):
        for e in unroll(4):
            a[e] = load4(memory, slopes + (own + e) * ROW + j)
        for f in unroll(4):
            for part in unroll(DEPTH // 32):
                o[part] = add_outer(o[part], (a[0][f], a[1][f], a[2][f], a[3][f]),
                                    (memory[of_k + (j + f) * (DEPTH + GAP) + lane + 32 * part],))  # fmt: skip
    broken = False
    for e in unroll(4):
        if own + e < queries:
            for part in unroll(DEPTH // 32):
                if lane + 32 * part < depth:
                    dq[b * dq_b + h * dq_h + (own + e) * np.int64(dq_t) + lane + 32 * part] = o[part][e]
                    broken = broken or o[part][e] != o[part][e]
    if broken:
        mend(dq, b * dq_b + h * dq_h + own * np.int64(dq_t), dq_t, memory, slopes + own * ROW, ROW, 1, of_k,
             DEPTH + GAP, min(4, queries - own), depth, keys, False)  # fmt: skip
        broken = False
    for part in unroll(DEPTH // 32):
        o[part], w[part] = zeros(4), zeros(4)
    for i in range(0, queries, 4):
        for e in unroll(4):
            a[e] = load4(memory, weights + (i + e) * ROW + own)
            c[e] = load4(memory, slopes + (i + e) * ROW + own)
            for part in unroll(DEPTH // 32):
                w[part] = add_outer(w[part], a[e],
                                    (memory[of_g + (i + e) * (DEPTH + GAP) + lane + 32 * part],))  # fmt: skip
                o[part] = add_outer(o[part], c[e], (memory[(i + e) * (DEPTH + GAP) + lane + 32 * part],))
    for e in unroll(4):
        if own + e < keys:
            for part in unroll(DEPTH // 32):
                if lane + 32 * part < depth:
                    dk[b * dk_b + h * dk_h + (own + e) * np.int64(dk_t) + lane + 32 * part] = o[part][e]
                    broken = broken or o[part][e] != o[part][e]
                if lane + 32 * part < values:
                    dv[b * dv_b + h * dv_h + (own + e) * np.int64(dv_t) + lane + 32 * part] = w[part][e]
                    broken = broken or w[part][e] != w[part][e]
    if broken:
        mend(dk, b * dk_b + h * dk_h + own * np.int64(dk_t), dk_t, memory, slopes + own, 1, ROW, 0, DEPTH + GAP,
             min(4, keys - own), depth, queries, False)  # fmt: skip
        mend(dv, b * dv_b + h * dv_h + own * np.int64(dv_t), dv_t, memory, weights + own, 1, ROW, of_g, DEPTH + GAP,
             min(4, keys - own), values, queries, False)  # fmt: skip
