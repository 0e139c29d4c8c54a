"""Cross-entropy of class ids against logits, with label smoothing and an ignored id, and its gradient.

The loss of a row is (1 - s) (top - x[id]) + s (top - mean(x)) + log(sum(exp(x - top))): the smoothed target gives s / V
to every one of the V classes (Szegedy et al. 2016). The largest logit, top, is never added to the logarithm, which
would lose the more digits the larger it is: backward is handed both. A row is read once, however long: each thread
keeps the largest number that it has seen, the sum of exponentials under it (Milakov & Gimelshein, "Online normalizer
calculation for softmax", 2018) and how far the numbers lie below it, all brought up to date for sixteen numbers at a
time. A row that is ignored is not read at all.
"""

from typing import Any

import numpy as np

from ..compiled import exp, log
from . import tape
from .jit import cuda, jit, kernel
from .rows import (
    LOWEST,
    WARP,
    ZERO,
    block_max,
    block_sum,
    finite,
    get4,
    greater,
    put4,
    row_of,
    served,
    warp_max,
    warp_sum,
    wide,
)  # fmt: skip
from .template import registers, template, unroll

Array = Any

ROWS = 8  # short rows of a block
SHORT = 1024  # classes of a row that a warp does
THREADS = 256
AHEAD = 4  # loads of a thread that are under way together
ONE = np.float32(1)


@jit
def _rescaled(total, before, now):
    """A sum of exponentials under another maximum."""
    return total * exp(before - now) if total != ZERO else total


@jit
def _lowered(below, before, now, count, part):
    """How far `count` numbers lie below another maximum, in all; scaled by `part`, as the sum is."""
    return cuda.fma(now * part - before * part, np.float32(count), below)


@template
def _cross_entropy(
    x, ids, losses, tops, totals, ignore_index, smoothing, kept, part, shared, flat, rows, n, *, ROWS, THREADS, SUM, MAX
):  # fmt: skip
    """kept, shared: the weights of the id's own gap and of the sum of all, which is made of numbers times `part`."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    if ids[row] == ignore_index:
        if t == 0:
            losses[row], tops[row], totals[row] = ZERO, ZERO, ZERO
        return
    at, v, top, shift, total, below = row * np.int64(n), registers(AHEAD, 4), LOWEST, ZERO, ZERO, ZERO
    for i in range(4 * t, n, 4 * THREADS * AHEAD):
        if flat:
            for k in unroll(AHEAD):
                v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, n, True, LOWEST)
        else:
            for k in unroll(AHEAD):
                v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, n, False, LOWEST)
        for k in unroll(AHEAD):
            top = greater(greater(greater(v[k, 0], v[k, 1]), greater(v[k, 2], v[k, 3])), top)
        now = finite(top)
        total = _rescaled(total, shift, now)
        if smoothing != ZERO:
            below = _lowered(below, shift, now, i // (4 * THREADS * AHEAD) * (4 * AHEAD), part)
        shift = now
        for k in unroll(AHEAD):
            if i + 4 * THREADS * k < n:
                total += (exp(v[k, 0] - now) + exp(v[k, 1] - now)) + (exp(v[k, 2] - now) + exp(v[k, 3] - now))
                if smoothing != ZERO:
                    for q in unroll(4):
                        below += cuda.fma(v[k, q], -part, now * part) if i + 4 * THREADS * k + q < n else ZERO
    highest = MAX(top)
    now = finite(highest)
    total = SUM(_rescaled(total, shift, now))
    gap = highest - x[at + ids[row]]
    if smoothing != ZERO:
        count = n // (4 * THREADS) * 4 + min(4, max(0, n % (4 * THREADS) - 4 * t))
        gaps = SUM(_lowered(below, shift, now, count, part)) * shared
        gap = kept * gap + gaps if kept != ZERO else gaps  # 0 times infinity would be NaN
    if t == 0:
        losses[row], tops[row], totals[row] = gap + log(total), highest, total


@template
def _cross_entropy_vjp(
    g, x, ids, tops, totals, counted, dx, ignore_index, share, target, each, divided, flat, rows, n, *, ROWS, THREADS,
    SUM, MAX
):  # fmt: skip
    """g: one cotangent, or one for `each` row; `divided` by what is counted."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, hit, top, inverse, scale = row * np.int64(n), -1, ZERO, ONE, ZERO
    if ids[row] != ignore_index:
        hit, top, inverse, scale = ids[row], tops[row], ONE / totals[row], g[row if each else 0]
        if divided:
            scale = scale / np.float32(max(counted[0], 1))
    i, v = cuda.blockIdx.y * (4 * THREADS * AHEAD) + 4 * t, registers(AHEAD, 4)
    while i < n:
        for k in unroll(AHEAD):
            v[k, 0], v[k, 1], v[k, 2], v[k, 3] = ZERO, ZERO, ZERO, ZERO
        if hit >= 0:
            if flat:
                for k in unroll(AHEAD):
                    v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, n, True, ZERO)
            else:
                for k in unroll(AHEAD):
                    v[k, 0], v[k, 1], v[k, 2], v[k, 3] = get4(x, at, i + 4 * THREADS * k, n, False, ZERO)
            for k in unroll(AHEAD):
                for q in unroll(4):
                    here = target if i + 4 * THREADS * k + q == hit else share
                    v[k, q] = cuda.fma(exp(v[k, q] - top), inverse, -here) * scale
        for k in unroll(AHEAD):
            put4(dx, at, i + 4 * THREADS * k, n, flat, v[k, 0], v[k, 1], v[k, 2], v[k, 3])
        i += cuda.gridDim.y * (4 * THREADS * AHEAD)


_FORWARD = ("float32[::1], int64[::1], float32[::1], float32[::1], float32[::1], int, float32, float32, float32, "
            "float32, bool, int32, int32")  # fmt: skip
_BACKWARD = ("float32[::1], float32[::1], int64[::1], float32[::1], float32[::1], int64[::1], float32[::1], int, "
             "float32, float32, bool, bool, bool, int32, int32")  # fmt: skip
_FORMS = {
    "short": {"ROWS": ROWS, "THREADS": WARP, "SUM": warp_sum, "MAX": warp_max},
    "long": {"ROWS": 1, "THREADS": THREADS, "SUM": block_sum, "MAX": block_max},
}
_forward, _backward = (
    {form: kernel(signature, threads=THREADS)(source(f"{name}_{form}", **given)) for form, given in _FORMS.items()}
    for name, signature, source in (
        ("cross_entropy", _FORWARD, _cross_entropy), ("cross_entropy_vjp", _BACKWARD, _cross_entropy_vjp)
    )
)  # fmt: skip


@kernel("float32[::1], int64[::1], float32[::1], int64[::1], int32, int, bool, bool", threads=1024)
def _total(losses, ids, out, counted, rows, ignore_index, mean, adding):
    """The number of ids that count, and (if `adding`) the sum of the losses, or their mean over those ids."""
    total, count = ZERO, ZERO
    for row in range(cuda.threadIdx.x, rows, 1024):
        if adding:
            total += losses[row]
        count += ONE if ids[row] != ignore_index else ZERO
    total, count = block_sum(total), block_sum(count)
    if cuda.threadIdx.x == 0:
        counted[0] = np.int64(count)
        if adding:
            out[0] = total / greater(count, ONE) if mean else total


def cross_entropy(
    logits: Array, ids: Array, *, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> tuple[Array, ...]:
    """Cross-entropy of float32 logits (..., V) at class ids (...) (int64), each in 0 .. V - 1 or `ignore_index`.

    Returns (out, top, total, counted): out of shape () for "mean" (over the ids that count; 0 if none does) and
    "sum", of the shape of ids for "none"; of each row that counts the largest logit and sum(exp(logits - top));
    how many those are (not made for "none"). Ignored rows lose 0.
    """
    if _unfit(logits, ids):
        return NotImplemented
    logits, ids = tape.contiguous(logits), tape.contiguous(ids)
    losses, top, total = (tape.empty(ids.shape, logits.dtype) for _ in range(3))
    rows, n = ids.size, logits.shape[-1]
    if rows:
        run, blocks = _form(_forward, rows, n)
        part = 0.5 ** (n.bit_length() + 1)  # the sum of n differences times it does not overflow
        run[blocks, THREADS](
            logits, ids, losses, top, total, ignore_index, label_smoothing, 1 - label_smoothing, part,
            label_smoothing / (n * part), wide(n, logits), rows, n,
        )  # fmt: skip
    if reduction == "none":
        return losses, top, total
    out, counted = tape.empty((), logits.dtype), tape.empty((), np.int64)
    _total[1, 1024](losses, ids, out, counted, rows, ignore_index, reduction == "mean", True)
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
    if _unfit(logits, ids) or not served(g):
        return NotImplemented
    g, logits, ids = tape.contiguous(g), tape.contiguous(logits), tape.contiguous(ids)
    rows, n = ids.size, logits.shape[-1]
    if top is None or total is None:
        _, top, total = cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    if reduction == "mean" and counted is None:
        counted = tape.empty((), np.int64)
        _total[1, 1024](None, ids, None, counted, rows, ignore_index, False, False)
    out = tape.empty(logits.shape, logits.dtype)
    if rows:
        run, blocks = _form(_backward, rows, n)
        pieces = 1 if n <= SHORT else min(-(-n // (4 * THREADS * AHEAD)), 65535)  # blocks of a row
        share = label_smoothing / n
        run[(blocks, pieces), THREADS](
            g, logits, ids, top, total, counted if reduction == "mean" else None, out, ignore_index, share,
            1 - label_smoothing + share, reduction == "none", reduction == "mean", wide(n, logits), rows, n,
        )  # fmt: skip
    return out


def _form(kernels: dict[str, Any], rows: int, n: int) -> tuple[Any, int]:
    """The kernel for rows of n classes, and its blocks."""
    return (kernels["short"], -(-rows // ROWS)) if n <= SHORT else (kernels["long"], rows)


def _unfit(logits: Array, ids: Array) -> bool:
    wrong_shape = logits.ndim == 0 or logits.shape[:-1] != ids.shape or logits.shape[-1] == 0
    return not served(logits) or ids.dtype != np.int64 or wrong_shape
