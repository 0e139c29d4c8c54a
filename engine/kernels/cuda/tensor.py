"""Products of float32 matrices on tensor cores, their operands rounded to TF32 or bfloat16, their sums float32.

The structure is that of `product.py`: a tile of c a block, k in steps through STAGES parts of shared memory, while the
next steps are on their way. A step is DEPTH words: a word is one float32, which is rounded to TF32 where it is used, or
two bfloat16 neighbours along k (`PAIR` 2), to which `words.py` has rounded the operands before. In shared memory lie
words as they lie in memory: neighbours along k, each row DEPTH + 4 behind the last, or neighbours along rows, each
step of words ROWS + 8 (COLUMNS + 8) behind the last; in either case the lanes of a warp find what `mma` wants of them
in different banks. A warp makes TALL × WIDE products of 16 × 8.
"""

import numpy as np

from ..compiled import scalar
from .cp_async import arrived, commit, copy1, copy4
from .jit import cuda, jit
from .mma import mma_bf16, mma_tf32, to_tf32
from .product import DEEP, GRADIENT, NOTHING, SIGNATURE, above, chosen, piece_of, steps_of
from .ptx import load1, zeros
from .template import registers, template, unroll

WORDS = SIGNATURE.replace("float32[...]", "int32[...]")


@template
def bring_words(shared, to, x, start, x_i, x_k, i0, rows, k0, end, wide, t, *, ROWS, DEPTH, THREADS, ALONG):
    """Ask for a tile of ROWS rows from i0 on, and DEPTH words of k from k0 on; zeros from `rows` and `end` on.

    ALONG: neighbours along k come together, and lie so in shared memory; else neighbours along the rows.
    """
    if ALONG:
        if wide:
            row, k = t // (DEPTH // 4), t % (DEPTH // 4) * 4
            at, put = np.int32(start + (i0 + row) * x_i + (k0 + k)), np.int32(to + row * (DEPTH + 4) + k)
            further, left, there = np.int32(4 * THREADS // DEPTH * x_i), rows - i0 - row, max(0, min(4, end - k0 - k))
            for u in unroll(ROWS * DEPTH // (4 * THREADS)):
                copy4(shared, put + u * (4 * THREADS // DEPTH) * (DEPTH + 4), x, at,
                      there if left > u * (4 * THREADS // DEPTH) else 0)  # fmt: skip
                at = np.int32(at + further)
        else:
            for e in range(t, ROWS * DEPTH, THREADS):
                row, k = e // DEPTH, e % DEPTH
                copy1(shared, to + row * (DEPTH + 4) + k, x, start + (i0 + row) * x_i + (k0 + k),
                      i0 + row < rows and k0 + k < end)  # fmt: skip
    elif wide and x_i == 1:
        row, k = t % (ROWS // 4) * 4, t // (ROWS // 4)
        at, put = np.int32(start + (i0 + row) + (k0 + k) * x_k), np.int32(to + k * (ROWS + 8) + row)
        further, left, there = np.int32(4 * THREADS // ROWS * x_k), end - k0 - k, max(0, min(4, rows - i0 - row))
        for u in unroll(ROWS * DEPTH // (4 * THREADS)):
            copy4(shared, put + u * (4 * THREADS // ROWS) * (ROWS + 8), x, at,
                  there if left > u * (4 * THREADS // ROWS) else 0)  # fmt: skip
            at = np.int32(at + further)
    else:
        for e in range(t, ROWS * DEPTH, THREADS):
            row, k = e % ROWS, e // ROWS
            copy1(shared, to + k * (ROWS + 8) + row, x, start + (i0 + row) * x_i + (k0 + k) * x_k,
                  i0 + row < rows and k0 + k < end)  # fmt: skip


@jit
def factor(memory, at, pair):
    """A word as `mma` takes it: a float32 rounded to TF32, or two bfloat16 as they are."""
    word = load1(memory, at)
    return to_tf32(scalar.from_bits(word)) if pair == 1 else word


@jit
def number(word, half):
    """A bfloat16 of a word as float32: its lower half, or its upper one."""
    return scalar.from_bits(np.int32(word & np.int32(-65536) if half else word << np.int32(16)))


@jit
def put_pair(c, at, j, there, width, bias, adding, relu, y, z):
    """Write c[at + j] and c[at + j + 1], with bias and relu, as far as they are there."""
    if there and j < width:
        y = y + bias[j] if adding else y
        c[at + j] = above(y) if relu else y
        if j + 1 < width:
            z = z + bias[j + 1] if adding else z
            c[at + j + 1] = above(z) if relu else z


@template
def tensor_product(
    a, b1, b2, b3, c, bias1, bias2, bias3, key, m, n1, n2, n3, depth, a_i, a_k, b1_k, b2_k, b3_k, b1_j, b2_j, b3_j,
    a_outer, a_inner, b_outer, b_inner, inner, mode, chunk, extra, wide_a, wide_b, wide_c, biased, relu, threshold,
    scale, *, ROWS, COLUMNS, DEPTH, STAGES, PAIR, TALL, WIDE, THREADS, LEFT, RIGHT, A_ROW, A_K, B_ROW, B_K,
    BRING_A, BRING_B,
):  # fmt: skip
    """c = a b as `product.product` makes it, without dropout; all that counts along k counts words.

    LEFT and RIGHT: words of a step; A_ROW, A_K, B_ROW and B_K: from one row and one k to the next in shared memory.
    """
    memory = cuda.shared.array(0, np.int32)
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
    steps = (last_k - first_k + DEPTH - 1) // DEPTH
    b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
    k0, end, a_from, b_from = first_k, last_k, a_at, b_at + before * b_j if mode == GRADIENT else b_at
    first_step, steps1, steps2 = 0, (depth + DEPTH - 1) // DEPTH, (n2 + DEPTH - 1) // DEPTH
    if mode == DEEP:
        first_step, steps = steps_of(steps1, steps2, (n3 + DEPTH - 1) // DEPTH)

    acc, x, y = registers(TALL, WIDE), registers(TALL), registers(2)
    for r in unroll(TALL):
        for s in unroll(WIDE):
            acc[r, s] = zeros(4)
    lane, warp = t & 31, t >> 5
    g, w = lane >> 2, lane & 3
    row0, column0 = warp // (COLUMNS // (8 * WIDE)) * (16 * TALL) + g, warp % (COLUMNS // (8 * WIDE)) * (8 * WIDE) + g
    column_sum, stage, next_stage = NOTHING, 0, 0
    for step in range(first_step + 1 - STAGES, steps):
        if step >= first_step:
            arrived(STAGES - 2)
            cuda.syncthreads()
        ahead = step + STAGES - 1
        if ahead < steps:
            if mode == DEEP:
                piece = 0 if ahead < steps1 else 1 if ahead < steps1 + steps2 else 2
                k0 = (ahead - chosen(piece, 0, steps1, steps1 + steps2)) * DEPTH
                end, a_from = chosen(piece, depth, n2, n3), a_at + chosen(piece, 0, depth, depth + n2) * a_k
                b, b_k = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k)
                b_j = chosen(piece, b1_j, b2_j, b3_j)
            BRING_A(memory, next_stage * LEFT, a, a_from, a_i, a_k, i0, m, k0, end, wide_a, t)
            BRING_B(memory, STAGES * LEFT + next_stage * RIGHT, b, b_from, b_j, b_k, j0, width, k0, end, wide_b, t)
            next_stage = next_stage + 1 if next_stage + 1 < STAGES else 0
            k0 += DEPTH
        commit()
        if step >= first_step:
            l0, r0 = stage * LEFT + row0 * A_ROW + w * A_K, STAGES * LEFT + stage * RIGHT + column0 * B_ROW + w * B_K
            for k in unroll(0, DEPTH, 8):
                for r in unroll(TALL):
                    at = l0 + k * A_K + 16 * r * A_ROW
                    x[r] = (factor(memory, at, PAIR), factor(memory, at + 8 * A_ROW, PAIR),
                            factor(memory, at + 4 * A_K, PAIR), factor(memory, at + 8 * A_ROW + 4 * A_K, PAIR)
                            )  # fmt: skip
                for s in unroll(WIDE):
                    at = r0 + k * B_K + 8 * s * B_ROW
                    y[0] = (factor(memory, at, PAIR), factor(memory, at + 4 * B_K, PAIR))
                    for r in unroll(TALL):
                        if PAIR == 1:
                            acc[r, s] = mma_tf32(x[r], y[0], acc[r, s])
                        else:
                            acc[r, s] = mma_bf16(x[r], y[0], acc[r, s])
            if extra and i0 == 0 and t < COLUMNS:
                for k in range(DEPTH):
                    word = factor(memory, STAGES * LEFT + stage * RIGHT + t * B_ROW + k * B_K, PAIR)
                    if PAIR == 1:
                        column_sum += scalar.from_bits(word)
                    else:
                        column_sum += number(word, False)
                        column_sum += number(word, True)
            stage = stage + 1 if stage + 1 < STAGES else 0

    row, c_at = total, (cuda.blockIdx.y * cuda.gridDim.z + z) * np.int64(m) * total + before
    if mode == GRADIENT:
        row, c_at = width, cuda.blockIdx.y * np.int64(m + extra) * total + np.int64(m + extra) * before
        if extra and i0 == 0 and t < COLUMNS and j0 + t < width:
            c[c_at + m * width + j0 + t] = column_sum
    bias = chosen(piece, bias1, bias2, bias3)
    adding = biased >> piece & 1
    for s in unroll(WIDE):
        j = j0 + column0 - g + 8 * s + 2 * w
        for r in unroll(TALL):
            for half in unroll(2):
                i = i0 + row0 + 16 * r + 8 * half
                put_pair(c, c_at + i * np.int64(row), j, i < m, width, bias, adding, relu, acc[r, s][2 * half],
                         acc[r, s][2 * half + 1])  # fmt: skip
