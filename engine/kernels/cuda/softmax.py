"""Softmax along one axis: a block of threads a row, or a warp a short row."""

import math
from typing import Any

import numpy as np

from ..compiled import exp, like
from . import tape
from .jit import cuda, jit, kernel

WARP = 32
EVERYBODY = 0xFFFFFFFF
ROWS = 8  # short rows of a block: a warp each
SHORT = 1024  # numbers of a row that a warp still does


@jit
def warp_max(x):
    """The largest of all lanes' numbers, in every lane."""
    for lanes in (16, 8, 4, 2, 1):
        other = cuda.shfl_xor_sync(EVERYBODY, x, lanes)
        x = other if other > x else x
    return x


@jit
def warp_sum(x):
    """The sum over all lanes, in every lane, in one fixed order."""
    for lanes in (16, 8, 4, 2, 1):
        x = x + cuda.shfl_xor_sync(EVERYBODY, x, lanes)
    return x


@kernel("T[::1], T[::1], int32, int32", threads=WARP * ROWS)
def _short_rows(x, out, rows, n):
    """A warp a row."""
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.x // WARP
    if row >= rows:
        return
    lane, at = cuda.threadIdx.x % WARP, row * n
    top = like(-math.inf, x[at])
    for i in range(lane, n, WARP):
        top = x[at + i] if x[at + i] > top else top
    top = warp_max(top)
    if top - top != like(0.0, top):
        top = like(0.0, top)
    total = like(0.0, top)
    for i in range(lane, n, WARP):
        e = exp(x[at + i] - top)
        out[at + i] = e
        total += e
    total = warp_sum(total)
    for i in range(lane, n, WARP):
        out[at + i] = out[at + i] / total


def softmax(x: Any, mask: Any = None, *, axis: int = -1) -> Any:
    """exp(x - max) / its sum along the last axis, of short rows without a mask."""
    if x.dtype not in (np.float32, np.float64) or not x.ndim or mask is not None or axis % x.ndim != x.ndim - 1:
        return NotImplemented
    if not 0 < x.shape[-1] <= SHORT:
        return NotImplemented
    x = tape.contiguous(x)
    out = tape.empty(x.shape, x.dtype)
    n = x.shape[-1]
    rows = x.size // n
    if rows:
        _short_rows[-(-rows // ROWS), WARP * ROWS](x, out, rows, n)
    return out
