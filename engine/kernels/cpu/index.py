"""Rows of a table by their ids, and the sum of rows back into a table. The ids are validated by the caller."""

import math

import numpy as np

from . import tape
from .dropout import keep_factors, key_of
from .jit import kernel
from .lift import FLOATS

Array = np.ndarray

BLOCK = 16384  # elements of one block of work
BANDS = 16  # a table's rows are cut into this many bands, one block of work each


@kernel("T[::1], int64[::1], T[::1], int, int, int, int")
def _take_rows(lo, hi, table, ids, out, count, size, cols, per_block):
    for i in range(lo * per_block, min(hi * per_block, count)):
        row = ids[i] if ids[i] >= 0 else ids[i] + size
        a, o = table[row * cols : (row + 1) * cols], out[i * cols : (i + 1) * cols]
        for j in range(cols):
            o[j] = a[j]


@kernel("T[::1], int64[::1], int64[::1], T[::1], int, int, int, int, uint32, T, T")
def add_rows(lo, hi, g, ids, key, out, count, size, cols, band, threshold, keep, scale):
    """out (size, cols) = the sums of the rows dropout(g) scale with one id, in the order of the ids.

    A block owns the `band` rows of the table from block * band, all of whose elements it writes.
    """
    bits, factors = key_of(key), np.ones(cols, g.dtype)
    for block in range(lo, hi):
        first, end = block * band, min((block + 1) * band, size)
        out[first * cols : end * cols] = 0
        for i in range(count):
            row = ids[i] if ids[i] >= 0 else ids[i] + size
            if first <= row < end:
                a, o = g[i * cols : (i + 1) * cols], out[row * cols : (row + 1) * cols]
                if threshold > 0:
                    keep_factors(factors, 0, bits, i * cols, cols, threshold, keep)
                for j in range(cols):
                    o[j] += a[j] * factors[j] * scale if factors[j] != 0 else 0


def embedding(weight: Array, ids: Array) -> Array:
    """The rows weight[ids]: weight (V, D), ids (...) int64 -> (..., D)."""
    if weight.dtype not in FLOATS or weight.ndim != 2 or ids.dtype != np.int64:
        return NotImplemented
    weight, ids = tape.contiguous(weight), tape.contiguous(ids)
    size, cols = weight.shape
    out = tape.empty((*ids.shape, cols), weight.dtype)
    per_block = max(1, BLOCK // max(1, cols))
    _take_rows(-(-ids.size // per_block), weight, ids, out, ids.size, size, cols, per_block)
    return out


def take(x: Array, ids: Array, *, axis: int = 0) -> Array:
    """The rows x[ids] of a 2-D table; other ranks and axes are not served."""
    return embedding(x, ids) if x.ndim == 2 and axis in (0, -2) else NotImplemented


def scatter_add(g: Array, ids: Array, *, axis: int = 0, size: int) -> Array:
    """Zeros (size, D) to which the rows of g (..., D) are added at ids (...), in the ascending order of ids' positions.

    The gradient of `embedding`; deterministic for any number of threads. Only axis 0 is served.
    """
    if g.dtype not in FLOATS or ids.dtype != np.int64 or axis != 0 or g.ndim != ids.ndim + 1:
        return NotImplemented
    return table_of_sums(g, ids, None, size, 0, 1.0, 1.0)


def table_of_sums(
    g: Array, ids: Array, key: Array | None, size: int, threshold: int, keep: float, scale: float
) -> Array:
    """The launch of `add_rows`."""
    g, ids = tape.contiguous(g), tape.contiguous(ids)
    cols = g.shape[-1]
    out = tape.empty((size, cols), g.dtype)
    if out.size:
        band = size if out.size + g.size <= BLOCK else math.ceil(size / BANDS)
        add_rows(math.ceil(size / band), g, ids, key, out, ids.size, size, cols, band, threshold, keep, scale)
    return out
