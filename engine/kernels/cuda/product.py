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
from .ptx import add_outer, divided, load1, load4, zeros
from .random import dropped, keep4
from .rows import put4
from .template import registers, template, unroll

SIDE, GRADIENT, DEEP = range(3)
NOTHING = np.float32(0)
BAND = 16  # tiles

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
def place(n, together, *, ROWS):
    """(row, k) of the n-th number of a tile, or of its n-th four, in the order in which threads bring them.

    together: four rows that are neighbours in memory come at once; else a warp's are eight along k by four rows, which
    lie in different banks of shared memory.
    """
    if together:
        return np.int32(n % (ROWS // 4) * 4), np.int32(n // (ROWS // 4))
    return np.int32(n // 8 % ROWS), np.int32(n % 8 + n // (8 * ROWS) * 8)


@template
def bring_whole(shared, to, x, at, x_i, x_k, together, *, ROWS, DEPTH, THREADS):
    """Ask for a tile of ROWS rows and DEPTH steps of k that is all there, and has neighbours along the rows (together)
    or along k. `at` and `to`: where this thread's first number is and goes.

    In shared memory one step of k is ROWS + 4 numbers behind the other.
    """
    if together:
        hop = np.int32(4 * THREADS // ROWS * x_k)
        for u in unroll(ROWS * DEPTH // (4 * THREADS)):
            copy4(shared, to + u * (4 * THREADS // ROWS) * (ROWS + 4), x, at, 4)
            at = np.int32(at + hop)
    else:
        hop = np.int32(THREADS // 8 * x_i)
        back = np.int32(8 - (8 * ROWS // THREADS - 1) * hop)
        for u in unroll(ROWS * DEPTH // THREADS):
            copy1(shared, to + (u % (8 * ROWS // THREADS) * (THREADS // 8)
                                + u // (8 * ROWS // THREADS) * (8 * (ROWS + 4))), x, at, 1)  # fmt: skip
            at = np.int32(at + (back if (u + 1) % (8 * ROWS // THREADS) == 0 else hop))


@template
def bring(shared, to, x, start, x_i, x_k, i0, rows, k0, end, wide, t, *, ROWS, DEPTH, THREADS, PLACE):
    """Ask for any tile of ROWS rows from i0 on, and of DEPTH steps of k from k0 on; zeros from `rows` and `end` on."""
    at, rows, end = np.int32(start + i0 * x_i + k0 * x_k), np.int32(rows - i0), np.int32(end - k0)
    if wide and x_i == 1:
        for n in range(t, np.int32(ROWS * DEPTH // 4), np.int32(THREADS)):
            row, k = PLACE(n, True)
            copy4(shared, to + k * (ROWS + 4) + row, x, np.int32(at + row + k * x_k),
                  max(np.int32(0), min(np.int32(4), np.int32(rows - row))) if k < end else np.int32(0))  # fmt: skip
    else:
        for n in range(t, np.int32(ROWS * DEPTH), np.int32(THREADS)):
            row, k = PLACE(n, False)
            if x_k != 1:
                row, k = np.int32(n % ROWS), np.int32(n // ROWS)
            copy1(shared, to + k * (ROWS + 4) + row, x, np.int32(at + row * x_i + k * x_k), row < rows and k < end)


@jit
def moved_back(first, length, size, fours):
    """Where a tile begins that would reach beyond the end: as far before it as the tile is long, if the matrix is that
    long, and if that is a multiple of four where there must be `fours`. What two tiles make they make alike."""
    back = size - length
    return np.int32(back if first > back and back >= 0 and (not fours or back % 4 == 0) else first)


@jit
def tile_of(block, tiles):
    """(row, column) of a block's tile of c, which is `tiles` tiles high. Blocks that run at the same time make a
    square, BAND tiles high, so that they read the same rows of a and columns of b while the card's cache has them."""
    first, high = np.int32(0), np.int32(tiles)
    if tiles > BAND:
        across, _ = divided(cuda.gridDim.x, tiles)
        band, block = divided(block, BAND * across)
        first = np.int32(band * BAND)
        high = np.int32(min(BAND, tiles - first))
    column, row = divided(block, high)
    return np.int32(first + row), column


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
def block_of(m, n1, n2, n3, turned, rows, columns, deep):
    """(first row, first column in its piece, piece, columns before it, in it, and in all) of this block's tile."""
    tile_i, tile_j = tile_of(cuda.blockIdx.x, (m + rows - 1) // rows)
    piece, j0, width, total = 0, tile_j * columns, n1, n1
    if not deep:
        piece, j0 = piece_of(tile_j, n1, n2, columns)
        width, total = chosen(piece, n1, n2, n3), np.int32(n1 + n2 + n3)
    i0, j0 = moved_back(tile_i * rows, rows, m, turned), moved_back(j0, columns, width, True)
    return i0, j0, piece, np.int32(chosen(piece, 0, n1, n1 + n2)), width, total


@jit
def part_of(depth, chunk, step):
    """(first, last, steps) of this block's part of k."""
    first, last = np.int32(cuda.blockIdx.y * chunk), np.int32(min(depth, (cuda.blockIdx.y + 1) * chunk))
    return first, last, np.int32((last - first + step - 1) // step)


@jit
def matrix_at(z, inner, outer_step, inner_step):
    """Where matrix z of a batch begins."""
    outer, inner = divided(z, inner)
    return np.int32(outer * outer_step + inner * inner_step)


@jit
def piece_at(step, first, second):
    """(piece, its first step) of a step among those of pieces one behind the other, `first` and `second` long."""
    if step < first:
        return np.int32(0), np.int32(0)
    if step < first + second:
        return np.int32(1), np.int32(first)
    return np.int32(2), np.int32(first + second)


@jit
def steps_of(first, second, third):
    """Where this block's steps begin and end among those of pieces that lie one behind the other: all of them, or one
    piece's where each is a part."""
    if cuda.gridDim.y == 1:
        return np.int32(0), np.int32(first + second + third)
    y = cuda.blockIdx.y
    return (np.int32(chosen(y, 0, first, first + second)),
            np.int32(chosen(y, first, first + second, first + second + third)))


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
    scale, *, ROWS, COLUMNS, DEPTH, STAGES, ACROSS, ALONG, THREADS, DROPPING, DEEPLY,
    PLACE_A, PLACE_B, WHOLE_A, WHOLE_B, BRING_A, BRING_B,
):  # fmt: skip
    """c = a b, a grid of (tiles, parts of k, batch); the parts of k are `chunk` long (DEEP: a piece), one c behind the
    other.

    m × depth is a's size, n1, n2 and n3 are the columns of b's pieces; DEEP: n1 columns, and depth, n2 and n3 long.
    extra: 1 where sums follow a GRADIENT; bit i of `biased`: piece i has a bias.
    """
    left = cuda.shared.array(STAGES * DEPTH * (ROWS + 4), np.float32, 16)
    right = cuda.shared.array(STAGES * DEPTH * (COLUMNS + 4), np.float32, 16)
    t, z = cuda.threadIdx.x, cuda.blockIdx.z
    i0, j0, piece, before, width, total = block_of(m, n1, n2, n3, a_i == 1, ROWS, COLUMNS, DEEPLY)
    first_k, last_k, steps = part_of(depth, chunk, DEPTH)
    a_at, b_at = matrix_at(z, inner, a_outer, a_inner), matrix_at(z, inner, b_outer, b_inner)
    b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
    a_from, b_from = a_at, np.int32(b_at + before * b_j if mode == GRADIENT else b_at)
    first_step, begin, end, steps1, steps2 = np.int32(0), np.int32(0), last_k, steps, steps
    if DEEPLY:
        first_k, steps1 = np.int32(0), np.int32((depth + DEPTH - 1) // DEPTH)
        steps2 = np.int32((n2 + DEPTH - 1) // DEPTH)
        first_step, steps = steps_of(steps1, steps2, (n3 + DEPTH - 1) // DEPTH)

    acc, x, y = registers(ACROSS // 4, ALONG // 4), registers(2, ACROSS // 4), registers(ALONG // 4)
    for r in unroll(ACROSS // 4):
        for s in unroll(ALONG // 4):
            acc[r, s], x[0, r], y[s] = zeros(16), zeros(4), zeros(4)
    # 8 × 4 threads of a warp: lanes 2 i and 2 i + 1 read the same of a, and lanes i and i + 2 the same of b, so that
    # half a warp's 128-bit loads are one access to shared memory
    tx = (t // 32 % (COLUMNS // ALONG // 8) * 8 + t % 2 + t // 4 % 4 * 2) * 4
    ty = (t // 32 // (COLUMNS // ALONG // 8) * 4 + t // 2 % 2 + t // 16 % 2 * 2) * 4
    together_a, together_b = wide_a and a_i == 1, wide_b and b_j == 1
    if DEEPLY:
        together_b = wide_b and b1_j == 1 and b2_j == 1 and b3_j == 1
    row_a, k_a = PLACE_A(t, together_a)
    row_b, k_b = PLACE_B(t, together_b)
    put_a, put_b = np.int32(k_a * (ROWS + 4) + row_a), np.int32(k_b * (COLUMNS + 4) + row_b)
    quick = (i0 + ROWS <= m and j0 + COLUMNS <= width and (together_a or a_k == 1)
             and (together_b or (b1_k == 1 and b2_k == 1 and b3_k == 1)))  # fmt: skip
    at_a, at_b, whole = np.int32(0), np.int32(0), np.int32(0)
    summed = np.int32(DEPTH if extra and i0 == 0 and t < COLUMNS else 0)
    column_sum, stage, next_stage = NOTHING, np.int32(0), np.int32(0)
    for step in range(np.int32(first_step + 1 - STAGES), steps):
        ahead = np.int32(step + (STAGES - 1))
        if ahead == first_step or (DEEPLY and (ahead == steps1 or ahead == steps1 + steps2)):
            if DEEPLY:
                piece, begin = piece_at(ahead, steps1, steps2)
                end = chosen(piece, depth, n2, n3)
                a_from = np.int32(a_at + chosen(piece, 0, depth, depth + n2) * a_k)
                b, b_k = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k)
                b_j = chosen(piece, b1_j, b2_j, b3_j)
            at_a = np.int32(a_from + (i0 + row_a) * a_i + (first_k + k_a) * a_k)
            at_b = np.int32(b_from + (j0 + row_b) * b_j + (first_k + k_b) * b_k)
            whole = np.int32(min(steps, begin + (end - first_k) // DEPTH) if quick else 0)  # so far all is there
        if ahead < whole:
            WHOLE_A(left, next_stage * (DEPTH * (ROWS + 4)) + put_a, a, at_a, a_i, a_k, together_a)
            WHOLE_B(right, next_stage * (DEPTH * (COLUMNS + 4)) + put_b, b, at_b, b_j, b_k, together_b)
            at_a, at_b = np.int32(at_a + DEPTH * a_k), np.int32(at_b + DEPTH * b_k)
        elif ahead < steps:
            k0 = np.int32(first_k + (ahead - begin) * DEPTH)
            BRING_A(left, next_stage * (DEPTH * (ROWS + 4)), a, a_from, a_i, a_k, i0, m, k0, end, wide_a, t)
            BRING_B(right, next_stage * (DEPTH * (COLUMNS + 4)), b, b_from, b_j, b_k, j0, width, k0, end, wide_b, t)
        next_stage = np.int32(next_stage + 1 if next_stage + 1 < STAGES else 0)
        commit()
        if step >= first_step:
            for k in range(summed):
                column_sum += load1(right, (stage * DEPTH + k) * (COLUMNS + 4) + t)
            l0, r0 = stage * (DEPTH * (ROWS + 4)) + ty, stage * (DEPTH * (COLUMNS + 4)) + tx
            for k in unroll(DEPTH):
                if k == DEPTH - 1:
                    stage = np.int32(stage + 1 if stage + 1 < STAGES else 0)
                    l0, r0 = stage * (DEPTH * (ROWS + 4)) + ty, stage * (DEPTH * (COLUMNS + 4)) + tx
                    arrived(STAGES - 2)
                    cuda.syncthreads()
                for r in unroll(ACROSS // 4):
                    x[(k + 1) % 2, r] = load4(left, l0 + (k + 1) % DEPTH * (ROWS + 4) + r * (4 * ROWS // ACROSS))
                for s in unroll(ALONG // 4):
                    for r in unroll(ACROSS // 4):
                        acc[r, s] = add_outer(acc[r, s], x[k % 2, r], y[s])
                    y[s] = load4(right, r0 + (k + 1) % DEPTH * (COLUMNS + 4) + s * (4 * COLUMNS // ALONG))
        elif step == first_step - 1:
            arrived(STAGES - 2)
            cuda.syncthreads()
            for r in unroll(ACROSS // 4):
                x[0, r] = load4(left, ty + r * (4 * ROWS // ACROSS))
            for s in unroll(ALONG // 4):
                y[s] = load4(right, tx + s * (4 * COLUMNS // ALONG))

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
        x[0, 0] = fetch(bias, 0, 0, j, 0, 1, 1, width if biased >> piece & 1 else 0, True, False)
        for r in unroll(ACROSS // 4):
            for e in unroll(4):
                i = i0 + r * (4 * ROWS // ACROSS) + ty + e
                y[0] = (acc[r, s][4 * e], acc[r, s][4 * e + 1], acc[r, s][4 * e + 2], acc[r, s][4 * e + 3])
                if i < m:
                    y[0] = finished(y[0], x[0, 0], relu)
                    if DROPPING:
                        y[0] = dropped(y[0], kept >> np.uint64(4 * (s * ACROSS + r * 4 + e)), scale)
                    put4(c, c_at + i * row, j, width, wide_c, y[0][0], y[0][1], y[0][2], y[0][3])
