"""The kernels of attention: all heads of a block, forward and backward, whose parts are in `heads.py`."""

import numpy as np

from .heads import (
    FAR,
    ask,
    attended,
    careful_product,
    finite_row,
    in_lanes,
    in_rows,
    product,
    slopes,
    weigh,
)  # fmt: skip
from .jit import jit, kernel, separate
from .lanes import inline
from .simd import LANES, flat

BLOCK = 2 * LANES  # queries in one round


@jit
def _padded(n):
    """n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@inline
def _scratch(like, n, depth):
    """Memory for one block of queries and n keys: weights, what may be attended, slopes, packed lanes, bits."""
    size = BLOCK * n
    words, keeps = np.empty(size // 64 + 3, np.uint64), np.empty(BLOCK * (n // 32 + 1), np.int32)
    packed, ok = np.empty(BLOCK * depth, like.dtype), np.empty(size, np.int32)
    return np.empty(size, like.dtype), ok, np.empty(size, like.dtype), packed, words, keeps


@jit
def _step(x):
    """Elements from one row of a matrix to the next."""
    return x.strides[0] // x.itemsize


# --- forward ---------------------------------------------------------------------------------------------------------


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], int64[::1], T[:, :, :, :], T[::1], "
        "bool, T, uint32, T, int")  # fmt: skip
def attention_heads(lo, hi, q, k, v, mask, key, out, kept, causal, scale, threshold, keep, group):
    """out (B, H, T, Kv) and, unless of size 0, kept (B, H, S, lanes); `keep` is the factor of weights that remain."""
    scratch = _scratch(q, k.shape[2], q.shape[3])
    packed_v = np.empty(k.shape[2] * _padded(v.shape[3]), q.dtype)
    begin, stop = lo * group, min(hi * group, q.shape[0] * q.shape[1])
    _attend(begin, stop, q, k, v, mask, key, out, kept, causal, scale, threshold, keep, scratch, packed_v)


@separate
def _attend(begin, stop, q, k, v, mask, key, out, kept, causal, scale, threshold, keep, scratch, packed_v):
    """Heads `begin` to `stop` - 1 of `attention_heads`."""
    (outer, inner, queries), (n, values) = q.shape[:3], v.shape[2:]
    shift = n - queries if causal else FAR
    w, ok, spare, again, end = scratch[0], scratch[1], scratch[2], False, outer * inner
    for head in range(begin, stop):
        o, h = head // inner, head % inner
        one_q, one_k, one_v = q[o, h], k[o, h], v[o, h]
        seen = mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)]
        to, to_i = flat(out[o, h]), _step(out[o, h])
        ask(q, head + 1, inner, end)
        ask(k, head + 1, inner, end)
        ask(v, head + 1, inner, end)
        moved, right_k = in_rows(one_v, packed_v)
        right = packed_v if moved else flat(one_v)
        for careful in range(2):
            for t in range(0, queries, BLOCK):
                rows = min(BLOCK, queries - t)
                width = BLOCK if rows > LANES else LANES
                place, place_at = (kept, head * n * width) if kept.size else (spare, 0)
                again = again and queries <= BLOCK and (h > 0 or mask.size == 0) and mask.shape[1] == 1
                reach = weigh(one_q, one_k, seen, key, head, t, rows, width, causal, scale, threshold, keep,
                                again, scratch, place, place_at)  # fmt: skip
                again = True
                if careful:
                    careful_product(w, ok, 1, width, one_v, 0, to, t * to_i, to_i, rows, reach, True)
                else:
                    product(w, 0, 1, width, right, 0, right_k, to, t * to_i, to_i, rows, reach, values,
                            -FAR, t + shift, True)  # fmt: skip
            if not (causal or mask.size) or finite_row(to, (queries - 1) * to_i, values):
                break


# --- backward --------------------------------------------------------------------------------------------------------


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], int64[::1], T[::1], "
        "T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], bool, T, uint32, T, int")  # fmt: skip
def attention_heads_vjp(lo, hi, g, q, k, v, mask, key, kept, dq, dk, dv, causal, scale, threshold, keep, group):
    """The gradients of `attention_heads`, from the weights that it kept, or makes again where kept has size 0."""
    (queries, depth), (n, values) = q.shape[2:], v.shape[2:]
    scratch, deep = _scratch(q, n, max(depth, values)), _padded(depth)
    spare, packed_g = np.empty(0 if kept.size else n * BLOCK, q.dtype), np.empty(queries * _padded(values), q.dtype)
    packed = packed_g, np.empty(queries * deep, q.dtype), np.empty(n * deep, q.dtype)
    begin, stop = lo * group, min(hi * group, q.shape[0] * q.shape[1])
    _pull_back(begin, stop, g, q, k, v, mask, key, kept, dq, dk, dv, causal, scale, threshold, keep,
               scratch, spare, packed)  # fmt: skip


@separate
def _pull_back(begin, stop, g, q, k, v, mask, key, kept, dq, dk, dv, causal, scale, threshold, keep,
               scratch, spare, rows_packed):  # fmt: skip
    """Heads `begin` to `stop` - 1 of `attention_heads_vjp`."""
    (outer, inner, queries, depth), (n, values) = q.shape, v.shape[2:]
    shift = n - queries if causal else FAR
    w, ok, d, packed, end = scratch[0], scratch[1], scratch[2], scratch[3], outer * inner
    packed_g, packed_q, packed_k = rows_packed
    for head in range(begin, stop):
        o, h = head // inner, head % inner
        one_g, one_q, one_k, one_v = g[o, h], q[o, h], k[o, h], v[o, h]
        seen = mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)]
        ask(g, head + 1, inner, end)
        ask(q, head + 1, inner, end)
        ask(k, head + 1, inner, end)
        ask(v, head + 1, inner, end)
        to_q, to_k, to_v = flat(dq[o, h]), flat(dk[o, h]), flat(dv[o, h])
        q_i, k_i, v_i = _step(dq[o, h]), _step(dk[o, h]), _step(dv[o, h])
        (moved_k, k_k), (moved_q, q_k) = in_rows(one_k, packed_k), in_rows(one_q, packed_q)
        moved_g, g_k = in_rows(one_g, packed_g)
        rows_k, rows_q = packed_k if moved_k else flat(one_k), packed_q if moved_q else flat(one_q)
        rows_g = packed_g if moved_g else flat(one_g)
        for careful in range(2):
            clean, done = True, 0
            for t in range(0, queries, BLOCK):
                rows = min(BLOCK, queries - t)
                width = BLOCK if rows > LANES else LANES
                reach = max(0, min(n, t + rows + shift))
                place, place_at = (kept, head * n * width) if kept.size else (spare, 0)
                if kept.size == 0:
                    weigh(one_q, one_k, seen, key, head, t, rows, width, causal, scale, threshold, keep,
                            False, scratch, place, place_at)  # fmt: skip
                elif careful:
                    attended(ok, seen, t, rows, width, reach, shift)
                in_lanes(one_g, t, rows, width, packed)
                product(flat(one_v), 0, _step(one_v), one_v.strides[1] // v.itemsize, packed, 0, width,
                        d, 0, width, reach, values, width, -FAR, FAR, True)  # fmt: skip
                clean &= slopes(place, place_at, w, d, ok, width, reach, scale, keep, careful == 1)
                if careful:
                    careful_product(d, ok, 1, width, one_k, 0, to_q, t * q_i, q_i, rows, reach, True)
                else:
                    product(d, 0, 1, width, rows_k, 0, k_k, to_q, t * q_i, q_i, rows, reach, depth,
                            -FAR, t + shift, True)  # fmt: skip
                for first, last, fresh in ((0, done, False), (done, reach, True)):
                    at, count, low = first * width, last - first, first - shift - t
                    if careful:
                        careful_product(d[at:], ok[at:], width, 1, one_q, t, to_k, first * k_i, k_i, count, rows, fresh)
                        careful_product(w[at:], ok[at:], width, 1, one_g, t, to_v, first * v_i, v_i, count, rows, fresh)
                    else:
                        product(d, at, width, 1, rows_q, t * q_k, q_k, to_k, first * k_i, k_i, count, rows, depth,
                                low, FAR, fresh)  # fmt: skip
                        product(w, at, width, 1, rows_g, t * g_k, g_k, to_v, first * v_i, v_i, count, rows, values,
                                low, FAR, fresh)  # fmt: skip
                done = max(done, reach)
            if not (causal or mask.size) or n == 0:
                break
            clean &= finite_row(to_q, (queries - 1) * q_i, depth)
            if clean and finite_row(to_k, 0, depth) and finite_row(to_v, 0, values):
                break
