"""Scaled dot-product attention of one head at a time (Vaswani et al. 2017, section 3.2.1), with its gradients.

The weights of a head exist only as a block of `ROWS` queries in the cache, never as an array (..., T, S). All products
are tiles of `matmul`, so each q · k, each sum over keys and each sum over queries is a chain in ascending order;
denominators keep the order of `reduce`. A masked key has the weight 0 exactly, and adding 0 · v to a chain changes no
bit as long as v is finite; heads with a NaN or an infinity take a slower path that leaves masked terms out
(`_careful_product`).
"""

import math

import numpy as np

from ..compiled import exp, keep_from, log, philox
from .jit import jit, kernel, separate
from .matmul import TILES, multiply, pack
from .reduce import dot_row, max_row, sum_row
from .simd import LANES, flat, fma, load_tail, splat, store_tail, sum_lanes

Array = np.ndarray

ROWS = 56  # queries in one round: a multiple of the tile heights 14 and 4
BLOCK_WORK = 1 << 18  # multiply-adds in one block of heads


# --- products of one head --------------------------------------------------------------------------------------------


@separate
def _panels(x, packed, width):
    """A matrix as the right side of products, in place or packed: -> (flat array, step of a row, step of a panel)."""
    depth, columns = x.shape
    if x.strides[1] == x.itemsize and columns % width == 0:
        return flat(x), x.strides[0] // x.itemsize, width
    for j in range(0, columns, width):
        pack(x, j, min(width, columns - j), width, packed, j * depth)
    return packed, width, width * depth


@separate
def _product(a, a_at, a_i, a_k, right, first, c, c_at, c_i, rows, depth, columns, height, width, fresh):
    """c = a b or c += a b, where b is rows `first` .. `first + depth - 1` of what `_panels` made."""
    b, step, panel = right
    for j in range(0, columns, width):
        multiply(a, a_at, a_i, a_k, b, j // width * panel + first * step, step, c, c_at + j, c_i,
                 rows, depth, min(width, columns - j), height, fresh)  # fmt: skip


@separate
def _careful_product(a, ok, a_i, a_k, x, first, c, c_at, c_i, rows, depth, fresh):
    """The same product with x in place, leaving out the terms that are not ok (which might be 0 · NaN)."""
    source, x_k, x_j = flat(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    for i in range(rows):
        for j in range(x.shape[1]):
            total = splat(0.0 if fresh else c[c_at + i * c_i + j], c)
            for k in range(depth):
                if ok[i * a_i + k * a_k]:
                    total = fma(a[i * a_i + k * a_k], load_tail(source, (first + k) * x_k + j * x_j, 1), total)
            store_tail(c, c_at + i * c_i + j, total, 1)


@separate
def _finite(x):
    """Whether a matrix has neither NaN nor infinity."""
    source, x_i, x_j = flat(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    step = LANES if x_j == 1 else 1
    strange = splat(0.0, source)
    for i in range(x.shape[0]):
        for j in range(0, x.shape[1], step):
            numbers = load_tail(source, i * x_i + j * x_j, min(step, x.shape[1] - j))
            strange = strange + (numbers - numbers)
    return sum_lanes(strange) == 0


# --- rows of weights -------------------------------------------------------------------------------------------------


@jit
def _attended(ok, at, mask, t, n, limit):
    """Set ok[at + s] to whether query t may attend key s < n: s < limit, and the mask says so; no key s >= n."""
    row = ok[at : at + _whole(n)]
    for s in range(row.size):
        row[s] = s < limit
    if mask.size:
        seen = mask[min(t, mask.shape[0] - 1)]
        step = 0 if mask.shape[1] == 1 else 1
        for s in range(n):
            row[s] &= seen[s * step]


@jit
def _whole(n):
    """n rounded up to whole vectors: rows of the scratch arrays have room for them, and loops no tails."""
    return (n + LANES - 1) // LANES * LANES


@separate
def _softmax_rows(scores, ok, rows, stride, n, scale, lse, totals):
    """Turn rows of n scores into attention weights, in place, with their log-sum-exp.

    Step by step for all rows, not row by row, so that the processor need not wait for one number.
    """
    for i in range(rows):
        x, seen = scores[i * stride : i * stride + n], ok[i * stride : i * stride + n]
        for s in range(n):
            x[s] = x[s] * scale if seen[s] else -math.inf
    for i in range(rows):
        top = max_row(scores, i * stride, n)
        lse[i] = top if top - top == 0 else scores.dtype.type(0)
    for i in range(rows):
        x, seen, top = scores[i * stride : i * stride + n], ok[i * stride : i * stride + n], lse[i]
        for s in range(n):
            e = exp(x[s] - top)
            x[s] = e if seen[s] else 0
    for i in range(rows):
        totals[i] = sum_row(scores, i * stride, n)
    for i in range(rows):
        x, seen = scores[i * stride : i * stride + n], ok[i * stride : i * stride + n]
        divisor = totals[i] if totals[i] != 0 else scores.dtype.type(1)
        for s in range(n):
            y = x[s] / divisor
            x[s] = y if seen[s] else 0
    for i in range(rows):
        lse[i] = log(totals[i]) + lse[i]


@separate
def _keep_row(factors, key, first, n, threshold, scale):
    """Dropout factors (0 or `scale`) of n weights from flat index `first`: -> where in `factors` they begin."""
    counter, zero = first // 4, factors.dtype.type(0)
    for c in range((first + n + 3) // 4 - counter):
        w0, w1, w2, w3 = philox(key, np.uint64(counter + c))
        factors[4 * c] = scale if np.uint32(w0) >> 8 >= threshold else zero
        factors[4 * c + 1] = scale if np.uint32(w1) >> 8 >= threshold else zero
        factors[4 * c + 2] = scale if np.uint32(w2) >> 8 >= threshold else zero
        factors[4 * c + 3] = scale if np.uint32(w3) >> 8 >= threshold else zero
    return first % 4


@separate
def _weights(q, t, rows, keys, mask, causal, n, stride, scale, scores, ok, lse, totals, height, width):
    """The attention weights of queries t .. t + rows - 1 in the rows of `scores`: -> how many keys are in reach."""
    reach = max(0, min(n, t + rows + n - q.shape[0])) if causal else n
    q_i, q_k = q.strides[0] // q.itemsize, q.strides[1] // q.itemsize
    _product(flat(q), t * q_i, q_i, q_k, keys, 0, scores, 0, stride, rows, q.shape[1], reach, height, width, True)
    for i in range(rows):
        limit = min(reach, t + i + 1 + n - q.shape[0]) if causal else reach
        _attended(ok, i * stride, mask, t + i, reach, limit)
    _softmax_rows(scores, ok, rows, stride, _whole(reach), scale, lse, totals)
    return reach


# --- forward ---------------------------------------------------------------------------------------------------------


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], T[::1], T[::1], "
        "bool, T, uint64, uint32, T, int, int, int")  # fmt: skip
def _attention(lo, hi, q, k, v, mask, out, lse, causal, scale, key, threshold, keep, height, width, group):
    """out (heads, T, Kv) and lse (heads, T); `keep` is the factor of kept weights, 0 for no dropout."""
    outer, inner, queries, depth = q.shape
    n, values = v.shape[2:]
    stride, wide = -(-n // width) * width, -(-values // width) * width
    scores, ok = np.empty(ROWS * stride, q.dtype), np.empty(ROWS * stride, np.uint8)
    packed_k, packed_v = np.empty(depth * stride, q.dtype), np.empty(n * wide, q.dtype)
    factors, totals = np.empty(stride + 2 * LANES, q.dtype), np.empty(ROWS, q.dtype)
    for head in range(lo * group, min(hi * group, outer * inner)):
        o, h = head // inner, head % inner
        one_q, one_v = q[o, h], v[o, h]
        seen = mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)]
        keys, right, clean = _panels(k[o, h].T, packed_k, width), _panels(one_v, packed_v, width), _finite(one_v)
        for t in range(0, queries, ROWS):
            rows, first = min(ROWS, queries - t), head * queries + t
            reach = _weights(one_q, t, rows, keys, seen, causal, n, stride, scale, scores, ok, lse[first:], totals,
                             height, width)  # fmt: skip
            if keep != 0 or threshold != 0:
                for i in range(rows):
                    at = _keep_row(factors, key, (first + i) * n, reach, threshold, keep)
                    for s in range(reach):
                        scores[i * stride + s] *= factors[at + s]
            if clean:
                _product(scores, 0, stride, 1, right, 0, out, first * values, values,
                         rows, reach, values, height, width, True)  # fmt: skip
            else:
                _careful_product(scores, ok, stride, 1, one_v, 0, out, first * values, values, rows, reach, True)


# --- backward --------------------------------------------------------------------------------------------------------


@kernel("T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], T[:, :, :, :], uint8[:, :, :, :], T[::1], T[::1], T[::1], "
        "bool, T, uint64, uint32, T, int, int, int")  # fmt: skip
def _attention_vjp(
    lo, hi, g, q, k, v, mask, dq, dk, dv, causal, scale, key, threshold, keep, height, width, group
):  # fmt: skip
    """The gradients of `_attention`, from the weights computed again."""
    outer, inner, queries, depth = q.shape
    n, values = v.shape[2:]
    stride, wide, deep = -(-n // width) * width, -(-values // width) * width, -(-depth // width) * width
    weights, slopes = np.empty(ROWS * stride, q.dtype), np.empty(ROWS * stride, q.dtype)
    ok, lse, factors = np.empty(ROWS * stride, np.uint8), np.empty(ROWS, q.dtype), np.ones(stride + 2 * LANES, q.dtype)
    totals = np.empty(ROWS, q.dtype)
    packed_kt, packed_vt = np.empty(depth * stride, q.dtype), np.empty(values * stride, q.dtype)
    packed_k, packed_q = np.empty(n * deep, q.dtype), np.empty(queries * deep, q.dtype)
    packed_g = np.empty(queries * wide, q.dtype)
    for head in range(lo * group, min(hi * group, outer * inner)):
        o, h = head // inner, head % inner
        one_g, one_q, one_k, one_v = g[o, h], q[o, h], k[o, h], v[o, h]
        seen = mask[min(o, mask.shape[0] - 1), min(h, mask.shape[1] - 1)]
        keys, values_t = _panels(one_k.T, packed_kt, width), _panels(one_v.T, packed_vt, width)
        right_k, right_q = _panels(one_k, packed_k, width), _panels(one_q, packed_q, width)
        right_g, flat_g = _panels(one_g, packed_g, width), flat(one_g)
        g_i, g_k = one_g.strides[0] // g.itemsize, one_g.strides[1] // g.itemsize
        clean_g, clean_q, clean_k = _finite(one_g), _finite(one_q), _finite(one_k)
        at_k, at_v = head * n * depth, head * n * values
        dk[at_k : at_k + n * depth] = 0
        dv[at_v : at_v + n * values] = 0
        for t in range(0, queries, ROWS):
            rows = min(ROWS, queries - t)
            reach = _weights(one_q, t, rows, keys, seen, causal, n, stride, scale, weights, ok, lse, totals,
                             height, width)  # fmt: skip
            _product(flat_g, t * g_i, g_i, g_k, values_t, 0, slopes, 0, stride, rows, values, reach,
                     height, width, True)  # fmt: skip
            for i in range(rows):
                at = 0
                if keep != 0 or threshold != 0:
                    at = _keep_row(factors, key, (head * queries + t + i) * n, reach, threshold, keep)
                _slopes_row(weights, slopes, factors, ok, i * stride, at, _whole(reach), scale)
            at_q = (head * queries + t) * depth
            if clean_k:
                _product(slopes, 0, stride, 1, right_k, 0, dq, at_q, depth, rows, reach, depth, height, width, True)
            else:
                _careful_product(slopes, ok, stride, 1, one_k, 0, dq, at_q, depth, rows, reach, True)
            if clean_q:
                _product(slopes, 0, 1, stride, right_q, t, dk, at_k, depth, reach, rows, depth, height, width, False)
            else:
                _careful_product(slopes, ok, 1, stride, one_q, t, dk, at_k, depth, reach, rows, False)
            if clean_g:
                _product(weights, 0, 1, stride, right_g, t, dv, at_v, values, reach, rows, values,
                         height, width, False)  # fmt: skip
            else:
                _careful_product(weights, ok, 1, stride, one_g, t, dv, at_v, values, reach, rows, False)


@separate
def _slopes_row(weights, slopes, factors, ok, at, factors_at, n, scale):
    """From weights p, their factors f and the gradients of p f: p becomes p f, and `slopes` the gradients of q · k."""
    p, d, seen, f = weights[at : at + n], slopes[at : at + n], ok[at : at + n], factors[factors_at : factors_at + n]
    for s in range(n):
        slope = d[s] * f[s]
        d[s] = slope if seen[s] else 0
    mean = dot_row(weights, slopes, at, n)
    for s in range(n):
        slope = p[s] * (d[s] - mean) * scale
        d[s] = slope if seen[s] else 0
        p[s] *= f[s]


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
    """softmax(q kᵀ · scale) v over the keys that may be attended -> out (..., T, Kv), log-sum-exp (..., T).

    q (..., T, K), k (..., S, K), v (..., S, Kv), with the same leading axes and any strides; mask: bool, broadcast to
    (..., T, S), True = attend; causal: query t attends keys s <= t + S - T; scale: 1/√K unless given. A query without
    keys gets zeros. p: dropout of the weights; the bits of a weight follow from `key` and its flat index.
    """
    if not _served(q, k, v, mask):
        return NotImplemented
    out, lse = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), np.full(q.shape[:-1], -math.inf, q.dtype)
    if q.size == 0 or v.size == 0:
        out.fill(0)
        return out, lse
    heads = [_four_axes(x) for x in (q, k, v)]
    _run(_attention, [*heads, _mask(mask, q), out, lse], q, v, causal, scale, key, p)
    return out, lse


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
    lse: Array | None = None,
    out: Array | None = None,
) -> Array:
    """The gradients of attention for the cotangent g (..., T, Kv): dq, dk and dv, flat, one behind the other.

    `lse` and `out`, the results of the forward pass, are not needed: the weights are computed again, bit for bit.
    """
    if not _served(q, k, v, mask) or g.dtype != q.dtype:
        return NotImplemented
    result = np.empty(q.size + k.size + v.size, q.dtype)
    if q.size == 0 or v.size == 0:
        result.fill(0)
        return result
    gradients = [result[: q.size], result[q.size : q.size + k.size], result[q.size + k.size :]]
    heads = [_four_axes(x) for x in (g, q, k, v)]
    _run(_attention_vjp, [*heads, _mask(mask, q), *gradients], q, v, causal, scale, key, p)
    return result


def _served(q: Array, k: Array, v: Array, mask: Array | None) -> bool:
    same_heads = q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    return q.dtype in TILES and q.dtype == k.dtype == v.dtype and same_heads and (mask is None or mask.dtype == bool)


def _four_axes(x: Array) -> Array:
    """(..., rows, columns) with exactly two leading axes."""
    return x[(None,) * (4 - x.ndim)] if x.ndim <= 4 else x.reshape(1, -1, *x.shape[-2:])


def _mask(mask: Array | None, q: Array) -> Array:
    """The mask as bytes with four axes, each of full length or 1; without a mask an array of size 0."""
    if mask is None:
        return np.empty((1, 1, 0, 0), np.uint8)
    if q.ndim > 4:
        mask = np.broadcast_to(mask, q.shape[:-2] + mask.shape[-2:])
    elif mask.ndim < 4:
        mask = mask[(None,) * (4 - mask.ndim)]
    return _four_axes(mask).view(np.uint8)


def _run(kernel, arrays, q, v, causal, scale, key, p):
    """Call a kernel for all heads, in blocks of several where they are small."""
    heads = math.prod(q.shape[:-2])
    work = q.shape[-2] * v.shape[-2] * (q.shape[-1] + v.shape[-1])
    group = max(1, BLOCK_WORK // work)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    drop, keep = (keep_from(p), 1 / (1 - p) if p < 1 else 0.0) if p else (0, 0.0)
    bits = 0 if key is None else int(key) & 0xFFFFFFFFFFFFFFFF
    kernel(-(-heads // group), *arrays, causal, scale, bits, drop, keep, *TILES[q.dtype], group)
