"""Products of float32 matrices on the CUDA cores: a sum is one chain over ascending k, or one for each part of k that
is cut, whatever the tile.

A block makes a tile of c, ROWS × COLUMNS, going through k in steps of DEPTH: while it multiplies what is in one of the
STAGES parts of its shared memory, the next steps are on their way to the others (the structure is that of CUTLASS's
SIMT kernels with asynchronous copies; see also Volkov & Demmel, "Benchmarking GPUs to tune dense linear algebra",
2008). A thread has ACROSS × ALONG numbers of the tile, as tiles of 4 × 4 in registers, and reads its operands 128 bits
at a time. Matrices may have any strides: in shared memory rows are neighbours, so four at a time come where rows are
neighbours in memory, too, and else one by one, eight lanes along k beside four along the rows: in different banks.

b may come in up to three pieces: SIDE by side, as layers of one input have their weights; as the columns of which each
layer gets its own GRADIENT, a matrix of c for each, with the sums of b over k as a last row; or one piece after another
along k, DEEP, which is the gradient of such layers' input.
"""


import numpy as np

from .cp_async import arrived, commit, copy1, copy4
from .jit import cuda, jit
from .ptx import add_outer, load1, load4, zeros
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


@template
def bring(shared, to, x, start, x_i, x_k, i0, rows, k0, end, wide, t, *, ROWS, DEPTH, THREADS):
    """Ask for a tile of ROWS rows from i0 on, and of DEPTH steps of k from k0 on; zeros from `rows` and `end` on.

    In shared memory, from `to` on, one step of k is ROWS + 4 numbers behind the other.
    """
    whole = i0 + ROWS <= rows and k0 + DEPTH <= end
    if wide and x_i == 1:
        row, k = t % (ROWS // 4) * 4, t // (ROWS // 4)
        at, put = np.int32(start + (i0 + row) + (k0 + k) * x_k), np.int32(to + k * (ROWS + 4) + row)
        further = np.int32(4 * THREADS // ROWS * x_k)
        if whole:
            for u in unroll(ROWS * DEPTH // (4 * THREADS)):
                copy4(shared, put + u * (4 * THREADS // ROWS) * (ROWS + 4), x, at, 4)
                at = np.int32(at + further)
        else:
            there, k = max(0, min(4, rows - i0 - row)), k0 + k
            for u in unroll(ROWS * DEPTH // (4 * THREADS)):
                copy4(shared, put + u * (4 * THREADS // ROWS) * (ROWS + 4), x, at, there if k < end else 0)
                at = np.int32(at + further)
                k += 4 * THREADS // ROWS
    elif x_k == 1:  # a warp: eight lanes along k, four along the rows, which are different banks
        row, k = t // 8 % ROWS, t % 8 + t // (8 * ROWS) * 8
        at, put = np.int32(start + (i0 + row) * x_i + (k0 + k)), np.int32(to + k * (ROWS + 4) + row)
        further = np.int32(THREADS // 8 * x_i)
        back = np.int32(8 - (8 * ROWS // THREADS - 1) * further)
        if whole:
            for u in unroll(ROWS * DEPTH // THREADS):
                copy1(shared, put + u % (8 * ROWS // THREADS) * (THREADS // 8)
                      + u // (8 * ROWS // THREADS) * (8 * (ROWS + 4)), x, at, 1)  # fmt: skip
                at = np.int32(at + (back if (u + 1) % (8 * ROWS // THREADS) == 0 else further))
        else:
            row, k = rows - i0 - row, end - k0 - k
            for u in unroll(ROWS * DEPTH // THREADS):
                copy1(shared, put + u % (8 * ROWS // THREADS) * (THREADS // 8)
                      + u // (8 * ROWS // THREADS) * (8 * (ROWS + 4)), x, at,
                      row > u % (8 * ROWS // THREADS) * (THREADS // 8) and k > u // (8 * ROWS // THREADS) * 8
                      )  # fmt: skip
                at = np.int32(at + (back if (u + 1) % (8 * ROWS // THREADS) == 0 else further))
    else:
        row, k = t % ROWS, t // ROWS
        at, further = np.int32(start + (i0 + row) * x_i + (k0 + k) * x_k), np.int32(THREADS // ROWS * x_k)
        there, k = row < rows - i0, k0 + k
        put = to + (k - k0) * (ROWS + 4) + row
        for u in unroll(ROWS * DEPTH // THREADS):
            copy1(shared, put + u * (THREADS // ROWS) * (ROWS + 4), x, at, there and k < end)
            at = np.int32(at + further)
            k += THREADS // ROWS


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
def steps_of(first, second, third):
    """Where this block's steps begin and end among those of pieces that lie one behind the other: all of them, or one
    piece's where each is a part."""
    if cuda.gridDim.y == 1:
        return 0, first + second + third
    y = cuda.blockIdx.y
    return chosen(y, 0, first, first + second), chosen(y, first, first + second, first + second + third)


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
    scale, *, ROWS, COLUMNS, DEPTH, STAGES, ACROSS, ALONG, THREADS, AT_ONCE, DROPPING, DEEPLY, BRING_A, BRING_B,
):  # fmt: skip
    """c = a b, a grid of (tiles, parts of k, batch); the parts of k are `chunk` long (DEEP: a piece), one c behind the
    other.

    m × depth is a's size, n1, n2 and n3 are the columns of b's pieces; DEEP: n1 columns, and depth, n2 and n3 long.
    extra: 1 where sums follow a GRADIENT; bit i of `biased`: piece i has a bias.
    """
    left = cuda.shared.array(STAGES * DEPTH * (ROWS + 4), np.float32, 16)
    right = cuda.shared.array(STAGES * DEPTH * (COLUMNS + 4), np.float32, 16)
    t, z = cuda.threadIdx.x, cuda.blockIdx.z
    tiles_m = (m + ROWS - 1) // ROWS
    i0 = cuda.blockIdx.x % tiles_m * ROWS
    piece, j0, width, total = 0, cuda.blockIdx.x // tiles_m * COLUMNS, n1, n1
    if not DEEPLY:
        piece, j0 = piece_of(cuda.blockIdx.x // tiles_m, n1, n2, COLUMNS)
        width, total = chosen(piece, n1, n2, n3), n1 + n2 + n3
    before = chosen(piece, 0, n1, n1 + n2)
    a_at = z // inner * a_outer + z % inner * a_inner
    b_at = z // inner * b_outer + z % inner * b_inner
    first_k, last_k = cuda.blockIdx.y * chunk, min(depth, (cuda.blockIdx.y + 1) * chunk)
    steps = (last_k - first_k + DEPTH - 1) // DEPTH
    b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
    first_step, k0, end, a_from, b_from = 0, first_k, last_k, a_at, b_at + before * b_j if mode == GRADIENT else b_at
    if DEEPLY:
        steps1, steps2 = (depth + DEPTH - 1) // DEPTH, (n2 + DEPTH - 1) // DEPTH
        first_step, steps = steps_of(steps1, steps2, (n3 + DEPTH - 1) // DEPTH)

    acc, x, y = registers(ACROSS // 4, ALONG // 4), registers(ACROSS // 4), registers(ALONG // 4)
    for r in unroll(ACROSS // 4):
        for s in unroll(ALONG // 4):
            acc[r, s] = zeros(16)
    # 8 × 4 threads of a warp: lanes 2 i and 2 i + 1 read the same of a, and lanes i and i + 2 the same of b, so that
    # half a warp's 128-bit loads are one access to shared memory
    tx = (t // 32 % (COLUMNS // ALONG // 8) * 8 + t % 2 + t // 4 % 4 * 2) * 4
    ty = (t // 32 // (COLUMNS // ALONG // 8) * 4 + t // 2 % 2 + t // 16 % 2 * 2) * 4
    column_sum, stage, next_stage = NOTHING, 0, 0
    for step in range(first_step + 1 - STAGES, steps):
        if step >= first_step:
            arrived(STAGES - 2)
            cuda.syncthreads()
        ahead = step + STAGES - 1
        if ahead < steps:
            if DEEPLY:
                piece = 0 if ahead < steps1 else 1 if ahead < steps1 + steps2 else 2
                k0 = (ahead - chosen(piece, 0, steps1, steps1 + steps2)) * DEPTH
                end, a_from = chosen(piece, depth, n2, n3), a_at + chosen(piece, 0, depth, depth + n2) * a_k
                b, b_k = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k)
                b_j = chosen(piece, b1_j, b2_j, b3_j)
            BRING_A(left, next_stage * (DEPTH * (ROWS + 4)), a, a_from, a_i, a_k, i0, m, k0, end, wide_a, t)
            BRING_B(right, next_stage * (DEPTH * (COLUMNS + 4)), b, b_from, b_j, b_k, j0, width, k0, end, wide_b, t)
            next_stage = next_stage + 1 if next_stage + 1 < STAGES else 0
            k0 += DEPTH
        commit()
        if step >= first_step:
            l0, r0 = stage * (DEPTH * (ROWS + 4)) + ty, stage * (DEPTH * (COLUMNS + 4)) + tx
            for _ in range(DEPTH // AT_ONCE):
                for k in unroll(AT_ONCE):
                    for r in unroll(ACROSS // 4):
                        x[r] = load4(left, l0 + k * (ROWS + 4) + r * (4 * ROWS // ACROSS))
                    for s in unroll(ALONG // 4):
                        y[s] = load4(right, r0 + k * (COLUMNS + 4) + s * (4 * COLUMNS // ALONG))
                    for r in unroll(ACROSS // 4):
                        for s in unroll(ALONG // 4):
                            acc[r, s] = add_outer(acc[r, s], x[r], y[s])
                l0 += AT_ONCE * (ROWS + 4)
                r0 += AT_ONCE * (COLUMNS + 4)
            if extra and i0 == 0 and t < COLUMNS:
                for k in range(DEPTH):
                    column_sum += load1(right, (stage * DEPTH + k) * (COLUMNS + 4) + t)
            stage = stage + 1 if stage + 1 < STAGES else 0

    row, c_at = total, (cuda.blockIdx.y * cuda.gridDim.z + z) * np.int64(m) * total + before
    if mode == GRADIENT:
        row, c_at = width, cuda.blockIdx.y * np.int64(m + extra) * total + np.int64(m + extra) * before
        if extra and i0 == 0 and t < COLUMNS and j0 + t < width:
            c[c_at + m * width + j0 + t] = column_sum
    kept = np.uint64(0)
    if DROPPING:
        for g in range(ACROSS * ALONG // 4):  # one copy of the random bits' code, two registers for their decisions
            i = i0 + g // 4 % (ACROSS // 4) * (4 * ROWS // ACROSS) + ty + g % 4
            j = j0 + g // ACROSS * (4 * COLUMNS // ALONG) + tx
            kept |= keep4(key, c_at + i * row + j, threshold) << np.uint64(4 * g)
    bias = chosen(piece, bias1, bias2, bias3)
    for s in unroll(ALONG // 4):
        j = j0 + s * (4 * COLUMNS // ALONG) + tx
        x[0] = fetch(bias, 0, 0, j, 0, 1, 1, width if biased >> piece & 1 else 0, True, False)
        for r in unroll(ACROSS // 4):
            for e in unroll(4):
                i = i0 + r * (4 * ROWS // ACROSS) + ty + e
                y[0] = (acc[r, s][4 * e], acc[r, s][4 * e + 1], acc[r, s][4 * e + 2], acc[r, s][4 * e + 3])
                if i < m:
                    y[0] = finished(y[0], x[0], relu)
                    if DROPPING:
                        y[0] = dropped(y[0], kept >> np.uint64(4 * (s * ACROSS + r * 4 + e)), scale)
                    put4(c, c_at + i * row, j, width, wide_c, y[0][0], y[0][1], y[0][2], y[0][3])
