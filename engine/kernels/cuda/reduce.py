"""Sums over any axes. The order of a sum follows from its length alone.

Along a row: four lanes a thread, each a chain in ascending order, then one tree over the threads. Over rows (the last
axis stays): 32 chains of rows, then their sum in order. What is longer than a chunk is summed in chunks, and the
chunks' sums are summed in the same way.
"""

import math
from typing import Any

import numpy as np

from . import tape
from .jit import cuda, kernel
from .rows import FLOAT32, ROWS, WARP, ZERO, block_sum, get4, row_of, served, warp_sum, wide
from .template import registers, template, unroll

Array = Any

AHEAD = 8  # loads of a thread that are under way together
SHORT = 1024  # numbers of a row that a warp sums
CHUNK = 16384  # numbers of a longer row that a block sums
COLUMNS, CHAINS = 32, 32  # of a block that sums over rows
PARTS = COLUMNS * CHAINS
TALL = 1024  # rows that such a block sums


@template
def _sum_rows(x, out, rows, n, chunk, chunks, flat, *, ROWS, THREADS, SUM):
    """out (rows, chunks): the sums of `chunk` numbers each."""
    place, t = row_of(ROWS, THREADS)
    if place >= rows * chunks:
        return
    row, first = place, 0
    if chunks > 1:
        row = np.int64(np.uint32(place) // np.uint32(chunks))
        first = (place - row * chunks) * chunk
    at, end, v = row * np.int64(n), min(n, first + chunk), registers(AHEAD, 4)
    p, q, r, s = ZERO, ZERO, ZERO, ZERO
    for i in range(first + 4 * t, end, 4 * THREADS * AHEAD):
        if flat:
            for k in unroll(AHEAD):
                v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, end, True, ZERO)
        else:
            for k in unroll(AHEAD):
                v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, end, False, ZERO)
        for k in unroll(AHEAD):
            p, q, r, s = p + v[k, 0], q + v[k, 1], r + v[k, 2], s + v[k, 3]
    total = SUM((p + q) + (r + s))
    if t == 0:
        out[place] = total


_SIGNATURE = "float32[::1], float32[::1], int32, int32, int32, int32, bool"
_short = kernel(_SIGNATURE, threads=WARP * ROWS)(_sum_rows("sum_short_rows", ROWS=ROWS, THREADS=WARP, SUM=warp_sum))
_long = kernel(_SIGNATURE, threads=256)(_sum_rows("sum_long_rows", ROWS=1, THREADS=256, SUM=block_sum))


@template
def _sum_of_rows(x, out, n, cols, chunk, chunks, panels):
    """x (outer, n, cols) -> out (outer, chunks, cols); a block sums `chunk` rows in 32 columns."""
    parts = cuda.shared.array(PARTS, np.float32)
    j, chain = cuda.threadIdx.x & (COLUMNS - 1), cuda.threadIdx.x // COLUMNS & (CHAINS - 1)
    place = np.int64(np.uint32(cuda.blockIdx.x) // np.uint32(panels))
    column = (cuda.blockIdx.x - place * panels) * COLUMNS + j
    outer, first, total, v = place, 0, ZERO, registers(AHEAD)
    if chunks > 1:
        outer = np.int64(np.uint32(place) // np.uint32(chunks))
        first = (place - outer * chunks) * chunk
    end = min(n, first + chunk)
    if column < cols:
        at = outer * n * cols + column
        for i in range(first + chain, end, CHAINS * AHEAD):
            for k in unroll(AHEAD):
                v[k] = ZERO
                if i + CHAINS * k < end:
                    v[k] = x[at + (i + CHAINS * k) * np.int64(cols)]
            for k in unroll(AHEAD):
                total += v[k]
    parts[chain * COLUMNS + j] = total
    cuda.syncthreads()
    if chain == 0 and column < cols:
        total = parts[j]
        for i in range(1, CHAINS):
            total += parts[i * COLUMNS + j]
        out[np.int64(place) * cols + column] = total


_sum_over_rows = kernel("float32[::1], float32[::1], int32, int32, int32, int32, int32", threads=PARTS)(
    _sum_of_rows("_sum_over_rows")
)


def sum_rows(x: Array, out: Array, rows: int, n: int) -> None:
    """out (rows) = the sums of rows of n numbers, both C-contiguous and not empty."""
    chunks = -(-n // CHUNK)
    to = out if chunks == 1 else tape.empty(rows * chunks, FLOAT32)
    if n <= SHORT:
        _short[-(-rows // ROWS), WARP * ROWS](x, to, rows, n, n, 1, wide(n, x))
    else:
        _long[rows * chunks, 256](x, to, rows, n, CHUNK, chunks, wide(n, x))
    if chunks > 1:
        sum_rows(to, out, rows, chunks)


def sum_over_rows(x: Array, out: Array, outer: int, n: int, cols: int) -> None:
    """out (outer, cols) = the sums of x (outer, n, cols) over its rows, both C-contiguous and not empty."""
    chunks, panels = -(-n // TALL), -(-cols // COLUMNS)
    to = out if chunks == 1 else tape.empty(outer * chunks * cols, FLOAT32)
    _sum_over_rows[outer * chunks * panels, PARTS](x, to, n, cols, TALL, chunks, panels)
    if chunks > 1:
        sum_over_rows(to, out, outer, chunks, cols)


def sum(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The sum of float32 elements over the given axes (None: all), in the orders above."""
    if not served(x):
        return NotImplemented
    axes = normalised(axis, x.ndim)
    out = tape.empty([1 if i in axes else size for i, size in enumerate(x.shape)], x.dtype)
    if x.size == 0:
        if out.size:
            tape.fill(out, 0)
    elif axes:
        _into(out, x, axes)
    else:
        tape.copy_to(out, x)
    return out if keepdims else out.reshape([size for i, size in enumerate(x.shape) if i not in axes])


def normalised(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    """The axes, counted from the first (None: all)."""
    if axis is None:
        return set(range(ndim))
    return {a % ndim for a in ((axis,) if isinstance(axis, int) else axis)}


def _into(out: Array, x: Array, axes: set[int]) -> None:
    first, last = min(axes), max(axes)
    if last - first + 1 != len(axes):  # not side by side: bring them to the end
        kept = [i for i in range(x.ndim) if i not in axes]
        x = x.transpose(*kept, *sorted(axes))
        first, last = len(kept), x.ndim - 1
    x = tape.contiguous(x)
    outer, n, cols = (math.prod(x.shape[s]) for s in (slice(first), slice(first, last + 1), slice(last + 1, None)))
    if cols == 1:
        sum_rows(x, out, outer, n)
    else:
        sum_over_rows(x, out, outer, n, cols)
