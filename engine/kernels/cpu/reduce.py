"""Sums in the two orders that every kernel keeps, and the `sum` of any axes.

Along a row, element i goes to lane i % 16, the lanes run side by side, and one fixed tree combines them. Sums of more
than 4096 elements are cut into chunks of 4096, whose results are added in ascending order. So the order depends on the
length of the sum alone, and zeros behind the end change no bit.

Over rows (the last axis stays) a sum is one chain in ascending order: rows of zeros change no bit wherever they lie.
"""

import math

import numpy as np

from . import tape
from .jit import jit, kernel
from .lift import FLOATS
from .simd import LANES, greater, load, load_tail, max_lanes, splat, sum_lanes

Array = np.ndarray

CHUNK = 4096
BLOCK = 16384  # elements of one block of work
PANEL = 256  # columns that are summed over rows together


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


@kernel("T[::1], T[::1], int, int, int, int")
def _sum_panels(lo, hi, x, out, n, cols, width, panels):
    """x (outer, n, cols) -> out (outer, cols), row by row; a block is `width` columns of one outer index."""
    for block in range(lo, hi):
        outer, first = block // panels, block % panels * width
        m = min(width, cols - first)
        acc = out[outer * cols + first : outer * cols + first + m]
        acc[:] = 0
        for row in range(outer * n, (outer + 1) * n):
            values = x[row * cols + first : row * cols + first + m]
            for j in range(m):
                acc[j] += values[j]


def sum(x: Array, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """The sum of float32 or float64 elements over the given axes (None: all), in the orders above."""
    if x.dtype not in FLOATS:
        return NotImplemented
    if axis is None and not keepdims:
        return _sum_rows_of(tape.contiguous(x), 1, x.size).reshape(())
    axes = normalised(axis, x.ndim)
    kept_shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    out = _sum_over(x, axes).reshape(kept_shape)
    return out if keepdims else out.reshape([size for i, size in enumerate(x.shape) if i not in axes])


def normalised(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    """The axes, counted from the first (None: all)."""
    if axis is None:
        return set(range(ndim))
    return {a % ndim for a in ((axis,) if isinstance(axis, int) else axis)}


def _sum_over(x: Array, axes: set[int]) -> Array:
    """The sums, flat, in the order of the axes that stay."""
    if not axes:
        out = tape.empty(x.shape, x.dtype)
        tape.copy_to(out, x)
        return out
    first, last = min(axes), max(axes)
    if last - first + 1 != len(axes):  # not side by side: bring them to the end
        kept = [i for i in range(x.ndim) if i not in axes]
        x = x.transpose(*kept, *sorted(axes))
        first, last = len(kept), x.ndim - 1
    x = tape.contiguous(x)
    outer, n, cols = (math.prod(x.shape[s]) for s in (slice(first), slice(first, last + 1), slice(last + 1, None)))
    return _sum_rows_of(x, outer, n) if last == x.ndim - 1 else _sum_over_rows(x, outer, n, cols)


def _sum_rows_of(x: Array, rows: int, n: int) -> Array:
    out = tape.empty(rows, x.dtype)
    if rows == 1 and n > 4 * CHUNK:
        parts = tape.empty(-(-n // CHUNK), x.dtype)
        _sum_chunks(parts.size, x, parts, n)
        _add_up(1, parts, out, parts.size)
        return out
    per_block = max(1, BLOCK // max(1, n))
    _sum_rows(-(-rows // per_block), x, out, rows, n, per_block)
    return out


def _sum_over_rows(x: Array, outer: int, n: int, cols: int) -> Array:
    out = tape.empty(outer * cols, x.dtype)
    width = min(PANEL, cols)
    if out.size:
        panels = -(-cols // width)
        run = _sum_panels if x.size > BLOCK else _sum_panels.serial
        run(outer * panels, x, out, n, cols, width, panels)
    return out
