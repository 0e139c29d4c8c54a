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
from .attention_kernels import BLOCK, attention_heads, attention_heads_vjp
from .lift import FLOATS
from .one_query import KEYS, attend_one
from .simd import LANES

Array = np.ndarray

KEPT_QUERIES, KEPT_KEYS = range(LANES // 2, BLOCK + 1), 256  # whose weights are kept for backward
BLOCK_WORK = 1 << 19  # multiply-adds in one block of heads
ONE_WORK = 1 << 16  # multiply-adds in one block of heads with a single query
SOFTMAX_WORK = 64  # what the softmax of a score costs, in multiply-adds
NO_MASK = np.empty((1, 1, 0, 0), np.uint8)


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
    if x.ndim <= 4:
        return x[(None,) * (4 - x.ndim)]
    return tape.contiguous(x).reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])


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
    if queries == 1 and n <= KEYS and not p and out.size and _side_by_side(*arrays):
        group = max(1, ONE_WORK // (n * (q.shape[3] + v.shape[3]) or 1))
        scaled = _numbers(q, scale, p)[0]
        attend_one(-(-q.shape[0] * q.shape[1] // group), q, k, v, mask, out, scaled, group)
    elif out.size:
        blocks, group = _blocks(q, v)
        attention_heads(blocks, q, k, v, mask, key, out, kept, causal, *_numbers(q, scale, p), group)
    return kept


def _side_by_side(q: Array, k: Array, v: Array, out: Array) -> bool:
    """Whether the features of each are contiguous; in k either they, or the keys."""
    features = all(x.strides[3] == x.itemsize for x in (q, v, out))
    return features and k.itemsize in k.strides[2:] and all(stride % k.itemsize == 0 for stride in k.strides)


def _backward(
    result: Array, arrays: list[Array], mask: Array, key: Array | None, kept: Array | None, to: list[Array],
    causal: bool, scale: float | None, p: float,
) -> None:  # fmt: skip
    """Run the kernel on g, q, k and v; `to`: where in `result` the gradients of q, k and v lie."""
    g, q, k, v = arrays
    if 0 in (g.size, math.prod(q.shape[:3])):
        tape.fill(result, 0)
        return
    kept = tape.empty(0, q.dtype) if kept is None else kept
    blocks, group = _blocks(q, v)
    attention_heads_vjp(blocks, g, q, k, v, mask, key, kept, *to, causal, *_numbers(q, scale, p), group)


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
