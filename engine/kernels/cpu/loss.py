"""Cross-entropy of class ids against logits, with label smoothing and an ignored id, and its gradient.

The loss of a row is (1 - s) (top - x[id]) + s (top - mean(x)) + log(sum(exp(x - top))): the smoothed target gives s / V
to every one of the V classes (Szegedy et al. 2016). The largest logit, top, is never added to the logarithm, which
would lose the more digits the larger it is: backward is handed both. Each row is read once from memory and worked on
in cache; a row that is ignored is not read at all. The total is one chain over the rows in ascending order, so that
ignored rows, wherever they lie, change no bit of it.
"""

import numpy as np

from ..compiled import exp, log
from . import tape
from .jit import jit, kernel
from .lanes import exp as exp_lanes
from .lanes import inline, lanes_below
from .lift import FLOATS
from .reduce import CHUNK, max_row
from .simd import LANES, fma, load, load_tail, select, splat, store, store_tail, sum_lanes
from .softmax import finite

Array = np.ndarray

BLOCK = 16384  # elements of one block of work


@inline
def _sums(x, start, n, top, part, smoothed):
    """The sums of exp(x - top) and, if `smoothed`, of (top - x) part over n logits, in the order of `reduce`."""
    total, below = x.dtype.type(0), x.dtype.type(0)
    nothing, lower, highest = splat(0.0, x), splat(-part, x), splat(top * part, x)
    for first in range(start, start + n, CHUNK):
        end = min(first + CHUNK, start + n)
        whole = end - (end - first) % LANES
        acc, gaps = nothing, nothing
        for i in range(first, whole, LANES):
            acc = acc + exp_lanes(load(x, i) - top)
            if smoothed:
                gaps = gaps + fma(load(x, i), lower, highest)
        if whole < end:
            here, tail = lanes_below(end - whole), load_tail(x, whole, end - whole)
            acc = acc + select(here, exp_lanes(tail - top), nothing)
            if smoothed:
                gaps = gaps + select(here, fma(tail, lower, highest), nothing)
        total, below = total + sum_lanes(acc), below + sum_lanes(gaps)
    return total, below


@kernel("T[::1], int64[::1], T[::1], T[::1], T[::1], int, int, int, int, float, float")
def _cross_entropy(lo, hi, x, ids, losses, tops, totals, rows, n, per_block, ignore_index, smoothing, part):
    """part: what differences are scaled by before they are summed."""
    real = x.dtype.type
    shared = real(smoothing / (n * part))
    for row in range(lo * per_block, min(hi * per_block, rows)):
        if ids[row] == ignore_index:
            losses[row], tops[row], totals[row] = 0, 0, 0
            continue
        top = max_row(x, row * n, n)
        gap = top - x[row * n + ids[row]]
        if shared == 0:
            total, _ = _sums(x, row * n, n, finite(top), real(part), False)
        else:
            total, gaps = _sums(x, row * n, n, finite(top), real(part), True)
            gap = real(1 - smoothing) * gap + gaps * shared if smoothing < 1 else gaps * shared  # 0 · ∞ would be NaN
        losses[row], tops[row], totals[row] = gap + log(total), top, total


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
def _row_gradient(x, out, start, n, top, inverse, share, scale):
    """out = (exp(x - top) inverse - share) scale."""
    times, less = splat(inverse, x), splat(-share, x)
    i, end = start, start + n
    while i + LANES <= end:
        store(out, i, fma(exp_lanes(load(x, i) - top), times, less) * scale)
        i += LANES
    if i < end:
        store_tail(out, i, fma(exp_lanes(load_tail(x, i, end - i) - top), times, less) * scale, end - i)


@kernel("T[::1], T[::1], int64[::1], T[::1], T[::1], int64[::1], T[::1], int, int, int, int, float")
def _cross_entropy_vjp(lo, hi, g, x, ids, tops, totals, counted, dx, rows, n, per_block, ignore_index, smoothing):
    """g: one cotangent, or one a row; counted: what it is divided by (of size 0: nothing)."""
    share, target = x.dtype.type(smoothing / n), x.dtype.type(1 - smoothing + smoothing / n)
    one, count = x.dtype.type(1), x.dtype.type(max(counted[0], 1) if len(counted) > 0 else 1)
    for row in range(lo * per_block, min(hi * per_block, rows)):
        if ids[row] == ignore_index:
            dx[row * n : (row + 1) * n] = 0
            continue
        scale = g[row if len(g) > 1 else 0] / count
        hit, top, inverse = row * n + ids[row], tops[row], one / totals[row]
        _row_gradient(x, dx, row * n, n, top, inverse, share, scale)
        dx[hit] = (exp(x[hit] - top) * inverse - target) * scale


def cross_entropy(
    logits: Array, ids: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> tuple[Array, ...]:
    """Cross-entropy of logits (..., V) at class ids (...) (int64), each in 0 .. V - 1 or `ignore_index`.

    Returns (out, top, total, counted): out of shape () for "mean" (over the ids that count; 0 if none does) and
    "sum", of the shape of ids for "none"; of each row that counts the largest logit and sum(exp(logits - top));
    how many those are (not made for "none"). Ignored rows lose 0.
    """
    if _unfit(logits, ids):
        return NotImplemented
    logits, ids = tape.contiguous(logits), tape.contiguous(ids)
    losses, top, total = (tape.empty(ids.shape, logits.dtype) for _ in range(3))
    rows, n = ids.size, logits.shape[-1]
    per_block, part = max(1, BLOCK // n), 0.5 ** (n.bit_length() + 1)  # n differences times `part` do not overflow
    _cross_entropy(
        -(-rows // per_block), logits, ids, losses, top, total, rows, n, per_block, ignore_index, label_smoothing,
        part,
    )  # fmt: skip
    if reduction == "none":
        return losses, top, total
    out, counted = tape.empty((), logits.dtype), tape.empty((), np.int64)
    _total(1, losses, ids, out, counted, ignore_index, reduction == "mean")
    return out, top, total, counted


def cross_entropy_vjp(
    g: Array,
    logits: Array,
    ids: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    top: Array | None = None,
    total: Array | None = None,
    counted: Array | None = None,
) -> Array:
    """The pullback of cross_entropy: the gradient of the logits, with g of the shape of its result."""
    if _unfit(logits, ids) or g.dtype != logits.dtype:
        return NotImplemented
    g, logits, ids = tape.contiguous(g), tape.contiguous(logits), tape.contiguous(ids)
    if top is None or total is None:
        _, top, total = cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    if reduction == "mean" and counted is None:
        counted = tape.empty((), np.int64)
        _count(1, ids, counted, ignore_index)
    out = tape.empty(logits.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    per_block = max(1, BLOCK // n)
    _cross_entropy_vjp(
        -(-rows // per_block), g, logits, ids, top, total, counted if reduction == "mean" else None, out,
        rows, n, per_block, ignore_index, label_smoothing,
    )  # fmt: skip
    return out


def _unfit(logits: Array, ids: Array) -> bool:
    wrong_shape = logits.ndim == 0 or logits.shape[:-1] != ids.shape or logits.shape[-1] == 0
    return logits.dtype not in FLOATS or ids.dtype != np.int64 or wrong_shape
