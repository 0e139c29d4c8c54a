"""Attention of all heads (Vaswani et al. 2017, section 3.2.1) and its gradients: which kernels run, and how.

Heads of at most 32 keys run in `short.py`, one query with more keys in `single.py`, all others in `flash.py`.
The matrix of weights is never written. What forward keeps for backward is one array: its output, and behind it of each
query the logarithm of its sum of exponentials.
"""

import math
from typing import Any

import numpy as np

from . import short, single, tape
from .flash import BACKWARD, FORWARD, ROW, SIDE, THREADS, forward, key_gradients, query_gradients
from .jit import Kernel, kernel
from .random import rule
from .rows import FLOAT32, MOST, aligned, served

Array = Any

DEPTHS = (32, 64, 128)  # features of a head, rounded up
SHORT = short.SIDE  # up to so many keys (and queries, of gradients) the kernels of short.py run; 0: never
SINGLE = single.MOST  # up to so many keys one query without dropout is that of single.py; 0: never
FAR = 2**30  # keys beyond a query that it sees without `causal`


def _made(name: str, signature: str, source: Any, threads: int = THREADS, at_once: int = 1) -> dict[int, Kernel]:
    """A kernel for each depth; `at_once`: blocks on a multiprocessor, but for the widest, which needs the registers."""
    made = {}
    for depth in DEPTHS:
        blocks = at_once if depth < DEPTHS[-1] else 1
        declared = kernel(signature, threads=threads, blocks_per_multiprocessor=blocks)
        made[depth] = declared(source(f"{name}_{depth}", DEPTH=depth))
    return made


_forward = _made("attention", FORWARD, forward)
_query_gradients = _made("attention_query_gradients", BACKWARD, query_gradients)
_key_gradients = _made("attention_key_gradients", BACKWARD, key_gradients)
_short_forward = _made("short_attention", short.FORWARD, short.forward, short.THREADS)
_single_forward = _made("single_attention", short.FORWARD, single.forward, single.THREADS, at_once=2)
_short_gradients = _made("short_attention_gradients", short.GRADIENTS, short.gradients, short.THREADS)


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
    """softmax(q kᵀ · scale) v over the keys that may be attended -> out (..., T, Kv), and what backward reads.

    float32 q (..., T, K), k (..., S, K), v (..., S, Kv), K and Kv at most 128; mask: bool, broadcast to (..., T, S),
    True = attend; causal: query t attends keys s <= t + S - T; scale: 1/√K unless given. A query without keys gets
    zeros. p: dropout of the weights; the bits of a weight follow from `key` and its flat index.
    """
    heads = _served([q, k, v], mask, key)
    if heads is None:
        return NotImplemented
    kept, out = _results((*q.shape[:-1], v.shape[-1]), q)
    _run_forward([*heads, _four_axes(out)], kept, out, _mask(mask, q), key, causal, scale, p)
    return out, kept


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
    heads = _served([q, k, v], mask, key)
    if heads is None or not served(g):
        return NotImplemented
    if weights is None:
        _, weights = scaled_dot_product_attention(q, k, v, mask, key, causal=causal, scale=scale, p=p)
    result = tape.empty(q.size + k.size + v.size, FLOAT32)
    parts = result[: q.size], result[q.size : q.size + k.size], result[q.size + k.size :]
    to = [_four_axes(part.reshape(x.shape)) for part, x in zip(parts, (q, k, v), strict=True)]
    out = _four_axes(weights[: g.size].reshape(g.shape))
    _run_backward(result, [_four_axes(_lines(g)), *heads, out], to, weights, _mask(mask, q), key, causal, scale, p)
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
    """Attention of all heads on packed projections qkv (B, T, 3D) -> out (B, T, D), and what backward reads.

    The last axis is queries | keys | values, head h in features h K .. (h + 1) K - 1 of each.
    """
    arrays = _served(_split(qkv, 3, heads), mask, key)
    if arrays is None:
        return NotImplemented
    kept, out = _results((*qkv.shape[:2], qkv.shape[2] // 3), arrays[0])
    _run_forward([*arrays, *_split(out, 1, heads)], kept, out, _mask(mask, arrays[0]), key, causal, scale, p)
    return out, kept


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
    arrays = _served(_split(qkv, 3, heads), mask, key)
    if arrays is None or not served(g):
        return NotImplemented
    if weights is None:
        _, weights = self_attention(qkv, mask, key, heads=heads, causal=causal, scale=scale, p=p)
    result = tape.empty(qkv.shape, FLOAT32)
    given = [*_split(_lines(g), 1, heads), *arrays, *_split(weights[: g.size].reshape(g.shape), 1, heads)]
    to = _split(result, 3, heads)
    _run_backward(result, given, to, weights, _mask(mask, arrays[0]), key, causal, scale, p)
    return result


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
    """Attention of all heads of q (B, T, D) to keys | values kv (B, S, 2D) -> out (B, T, D), what backward reads."""
    arrays = _served([*_split(q, 1, heads), *_split(kv, 2, heads)], mask, key)
    if arrays is None:
        return NotImplemented
    kept, out = _results(q.shape, arrays[0])
    _run_forward([*arrays, *_split(out, 1, heads)], kept, out, _mask(mask, arrays[0]), key, causal, scale, p)
    return out, kept


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
    arrays = _served([*_split(q, 1, heads), *_split(kv, 2, heads)], mask, key)
    if arrays is None or not served(g):
        return NotImplemented
    if weights is None:
        _, weights = cross_attention(q, kv, mask, key, heads=heads, causal=causal, scale=scale, p=p)
    result = tape.empty(q.size + kv.size, FLOAT32)
    to = [*_split(result[: q.size].reshape(q.shape), 1, heads), *_split(result[q.size :].reshape(kv.shape), 2, heads)]
    given = [*_split(_lines(g), 1, heads), *arrays, *_split(weights[: g.size].reshape(g.shape), 1, heads)]
    _run_backward(result, given, to, weights, _mask(mask, arrays[0]), key, causal, scale, p)
    return result


def _served(heads: list[Array], mask: Array | None, key: Array | None) -> list[Array] | None:
    """q, k and v with two leading axes and whole lines, or None where the kernels do not serve them."""
    q, k, v = heads
    same_heads = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    fits = q.shape[-1] > 0 and max(q.shape[-1], v.shape[-1]) <= DEPTHS[-1] and math.prod(q.shape[:-2]) < 2**16
    flags = (mask is None or (mask.dtype == bool and mask.size <= MOST)) and (key is None or key.dtype == np.int64)
    if not (served(q, k, v) and same_heads and fits and flags):
        return None
    return [_four_axes(_lines(x)) for x in (q, k, v)]


def _lines(x: Array) -> Array:
    """x itself if its rows are contiguous and its strides not negative, else a copy that is."""
    plain = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    return x if plain and all(s >= 0 and s % x.itemsize == 0 for s in x.strides) else tape.contiguous(x)


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


def _results(shape: tuple[int, ...], q: Array) -> tuple[Array, Array]:
    """(what is kept, the output), the second a view of the first."""
    size = math.prod(shape)
    kept = tape.empty(size + 2 * math.prod(q.shape[:-1]), FLOAT32)
    return kept, kept[:size].reshape(shape)


def _mask(mask: Array | None, q: Array) -> Array | None:
    """The mask as bytes with four axes, each of full length or 1."""
    if mask is None:
        return None
    if q.ndim > 4:
        mask = mask[(None,) * (2 - mask.ndim)]
        mask = np.broadcast_to(mask, q.shape[:-2] + mask.shape[-2:])
    elif mask.ndim < 4:
        mask = mask[(None,) * (4 - mask.ndim)]
    mask = _four_axes(mask).view(np.uint8)
    return mask if min(mask.strides) >= 0 else tape.contiguous(mask)


def _steps(x: Array) -> tuple[int, ...]:
    """The strides along batch, heads and positions, in elements."""
    return tuple(stride // x.itemsize for stride in x.strides[:3])


def _mask_steps(mask: Array | None) -> tuple[int, ...]:
    if mask is None:
        return 0, 0, 0, 0
    return tuple(stride if size != 1 else 0 for stride, size in zip(mask.strides, mask.shape, strict=True))


def _common(
    arrays: list[Array], mask: Array | None, causal: bool, scale: float | None, p: float
) -> tuple[list[Any], list[Any], int]:
    """What both passes tell their kernels of (g,) q, k, v: sizes, the rest, and the depth of the kernel."""
    q, k, v = arrays[-4:-1]  # ..., q, k, v and the output
    queries, depth, keys, values = q.shape[2], q.shape[3], k.shape[2], v.shape[3]
    four = depth % 4 == 0 and values % 4 == 0 and all(aligned(x) and not any(s % 4 for s in _steps(x)) for x in arrays)
    scale = 1 / math.sqrt(max(1, depth)) if scale is None else scale
    rest = [*_mask_steps(mask), mask is not None, p > 0, four, keys - queries if causal else FAR, scale, *rule(p)]
    return [q.shape[1], queries, keys, depth, values], rest, next(d for d in DEPTHS if max(depth, values) <= d)


def _run_forward(
    arrays: list[Array], kept: Array, out: Array, mask: Array | None, key: Array | None, causal: bool,
    scale: float | None, p: float,
) -> None:  # fmt: skip
    """The pass for q, k, v and out. Where dropout keeps nothing, the result is 0 whatever the weights are."""
    _launch_forward(arrays, kept, out, mask, key, causal, scale, p)
    if p >= 1 and out.size:
        tape.fill(out, 0)


def _launch_forward(
    arrays: list[Array], kept: Array, out: Array, mask: Array | None, key: Array | None, causal: bool,
    scale: float | None, p: float,
) -> None:  # fmt: skip
    """Run the kernel on q, k, v and out, all (B, H, ...)."""
    q, k, v, to = arrays
    if not q[..., 0].size or not out.size:
        return
    mask = mask if k.shape[2] else None  # of no keys it says nothing
    sizes, rest, depth = _common(arrays, mask, causal, scale, p)
    steps, normal, bits = [step for x in arrays for step in _steps(x)], kept[out.size :], key if p else None
    if k.shape[2] <= SHORT:
        block = _short_block(q.shape[2], k.shape[2], 3 * (depth + short.GAP) + short.ROW)
        tiles = -(-q.shape[2] // short.SIDE)
        _short_forward[depth][(tiles, q.shape[1], q.shape[0]), *block](
            q, k, v, mask, bits, to, normal, *sizes[1:], *steps, *rest
        )
        return
    if q.shape[2] == 1 and k.shape[2] <= SINGLE and not p:
        memory = 4 * 2 * single.CHUNK * depth
        _single_forward[depth][(1, q.shape[1], q.shape[0]), single.THREADS, memory](
            q, k, v, mask, bits, to, normal, *sizes[1:], *steps, *rest
        )
        return
    grid = -(-q.shape[2] // SIDE), q.shape[0] * q.shape[1]
    _forward[depth][grid, THREADS](q, k, v, mask, bits, to, normal, *sizes, *steps, *rest)


def _run_backward(
    result: Array, arrays: list[Array], to: list[Array], kept: Array, mask: Array | None, key: Array | None,
    causal: bool, scale: float | None, p: float,
) -> None:  # fmt: skip
    """Run the kernels on g, q, k, v and out; `to`: where in `result` the gradients of q, k and v lie."""
    g, q, k, v, out = arrays
    dq, dk, dv = to
    if 0 in (g.size, q.size, k.size):
        if result.size:
            tape.fill(result, 0)
        return
    sizes, rest, depth = _common(arrays, mask, causal, scale, p)
    rest[6] = rest[6] and all(aligned(x) and not any(s % 4 for s in _steps(x)) for x in to)
    normal, bits = kept[out.size :], key if p else None
    if max(q.shape[2], k.shape[2]) <= SHORT:
        steps = [step for x in (*arrays, dq, dk, dv) for step in _steps(x)]
        block = _short_block(q.shape[2], k.shape[2], 4 * (depth + short.GAP) + 2 * short.ROW)
        _short_gradients[depth][(1, q.shape[1], q.shape[0]), *block](
            g, q, k, v, mask, bits, out, normal, dq, dk, dv, *sizes[1:], *steps, *rest
        )
        return
    delta = tape.empty(math.prod(q.shape[:3]), FLOAT32)
    steps, heads = [step for x in arrays for step in _steps(x)], q.shape[0] * q.shape[1]
    shared = 4 * (3 * depth * ROW + 2 * SIDE * ROW)
    _query_gradients[depth][(-(-q.shape[2] // SIDE), heads), THREADS, shared](
        g, q, k, v, mask, bits, out, normal, delta, dq, dq, *sizes, *steps, *_steps(dq), *_steps(dq), *rest
    )
    _key_gradients[depth][(-(-k.shape[2] // SIDE), heads), THREADS, shared](
        g, q, k, v, mask, bits, out, normal, delta, dk, dv, *sizes, *steps, *_steps(dk), *_steps(dv), *rest
    )


def _short_block(queries: int, keys: int, floats: int) -> tuple[int, int]:
    """(threads, bytes of shared memory) of a block of `short.py`: a warp for each four rows, `floats` for each row."""
    warps = -(-min(short.SIDE, max(queries, keys)) // 4)
    return 32 * warps, 4 * 4 * warps * floats
