"""Matrices rounded to bfloat16 for the tensor cores: words of two neighbours along k, whatever the matrix's strides.

A row has WORDS_TOGETHER words or a multiple of them, zeros behind its end, so that it is read 128 bits at a time.
"""

from typing import Any

import numpy as np

from . import tape
from .jit import cuda, kernel
from .mma import pack_bf16
from .product import fetch
from .ptx import store4
from .rows import ZERO, get4

Array = Any

WORDS_TOGETHER = 4
THREADS = 256
TILE = 32  # rows, and words, of a tile that is transposed on its way
STEP = TILE + 1  # from one of its words to the next: the lanes of a warp are in different banks
SPACE = TILE * STEP


@kernel("float32[...], int32[::1], int, int, int32, int32, int, int, int, int, int, int, int32, bool",
        threads=THREADS)  # fmt: skip
def _along(x, out, x_at, out_at, rows, depth, x_i, out_i, x_outer, x_inner, out_step, words, inner, wide):
    """A matrix whose neighbours along k are neighbours in memory: four words a thread."""
    z, e = cuda.blockIdx.y, cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    row, word = e // (words // WORDS_TOGETHER), e % (words // WORDS_TOGETHER) * WORDS_TOGETHER
    if row < rows:
        at = x_at + z // inner * x_outer + z % inner * x_inner + row * x_i
        whole = wide and 2 * word + 8 <= depth
        a, b = get4(x, at, 2 * word, depth, whole, ZERO), get4(x, at, 2 * word + 4, depth, whole, ZERO)
        store4(out, out_at + z * out_step + row * out_i + word, pack_bf16(a[0], a[1]), pack_bf16(a[2], a[3]),
               pack_bf16(b[0], b[1]), pack_bf16(b[2], b[3]))  # fmt: skip


@kernel("float32[...], int32[::1], int, int, int32, int32, int, int, int, int, int, int, int, int32, bool",
        threads=THREADS)  # fmt: skip
def _across(x, out, x_at, out_at, rows, depth, x_i, x_k, out_i, x_outer, x_inner, out_step, words, inner, wide):
    """Any other matrix: tiles of TILE rows and as many words, read four rows and written four words at a time."""
    tile = cuda.shared.array(SPACE, np.int32)
    line, four, z = cuda.threadIdx.x // (TILE // 4), cuda.threadIdx.x % (TILE // 4) * 4, cuda.blockIdx.z
    row0, word0 = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    at, k = x_at + z // inner * x_outer + z % inner * x_inner, 2 * (word0 + line)
    low = fetch(x, at, row0 + four, k, x_i, x_k, rows, depth, False, wide and x_i == 1)
    high = fetch(x, at, row0 + four, k + 1, x_i, x_k, rows, depth, False, wide and x_i == 1)
    put = line * STEP + four
    tile[put], tile[put + 1] = pack_bf16(low[0], high[0]), pack_bf16(low[1], high[1])
    tile[put + 2], tile[put + 3] = pack_bf16(low[2], high[2]), pack_bf16(low[3], high[3])
    cuda.syncthreads()
    if row0 + line < rows and word0 + four < words:
        store4(out, out_at + z * out_step + (row0 + line) * out_i + word0 + four, tile[four * STEP + line],
               tile[(four + 1) * STEP + line], tile[(four + 2) * STEP + line], tile[(four + 3) * STEP + line])


def words_of(depth: int) -> int:
    """How many words a row of `depth` numbers takes."""
    return -(-depth // (2 * WORDS_TOGETHER)) * WORDS_TOGETHER


def write_words(
    x: Array, at: int, x_i: int, x_k: int, rows: int, depth: int, out: Array, *, out_at: int = 0, out_i: int = 0,
    batch: tuple[int, int] = (1, 1), steps: tuple[int, int] = (0, 0), wide: bool = False,
) -> None:  # fmt: skip
    """Round a matrix (rows, depth), its elements x_i and x_k apart from x[at] on, into rows of words `out_i` apart.

    batch and steps: outer and inner matrices, so far apart; in `out` they follow each other.
    """
    many, words = batch[0] * batch[1], words_of(depth)
    out_i = out_i or words
    step = rows * out_i
    if x_k == 1:
        grid = -(-rows * (words // WORDS_TOGETHER) // THREADS), many
        _along[grid, THREADS](x, out, at, out_at, rows, depth, x_i, out_i, *steps, step, words, batch[1], wide)
    else:
        grid3 = -(-rows // TILE), -(-words // TILE), many
        _across[grid3, THREADS](x, out, at, out_at, rows, depth, x_i, x_k, out_i, *steps, step, words, batch[1], wide)


def matrix(
    x: Array, x_i: int, x_k: int, rows: int, depth: int, batch: tuple[int, int] = (1, 1),
    steps: tuple[int, int] = (0, 0), wide: bool = False,
) -> tuple[Array, tuple[int, int]]:  # fmt: skip
    """All matrices of a batch in words, one behind the other, and the outer and inner steps among them: 0 along an axis
    in which they are one and the same."""
    outer, inner = (1 if step == 0 else n for n, step in zip(batch, steps, strict=True))
    words = words_of(depth)
    out = tape.empty(outer * inner * rows * words, np.int32)
    write_words(x, 0, x_i, x_k, rows, depth, out, batch=(outer, inner), steps=steps, wide=wide)
    return out, (inner * rows * words if outer > 1 else 0, rows * words if inner > 1 else 0)
