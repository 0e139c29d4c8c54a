"""Matrices rounded to bfloat16 for the tensor cores: words of two neighbours along k, whatever the matrix's strides.

A row has WORDS_TOGETHER words or a multiple of them, zeros behind its end, so that it is read 128 bits at a time. Both
operands of a product are rounded by one launch, a block a tile of ROWS rows and WORDS words: all of its loads are under
way before the first number is used, and neighbouring lanes read and write neighbours.
"""

from typing import Any, NamedTuple

import numpy as np

from . import tape
from .jit import cuda, jit, kernel
from .mma import pack_bf16
from .product import fetch
from .ptx import divided, load4, store2, store4
from .rows import ZERO, get4
from .template import registers, template, unroll

Array = Any

WORDS_TOGETHER = 4
THREADS = 256
ROWS, WORDS = 32, 64  # of a tile
STEP = ROWS + 1  # from one of its words to the next: the lanes of a warp are in different banks
SPACE = WORDS * STEP


@template
def _along(x, at, x_i, k, depth, out, to, out_i, row, rows, words, wide):
    """A tile whose neighbours along k are neighbours in memory: a warp takes a row, four numbers a thread; `row` and
    `k` are this thread's first."""
    four = registers(ROWS * 32 // THREADS)
    hop = THREADS // 32
    if wide and k + 4 <= depth and row + (ROWS - hop) < rows:
        for u in unroll(ROWS * 32 // THREADS):
            four[u] = load4(x, at + u * hop * x_i)
    else:
        for u in unroll(ROWS * 32 // THREADS):
            four[u] = get4(x, at - k + u * hop * x_i, k, depth if row + u * hop < rows else 0, wide and k + 4 <= depth,
                           ZERO)  # fmt: skip
    for u in unroll(ROWS * 32 // THREADS):
        if row + u * hop < rows and k // 2 < words:
            store2(out, to + u * hop * out_i, pack_bf16(four[u][0], four[u][1]), pack_bf16(four[u][2], four[u][3]))


@template
def _across(tile, x, at, x_i, x_k, row0, word0, rows, depth, out, to, out_i, words, wide):
    """Any other tile, turned in shared memory: read four rows and written four words at a time; `at` and `to`: where
    it begins."""
    line, four = cuda.threadIdx.x // (ROWS // 4), cuda.threadIdx.x % (ROWS // 4) * 4
    low, high = registers(WORDS // 32), registers(WORDS // 32)
    fours = wide and x_i == 1
    if fours and row0 + ROWS <= rows and 2 * (word0 + WORDS) <= depth:
        begin = at + four + 2 * line * x_k
        for u in unroll(WORDS // 32):
            low[u], high[u] = load4(x, begin + 64 * u * x_k), load4(x, begin + (64 * u + 1) * x_k)
    else:
        begin = at - row0 * x_i - 2 * word0 * x_k
        for u in unroll(WORDS // 32):
            k = 2 * (word0 + line + 32 * u)
            low[u] = fetch(x, begin, row0 + four, k, x_i, x_k, rows, depth, False, fours)
            high[u] = fetch(x, begin, row0 + four, k + 1, x_i, x_k, rows, depth, False, fours)
    for u in unroll(WORDS // 32):
        for e in unroll(4):
            tile[(line + 32 * u) * STEP + four + e] = pack_bf16(low[u][e], high[u][e])
    cuda.syncthreads()
    for u in unroll(WORDS // 32):
        if row0 + line < rows and word0 + four + 32 * u < words:
            from_here = (four + 32 * u) * STEP + line
            store4(out, to + line * out_i + four + 32 * u, tile[from_here], tile[from_here + STEP],
                   tile[from_here + 2 * STEP], tile[from_here + 3 * STEP])  # fmt: skip


_ALONG, _ACROSS = jit(_along("round_along")), jit(_across("round_across"))
MATRIX = "float32[...], int32[::1], int32, int32, int32, int32, int32, int32, int32, int32, int32, int32, bool"


@jit
def _round(tile, block, x, out, at, out_at, rows, depth, x_i, x_k, out_i, outer_step, inner_step, inner, wide):
    """One tile of one matrix of a batch, `block` counting all of them."""
    t, words = cuda.threadIdx.x, np.int32((depth + 7) // 8 * WORDS_TOGETHER)
    across = np.int32((words + WORDS - 1) // WORDS)
    z, block = divided(block, across * ((rows + ROWS - 1) // ROWS))
    i, j = divided(block, across)
    z_outer, z_inner = divided(z, inner)
    row, word = np.int32(i * ROWS), np.int32(j * WORDS)
    at = np.int32(at + z_outer * outer_step + z_inner * inner_step + row * x_i + 2 * word * x_k)
    to = np.int32(out_at + (z * rows + row) * out_i + word)
    if x_k == 1:
        line, lane = t >> 5, t & 31
        _ALONG(x, at + line * x_i + 4 * lane, x_i, 2 * word + 4 * lane, depth, out, to + line * out_i + 2 * lane, out_i,
               row + line, rows, words, wide)  # fmt: skip
    else:
        _ACROSS(tile, x, at, x_i, x_k, row, word, rows, depth, out, to, out_i, words, wide)


@kernel(f"int32, {MATRIX}, {MATRIX}", threads=THREADS)
def _round_both(
    blocks, x, out, at, out_at, rows, depth, x_i, x_k, out_i, outer_step, inner_step, inner, wide,
    x2, out2, at2, out_at2, rows2, depth2, x_i2, x_k2, out_i2, outer_step2, inner_step2, inner2, wide2,
):  # fmt: skip
    """Two matrices, or batches of them; the first `blocks` blocks are the first one's."""
    tile = cuda.shared.array(SPACE, np.int32)
    if cuda.blockIdx.x < blocks:
        _round(tile, cuda.blockIdx.x, x, out, at, out_at, rows, depth, x_i, x_k, out_i, outer_step, inner_step, inner,
               wide)  # fmt: skip
    else:
        _round(tile, cuda.blockIdx.x - blocks, x2, out2, at2, out_at2, rows2, depth2, x_i2, x_k2, out_i2, outer_step2,
               inner_step2, inner2, wide2)  # fmt: skip


class Matrix(NamedTuple):
    """A batch of matrices (rows, depth) to be rounded as `_round` takes it: its elements x_i and x_k apart from x[at]
    on, into rows of words out_i apart; one matrix behind the other in `out`, so many in all and along the inner axis,
    outer_step and inner_step apart in x."""

    x: Array
    out: Array
    at: int
    out_at: int
    rows: int
    depth: int
    x_i: int
    x_k: int
    out_i: int
    outer_step: int
    inner_step: int
    inner: int
    wide: bool  # four neighbours can be read at a time
    many: int

    @property
    def blocks(self) -> int:
        """Of its launch."""
        return self.many * -(-self.rows // ROWS) * -(-words_of(self.depth) // WORDS)


NO_MATRIX = Matrix(None, None, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, False, 0)


def words_of(depth: int) -> int:
    """How many words a row of `depth` numbers takes."""
    return -(-depth // (2 * WORDS_TOGETHER)) * WORDS_TOGETHER


def matrix(
    x: Array, x_i: int, x_k: int, rows: int, depth: int, batch: tuple[int, int] = (1, 1),
    steps: tuple[int, int] = (0, 0), wide: bool = False,
) -> tuple[Matrix, tuple[int, int]]:  # fmt: skip
    """All matrices of a batch, with memory for their words, and the outer and inner steps among these: 0 along an axis
    in which they are one and the same."""
    outer, inner = (1 if step == 0 else n for n, step in zip(batch, steps, strict=True))
    words = words_of(depth)
    out = tape.empty(outer * inner * rows * words, np.int32)
    found = Matrix(x, out, 0, 0, rows, depth, x_i, x_k, words, *steps, inner, wide, outer * inner)
    return found, (inner * rows * words if outer > 1 else 0, rows * words if inner > 1 else 0)


def side_by_side(x: Array, x_i: int, x_k: int, rows: int, widths: list[int], wide: bool) -> list[Matrix]:
    """Parts of one matrix, `widths` numbers along k, as rows of words in which each part begins at a word that is read
    with others: one matrix where they do anyway."""
    if all(width % (2 * WORDS_TOGETHER) == 0 for width in widths[:-1]):
        widths = [sum(widths)]
    lengths = [words_of(width) for width in widths]
    out = tape.empty(rows * sum(lengths), np.int32)
    return [Matrix(x, out, sum(widths[:i]) * x_k, sum(lengths[:i]), rows, width, x_i, x_k, sum(lengths), 0, 0, 1, wide,
                   1) for i, width in enumerate(widths)]  # fmt: skip


def write(matrices: list[Matrix]) -> None:
    """Round them, two a launch."""
    for first in range(0, len(matrices), 2):
        one, other = (*matrices[first : first + 2], NO_MATRIX)[:2]
        if blocks := one.blocks + other.blocks:
            _round_both[blocks, THREADS](one.blocks, *one[:-1], *other[:-1])
