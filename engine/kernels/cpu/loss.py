"""Cross-entropy of class ids against logits, with label smoothing and an ignored id, and its gradient.

With lse = log(sum(exp(x))), the loss of a row is (1 - s) (lse - x[id]) + s (lse - mean(x)): the smoothed target gives
s / V to every one of the V classes (Szegedy et al. 2016). Each row is read once from memory and worked on in cache.
"""

import numpy as np

from ..compiled import exp, log
from .jit import jit, kernel
from .lift import FLOATS
from .reduce import CHUNK, max_row, sum_chunk, sum_row
from .reduce import sum as sum_all
from .softmax import finite

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


@jit
def log_sum_exp(x, start, n, scratch):
    """log(sum(exp(x[start : start + n]))), the sum in the order of `reduce`; scratch holds CHUNK elements."""
    top = finite(max_row(x, start, n))
    total = x.dtype.type(0)
    for first in range(0, n, CHUNK):
        m = min(CHUNK, n - first)
        a = x[start + first : start + first + m]
        for i in range(m):
            scratch[i] = exp(a[i] - top)
        total = total + sum_chunk(scratch, 0, m)
    return top + log(total)


@kernel("T[::1], int64[::1], T[::1], T[::1], int, int, int, int, float")
def _cross_entropy(lo, hi, x, ids, losses, lses, rows, n, per_block, ignore_index, smoothing):
    scratch = np.empty(CHUNK, x.dtype)
    one = x.dtype.type(1)
    s = x.dtype.type(smoothing)
    for row in range(lo * per_block, min(hi * per_block, rows)):
        lse = log_sum_exp(x, row * n, n, scratch)
        lses[row] = lse
        if ids[row] == ignore_index:
            losses[row] = 0
            continue
        loss = lse - x[row * n + ids[row]]
        if smoothing != 0:
            mean = x.dtype.type(sum_row(x, row * n, n) / n)
            loss = (one - s) * loss + s * (lse - mean)
        losses[row] = loss


@kernel("T[::1], T[::1], int64[::1], T[::1], T[::1], int, int, int, int, float")
def _cross_entropy_vjp(lo, hi, g, x, ids, lses, dx, rows, n, per_block, ignore_index, smoothing):
    """g: one cotangent a row."""
    share = x.dtype.type(smoothing / n)
    for row in range(lo * per_block, min(hi * per_block, rows)):
        o = dx[row * n : (row + 1) * n]
        if ids[row] == ignore_index:
            o[:] = 0
            continue
        a, lse, scale = x[row * n : (row + 1) * n], lses[row], g[row]
        for i in range(n):
            o[i] = (exp(a[i] - lse) - share) * scale
        hit = ids[row]
        o[hit] = (exp(a[hit] - lse) - x.dtype.type(1 - smoothing + smoothing / n)) * scale


def cross_entropy(
    logits: Array, ids: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> tuple[Array, Array]:
    """Cross-entropy of logits (..., V) at class ids (...) (int64), each in 0 .. V - 1 or `ignore_index`.

    Returns (out, lse): out of shape () for "mean" (over the ids that count; 0 if none does) and "sum", of the shape of
    ids for "none"; lse is the log-sum-exp of each row. Ignored rows lose 0 and are not counted.
    """
    if _unfit(logits, ids):
        return NotImplemented
    logits, ids = np.asarray(logits, order="C"), np.asarray(ids, order="C")
    losses, lse = np.empty(ids.shape, logits.dtype), np.empty(ids.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    per_block = max(1, BLOCK // n)
    _cross_entropy(-(-rows // per_block), logits, ids, losses, lse, rows, n, per_block, ignore_index, label_smoothing)
    if reduction == "none":
        return losses, lse
    total = sum_all(losses)
    return (total if reduction == "sum" else _divided(total, _counted(ids, ignore_index))), lse


def cross_entropy_vjp(
    g: Array,
    logits: Array,
    ids: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    lse: Array | None = None,
) -> Array:
    """The pullback of cross_entropy: the gradient of the logits, with g of the shape of its result."""
    if _unfit(logits, ids) or g.dtype != logits.dtype:
        return NotImplemented
    if lse is None:
        _, lse = cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    logits, ids, lse = (np.asarray(a, order="C") for a in (logits, ids, lse))
    if reduction == "mean":
        g = _divided(g, _counted(ids, ignore_index))
    g = np.ascontiguousarray(np.broadcast_to(g, ids.shape))
    out = np.empty(logits.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    per_block = max(1, BLOCK // n)
    blocks = -(-rows // per_block)
    _cross_entropy_vjp(blocks, g, logits, ids, lse, out, rows, n, per_block, ignore_index, label_smoothing)
    return out


def _unfit(logits: Array, ids: Array) -> bool:
    wrong_shape = logits.ndim == 0 or logits.shape[:-1] != ids.shape or logits.shape[-1] == 0
    return logits.dtype not in FLOATS or ids.dtype != np.int64 or wrong_shape


def _counted(ids: Array, ignore_index: int) -> int:
    return int(ids.size - np.count_nonzero(ids == ignore_index))


def _divided(total: Array, count: int) -> Array:
    """total / count in the dtype of total; 0 where nothing was counted."""
    return np.asarray(total / total.dtype.type(count) if count else total * 0)
