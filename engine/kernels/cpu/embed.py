"""The Transformer's input: rows of a table, scaled, plus positions, with dropout; and the gradient of the table."""

import numpy as np

from . import tape
from .dropout import dropped, keep_factors, key_of, rule
from .index import table_of_sums
from .jit import jit, kernel
from .lift import FLOATS
from .simd import LANES, load_tail, store_tail

Array = np.ndarray

BLOCK = 8192  # elements of one block of work


@jit
def _sum(table, i, positions, j, factors, k, count, scale, out, at):
    y = load_tail(table, i, count) * scale + load_tail(positions, j, count)
    store_tail(out, at, dropped(y, load_tail(factors, k, count)), count)


@kernel("T[::1], int64[::1], T[::1], int64[::1], T[::1], int, int, int, int, T, uint32, T")
def _embed(lo, hi, weight, ids, positions, key, out, count, length, cols, per_block, scale, threshold, keep):
    """`length` is the number of positions, which come around again."""
    bits, factors, whole = key_of(key), np.ones(cols, weight.dtype), cols - cols % LANES
    for row in range(lo * per_block, min(hi * per_block, count)):
        i, j, at = ids[row] * cols, row % length * cols, row * cols
        if threshold > 0:
            keep_factors(factors, 0, bits, at, cols, threshold, keep)
        for k in range(0, whole, LANES):
            _sum(weight, i + k, positions, j + k, factors, k, LANES, scale, out, at + k)
        if whole < cols:
            _sum(weight, i + whole, positions, j + whole, factors, whole, cols - whole, scale, out, at + whole)


def embed(
    weight: Array, ids: Array, positions: Array, key: Array | None = None, *, scale: float = 1.0, p: float = 0.0
) -> Array:
    """dropout(weight[ids] scale + positions): weight (V, D), ids (..., T) int64, positions (T, D) -> (..., T, D)."""
    if weight.dtype not in FLOATS or positions.dtype != weight.dtype or ids.dtype != np.int64:
        return NotImplemented
    weight, ids, positions = (tape.contiguous(a) for a in (weight, ids, positions))
    cols, length = weight.shape[1], ids.shape[-1]
    out = tape.empty((*ids.shape, cols), weight.dtype)
    if out.size:
        per_block = max(1, BLOCK // cols)
        blocks = -(-ids.size // per_block)
        _embed(blocks, weight, ids, positions, key, out, ids.size, length, cols, per_block, scale, *rule(p))
    return out


def embed_vjp(
    g: Array, ids: Array, key: Array | None = None, *, size: int, scale: float = 1.0, p: float = 0.0
) -> Array:
    """Zeros (size, D) to which the rows of dropout(g) scale, g (..., T, D), are added at ids in ascending order."""
    if g.dtype not in FLOATS or ids.dtype != np.int64:
        return NotImplemented
    threshold, keep = rule(p)
    return table_of_sums(g, ids, key, size, threshold, keep, scale)
