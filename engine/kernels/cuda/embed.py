"""The Transformer's input: rows of a table, scaled, plus positions, with dropout; and the gradient of the table."""

from typing import Any

import numpy as np

from . import tape
from .index import table_of_sums
from .jit import kernel
from .ptx import divided
from .random import dropped, keep4, rule
from .rows import MOST, ROWS, WARP, ZERO, get4, put4, row_of, served, wide

Array = Any

THREADS = WARP * ROWS


@kernel("float32[::1], int64[::1], float32[::1], int64[::1], float32[::1], int32, int32, int32, float32, uint32, "
        "float32, bool, bool", threads=THREADS)  # fmt: skip
def _embed(weight, ids, positions, key, out, count, length, cols, scale, threshold, keep, dropping, flat):
    """`length` is the number of positions, which come around again; a warp makes a row."""
    row, t = row_of(ROWS, WARP)
    if row < count:
        at = row * np.int64(cols)
        for j in range(4 * t, cols, 4 * WARP):
            a = get4(weight, ids[row] * cols, j, cols, flat, ZERO)
            b = get4(positions, divided(row, length)[1] * np.int64(cols), j, cols, flat, ZERO)
            y = (a[0] * scale + b[0], a[1] * scale + b[1], a[2] * scale + b[2], a[3] * scale + b[3])
            if dropping:
                y = dropped(y, keep4(key, at + j, threshold), keep)
            put4(out, at, j, cols, flat, y[0], y[1], y[2], y[3])


def embed(
    weight: Array, ids: Array, positions: Array, key: Array | None = None, *, scale: float = 1.0, p: float = 0.0
) -> Array:
    """dropout(weight[ids] scale + positions): weight (V, D), ids (..., T) int64, positions (T, D) -> (..., T, D)."""
    if not served(weight, positions) or ids.dtype != np.int64 or ids.size * weight.shape[1] > MOST:
        return NotImplemented
    if key is not None and key.dtype != np.int64:
        return NotImplemented
    weight, ids, positions = (tape.contiguous(a) for a in (weight, ids, positions))
    cols, length = weight.shape[1], ids.shape[-1]
    out = tape.empty((*ids.shape, cols), weight.dtype)
    if out.size:
        _embed[-(-ids.size // ROWS), THREADS](
            weight, ids, positions, key if p else None, out, ids.size, length, cols, scale, *rule(p), p > 0,
            wide(cols, weight, positions),
        )  # fmt: skip
    return out


def embed_vjp(
    g: Array, ids: Array, key: Array | None = None, *, size: int, scale: float = 1.0, p: float = 0.0
) -> Array:
    """Zeros (size, D) to which the rows of dropout(g) scale, g (..., T, D), are added at ids in ascending order."""
    if not served(g) or ids.dtype != np.int64 or (key is not None and key.dtype != np.int64):
        return NotImplemented
    return table_of_sums(g, ids, key if p else None, size, *rule(p), scale)
