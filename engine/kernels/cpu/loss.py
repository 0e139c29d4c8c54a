"""Cross-entropy of class ids against logits, with label smoothing and an ignored id, and its gradient.

With lse = log(sum(exp(x))), the loss of a row is (1 - s) (lse - x[id]) + s (lse - mean(x)): the smoothed target gives
s / V to every one of the V classes (Szegedy et al. 2016). Each row is read once from memory and worked on in cache; a
row that is ignored is not read at all. The total is one chain over the rows in ascending order, so that ignored rows,
wherever they lie, change no bit of it.
"""

import numpy as np

from ..compiled import exp, log
from . import tape
from .jit import jit, kernel
from .lanes import exp as exp_lanes
from .lanes import lanes_below
from .lift import FLOATS
from .reduce import CHUNK, max_row, sum_row
from .simd import LANES, load, load_tail, select, splat, store, store_tail, sum_lanes
from .softmax import finite

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


@jit
def log_sum_exp(x, start, n):
    """log(sum(exp(x[start : start + n]))), the sum in the order of `reduce`."""
    top = finite(max_row(x, start, n))
    total = x.dtype.type(0)
    for first in range(start, start + n, CHUNK):
        end = min(first + CHUNK, start + n)
        acc = splat(0.0, x)
        i = first
        while i + LANES <= end:
            acc = acc + exp_lanes(load(x, i) - top)
            i += LANES
        if i < end:
            e = exp_lanes(load_tail(x, i, end - i) - top)
            acc = acc + select(lanes_below(end - i), e, splat(0.0, x))
        total = total + sum_lanes(acc)
    return top + log(total)


@kernel("T[::1], int64[::1], T[::1], T[::1], int, int, int, int, float")
def _cross_entropy(lo, hi, x, ids, losses, lses, rows, n, per_block, ignore_index, smoothing):
    one = x.dtype.type(1)
    s = x.dtype.type(smoothing)
    for row in range(lo * per_block, min(hi * per_block, rows)):
        if ids[row] == ignore_index:
            losses[row], lses[row] = 0, 0
            continue
        lse = log_sum_exp(x, row * n, n)
        lses[row] = lse
        loss = lse - x[row * n + ids[row]]
        if smoothing != 0:
            mean = x.dtype.type(sum_row(x, row * n, n) / n)
            loss = (one - s) * loss + s * (lse - mean)
        losses[row] = loss


@kernel("T[::1], int64[::1], T[::1], int64[::1], int, bool")
def _total(lo, hi, losses, ids, out, counted, ignore_index, mean):
    """The sum of the losses, or their mean over the ids that count (0 if none does), and the number of those."""
    total, count = 0.0, 0
    for row in range(len(ids)):
        total += losses[row]
        count += ids[row] != ignore_index
    counted[0] = count
    out[0] = total / max(count, 1) if mean else total


@kernel("int64[::1], int64[::1], int")
def _count(lo, hi, ids, counted, ignore_index):
    count = 0
    for row in range(len(ids)):
        count += ids[row] != ignore_index
    counted[0] = count


@jit
def _row_gradient(x, out, start, n, lse, share, scale):
    """out = (exp(x - lse) - share) scale."""
    i, end = start, start + n
    while i + LANES <= end:
        store(out, i, (exp_lanes(load(x, i) - lse) - share) * scale)
        i += LANES
    if i < end:
        store_tail(out, i, (exp_lanes(load_tail(x, i, end - i) - lse) - share) * scale, end - i)


@kernel("T[::1], T[::1], int64[::1], T[::1], int64[::1], T[::1], int, int, int, int, float")
def _cross_entropy_vjp(lo, hi, g, x, ids, lses, counted, dx, rows, n, per_block, ignore_index, smoothing):
    """g: one cotangent, or one a row; counted: what it is divided by (of size 0: nothing)."""
    share, target = x.dtype.type(smoothing / n), x.dtype.type(1 - smoothing + smoothing / n)
    count = x.dtype.type(max(counted[0], 1) if len(counted) > 0 else 1)
    for row in range(lo * per_block, min(hi * per_block, rows)):
        if ids[row] == ignore_index:
            dx[row * n : (row + 1) * n] = 0
            continue
        scale = g[row if len(g) > 1 else 0] / count
        hit = row * n + ids[row]
        _row_gradient(x, dx, row * n, n, lses[row], share, scale)
        dx[hit] = (exp(x[hit] - lses[row]) - target) * scale


def cross_entropy(
    logits: Array, ids: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> tuple[Array, ...]:
    """Cross-entropy of logits (..., V) at class ids (...) (int64), each in 0 .. V - 1 or `ignore_index`.

    Returns (out, lse, counted): out of shape () for "mean" (over the ids that count; 0 if none does) and "sum", of the
    shape of ids for "none"; lse is the log-sum-exp of each row that counts, counted how many those are (not made for
    "none"). Ignored rows lose 0.
    """
    if _unfit(logits, ids):
        return NotImplemented
    logits, ids = tape.contiguous(logits), tape.contiguous(ids)
    losses, lse = tape.empty(ids.shape, logits.dtype), tape.empty(ids.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    per_block = max(1, BLOCK // n)
    _cross_entropy(-(-rows // per_block), logits, ids, losses, lse, rows, n, per_block, ignore_index, label_smoothing)
    if reduction == "none":
        return losses, lse
    out, counted = tape.empty((), logits.dtype), tape.empty((), np.int64)
    _total(1, losses, ids, out, counted, ignore_index, reduction == "mean")
    return out, lse, counted


def cross_entropy_vjp(
    g: Array,
    logits: Array,
    ids: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    lse: Array | None = None,
    counted: Array | None = None,
) -> Array:
    """The pullback of cross_entropy: the gradient of the logits, with g of the shape of its result."""
    if _unfit(logits, ids) or g.dtype != logits.dtype:
        return NotImplemented
    g, logits, ids = tape.contiguous(g), tape.contiguous(logits), tape.contiguous(ids)
    if lse is None:
        _, lse = cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    if reduction == "mean" and counted is None:
        counted = tape.empty((), np.int64)
        _count(1, ids, counted, ignore_index)
    out = tape.empty(logits.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    per_block = max(1, BLOCK // n)
    _cross_entropy_vjp(
        -(-rows // per_block), g, logits, ids, lse, counted if reduction == "mean" else None, out,
        rows, n, per_block, ignore_index, label_smoothing,
    )  # fmt: skip
    return out


def _unfit(logits: Array, ids: Array) -> bool:
    wrong_shape = logits.ndim == 0 or logits.shape[:-1] != ids.shape or logits.shape[-1] == 0
    return logits.dtype not in FLOATS or ids.dtype != np.int64 or wrong_shape
