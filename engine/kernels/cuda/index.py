"""Rows of a table by their ids, and the sum of rows back into a table. The ids are validated by the caller.

The sum has the order of the ids, whatever the card does first: a block owns a band of the table's rows, finds the ids
that fall into it, in their order, and each of its warps adds up rows of its own.
"""

import math
from typing import Any

import numpy as np

from . import tape
from .jit import cuda, kernel
from .random import dropped, keep4
from .rows import EVERYBODY, MOST, ROWS, WARP, ZERO, get4, put4, row_of, served, wide

Array = Any

THREADS = WARP * ROWS
BAND = 32  # rows of the table that a block owns
SLAB = 4 * WARP  # columns that it sums
ROOM = 2048  # places that it notes before it adds them up
ENTRIES = ROOM + THREADS


@kernel("float32[::1], int64[::1], float32[::1], int32, int32, int32, bool", threads=THREADS)
def _take_rows(table, ids, out, count, size, cols, flat):
    i, t = row_of(ROWS, WARP)
    if i < count:
        row = ids[i] if ids[i] >= 0 else ids[i] + size
        for j in range(4 * t, cols, 4 * WARP):
            a, b, c, d = get4(table, row * cols, j, cols, flat, ZERO)
            put4(out, i * np.int64(cols), j, cols, flat, a, b, c, d)


@kernel("float32[::1], int64[::1], int64[::1], float32[::1], int32, int32, int32, uint32, float32, float32, bool, bool",
        threads=THREADS)  # fmt: skip
def add_rows(g, ids, key, out, count, size, cols, threshold, keep, scale, dropping, flat):
    """out (size, cols) = the sums of the rows dropout(g) scale with one id, in the order of the ids."""
    places, rows = cuda.shared.array(ENTRIES, np.int32), cuda.shared.array(ENTRIES, np.int32)
    found = cuda.shared.array(ROWS, np.int32)
    t, first = cuda.threadIdx.x, cuda.blockIdx.x * BAND
    warp, lane, end, n, rounds = t >> 5, t & 31, min(size, first + BAND), 0, 0
    column = cuda.blockIdx.y * SLAB + 4 * lane
    for base in range(0, count, THREADS):
        row = np.int64(-1)
        if base + t < count:
            row = ids[base + t]
            row = row + size if row < 0 else row
        mine = first <= row and row < end
        votes = cuda.ballot_sync(EVERYBODY, mine)
        if lane == 0:
            found[warp] = cuda.popc(votes)
        cuda.syncthreads()
        before, total = cuda.popc(votes & ((1 << lane) - 1)), 0
        for w in range(ROWS):
            before += found[w] if w < warp else 0
            total += found[w]
        if mine:
            places[n + before], rows[n + before] = base + t, row - first
        n += total
        cuda.syncthreads()
        if n >= ROOM or base + THREADS >= count:
            for r in range(first + warp, end, ROWS):
                a, b, c, d = ZERO, ZERO, ZERO, ZERO
                at = r * np.int64(cols)
                if rounds > 0:
                    a, b, c, d = get4(out, at, column, cols, flat, ZERO)
                for start in range(0, n, WARP):
                    hits = cuda.ballot_sync(EVERYBODY, start + lane < n and rows[min(start + lane, n - 1)] == r - first)
                    hits, e = hits & EVERYBODY, start  # a card's votes are signed: lane 31 is the sign
                    while hits != 0:
                        if hits & 1 and column < cols:
                            i = np.int64(places[e]) * cols
                            four = get4(g, i, column, cols, flat, ZERO)
                            if dropping:
                                four = dropped(four, keep4(key, i + column, threshold), keep)
                            a, b = a + four[0] * scale, b + four[1] * scale
                            c, d = c + four[2] * scale, d + four[3] * scale
                        hits >>= 1
                        e += 1
                put4(out, at, column, cols, flat, a, b, c, d)
            n, rounds = 0, rounds + 1
            cuda.syncthreads()


def embedding(weight: Array, ids: Array) -> Array:
    """The rows weight[ids]: weight (V, D) float32, ids (...) int64 -> (..., D)."""
    if not served(weight) or weight.ndim != 2 or ids.dtype != np.int64 or ids.size * weight.shape[1] > MOST:
        return NotImplemented
    weight, ids = tape.contiguous(weight), tape.contiguous(ids)
    size, cols = weight.shape
    out = tape.empty((*ids.shape, cols), weight.dtype)
    if out.size:
        _take_rows[-(-ids.size // ROWS), THREADS](weight, ids, out, ids.size, size, cols, wide(cols, weight))
    return out


def take(x: Array, ids: Array, *, axis: int = 0) -> Array:
    """The rows x[ids] of a 2-D table; other ranks and axes are not served."""
    return embedding(x, ids) if x.ndim == 2 and axis in (0, -2) else NotImplemented


def scatter_add(g: Array, ids: Array, *, axis: int = 0, size: int) -> Array:
    """Zeros (size, D) to which the rows of g (..., D) are added at ids (...), in the ascending order of ids' positions.

    The gradient of `embedding`, without atomics: the same bits every time. Only axis 0 is served.
    """
    if not served(g) or ids.dtype != np.int64 or axis != 0 or g.ndim != ids.ndim + 1:
        return NotImplemented
    return table_of_sums(g, ids, None, size, 0, 1.0, 1.0)


def table_of_sums(
    g: Array, ids: Array, key: Array | None, size: int, threshold: int, keep: float, scale: float
) -> Array:
    """The launch of `add_rows`."""
    if size * g.shape[-1] > MOST:
        return NotImplemented
    g, ids = tape.contiguous(g), tape.contiguous(ids)
    cols = g.shape[-1]
    out = tape.empty((size, cols), g.dtype)
    if out.size and ids.size == 0:
        tape.fill(out, 0)
    elif out.size:
        add_rows[(-(-size // BAND), math.ceil(cols / SLAB)), THREADS](
            g, ids, key, out, ids.size, size, cols, threshold, keep, scale, key is not None, wide(cols, g)
        )
    return out
