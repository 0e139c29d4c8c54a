"""Sums in the one order that every kernel keeps, and the `sum` of any axes.

The order. Element i of a sum goes to lane i % 16, the lanes run side by side, and one fixed tree combines them. Sums of
more than 4096 elements are cut into chunks of 4096, whose results are added in ascending order. So the order depends on
the length of the sum alone, zeros behind the end change no bit, and it is the same whether the elements lie in a row
(a lane is a lane of a vector) or in a column (a lane is every sixteenth row).
"""

import math

import numpy as np

from .jit import jit, kernel
from .lift import FLOATS
from .simd import LANES, greater, load, load_tail, max_lanes, splat, sum_lanes

Array = np.ndarray

CHUNK = 4096
BLOCK = 16384  # elements of one block of work


@jit
def sum_chunk(x, start, n):
    """The sum of n <= CHUNK elements of the flat array x from `start`."""
    acc = splat(0.0, x)
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        acc = acc + load(x, start + i)
    if whole < n:
        acc = acc + load_tail(x, start + whole, n - whole)
    return sum_lanes(acc)


@jit
def sum_row(x, start, n):
    """The sum of n elements of the flat array x from `start`."""
    total = sum_chunk(x, start, min(n, CHUNK))
    for i in range(CHUNK, n, CHUNK):
        total = total + sum_chunk(x, start + i, min(n - i, CHUNK))
    return total


@jit
def dot_chunk(x, y, start, n):
    """The sum of n <= CHUNK products x[i] y[i] from i = `start`."""
    acc = splat(0.0, x)
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        acc = acc + load(x, start + i) * load(y, start + i)
    if whole < n:
        acc = acc + load_tail(x, start + whole, n - whole) * load_tail(y, start + whole, n - whole)
    return sum_lanes(acc)


@jit
def dot_row(x, y, start, n):
    """The sum of n products x[i] y[i] from i = `start`."""
    total = dot_chunk(x, y, start, min(n, CHUNK))
    for i in range(CHUNK, n, CHUNK):
        total = total + dot_chunk(x, y, start + i, min(n - i, CHUNK))
    return total


@jit
def max_row(x, start, n):
    """The largest of n elements of the flat array x from `start`, passing over NaN; -inf if there is none."""
    lowest = splat(-math.inf, x)
    acc = lowest
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        acc = greater(load(x, start + i), acc)
    top = max_lanes(acc)
    for i in range(start + whole, start + n):
        top = x[i] if x[i] > top else top
    return top


@kernel("T[::1], T[::1], int, int, int")
def _sum_rows(lo, hi, x, out, rows, n, per_block):
    for row in range(lo * per_block, min(hi * per_block, rows)):
        out[row] = sum_row(x, row * n, n)


@kernel("T[::1], T[::1], int")
def _sum_chunks(lo, hi, x, out, n):
    for chunk in range(lo, hi):
        out[chunk] = sum_chunk(x, chunk * CHUNK, min(CHUNK, n - chunk * CHUNK))


@kernel("T[::1], T[::1], int")
def _add_up(lo, hi, parts, out, count):
    total = parts[0]
    for i in range(1, count):
        total = total + parts[i]
    out[0] = total


@kernel("T[::1], T[::1], int, int, int")
def _sum_column_lanes(lo, hi, x, parts, chunks, n, cols):
    """x (outer, n, cols) -> parts (outer, chunks, LANES, cols); a block is one lane of one chunk."""
    for block in range(lo, hi):
        lane = block % LANES
        chunk = block // LANES % chunks
        first = block // LANES // chunks * n
        acc = parts[block * cols : (block + 1) * cols]
        acc[:] = 0
        for row in range(first + chunk * CHUNK + lane, first + min(n, (chunk + 1) * CHUNK), LANES):
            values = x[row * cols : (row + 1) * cols]
            for j in range(cols):
                acc[j] += values[j]


@kernel("T[::1], T[::1], int, int")
def combine_lanes(lo, hi, parts, out, chunks, cols):
    """parts (outer, chunks, LANES, cols), overwritten -> out (outer, cols): the tree of lanes, then chunk by chunk."""
    for outer in range(lo, hi):
        result = out[outer * cols : (outer + 1) * cols]
        for chunk in range(chunks):
            start = (outer * chunks + chunk) * LANES * cols
            width = LANES // 2
            while width > 0:
                near = parts[start : start + width * cols]
                far = parts[start + width * cols : start + 2 * width * cols]
                for j in range(width * cols):
                    near[j] += far[j]
                width //= 2
            near = parts[start : start + cols]
            for j in range(cols):
                result[j] = near[j] if chunk == 0 else result[j] + near[j]


def column_chunks(n: int) -> int:
    """The number of chunks of a column of n elements (one where n = 0)."""
    return max(1, -(-n // CHUNK))


def sum(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The sum of float32 or float64 elements over the given axes (None: all), in the order above."""
    if x.dtype not in FLOATS:
        return NotImplemented
    if axis is None and not keepdims:
        return _sum_rows_of(np.asarray(x, order="C"), 1, x.size).reshape(())
    axes = _normalised(axis, x.ndim)
    kept_shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    out = _sum_over(x, axes).reshape(kept_shape)
    return out if keepdims else out.reshape([size for i, size in enumerate(x.shape) if i not in axes])


def _normalised(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    if axis is None:
        return set(range(ndim))
    return {a % ndim for a in ((axis,) if isinstance(axis, int) else axis)}


def _sum_over(x: Array, axes: set[int]) -> Array:
    """The sums, flat, in the order of the axes that stay."""
    if not axes:
        return x.copy()
    first, last = min(axes), max(axes)
    if last - first + 1 != len(axes):  # not side by side: bring them to the end
        kept = [i for i in range(x.ndim) if i not in axes]
        x = x.transpose(*kept, *sorted(axes))
        first, last = len(kept), x.ndim - 1
    x = np.asarray(x, order="C")
    outer, n, cols = (math.prod(x.shape[s]) for s in (slice(first), slice(first, last + 1), slice(last + 1, None)))
    return _sum_rows_of(x, outer, n) if cols == 1 else _sum_columns_of(x, outer, n, cols)


def _sum_rows_of(x: Array, rows: int, n: int) -> Array:
    out = np.empty(rows, x.dtype)
    if rows == 1 and n > 4 * CHUNK:
        parts = np.empty(-(-n // CHUNK), x.dtype)
        _sum_chunks(parts.size, x, parts, n)
        _add_up(1, parts, out, parts.size)
        return out
    per_block = max(1, BLOCK // max(1, n))
    _sum_rows(-(-rows // per_block), x, out, rows, n, per_block)
    return out


def _sum_columns_of(x: Array, outer: int, n: int, cols: int) -> Array:
    chunks = column_chunks(n)
    parts = np.empty(outer * chunks * LANES * cols, x.dtype)
    out = np.empty(outer * cols, x.dtype)
    sum_lanes_of = _sum_column_lanes if x.size > BLOCK else _sum_column_lanes.serial
    sum_lanes_of(outer * chunks * LANES, x, parts, chunks, n, cols)
    (combine_lanes if parts.size > BLOCK else combine_lanes.serial)(outer, parts, out, chunks, cols)
    return out
