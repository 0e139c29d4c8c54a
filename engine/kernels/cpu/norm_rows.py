"""Four rows of a layer norm at a time: their means and variances, their gradients; and sums over rows.

One row waits for its own sums; four of them side by side keep the processor busy. Where there are fewer, the last one
is done again, with the same result. Sums along a row keep the order of `reduce`.
"""

import math

from .dropout import bits_of, dropped, mask_of
from .lanes import lanes_below, sums_of_four
from .native import inlined as jit
from .reduce import CHUNK
from .simd import LANES, fma, load_tail, prefetch, select, splat, store_tail
from .tile import HELD

SLAB = 4 * LANES  # columns whose sums are made together
ROWS = 4 if HELD >= 16 else 2  # whose gradients are in registers together


@jit
def four(first, last, n):
    """Where rows first .. first + 3, or the last one instead, begin."""
    return first * n, min(first + 1, last) * n, min(first + 2, last) * n, min(first + 3, last) * n


@jit
def _zeros(like):
    zero = splat(0.0, like)
    return zero, zero, zero, zero


@jit
def _plus_lanes(totals, acc):
    new = sums_of_four(acc)
    return totals[0] + new[0], totals[1] + new[1], totals[2] + new[2], totals[3] + new[3]


@jit
def _nothing(like):
    zero = like.dtype.type(0)
    return zero, zero, zero, zero


@jit
def _over(totals, n, like):
    length = like.dtype.type(n)
    return totals[0] / length, totals[1] / length, totals[2] / length, totals[3] / length


# --- forward ---------------------------------------------------------------------------------------------------------


@jit
def _sum(x, i, count, acc):
    return acc + load_tail(x, i, count)


@jit
def _sum_four(x, at, j, count, acc):
    return (_sum(x, at[0] + j, count, acc[0]), _sum(x, at[1] + j, count, acc[1]),
            _sum(x, at[2] + j, count, acc[2]), _sum(x, at[3] + j, count, acc[3]))  # fmt: skip


@jit
def means_of(x, at, n):
    totals = _nothing(x)
    for first in range(0, n, CHUNK):
        end = min(first + CHUNK, n)
        whole, acc = end - (end - first) % LANES, _zeros(x)
        for j in range(first, whole, LANES):
            acc = _sum_four(x, at, j, LANES, acc)
        if whole < end:
            acc = _sum_four(x, at, whole, end - whole, acc)
        totals = _plus_lanes(totals, acc)
    return _over(totals, n, x)


@jit
def _square(x, i, count, mean, acc):
    c = select(lanes_below(count), load_tail(x, i, count) - mean, splat(0.0, acc))
    return fma(c, c, acc)


@jit
def _square_four(x, at, j, count, means, acc):
    return (_square(x, at[0] + j, count, means[0], acc[0]), _square(x, at[1] + j, count, means[1], acc[1]),
            _square(x, at[2] + j, count, means[2], acc[2]), _square(x, at[3] + j, count, means[3], acc[3]))  # fmt: skip


@jit
def variances_of(x, at, n, means):
    totals = _nothing(x)
    for first in range(0, n, CHUNK):
        end = min(first + CHUNK, n)
        whole, acc = end - (end - first) % LANES, _zeros(x)
        for j in range(first, whole, LANES):
            acc = _square_four(x, at, j, LANES, means, acc)
        if whole < end:
            acc = _square_four(x, at, whole, end - whole, means, acc)
        totals = _plus_lanes(totals, acc)
    return _over(totals, n, x)


@jit
def _scale(x, i, count, mean, rstd, weight, bias, out):
    store_tail(out, i, (load_tail(x, i, count) - mean) * rstd * weight + bias, count)


@jit
def _scale_four(x, at, j, count, means, rstds, weight, bias, out):
    w, b = load_tail(weight, j, count), load_tail(bias, j, count)
    _scale(x, at[0] + j, count, means[0], rstds[0], w, b, out)
    _scale(x, at[1] + j, count, means[1], rstds[1], w, b, out)
    _scale(x, at[2] + j, count, means[2], rstds[2], w, b, out)
    _scale(x, at[3] + j, count, means[3], rstds[3], w, b, out)


@jit
def _add(x, h, i, count, factors, at, kept, word, out, acc):
    a, b = load_tail(x, i, count), load_tail(h, i, count)
    if kept is not None:
        f = load_tail(factors, at, count)
        kept[word] = bits_of(f != 0.0)
        b = dropped(b, f)
    s = a + b
    store_tail(out, i, s, count)
    return acc + s


@jit
def _add_four(x, h, at, j, count, factors, places, kept, words, out, acc):
    k = j // LANES
    return (_add(x, h, at[0] + j, count, factors, places[0] + j, kept, words[0] + k, out, acc[0]),
            _add(x, h, at[1] + j, count, factors, places[1] + j, kept, words[1] + k, out, acc[1]),
            _add(x, h, at[2] + j, count, factors, places[2] + j, kept, words[2] + k, out, acc[2]),
            _add(x, h, at[3] + j, count, factors, places[3] + j, kept, words[3] + k, out, acc[3]))  # fmt: skip


@jit
def add_means(x, h, at, n, factors, places, kept, words, out):
    """out = x + h times factors in four rows, which begin at `at`, the factors at `places`: the means of out.

    `kept` takes what is kept, from `words`; where it is None there are no factors.
    """
    totals = _nothing(x)
    for first in range(0, n, CHUNK):
        end = min(first + CHUNK, n)
        whole, acc = end - (end - first) % LANES, _zeros(x)
        for j in range(first, whole, LANES):
            acc = _add_four(x, h, at, j, LANES, factors, places, kept, words, out, acc)
        if whole < end:
            acc = _add_four(x, h, at, whole, end - whole, factors, places, kept, words, out, acc)
        totals = _plus_lanes(totals, acc)
    return _over(totals, n, x)


@jit
def rstds_of(variances, eps, like):
    one, e = like.dtype.type(1), like.dtype.type(eps)
    return (one / math.sqrt(variances[0] + e), one / math.sqrt(variances[1] + e),
            one / math.sqrt(variances[2] + e), one / math.sqrt(variances[3] + e))  # fmt: skip


@jit
def scale_rows(x, at, n, means, rstds, weight, bias, out):
    """out = (x - mean) rstd weight + bias in four rows."""
    whole = n - n % LANES
    for j in range(0, whole, LANES):
        _scale_four(x, at, j, LANES, means, rstds, weight, bias, out)
    if whole < n:
        _scale_four(x, at, whole, n - whole, means, rstds, weight, bias, out)


# --- backward --------------------------------------------------------------------------------------------------------


@jit
def _share(g, s, i, count, weight, mean, along, level):
    b = load_tail(g, i, count) * weight  # 0 in lanes past the end
    return fma(b, load_tail(s, i, count) - mean, along), level + b


@jit
def _share_two(g, s, at, k, j, count, weight, means, a, b):
    w = load_tail(weight, j, count)
    a0, b0 = _share(g, s, at[k] + j, count, w, means[k], a[0], b[0])
    a1, b1 = _share(g, s, at[k + 1] + j, count, w, means[k + 1], a[1], b[1])
    return (a0, a1), (b0, b1)


@jit
def _share_four(g, s, at, k, j, count, weight, means, a, b):
    c, d = _share_two(g, s, at, 0, j, count, weight, means, a[:2], b[:2])
    e, f = _share_two(g, s, at, 2, j, count, weight, means, a[2:], b[2:])
    return c + e, d + f


_share_some = _share_four if ROWS == 4 else _share_two


@jit
def _shares_from(g, s, at, k, first, end, weight, means):
    """The sums of w g (s - mean) and of w g along each of ROWS rows, from number k of the four on."""
    whole, a, b = end - (end - first) % LANES, _zeros(s)[:ROWS], _zeros(s)[:ROWS]
    for j in range(first, whole, LANES):
        a, b = _share_some(g, s, at, k, j, LANES, weight, means, a, b)
    if whole < end:
        a, b = _share_some(g, s, at, k, whole, end - whole, weight, means, a, b)
    return a, b


@jit
def _shares(g, s, weight, at, n, means):
    """The means of w g (s - mean) and of w g along each row."""
    along, level = _nothing(s), _nothing(s)
    for first in range(0, n, CHUNK):
        end = min(first + CHUNK, n)
        a, b = _shares_from(g, s, at, 0, first, end, weight, means)
        if ROWS == 2:
            c, d = _shares_from(g, s, at, 2, first, end, weight, means)
            a, b = a + c, b + d
        along, level = _plus_lanes(along, a), _plus_lanes(level, b)
    return _over(along, n, s), _over(level, n, s)


@jit
def _slope(g, s, i, count, weight, mean, rstd, turn, level, dx, kept, word, scale, dh, dw, db, ahead):
    """A vector of a row of dx and of dh; dw + g x̂ and db + g."""
    a, c = load_tail(g, i, count), load_tail(s, i, count) - mean
    prefetch(g, i + ahead)
    prefetch(s, i + ahead)
    d = fma(c, turn, (a * weight - level) * rstd)
    store_tail(dx, i, d, count)
    if kept is not None:
        store_tail(dh, i, select(mask_of(kept[word]), d * scale, splat(0.0, dh)), count)
    return fma(a, c * rstd, dw), db + a


@jit
def _slope_two(g, s, at, k, j, count, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, dw, db, ahead):
    i = j // LANES
    dw, db = _slope(g, s, at[k] + j, count, weight, means[k], rstds[k], turns[k], levels[k], dx, kept, words[k] + i,
                    scale, dh, dw, db, ahead)  # fmt: skip
    return _slope(g, s, at[k + 1] + j, count, weight, means[k + 1], rstds[k + 1], turns[k + 1], levels[k + 1], dx, kept,
                  words[k + 1] + i, scale, dh, dw, db, ahead)  # fmt: skip


@jit
def _slope_some(g, s, at, k, j, count, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to):
    """A vector of each of ROWS rows, from number k of the four on."""
    w, dw, db = load_tail(weight, j, count), load_tail(sums, to + j, count), load_tail(sums, to + n + j, count)
    ahead = 4 * n
    dw, db = _slope_two(g, s, at, k, j, count, w, means, rstds, turns, levels, dx, kept, words, scale, dh, dw, db,
                        ahead)  # fmt: skip
    if ROWS == 4:
        dw, db = _slope_two(g, s, at, 2, j, count, w, means, rstds, turns, levels, dx, kept, words, scale, dh, dw, db,
                            ahead)  # fmt: skip
    store_tail(sums, to + j, dw, count)
    store_tail(sums, to + n + j, db, count)


@jit
def _slope_one(g, s, at, n, weight, mean, rstd, turn, level, dx, kept, word, scale, dh, sums, to):
    for j in range(0, n, LANES):
        count = n - j
        dw, db = load_tail(sums, to + j, count), load_tail(sums, to + n + j, count)
        dw, db = _slope(g, s, at + j, count, load_tail(weight, j, count), mean, rstd, turn, level, dx, kept,
                        word + j // LANES, scale, dh, dw, db, n)  # fmt: skip
        store_tail(sums, to + j, dw, count)
        store_tail(sums, to + n + j, db, count)


@jit
def _slopes_from(g, s, at, k, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to):
    whole = n - n % LANES
    for j in range(0, whole, LANES):
        _slope_some(g, s, at, k, j, LANES, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to)
    if whole < n:
        _slope_some(g, s, at, k, whole, n - whole, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh,
                    sums, to)  # fmt: skip


@jit
def _slopes(g, s, at, rows, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to):
    if rows >= 4:
        if ROWS == 4:
            _slopes_from(g, s, at, 0, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to)
        else:
            for k in range(0, 4, ROWS):
                _slopes_from(g, s, at, k, n, weight, means, rstds, turns, levels, dx, kept, words, scale, dh, sums, to)
    else:
        for k in range(rows):
            _slope_one(g, s, at[k], n, weight, means[k], rstds[k], turns[k], levels[k], dx, kept, words[k], scale, dh,
                       sums, to)  # fmt: skip


@jit
def slope_rows(g, s, weight, first, last, n, means, rstds, dx, kept, scale, dh, sums, to):
    """Rows first .. first + 3, but none behind the last, of dx and, where there is dropout, of dh; what they add to the
    gradients of weight and bias is added to `sums`, which holds these from `to`.

    dx = rstd (w g - mean(w g) - x̂ mean(w g x̂)), where x̂ = (s - mean) rstd.
    """
    at, words, one = four(first, last, n), four(first, last, -(-n // LANES)), four(first, last, 1)
    m = means[one[0]], means[one[1]], means[one[2]], means[one[3]]
    r = rstds[one[0]], rstds[one[1]], rstds[one[2]], rstds[one[3]]
    along, levels = _shares(g, s, weight, at, n, m)
    turns = (-along[0] * r[0] * r[0] * r[0], -along[1] * r[1] * r[1] * r[1],
             -along[2] * r[2] * r[2] * r[2], -along[3] * r[3] * r[3] * r[3])  # fmt: skip
    rows = last - first + 1
    if kept.size:
        _slopes(g, s, at, rows, n, weight, m, r, turns, levels, dx, kept, words, scale, dh, sums, to)
    else:
        _slopes(g, s, at, rows, n, weight, m, r, turns, levels, dx, None, words, scale, dh, sums, to)


@jit
def clear(x, at, n):
    """x[at : at + n] = 0."""
    zero = splat(0.0, x)
    for i in range(0, n - LANES + 1, LANES):
        store_tail(x, at + i, zero, LANES)
    store_tail(x, at + n - n % LANES, zero, n % LANES)


@jit
def add_rows(x, rows, n, column, count, out):
    """The sums over rows, one after the other, of up to four vectors of columns, `count` numbers from `column`."""
    a, b, c, d = _zeros(x)
    for row in range(rows):
        i = row * n + column
        a, b = a + load_tail(x, i, count), b + load_tail(x, i + LANES, count - LANES)
        c, d = c + load_tail(x, i + 2 * LANES, count - 2 * LANES), d + load_tail(x, i + 3 * LANES, count - 3 * LANES)
    store_tail(out, column, a, count)
    store_tail(out, column + LANES, b, count - LANES)
    store_tail(out, column + 2 * LANES, c, count - 2 * LANES)
    store_tail(out, column + 3 * LANES, d, count - 3 * LANES)
