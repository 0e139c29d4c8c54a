"""Products of float32 matrices on the CUDA cores: every sum is one chain over ascending k, whatever the tile.

A block makes a tile of c, ROWS × COLUMNS, going through k in steps of DEPTH: while it multiplies what is in one half of
its shared memory, the next step is on its way to registers, and from there to the other half (the structure is that of
CUTLASS's SIMT kernels; see also Volkov & Demmel, "Benchmarking GPUs to tune dense linear algebra", 2008). A thread has
PART × PART numbers of the tile, as tiles of 4 × 4 in registers, and reads its operands 128 bits at a time. Matrices may
have any strides; where four neighbours in memory can be read at once they are.

b may come in up to three pieces: SIDE by side, as layers of one input have their weights; as the columns of which each
layer gets its own GRADIENT, a matrix of c for each, with the sums of b over k as a last row; or one piece after another
along k, DEEP, which is the gradient of such layers' input.
"""


import numpy as np

from .jit import cuda, jit
from .ptx import add_outer, load4, store4, zeros
from .random import dropped, keep4
from .rows import put4
from .template import registers, template, unroll

SIDE, GRADIENT, DEEP = range(3)
NOTHING = np.float32(0)

SIGNATURE = (
    "float32[...], float32[...], float32[...], float32[...], float32[::1], float32[::1], float32[::1], float32[::1],"
    "int64[::1], int32, int32, int32, int32, int32, int32, int32, int32, int32, int32, int32, int32, int32,"
    "int, int, int, int, int32, int32, int32, int32, bool, bool, bool, int32, bool, uint32, float32"
)


@jit
def share(e, deep, across, along):
    """(row, step of k) within a tile where group e of four numbers begins, neighbours along k if deep."""
    return (e // along, e % along * 4) if deep else (e % across * 4, e // across)


@jit
def fetch(x, start, i, k, x_i, x_k, rows, last, deep, vector):
    """Four numbers from (i, k) on, along k if deep; 0 where i reaches `rows` or k `last`."""
    step, left, at = x_k, last - k if i < rows else 0, start + i * x_i + k * x_k
    if not deep:
        step, left = x_i, rows - i if k < last else 0
    if vector and left >= 4:
        return load4(x, at)
    a, b, c, d = NOTHING, NOTHING, NOTHING, NOTHING
    if left > 0:
        a = x[at]
    if left > 1:
        b = x[at + step]
    if left > 2:
        c = x[at + 2 * step]
    if left > 3:
        d = x[at + 3 * step]
    return a, b, c, d


@jit
def within(x, start, i, k, x_i, x_k):
    """The same where all four numbers exist and are neighbours in aligned memory."""
    return load4(x, start + i * x_i + k * x_k)


@jit
def keep(shared, at, step, deep, four):
    """Put four numbers `step` apart, or side by side."""
    if deep:
        shared[at], shared[at + step], shared[at + 2 * step], shared[at + 3 * step] = four
    else:
        store4(shared, at, four[0], four[1], four[2], four[3])


@jit
def piece_of(block, n1, n2, columns):
    """(piece, first column in it) of a block of columns, the pieces being of n1, n2 and any number of columns."""
    blocks1, blocks2 = (n1 + columns - 1) // columns, (n2 + columns - 1) // columns
    if block < blocks1:
        return 0, block * columns
    if block < blocks1 + blocks2:
        return 1, (block - blocks1) * columns
    return 2, (block - blocks1 - blocks2) * columns


@jit
def chosen(piece, first, second, third):
    """One of three."""
    return first if piece == 0 else second if piece == 1 else third


@jit
def above(y):
    """relu; a NaN stays."""
    return NOTHING if y <= NOTHING else y


@jit
def finished(four, bias, relu):
    """Four numbers with their biases and relu."""
    a, b, c, d = four[0] + bias[0], four[1] + bias[1], four[2] + bias[2], four[3] + bias[3]
    return (above(a), above(b), above(c), above(d)) if relu else (a, b, c, d)


@template
def product(
    a, b1, b2, b3, c, bias1, bias2, bias3, key, m, n1, n2, n3, depth, a_i, a_k, b1_k, b2_k, b3_k, b1_j, b2_j, b3_j,
    a_outer, a_inner, b_outer, b_inner, inner, mode, chunk, extra, wide_a, wide_b, wide_c, biased, relu, threshold,
    scale, *, ROWS, COLUMNS, DEPTH, PART, THREADS, A_GROUPS, B_GROUPS, AT_ONCE, DROPPING,
):  # fmt: skip
    """c = a b, a grid of (tiles, parts of k, batch); the parts of k are `chunk` long, one c behind the other.

    m × depth is a's size, n1, n2 and n3 are the columns of b's pieces; DEEP: n1 columns, and depth, n2 and n3 long.
    extra: 1 where sums follow a GRADIENT; bit i of `biased`: piece i has a bias.
    """
    left = cuda.shared.array(2 * DEPTH * (ROWS + 4), np.float32, 16)
    right = cuda.shared.array(2 * DEPTH * (COLUMNS + 4), np.float32, 16)
    t, z = cuda.threadIdx.x, cuda.blockIdx.z
    tiles_m = (m + ROWS - 1) // ROWS
    i0 = cuda.blockIdx.x % tiles_m * ROWS
    piece, j0, width, total = 0, cuda.blockIdx.x // tiles_m * COLUMNS, n1, n1
    if mode != DEEP:
        piece, j0 = piece_of(cuda.blockIdx.x // tiles_m, n1, n2, COLUMNS)
        width, total = chosen(piece, n1, n2, n3), n1 + n2 + n3
    before = chosen(piece, 0, n1, n1 + n2)
    a_at = z // inner * a_outer + z % inner * a_inner
    b_at = z // inner * b_outer + z % inner * b_inner
    first_k, last_k = cuda.blockIdx.y * chunk, min(depth, (cuda.blockIdx.y + 1) * chunk)
    a_deep = a_k == 1  # four numbers that this thread reads are neighbours along k

    acc, x, y = registers(PART // 4, PART // 4), registers(PART // 4), registers(PART // 4)
    p, q, a_i0, a_k0, b_j0, b_k0 = (registers(A_GROUPS), registers(B_GROUPS), registers(A_GROUPS), registers(A_GROUPS),
                                    registers(B_GROUPS), registers(B_GROUPS))  # fmt: skip
    for r in unroll(PART // 4):
        for s in unroll(PART // 4):
            acc[r, s] = zeros(16)
    for g in unroll(A_GROUPS):
        p[g] = (NOTHING, NOTHING, NOTHING, NOTHING)
        a_i0[g], a_k0[g] = share(t + g * THREADS, a_deep, ROWS // 4, DEPTH // 4)
    for g in unroll(B_GROUPS):
        q[g] = (NOTHING, NOTHING, NOTHING, NOTHING)
    tx, ty = t % (COLUMNS // PART) * 4, t // (COLUMNS // PART) * 4
    column_sum, stage = NOTHING, 0
    for turn in range(3 if mode == DEEP else 1):
        if mode == DEEP:
            piece, last_k = turn, chosen(turn, depth, n2, n3)
        b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
        a_from = a_at + chosen(turn, 0, depth, depth + n2) * a_k
        b_from = b_at + before * b_j if mode == GRADIENT else b_at
        b_deep = b_k == 1
        for g in unroll(B_GROUPS):
            b_j0[g], b_k0[g] = share(t + g * THREADS, b_deep, COLUMNS // 4, DEPTH // 4)
        steps = (last_k - first_k + DEPTH - 1) // DEPTH
        a_whole, b_whole = wide_a and i0 + ROWS <= m, wide_b and j0 + COLUMNS <= width
        for step in range(-1, steps):
            k0 = first_k + (step + 1) * DEPTH
            if step + 1 < steps:
                whole = k0 + DEPTH <= last_k
                if whole and a_whole:
                    for g in unroll(A_GROUPS):
                        p[g] = within(a, a_from, i0 + a_i0[g], k0 + a_k0[g], a_i, a_k)
                else:
                    for g in unroll(A_GROUPS):
                        p[g] = fetch(a, a_from, i0 + a_i0[g], k0 + a_k0[g], a_i, a_k, m, last_k, a_deep, wide_a)
                if whole and b_whole:
                    for g in unroll(B_GROUPS):
                        q[g] = within(b, b_from, j0 + b_j0[g], k0 + b_k0[g], b_j, b_k)
                else:
                    for g in unroll(B_GROUPS):
                        q[g] = fetch(b, b_from, j0 + b_j0[g], k0 + b_k0[g], b_j, b_k, width, last_k, b_deep, wide_b)
            if step >= 0:
                l0, r0 = stage * (DEPTH * (ROWS + 4)) + ty, stage * (DEPTH * (COLUMNS + 4)) + tx
                for _ in range(DEPTH // AT_ONCE):
                    for k in unroll(AT_ONCE):
                        for r in unroll(PART // 4):
                            x[r] = load4(left, l0 + k * (ROWS + 4) + r * (ROWS // 2))
                            y[r] = load4(right, r0 + k * (COLUMNS + 4) + r * (COLUMNS // 2))
                        for r in unroll(PART // 4):
                            for s in unroll(PART // 4):
                                acc[r, s] = add_outer(acc[r, s], x[r], y[s])
                    l0 += AT_ONCE * (ROWS + 4)
                    r0 += AT_ONCE * (COLUMNS + 4)
                if extra and i0 == 0 and t < COLUMNS:
                    for k in range(DEPTH):
                        column_sum += right[(stage * DEPTH + k) * (COLUMNS + 4) + t]
                stage ^= 1
            if step + 1 < steps:
                for g in unroll(A_GROUPS):
                    keep(left, (stage * DEPTH + a_k0[g]) * (ROWS + 4) + a_i0[g], ROWS + 4, a_deep, p[g])
                for g in unroll(B_GROUPS):
                    keep(right, (stage * DEPTH + b_k0[g]) * (COLUMNS + 4) + b_j0[g], COLUMNS + 4, b_deep, q[g])
                cuda.syncthreads()

    row, c_at = total, z * np.int64(m) * total + before
    if mode == GRADIENT:
        row, c_at = width, cuda.blockIdx.y * np.int64(m + extra) * total + np.int64(m + extra) * before
        if extra and i0 == 0 and t < COLUMNS and j0 + t < width:
            c[c_at + m * width + j0 + t] = column_sum
    kept = np.uint64(0)
    if DROPPING:
        for g in range(PART * PART // 4):  # one copy of the random bits' code, and two registers for their decisions
            i = i0 + g // 4 % (PART // 4) * (ROWS // 2) + ty + g % 4
            j = j0 + g // PART * (COLUMNS // 2) + tx
            kept |= keep4(key, c_at + i * row + j, threshold) << np.uint64(4 * g)
    bias = chosen(piece, bias1, bias2, bias3)
    for s in unroll(PART // 4):
        j = j0 + s * (COLUMNS // 2) + tx
        x[0] = fetch(bias, 0, 0, j, 0, 1, 1, width if biased >> piece & 1 else 0, True, False)
        for r in unroll(PART // 4):
            for e in unroll(4):
                i = i0 + r * (ROWS // 2) + ty + e
                y[0] = (acc[r, s][4 * e], acc[r, s][4 * e + 1], acc[r, s][4 * e + 2], acc[r, s][4 * e + 3])
                if i < m:
                    y[0] = finished(y[0], x[0], relu)
                    if DROPPING:
                        y[0] = dropped(y[0], kept >> np.uint64(4 * (s * PART + r * 4 + e)), scale)
                    put4(c, c_at + i * row, j, width, wide_c, y[0][0], y[0][1], y[0][2], y[0][3])
