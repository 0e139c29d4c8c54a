"""Products of float32 matrices on tensor cores, their operands rounded to TF32 or bfloat16, their sums float32.

The structure is that of `product.py`: a tile of c a block, k in steps through STAGES parts of shared memory, while the
next steps are on their way. A step is DEPTH words: a word is one float32, which is rounded to TF32 where it is used, or
two bfloat16 neighbours along k (`PAIR` 2), to which `words.py` has rounded the operands before. In shared memory lie
words as they lie in memory: neighbours along k, each row DEPTH + 4 behind the last, or neighbours along rows, each
step of words ROWS + 8 (COLUMNS + 8) behind the last; in either case the lanes of a warp find what `mma` wants of them
in different banks. A warp makes TALL × WIDE products of 16 × 8, of eight words at a time, while it reads the next
eight, also those of the next step.

SPLIT: not one product of TF32 but three, whose sum is about as exact as float32 is (`split.py`).

Tensor cores do not look at the last 13 bits of a float32 as TF32. To cut them off would make every number smaller, by
half a unit of TF32 on average; so each is made larger before by what that is on average for numbers of all mantissas.
The error is at most 2/3 of a unit, where that of rounding is 1/2, and 5 % larger on average; it takes one
multiplication, and leaves infinities and NaN alone.
"""

import numpy as np

from ..compiled import scalar
from .cp_async import arrived, commit, copy1, copy4
from .jit import cuda, jit
from .mma import load_matrices, mma_bf16, mma_tf32
from .product import DEEP, GRADIENT, NOTHING, SIGNATURE, above, block_of, chosen, matrix_at, part_of, piece_at, steps_of
from .ptx import load1, only_here, store2, zeros
from .split import add4, exact, split4
from .template import registers, template, unroll

HALF_A_UNIT = np.float32(1 + 2 / 3 * 2**-11)  # times a number: it and half a unit of TF32, about
NO_WORDS = (np.int32(0),) * 4
WORDS = SIGNATURE.replace("float32[...]", "int32[...]")


@template
def place_words(n, *, ROWS, DEPTH, ALONG):
    """(row, k) of the n-th four words of a tile, in the order in which threads bring them."""
    if ALONG:
        return n // (DEPTH // 4), n % (DEPTH // 4) * 4
    return n % (ROWS // 4) * 4, n // (ROWS // 4)


@template
def bring_whole_words(shared, to, x, at, x_i, x_k, *, ROWS, DEPTH, THREADS, ALONG):
    """Ask for a tile of ROWS rows and DEPTH words of k that is all there, four neighbours at a time. `at` and `to`:
    where this thread's first four are and go.

    ALONG: neighbours along k come together, and lie so in shared memory; else neighbours along the rows.
    """
    hop = np.int32(4 * THREADS // DEPTH * x_i) if ALONG else np.int32(4 * THREADS // ROWS * x_k)
    for u in unroll(ROWS * DEPTH // (4 * THREADS)):
        if ALONG:
            copy4(shared, to + u * (4 * THREADS // DEPTH) * (DEPTH + 4), x, at, 4)
        else:
            copy4(shared, to + u * (4 * THREADS // ROWS) * (ROWS + 8), x, at, 4)
        at = np.int32(at + hop)


@template
def bring_words(shared, to, x, start, x_i, x_k, i0, rows, k0, end, wide, t, *, ROWS, DEPTH, THREADS, ALONG, PLACE):
    """Ask for any tile of ROWS rows from i0 on, and DEPTH words of k from k0 on; zeros from `rows` and `end` on."""
    fours, t = wide and (ALONG or x_i == 1), only_here(t)
    for n in range(t, ROWS * DEPTH // 4 if fours else ROWS * DEPTH, THREADS):
        row, k = PLACE(n)
        if not fours:
            row, k = (n // DEPTH, n % DEPTH) if ALONG else (n % ROWS, n // ROWS)
        put = to + (row * (DEPTH + 4) + k if ALONG else k * (ROWS + 8) + row)
        at, rows_left, k_left = start + (i0 + row) * x_i + (k0 + k) * x_k, rows - i0 - row, end - k0 - k
        if not fours:
            copy1(shared, put, x, at, rows_left > 0 and k_left > 0)
        elif ALONG:
            copy4(shared, put, x, at, max(0, min(4, k_left)) if rows_left > 0 else 0)
        else:
            copy4(shared, put, x, at, max(0, min(4, rows_left)) if k_left > 0 else 0)


@jit
def rounded(word):
    """A float32 of which the tensor cores cut off what TF32 has no room for."""
    return scalar.bits(scalar.from_bits(word) * HALF_A_UNIT)


@template
def read_words(memory, at, *, ALONG, ROUNDED, FIRST, SECOND):
    """Four words as `mma` takes them. ALONG: this lane's row of one of four matrices begins `at`; else the first word
    lies there, the second FIRST further, and two more SECOND further than they."""
    if ALONG:
        a, b, c, d = load_matrices(memory, at)
    else:
        a, b = load1(memory, at), load1(memory, at + FIRST)
        c, d = load1(memory, at + SECOND), load1(memory, at + (FIRST + SECOND))
    return (rounded(a), rounded(b), rounded(c), rounded(d)) if ROUNDED else (a, b, c, d)


@jit
def number(word, half):
    """A bfloat16 of a word as float32: its lower half, or its upper one."""
    return scalar.from_bits(np.int32(word & np.int32(-65536) if half else word << np.int32(16)))


@jit
def put_pair(c, at, j, there, width, wide, bias, adding, relu, y, z):
    """Write c[at + j] and c[at + j + 1], with bias and relu, as far as they are there."""
    if there and j < width:
        if adding:
            y += bias[j]
            z += bias[j + 1] if j + 1 < width else NOTHING
        if relu:
            y, z = above(y), above(z)
        if wide:
            store2(c, at + j, y, z)
        else:
            c[at + j] = y
            if j + 1 < width:
                c[at + j + 1] = z


@jit
def pieces_of(piece, deep):
    """(first, last + 1) of the pieces that a block of c is a product with."""
    if not deep:
        return piece, piece + 1
    return (0, 3) if cuda.gridDim.y == 1 else (np.int32(cuda.blockIdx.y), np.int32(cuda.blockIdx.y + 1))


@template
def tensor_product(
    a, b1, b2, b3, c, bias1, bias2, bias3, key, m, n1, n2, n3, depth, a_i, a_k, b1_k, b2_k, b3_k, b1_j, b2_j, b3_j,
    a_outer, a_inner, b_outer, b_inner, inner, mode, chunk, extra, wide_a, wide_b, wide_c, biased, relu, threshold,
    scale, *, ROWS, COLUMNS, DEPTH, STAGES, PAIR, SPLIT, TALL, WIDE, THREADS, LEFT, RIGHT, A_ROW, A_K, B_ROW, B_K,
    A_ALONG, B_ALONG, PLACE_A, PLACE_B, WHOLE_A, WHOLE_B, BRING_A, BRING_B, READ_A, READ_B,
):  # fmt: skip
    """c = a b as `product.product` makes it, without dropout; all that counts along k counts words.

    LEFT and RIGHT: words of a step; A_ROW, A_K, B_ROW and B_K: from one row and one k to the next in shared memory.
    """
    memory = cuda.shared.array(0, np.int32, 16)
    t, z = cuda.threadIdx.x, cuda.blockIdx.z
    i0, j0, piece, before, width, total = block_of(m, n1, n2, n3, a_i == 1, ROWS, COLUMNS, mode == DEEP)
    first_k, last_k, steps = part_of(depth, chunk, DEPTH)
    a_at, b_at = matrix_at(z, inner, a_outer, a_inner), matrix_at(z, inner, b_outer, b_inner)
    b, b_k, b_j = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k), chosen(piece, b1_j, b2_j, b3_j)
    a_from, b_from = a_at, np.int32(b_at + before * b_j if mode == GRADIENT else b_at)
    first_step, begin, end = np.int32(0), np.int32(0), last_k
    steps1, steps2 = np.int32((depth + DEPTH - 1) // DEPTH), np.int32((n2 + DEPTH - 1) // DEPTH)
    if mode == DEEP:
        first_k = np.int32(0)
        first_step, steps = steps_of(steps1, steps2, (n3 + DEPTH - 1) // DEPTH)

    acc, x, y = registers(TALL, WIDE), registers(2, TALL), registers(WIDE // 2)
    high, low, part = registers(TALL), registers(TALL), registers(2, TALL)
    for r in unroll(TALL):
        for s in unroll(WIDE):
            acc[r, s], x[0, r], y[s // 2] = zeros(4), NO_WORDS, NO_WORDS
    lane, warp = t & 31, t >> 5
    g, w = lane >> 2, lane & 3
    row0, column0 = warp // (COLUMNS // (8 * WIDE)) * (16 * TALL), warp % (COLUMNS // (8 * WIDE)) * (8 * WIDE)
    l0, r0 = (row0 + g) * A_ROW + w * A_K, STAGES * LEFT + (column0 + g) * B_ROW + w * B_K
    if A_ALONG:  # this lane's row of four matrices
        l0 = (row0 + (lane & 15)) * A_ROW + (lane >> 4) * 4
    if B_ALONG:
        r0 = STAGES * LEFT + (column0 + (lane & 7) + (lane >> 4) * 8) * B_ROW + (lane >> 3 & 1) * 4
    row_a, k_a = PLACE_A(t)
    row_b, k_b = PLACE_B(t)
    put_a, put_b = np.int32(row_a * A_ROW + k_a * A_K), np.int32(STAGES * LEFT + row_b * B_ROW + k_b * B_K)
    quick = (i0 + ROWS <= m and j0 + COLUMNS <= width and wide_a and (A_ALONG or a_i == 1)
             and wide_b and (B_ALONG or (b1_j == 1 and b2_j == 1 and b3_j == 1)))  # fmt: skip
    at_a, at_b, whole = np.int32(0), np.int32(0), np.int32(0)
    summed = np.int32(DEPTH if extra and i0 == 0 and t < COLUMNS else 0)
    column_sum, stage, next_stage = NOTHING, np.int32(0), np.int32(0)
    for step in range(np.int32(first_step + 1 - STAGES), steps):
        ahead = np.int32(step + (STAGES - 1))
        if ahead == first_step or (mode == DEEP and (ahead == steps1 or ahead == steps1 + steps2)):
            if mode == DEEP:
                piece, begin = piece_at(ahead, steps1, steps2)
                end = chosen(piece, depth, n2, n3)
                a_from = np.int32(a_at + chosen(piece, 0, depth, depth + n2) * a_k)
                b, b_k = chosen(piece, b1, b2, b3), chosen(piece, b1_k, b2_k, b3_k)
                b_j = chosen(piece, b1_j, b2_j, b3_j)
            at_a = np.int32(a_from + (i0 + row_a) * a_i + (first_k + k_a) * a_k)
            at_b = np.int32(b_from + (j0 + row_b) * b_j + (first_k + k_b) * b_k)
            whole = np.int32(min(steps, begin + (end - first_k) // DEPTH) if quick else 0)  # so far all is there
        if ahead < whole:
            WHOLE_A(memory, next_stage * LEFT + put_a, a, at_a, a_i, a_k)
            WHOLE_B(memory, next_stage * RIGHT + put_b, b, at_b, b_j, b_k)
            at_a, at_b = np.int32(at_a + DEPTH * a_k), np.int32(at_b + DEPTH * b_k)
        elif ahead < steps:
            k0 = np.int32(first_k + (ahead - begin) * DEPTH)
            BRING_A(memory, next_stage * LEFT, a, a_from, a_i, a_k, i0, m, k0, end, wide_a, t)
            BRING_B(memory, STAGES * LEFT + next_stage * RIGHT, b, b_from, b_j, b_k, j0, width, k0, end, wide_b, t)
        next_stage = np.int32(next_stage + 1 if next_stage + 1 < STAGES else 0)
        commit()
        if step >= first_step:
            for k in range(summed):
                word = load1(memory, STAGES * LEFT + stage * RIGHT + t * B_ROW + k * B_K)
                if PAIR == 1:
                    column_sum += scalar.from_bits(word)
                else:
                    column_sum += number(word, False)
                    column_sum += number(word, True)
            l_at, r_at = l0 + stage * LEFT, r0 + stage * RIGHT
            for k in unroll(DEPTH // 8):
                if k == DEPTH // 8 - 1:
                    stage = np.int32(stage + 1 if stage + 1 < STAGES else 0)
                    l_at, r_at = l0 + stage * LEFT, r0 + stage * RIGHT
                    arrived(STAGES - 2)
                    cuda.syncthreads()
                for r in unroll(TALL):
                    x[(k + 1) % 2, r] = READ_A(memory, l_at + ((k + 1) % (DEPTH // 8) * (8 * A_K)
                                                               + r * (16 * A_ROW)))  # fmt: skip
                if SPLIT:
                    for r in unroll(TALL):
                        high[r], low[r] = split4(x[k % 2, r])
                for s in unroll(WIDE):
                    if SPLIT and s % 2 == 0:  # two columns of products: so many do not wait for each other
                        right, rest = split4(y[s // 2])
                        for h in unroll(2):
                            for r in unroll(TALL):
                                part[h, r] = mma_tf32(low[r], (right[2 * h], right[2 * h + 1]), zeros(4))
                        for h in unroll(2):
                            for r in unroll(TALL):
                                part[h, r] = mma_tf32(high[r], (rest[2 * h], rest[2 * h + 1]), part[h, r])
                        for h in unroll(2):
                            for r in unroll(TALL):
                                part[h, r] = mma_tf32(high[r], (right[2 * h], right[2 * h + 1]), part[h, r])
                        for h in unroll(2):
                            for r in unroll(TALL):
                                acc[r, s + h] = add4(acc[r, s + h], part[h, r])
                    for r in unroll(0 if SPLIT else TALL):
                        if PAIR == 1:
                            acc[r, s] = mma_tf32(x[k % 2, r], (y[s // 2][s % 2 * 2], y[s // 2][s % 2 * 2 + 1]),
                                                 acc[r, s])  # fmt: skip
                        else:
                            acc[r, s] = mma_bf16(x[k % 2, r], (y[s // 2][s % 2 * 2], y[s // 2][s % 2 * 2 + 1]),
                                                 acc[r, s])  # fmt: skip
                    if s % 2 == 1:
                        y[s // 2] = READ_B(memory, r_at + ((k + 1) % (DEPTH // 8) * (8 * B_K)
                                                   + s // 2 * (16 * B_ROW)))  # fmt: skip
        elif step == first_step - 1:
            arrived(STAGES - 2)
            cuda.syncthreads()
            for r in unroll(TALL):
                x[0, r] = READ_A(memory, l0 + r * (16 * A_ROW))
            for s in unroll(WIDE // 2):
                y[s] = READ_B(memory, r0 + s * (16 * B_ROW))

    row, c_at = total, (cuda.blockIdx.y * cuda.gridDim.z + z) * np.int64(m) * total + before
    if mode == GRADIENT:
        row, c_at = width, cuda.blockIdx.y * np.int64(m + extra) * total + np.int64(m + extra) * before
        if extra and i0 == 0 and t < COLUMNS and j0 + t < width:
            c[c_at + m * width + j0 + t] = column_sum
    bias = chosen(piece, bias1, bias2, bias3)
    adding = biased >> piece & 1
    for s in unroll(WIDE):
        j = j0 + column0 + 8 * s + 2 * w
        for r in unroll(TALL):
            for half in unroll(2):
                i = i0 + row0 + g + 16 * r + 8 * half
                put_pair(c, c_at + i * np.int64(row), j, i < m, width, wide_c, bias, adding, relu,
                         acc[r, s][2 * half], acc[r, s][2 * half + 1])  # fmt: skip
    if SPLIT:
        broken = False
        for s in unroll(WIDE):
            for r in unroll(TALL):
                for e in unroll(4):
                    broken = broken or acc[r, s][e] != acc[r, s][e]
        first_piece, last_piece = pieces_of(piece, mode == DEEP)
        for n in range(4 * TALL * WIDE if broken else 0):
            i = i0 + row0 + g + (n >> 1 & 1) * 8 + (n >> 2) % TALL * 16
            j = j0 + column0 + 2 * w + (n & 1) + (n >> 2) // TALL * 8
            at = c_at + i * np.int64(row) + j
            if i < m and j < width and c[at] != c[at]:
                sum_of = NOTHING
                for p in range(first_piece, last_piece):
                    length = chosen(p, depth, n2, n3) if mode == DEEP else np.int32(last_k - first_k)
                    skipped = chosen(p, 0, depth, depth + n2) if mode == DEEP else first_k
                    b, b_k, b_j = chosen(p, b1, b2, b3), chosen(p, b1_k, b2_k, b3_k), chosen(p, b1_j, b2_j, b3_j)
                    a_first = np.int32(a_at + i * a_i + skipped * a_k)
                    b_first = np.int32(b_from + j * b_j + (0 if mode == DEEP else first_k) * b_k)
                    sum_of = exact(sum_of, a, a_first, a_k, b, b_first, b_k, length)
                if adding:
                    sum_of += bias[j]
                c[at] = above(sum_of) if relu else sum_of
