"""Blocks of queries of one attention head: their products, weights and slopes, one query in each lane of the vectors.

Whatever has an element for each query and key lies transposed: row s has the numbers of key s, `width` lanes for as
many queries (one vector or two), of which the first `rows` count; the others are 0. So a product reads keys and values
where they are, and maxima and sums over the keys are those of whole vectors. All products are fma chains over an
ascending index; sums over keys keep the order of `reduce`.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import jit, separate
from .lanes import count, draw, exp, magnitude, sum_down
from .simd import (
    LANES,
    bits,
    flat,
    fma,
    greater,
    load,
    load_tail,
    prefetch,
    select,
    splat,
    store,
    store_tail,
    sum_lanes,
)
from .tile import SHAPES, Tile, add_outer, load_tile, store_tile
from .transpose import transpose

FAR = 1 << 40  # further than any key
_ONE, _BIT, _WORD = np.uint64(1), np.uint64(63), np.uint64(0xFFFFFFFF)


# --- products --------------------------------------------------------------------------------------------------------


def _tile(dtype: types.Type, kind: int, vectors: int) -> Tile:
    """Tiles of 8, 4, 2 and 1 rows (kinds 0 to 3), fewer where the registers are few."""
    tallest, columns = SHAPES[dtype]
    return Tile(dtype, min(8 >> kind, 1 << tallest.bit_length() - 1), min(vectors, columns // LANES))


@intrinsic(prefer_literal=True)
def _zeros(typingctx, like, kind, vectors):
    tile = _tile(like.dtype, kind.literal_value, vectors.literal_value)
    return tile(like, kind, vectors), lambda context, builder, sig, values: cgutils.get_null_value(tile.native)


@intrinsic(prefer_literal=True)
def _rows_of(typingctx, like, kind):
    rows = _tile(like.dtype, kind.literal_value, 1).rows
    return types.int64(like, kind), lambda context, builder, sig, values: ir.Constant(ir.IntType(64), rows)


@intrinsic(prefer_literal=True)
def _columns_of(typingctx, like, vectors):
    columns = _tile(like.dtype, 0, vectors.literal_value).vectors * LANES
    return types.int64(like, vectors), lambda context, builder, sig, values: ir.Constant(ir.IntType(64), columns)


def _band(kind: int, vectors: int) -> Any:
    """As many tiles of one height as fit between row i and the last, in columns j .. end - 1: -> the row behind."""

    @jit
    def band(i, j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh):
        height, width = _rows_of(a, kind), _columns_of(a, vectors)
        while i + height <= rows:
            first, last = max(0, i + low), min(depth, i + height + high)
            for column in range(j, end, width):
                c_here, n = c_at + i * c_i + column, end - column
                tile = _zeros(a, kind, vectors)
                if not fresh:
                    tile = load_tile(tile, c, c_here, c_i, n)
                for k in range(first, last):
                    tile = add_outer(tile, a, a_at + i * a_i + k * a_k, a_i, b, b_at + k * b_k + column)
                store_tile(tile, c, c_here, c_i, n)
            i += height
        return i

    return band


def _bands(vectors: int) -> Any:
    """All rows of columns j .. end - 1."""
    band_8, band_4, band_2, band_1 = (_band(kind, vectors) for kind in range(4))

    @jit
    def bands(j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh):
        i = 0
        if rows >= 8:
            i = band_8(i, j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)
        if i + 4 <= rows:
            i = band_4(i, j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)
        if i + 2 <= rows:
            i = band_2(i, j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)
        if i < rows:
            band_1(i, j, end, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)

    return bands


_wide_bands, _slim_bands = _bands(2), _bands(1)


@separate
def product(a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, columns, low, high, fresh):
    """c = a b (fresh) or c += a b, where row i of a is 0 before k = i + low and behind k = i + high.

    Arrays are flat; _at: where the matrix begins; _i and _k: the elements from one i or k to the next. Rows of b are
    read in whole vectors.
    """
    widest = _columns_of(a, 2)
    wide = 0 if widest == LANES else columns - columns % widest if columns % widest <= LANES else columns
    if wide > 0:
        _wide_bands(0, wide, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)
    if wide < columns:
        _slim_bands(wide, columns, a, a_at, a_i, a_k, b, b_at, b_k, c, c_at, c_i, rows, depth, low, high, fresh)


@separate
def careful_product(a, ok, a_i, a_k, x, first, c, c_at, c_i, rows, depth, fresh):
    """The product with rows `first` .. of the matrix x, leaving out the terms that are not ok (maybe 0 · NaN)."""
    source, x_k, x_j = flat(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    for i in range(rows):
        for j in range(x.shape[1]):
            total = splat(0.0 if fresh else c[c_at + i * c_i + j], c)
            for k in range(depth):
                if ok[i * a_i + k * a_k] != 0:
                    total = fma(a[i * a_i + k * a_k], load_tail(source, (first + k) * x_k + j * x_j, 1), total)
            store_tail(c, c_at + i * c_i + j, total, 1)


@separate
def in_rows(x, packed):
    """Pack a matrix, if need be, so that its rows can be read in whole vectors: -> (whether, step of a row)."""
    depth, columns = x.shape
    source, x_i, x_j = flat(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    if x_j == 1 and columns % LANES == 0:
        return False, x_i
    step = (columns + LANES - 1) // LANES * LANES
    for i in range(depth):
        if x_j == 1:
            for j in range(0, columns, LANES):
                store(packed, i * step + j, load_tail(source, i * x_i + j, columns - j))
        else:
            for j in range(step):
                packed[i * step + j] = x[i, j] if j < columns else 0
    return True, step


@separate
def in_lanes(x, first, rows, width, packed):
    """Rows `first` .. `first + rows - 1` of a matrix as columns of `packed`, `width` lanes a row."""
    source, x_i, x_j = flat(x), x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    for lane in range(0, width, LANES):
        for k in range(0, x.shape[1], LANES):
            if x_j == 1:
                transpose(source, (first + lane) * x_i + k, x_i, rows - lane, x.shape[1] - k,
                          packed, k * width + lane, width)  # fmt: skip
            else:
                for j in range(k, min(k + LANES, x.shape[1])):
                    for i in range(lane, lane + LANES):
                        packed[j * width + i] = x[first + i, j] if i < rows else 0


@jit
def ask(x, head, inner, last):
    """Ask for one head's rows, to be there when its turn comes."""
    if head < last:
        one = x[head // inner, head % inner]
        line, step = flat(one), one.strides[0] // one.itemsize
        for i in range(one.shape[0]):
            for j in range(0, one.shape[1], 64 // x.itemsize):
                prefetch(line, i * step + j)


@separate
def finite_row(x, at, n):
    """Whether n numbers are neither NaN nor infinite."""
    strange = splat(0.0, x)
    for i in range(0, n, LANES):
        numbers = load_tail(x, at + i, n - i)
        strange = strange + (numbers - numbers)
    return sum_lanes(strange) == 0


# --- dropout ---------------------------------------------------------------------------------------------------------


@separate
def keep_bits(key, first, n, rows, reach, width, threshold, scratch):
    """Bit s % 32 of keeps[s // 32, t]: whether query t keeps its weight of key s, element first + t n + s of all."""
    _, _, _, _, words, keeps = scratch
    draw(key[0], first, rows * n, threshold, words)
    for s in range(0, reach, 32):
        for t in range(width):
            at = first % 4 + min(t, rows - 1) * n + s
            word, shift = words[at >> 6], np.uint64(at) & _BIT
            # Two shifts, as one of all 64 bits has no result.
            word = word >> shift | words[(at >> 6) + 1] << _ONE << (_BIT - shift)
            keeps[s // 32 * width + t] = np.int32(np.int64(word & _WORD))


# --- weights ---------------------------------------------------------------------------------------------------------


@separate
def attended(ok, mask, t, rows, width, reach, shift):
    """Set ok[s, lane] to whether query t + lane may attend key s: s <= t + lane + shift, and the mask says so."""
    lanes = count(ok)
    none, one = splat(0, ok), splat(1, ok)
    for s in range(reach):
        hidden = mask.size > 0 and mask.shape[0] == 1 and mask[0, min(s, mask.shape[1] - 1)] == 0
        for lane in range(0, width, LANES):
            last = np.int64(0 if hidden else min(rows - lane, LANES))
            seen = (lanes >= max(s - shift - t - lane, -1)) & (lanes < last)
            store(ok, s * width + lane, select(seen, one, none))
    if mask.size > 0 and mask.shape[0] > 1:
        for i in range(rows):
            for s in range(reach):
                ok[s * width + i] &= mask[t + i, min(s, mask.shape[1] - 1)]


@separate
def _softmax(w, ok, keeps, width, n, scale, drop, keep, kept, kept_at):
    """Turn scores into weights: `kept` gets them, a minus sign on those that dropout takes, and w what remains."""
    nothing = splat(0.0, w)
    for lane in range(0, width, LANES):
        top = splat(-math.inf, w)
        for at in range(lane, lane + n * width, width):
            x = load(w, at) * scale
            store(w, at, x)
            top = greater(select(load(ok, at) != 0, x, splat(-math.inf, w)), top)
        top = select(top - top == 0, top, nothing)
        for at in range(lane, lane + n * width, width):
            store(w, at, select(load(ok, at) != 0, exp(load(w, at) - top), nothing))
        total = sum_down(w, lane, width, n)
        total = select(total == 0, splat(1.0, w), total)
        for s in range(n):
            at = s * width + lane
            p = magnitude(select(load(ok, at) != 0, load(w, at) / total, nothing))
            rest = p
            if drop:
                stays = (load(keeps, s // 32 * width + lane) & (1 << (s & 31))) != 0
                rest = select(stays, p * keep, nothing)
                p = select(stays, p, -p)
            store(kept, kept_at + at, p)
            store(w, at, rest)


@separate
def weigh(q, k, mask, key, head, t, rows, width, causal, scale, threshold, keep, again, scratch, kept, kept_at):
    """The weights of queries t .. t + rows - 1, see `_softmax`: -> how many keys are in reach; `again`: ok is made."""
    w, ok, _, packed, _, keeps = scratch
    (queries, depth), n = q.shape, k.shape[0]
    shift = n - queries if causal else FAR
    reach = max(0, min(n, t + rows + shift))
    in_lanes(q, t, rows, width, packed)
    product(flat(k), 0, k.strides[0] // k.itemsize, k.strides[1] // k.itemsize, packed, 0, width,
            w, 0, width, reach, depth, width, -FAR, FAR, True)  # fmt: skip
    if not again:
        attended(ok, mask, t, rows, width, reach, shift)
    if threshold != 0:
        keep_bits(key, (head * queries + t) * n, n, rows, reach, width, threshold, scratch)
    _softmax(w, ok, keeps, width, reach, scale, threshold != 0, keep, kept, kept_at)
    return reach


@separate
def slopes(kept, kept_at, w, d, ok, width, n, scale, keep, careful):
    """From the gradients d of the weights that remain, the gradients of q · k, and w again: -> whether all is finite.

    careful: weights that may not be attended have no gradient, whatever d says.
    """
    nothing = splat(0.0, w)
    strange = nothing
    for lane in range(0, width, LANES):
        for at in range(lane, lane + n * width, width):
            p = load(kept, kept_at + at)
            slope = select(bits(p) < 0, nothing, load(d, at) * keep)
            if careful:
                slope = select(load(ok, at) != 0, slope, nothing)
            store(d, at, slope)
            store(w, at, magnitude(p) * slope)
        mean = sum_down(w, lane, width, n)
        strange = strange + (mean - mean)
        for at in range(lane, lane + n * width, width):
            p = load(kept, kept_at + at)
            slope = magnitude(p) * (load(d, at) - mean) * scale
            if careful:
                slope = select(load(ok, at) != 0, slope, nothing)
            store(d, at, slope)
            store(w, at, select(bits(p) < 0, nothing, p * keep))
    return sum_lanes(strange) == 0
