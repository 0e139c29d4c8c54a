"""Attention of all heads (Vaswani et al. 2017, section 3.2.1) by blocks of queries, with its gradients.

The weights of a head exist as a block of at most 32 queries in the cache; where there are no more queries, forward
keeps them for backward, else backward makes them again, bit for bit. Each q · k, each sum over keys and each sum over
queries is a chain in ascending order; denominators keep the order of `reduce`. A masked key has the weight 0 exactly,
and adding 0 · v to a chain changes no bit as long as v is finite; heads where a NaN or an infinity comes out are done
again with the masked terms left out (`careful_product`).
"""

import math

import numpy as np

from ..compiled import keep_from
from . import tape
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
from .jit import jit, kernel
from .lift import FLOATS
from .one_query import KEYS, attend_one
from .simd import LANES, flat

Array = np.ndarray

BLOCK = 2 * LANES  # queries in one round
KEPT_QUERIES, KEPT_KEYS = range(LANES // 2, BLOCK + 1), 256  # whose weights are kept for backward
BLOCK_WORK = 1 << 19  # multiply-adds in one block of heads
ONE_WORK = 1 << 16  # multiply-adds in one block of heads with a single query
SOFTMAX_WORK = 64  # what the softmax of a score costs, in multiply-adds
NO_MASK = np.empty((1, 1, 0, 0), np.uint8)


@jit
def _padded(n):
    """n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@jit
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


@jit
def _part(mask, o, h):
    return mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)]


# --- forward ---------------------------------------------------------------------------------------------------------


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], int64[::1], T[:, :, :, :], T[::1], "
        "bool, T, uint32, T, int")  # fmt: skip
def _attention(lo, hi, q, k, v, mask, key, out, kept, causal, scale, threshold, keep, group):
    """out (B, H, T, Kv) and, unless of size 0, kept (B, H, S, lanes); `keep` is the factor of weights that remain."""
    (outer, inner, queries, depth), (n, values) = q.shape, v.shape[2:]
    shift = n - queries if causal else FAR
    scratch = _scratch(q, n, depth)
    w, ok, spare = scratch[0], scratch[1], scratch[2]
    packed_v = np.empty(n * _padded(values), q.dtype)
    again = False
    end = outer * inner
    for head in range(lo * group, min(hi * group, end)):
        o, h = head // inner, head % inner
        one_q, one_k, one_v, seen = q[o, h], k[o, h], v[o, h], _part(mask, o, h)
        to, to_i = flat(out[o, h]), _step(out[o, h])
        ask(q, head + 1, inner, end)
        ask(k, head + 1, inner, end)
        ask(v, head + 1, inner, end)
        right, right_k = in_rows(one_v, packed_v)
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
def _attention_vjp(lo, hi, g, q, k, v, mask, key, kept, dq, dk, dv, causal, scale, threshold, keep, group):
    """The gradients of `_attention`, from the weights that it kept, or makes again where kept has size 0."""
    (outer, inner, queries, depth), (n, values) = q.shape, v.shape[2:]
    shift = n - queries if causal else FAR
    scratch = _scratch(q, n, max(depth, values))
    w, ok, d, packed = scratch[0], scratch[1], scratch[2], scratch[3]
    spare, deep, wide = np.empty(0 if kept.size else n * BLOCK, q.dtype), _padded(depth), _padded(values)
    packed_k, packed_q = np.empty(n * deep, q.dtype), np.empty(queries * deep, q.dtype)
    packed_g = np.empty(queries * wide, q.dtype)
    end = outer * inner
    for head in range(lo * group, min(hi * group, end)):
        o, h = head // inner, head % inner
        one_g, one_q, one_k, one_v, seen = g[o, h], q[o, h], k[o, h], v[o, h], _part(mask, o, h)
        ask(g, head + 1, inner, end)
        ask(q, head + 1, inner, end)
        ask(k, head + 1, inner, end)
        ask(v, head + 1, inner, end)
        to_q, to_k, to_v = flat(dq[o, h]), flat(dk[o, h]), flat(dv[o, h])
        q_i, k_i, v_i = _step(dq[o, h]), _step(dk[o, h]), _step(dv[o, h])
        (rows_k, k_k), (rows_q, q_k) = in_rows(one_k, packed_k), in_rows(one_q, packed_q)
        rows_g, g_k = in_rows(one_g, packed_g)
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


# --- the ops ---------------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
) -> tuple[Array, Array]:
    """softmax(q kᵀ · scale) v over the keys that may be attended -> out (..., T, Kv), and the weights for backward.

    q (..., T, K), k (..., S, K), v (..., S, Kv), with the same leading axes and any strides; mask: bool, broadcast to
    (..., T, S), True = attend; causal: query t attends keys s <= t + S - T; scale: 1/√K unless given. A query without
    keys gets zeros. p: dropout of the weights; the bits of a weight follow from `key` and its flat index.
    """
    if not _served(q, k, v, mask):
        return NotImplemented
    out = tape.empty((*q.shape[:-1], v.shape[-1]), q.dtype)
    heads = [_four_axes(x) for x in (q, k, v, out)]
    return out, _forward(heads, _mask(mask, q), key, causal, scale, p)


def scaled_dot_product_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
    weights: Array | None = None,
) -> Array:
    """The gradients of attention for the cotangent g (..., T, Kv): dq, dk and dv, flat, one behind the other.

    `weights`: what the forward pass has kept, to be made again if missing.
    """
    if not _served(q, k, v, mask) or g.dtype != q.dtype:
        return NotImplemented
    result = tape.empty(q.size + k.size + v.size, q.dtype)
    parts = result[: q.size], result[q.size : q.size + k.size], result[q.size + k.size :]
    to = [_four_axes(part.reshape(x.shape)) for part, x in zip(parts, (q, k, v), strict=True)]
    heads = [_four_axes(x) for x in (g, q, k, v)]
    _backward(result, heads, _mask(mask, q), key, weights, to, causal, scale, p)
    return result


def self_attention(
    qkv: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    heads: int,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of all heads on packed projections qkv (B, T, 3D) -> out (B, T, D), and the weights for backward.

    The last axis is queries | keys | values, head h in features h K .. (h + 1) K - 1 of each.
    """
    q, k, v = _split(qkv, 3, heads)
    if not _served(q, k, v, mask):
        return NotImplemented
    out = tape.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    return out, _forward([q, k, v, *_split(out, 1, heads)], _mask(mask, q), key, causal, scale, p)


def self_attention_vjp(
    g: Array,
    qkv: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    heads: int,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
    weights: Array | None = None,
) -> Array:
    """The gradient (B, T, 3D) of `self_attention` for the cotangent g (B, T, D)."""
    q, k, v = _split(qkv, 3, heads)
    if not _served(q, k, v, mask) or g.dtype != q.dtype:
        return NotImplemented
    out = tape.empty(qkv.shape, qkv.dtype)
    arrays = [*_split(g, 1, heads), q, k, v]
    _backward(out, arrays, _mask(mask, q), key, weights, _split(out, 3, heads), causal, scale, p)
    return out


def cross_attention(
    q: Array,
    kv: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    heads: int,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of all heads of q (B, T, D) to keys | values kv (B, S, 2D) -> out (B, T, D), weights for backward."""
    (one_q,), (k, v) = _split(q, 1, heads), _split(kv, 2, heads)
    if not _served(one_q, k, v, mask):
        return NotImplemented
    out = tape.empty(q.shape, q.dtype)
    return out, _forward([one_q, k, v, *_split(out, 1, heads)], _mask(mask, one_q), key, causal, scale, p)


def cross_attention_vjp(
    g: Array,
    q: Array,
    kv: Array,
    mask: Array | None = None,
    key: Array | None = None,
    *,
    heads: int,
    causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
    weights: Array | None = None,
) -> Array:
    """The gradients of `cross_attention` for the cotangent g (B, T, D): dq, then dkv, flat."""
    (one_q,), (k, v) = _split(q, 1, heads), _split(kv, 2, heads)
    if not _served(one_q, k, v, mask) or g.dtype != q.dtype:
        return NotImplemented
    out = tape.empty(q.size + kv.size, q.dtype)
    to = [*_split(out[: q.size].reshape(q.shape), 1, heads), *_split(out[q.size :].reshape(kv.shape), 2, heads)]
    arrays = [*_split(g, 1, heads), one_q, k, v]
    _backward(out, arrays, _mask(mask, one_q), key, weights, to, causal, scale, p)
    return out


def _served(q: Array, k: Array, v: Array, mask: Array | None) -> bool:
    same_heads = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    return q.dtype in FLOATS and q.dtype == k.dtype == v.dtype and same_heads and (mask is None or mask.dtype == bool)


def _split(x: Array, parts: int, heads: int) -> list[Array]:
    """Views (B, H, T, K) of the parts of an array (B, T, parts · H · K)."""
    b, t, features = x.shape
    views = x.reshape(b, t, parts, heads, features // (parts * heads)).transpose(2, 0, 3, 1, 4)
    return [views[i] for i in range(parts)]


def _four_axes(x: Array) -> Array:
    """(..., rows, columns) with exactly two leading axes."""
    return x[(None,) * (4 - x.ndim)] if x.ndim <= 4 else tape.contiguous(x).reshape(1, -1, *x.shape[-2:])


def _mask(mask: Array | None, q: Array) -> Array:
    """The mask as bytes with four axes, each of full length or 1; without a mask an array of size 0."""
    if mask is None:
        return NO_MASK
    if q.ndim > 4:
        mask = np.broadcast_to(mask, q.shape[:-2] + mask.shape[-2:])
    elif mask.ndim < 4:
        mask = mask[(None,) * (4 - mask.ndim)]
    return _four_axes(mask).view(np.uint8)


def _forward(arrays: list[Array], mask: Array, key: Array | None, causal: bool, scale: float | None, p: float) -> Array:
    """Run the kernel on q, k, v and out: -> the weights for backward, or an array of size 0."""
    q, k, v, out = arrays
    queries, n = q.shape[2], k.shape[2]
    keeps = queries in KEPT_QUERIES and n <= KEPT_KEYS
    kept = tape.empty((*q.shape[:2], n, BLOCK if queries > LANES else LANES) if keeps else 0, q.dtype)
    contiguous = all(x.strides[3] == x.itemsize for x in arrays)
    if queries == 1 and n <= KEYS and not p and out.size and contiguous:
        group = max(1, ONE_WORK // (n * (q.shape[3] + v.shape[3]) or 1))
        scaled = _numbers(q, scale, p)[0]
        attend_one(-(-q.shape[0] * q.shape[1] // group), q, k, v, mask, out, scaled, group)
    elif out.size:
        blocks, group = _blocks(q, v)
        _attention(blocks, q, k, v, mask, key, out, kept, causal, *_numbers(q, scale, p), group)
    return kept


def _backward(
    result: Array, arrays: list[Array], mask: Array, key: Array | None, kept: Array | None, to: list[Array],
    causal: bool, scale: float | None, p: float,
) -> None:  # fmt: skip
    """Run the kernel on g, q, k and v; `to`: where in `result` the gradients of q, k and v lie."""
    g, q, k, v = arrays
    if g.size == 0 or q.size == 0:
        tape.fill(result, 0)
        return
    kept = tape.empty(0, q.dtype) if kept is None else kept
    blocks, group = _blocks(q, v)
    _attention_vjp(blocks, g, q, k, v, mask, key, kept, *to, causal, *_numbers(q, scale, p), group)


def _blocks(q: Array, v: Array) -> tuple[int, int]:
    """Into how many blocks the heads are divided, and how many heads are in one."""
    heads = q.shape[0] * q.shape[1]
    lanes = -(-q.shape[2] // LANES) * LANES
    work = lanes * v.shape[2] * (q.shape[3] + v.shape[3] + SOFTMAX_WORK)
    group = max(1, BLOCK_WORK // max(1, work))
    return -(-heads // group), group


def _numbers(q: Array, scale: float | None, p: float) -> tuple[float, int, float]:
    """The scale, the threshold of dropout (0 for none) and the factor of the weights that remain."""
    scale = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale
    return (scale, keep_from(p), 1 / (1 - p) if p < 1 else 0.0) if p else (scale, 0, 1.0)
