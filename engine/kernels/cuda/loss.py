"""Cross-entropy of class ids against logits, with label smoothing and an ignored id, and its gradient.

With lse = log(sum(exp(x))), the loss of a row is (1 - s) (lse - x[id]) + s (lse - mean(x)): the smoothed target gives
s / V to every one of the V classes (Szegedy et al. 2016). A row is read once, however long: each thread keeps the
largest number that it has seen and the sum of exponentials under it (Milakov & Gimelshein, "Online normalizer
calculation for softmax", 2018), both brought up to date for sixteen numbers at a time. A row that is ignored is not
read at all.
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


@template
def _cross_entropy(x, ids, losses, lses, ignore_index, smoothing, flat, rows, n, *, ROWS, THREADS, SUM, MAX):
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    if ids[row] == ignore_index:
        if t == 0:
            losses[row], lses[row] = ZERO, ZERO
        return
    at, v, top, shift, total, plain = row * np.int64(n), registers(AHEAD, 4), LOWEST, ZERO, ZERO, ZERO
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
        shift = now
        for k in unroll(AHEAD):
            if i + 4 * THREADS * k < n:
                total += (exp(v[k, 0] - now) + exp(v[k, 1] - now)) + (exp(v[k, 2] - now) + exp(v[k, 3] - now))
                if smoothing != ZERO:
                    for q in unroll(4):
                        plain += v[k, q] if i + 4 * THREADS * k + q < n else ZERO
    highest = finite(MAX(top))
    total = SUM(_rescaled(total, shift, highest))
    lse = highest + log(total)
    loss = lse - x[at + ids[row]]
    if smoothing != ZERO:
        mean = SUM(plain) / np.float32(n)
        loss = (ONE - smoothing) * loss + smoothing * (lse - mean)
    if t == 0:
        losses[row], lses[row] = loss, lse


@template
def _cross_entropy_vjp(
    g, x, ids, lses, counted, dx, ignore_index, share, target, each, divided, flat, rows, n, *, ROWS, THREADS, SUM, MAX
):  # fmt: skip
    """g: one cotangent, or one for `each` row; `divided` by what is counted."""
    row, t = row_of(ROWS, THREADS)
    if row >= rows:
        return
    at, hit, lse, scale = row * np.int64(n), -1, ZERO, ZERO
    if ids[row] != ignore_index:
        hit, lse, scale = ids[row], lses[row], g[row if each else 0]
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
                    v[k, q] = (exp(v[k, q] - lse) - here) * scale
        for k in unroll(AHEAD):
            put4(dx, at, i + 4 * THREADS * k, n, flat, v[k, 0], v[k, 1], v[k, 2], v[k, 3])
        i += cuda.gridDim.y * (4 * THREADS * AHEAD)


_FORWARD = "float32[::1], int64[::1], float32[::1], float32[::1], int, float32, bool, int32, int32"
_BACKWARD = ("float32[::1], float32[::1], int64[::1], float32[::1], int64[::1], float32[::1], int, float32, float32, "
             "bool, bool, bool, int32, int32")  # fmt: skip
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

    Returns (out, lse, counted): out of shape () for "mean" (over the ids that count; 0 if none does) and "sum", of the
    shape of ids for "none"; lse is the log-sum-exp of each row that counts, counted how many those are (not made for
    "none"). Ignored rows lose 0.
    """
    if _unfit(logits, ids):
        return NotImplemented
    logits, ids = tape.contiguous(logits), tape.contiguous(ids)
    losses, lse = tape.empty(ids.shape, logits.dtype), tape.empty(ids.shape, logits.dtype)
    rows, n = ids.size, logits.shape[-1]
    if rows:
        run, blocks = _form(_forward, rows, n)
        run[blocks, THREADS](logits, ids, losses, lse, ignore_index, label_smoothing, wide(n, logits), rows, n)
    if reduction == "none":
        return losses, lse
    out, counted = tape.empty((), logits.dtype), tape.empty((), np.int64)
    _total[1, 1024](losses, ids, out, counted, rows, ignore_index, reduction == "mean", True)
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
    if _unfit(logits, ids) or not served(g):
        return NotImplemented
    g, logits, ids = tape.contiguous(g), tape.contiguous(logits), tape.contiguous(ids)
    rows, n = ids.size, logits.shape[-1]
    if lse is None:
        _, lse = cross_entropy(logits, ids, ignore_index=ignore_index, reduction="none")
    if reduction == "mean" and counted is None:
        counted = tape.empty((), np.int64)
        _total[1, 1024](None, ids, None, counted, rows, ignore_index, False, False)
    out = tape.empty(logits.shape, logits.dtype)
    if rows:
        run, blocks = _form(_backward, rows, n)
        pieces = 1 if n <= SHORT else min(-(-n // (4 * THREADS * AHEAD)), 65535)  # blocks of a row
        share = label_smoothing / n
        run[(blocks, pieces), THREADS](
            g, logits, ids, lse, counted if reduction == "mean" else None, out, ignore_index, share,
            1 - label_smoothing + share, reduction == "none", reduction == "mean", wide(n, logits), rows, n,
        )  # fmt: skip
    return out


def _form(kernels: dict[str, Any], rows: int, n: int) -> tuple[Any, int]:
    """The kernel for rows of n classes, and its blocks."""
    return (kernels["short"], -(-rows // ROWS)) if n <= SHORT else (kernels["long"], rows)


def _unfit(logits: Array, ids: Array) -> bool:
    wrong_shape = logits.ndim == 0 or logits.shape[:-1] != ids.shape or logits.shape[-1] == 0
    return not served(logits) or ids.dtype != np.int64 or wrong_shape
