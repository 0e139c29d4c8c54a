"""Products of float32 matrices on tensor cores, their operands rounded to TF32 or bfloat16, their sums float32.

The structure is that of `product.py`: a tile of c a block, k in steps through two halves of shared memory, the next
step on its way in registers. In shared memory lie words, one TF32 number or (`PAIR` 2) two bfloat16 neighbours along k,
from one step of words to the next ROWS + 8 apart, so that the lanes of a warp find what `mma` wants of them in
different banks. A warp makes TALL × WIDE products of 16 × 8.
"""

import numpy as np

from ..compiled import scalar
from .jit import cuda, jit
from .product import DEEP, GRADIENT, NOTHING, above, chosen, fetch, piece_of, within
from .ptx import mma_bf16, mma_tf32, pack_bf16, store4, to_tf32, zeros
from .template import registers, template, unroll

NONE = (NOTHING, NOTHING, NOTHING, NOTHING)


@jit
def words_of(first, second, deep, pair):
    """Four words of four numbers, or of twice four: neighbours along k if deep, else the same places at k and k + 1."""
    if pair == 1:
        return to_tf32(first[0]), to_tf32(first[1]), to_tf32(first[2]), to_tf32(first[3])
    if deep:
        return (pack_bf16(first[0], first[1]), pack_bf16(first[2], first[3]), pack_bf16(second[0], second[1]),
                pack_bf16(second[2], second[3]))  # fmt: skip
    return (pack_bf16(first[0], second[0]), pack_bf16(first[1], second[1]), pack_bf16(first[2], second[2]),
            pack_bf16(first[3], second[3]))  # fmt: skip


@jit
def put_words(shared, at, step, deep, words):
    """Put four words `step` apart, or side by side."""
    if deep:
        shared[at], shared[at + step], shared[at + 2 * step], shared[at + 3 * step] = words
    else:
        store4(shared, at, words[0], words[1], words[2], words[3])


@jit
def share_of(e, deep, size):
    """(row, step of words) within a tile of `size` rows where unit e of four words begins, along k if deep.

    The lanes of a warp take neighbouring rows in either case: then they write to different banks.
    """
    return (e % size, e // size * 4) if deep else (e % (size // 4) * 4, e // (size // 4))


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
    scale, *, ROWS, COLUMNS, STEPS, PAIR, TALL, WIDE, THREADS, A_UNITS, B_UNITS,
):  # fmt: skip
    """c = a b as `product.product` makes it, without dropout; a step is STEPS words of k."""
    left = cuda.shared.array(2 * STEPS * (ROWS + 8), np.int32, 16)
    right = cuda.shared.array(2 * STEPS * (COLUMNS + 8), np.int32, 16)
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
    a_deep = a_k == 1

    acc, x, y = registers(TALL, WIDE), registers(TALL), registers(2)
    p, q, p2, q2 = registers(A_UNITS), registers(B_UNITS), registers(A_UNITS), registers(B_UNITS)
    for r in unroll(TALL):
        for s in unroll(WIDE):
            acc[r, s] = zeros(4)
    for u in unroll(A_UNITS):
        p[u], p2[u] = NONE, NONE
    for u in unroll(B_UNITS):
        q[u], q2[u] = NONE, NONE
    lane, warp = t & 31, t >> 5
    across = COLUMNS // (8 * WIDE)
    g, w = lane >> 2, lane & 3
    row0, column0 = warp // across * (16 * TALL) + g, warp % across * (8 * WIDE) + g
    column_sum, stage = NOTHING, 0
    for turn in range(3 if mode == DEEP else 1):
        if mode == DEEP:
            piece, last_k = turn, chosen(turn, depth, n2, n3)
        b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
        a_from = a_at + chosen(turn, 0, depth, depth + n2) * a_k
        b_from = b_at + before * b_j if mode == GRADIENT else b_at
        b_deep = b_k == 1
        steps = (last_k - first_k + STEPS * PAIR - 1) // (STEPS * PAIR)
        a_whole, b_whole = wide_a and i0 + ROWS <= m, wide_b and j0 + COLUMNS <= width
        for step in range(-1, steps):
            k0 = first_k + (step + 1) * (STEPS * PAIR)
            if step + 1 < steps:
                whole = k0 + STEPS * PAIR <= last_k
                for u in unroll(A_UNITS):
                    i, k = share_of(t + u * THREADS, a_deep, ROWS)
                    i, k = i0 + i, k0 + k * PAIR
                    if whole and a_whole:
                        p[u] = within(a, a_from, i, k, a_i, a_k)
                        if PAIR == 2:
                            p2[u] = within(a, a_from, i, k + (4 if a_deep else 1), a_i, a_k)
                    else:
                        p[u] = fetch(a, a_from, i, k, a_i, a_k, m, last_k, a_deep, wide_a)
                        if PAIR == 2:
                            k += 4 if a_deep else 1
                            p2[u] = fetch(a, a_from, i, k, a_i, a_k, m, last_k, a_deep, wide_a)
                for u in unroll(B_UNITS):
                    j, k = share_of(t + u * THREADS, b_deep, COLUMNS)
                    j, k = j0 + j, k0 + k * PAIR
                    if whole and b_whole:
                        q[u] = within(b, b_from, j, k, b_j, b_k)
                        if PAIR == 2:
                            q2[u] = within(b, b_from, j, k + (4 if b_deep else 1), b_j, b_k)
                    else:
                        q[u] = fetch(b, b_from, j, k, b_j, b_k, width, last_k, b_deep, wide_b)
                        if PAIR == 2:
                            k += 4 if b_deep else 1
                            q2[u] = fetch(b, b_from, j, k, b_j, b_k, width, last_k, b_deep, wide_b)
            if step >= 0:
                l0 = (stage * STEPS + w) * (ROWS + 8) + row0
                r0 = (stage * STEPS + w) * (COLUMNS + 8) + column0
                for k in unroll(0, STEPS, 8):
                    for r in unroll(TALL):
                        at = l0 + k * (ROWS + 8) + 16 * r
                        x[r] = (left[at], left[at + 8], left[at + 4 * (ROWS + 8)], left[at + 4 * (ROWS + 8) + 8])
                    for s in unroll(WIDE):
                        at = r0 + k * (COLUMNS + 8) + 8 * s
                        y[0] = (right[at], right[at + 4 * (COLUMNS + 8)])
                        for r in unroll(TALL):
                            if PAIR == 1:
                                acc[r, s] = mma_tf32(x[r], y[0], acc[r, s])
                            else:
                                acc[r, s] = mma_bf16(x[r], y[0], acc[r, s])
                if extra and i0 == 0 and t < COLUMNS:
                    for k in range(STEPS):
                        word = right[(stage * STEPS + k) * (COLUMNS + 8) + t]
                        if PAIR == 1:
                            column_sum += scalar.from_bits(word)
                        else:
                            column_sum += number(word, False)
                            column_sum += number(word, True)
                stage ^= 1
            if step + 1 < steps:
                for u in unroll(A_UNITS):
                    i, k = share_of(t + u * THREADS, a_deep, ROWS)
                    at = (stage * STEPS + k) * (ROWS + 8) + i
                    put_words(left, at, ROWS + 8, a_deep, words_of(p[u], p2[u], a_deep, PAIR))
                for u in unroll(B_UNITS):
                    j, k = share_of(t + u * THREADS, b_deep, COLUMNS)
                    at = (stage * STEPS + k) * (COLUMNS + 8) + j
                    put_words(right, at, COLUMNS + 8, b_deep, words_of(q[u], q2[u], b_deep, PAIR))
                cuda.syncthreads()

    row, c_at = total, z * np.int64(m) * total + before
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
