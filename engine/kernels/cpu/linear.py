"""Linear layers: matrix products with bias, relu and dropout done while a block of the result is in the cache.

Up to three layers of one input run side by side, as one product whose right-hand matrix is in pieces (Q, K and V of
attention). Dropout has the bits of `dropout` on the whole result. Sums are those of `matmul`: one chain over k, which
for the gradient of x runs on from one layer into the next. The gradient of a bias is the last row of the product
(x, 1)ᵀ g: a chain over the rows of g.
"""

import math

import numpy as np

from ..compiled import keep_from
from . import tape
from .jit import MOST_THREADS, get_threads, jit, kernel, separate
from .matmul import SERIAL_WORK, TILES, as_rows, planned, product
from .philox import GROUP, random_numbers
from .simd import LANES, flat, load, load_tail, select, splat, store, store_tail

Array = np.ndarray
RUN = 1024  # elements of which the random numbers are made at once
RANDOM = RUN + 2 * GROUP
BLOCK = 8192  # elements of one block of relu_dropout_vjp


@separate
def finish(c, at, row, rows, columns, bias, bias_at, relu, key, threshold, scale, numbers):
    """Add the bias, then apply relu and dropout, in one block of c, which begins at element `at`.

    numbers: room for `RANDOM` of them, if there is a key.
    """
    zero = splat(0.0, c)
    if bias.size or relu:
        for i in range(rows):
            for j in range(0, columns - LANES + 1, LANES):
                y = load(c, at + i * row + j)
                if bias.size:
                    y = y + load(bias, bias_at + j)
                store(c, at + i * row + j, select(y <= 0.0, zero, y) if relu else y)
            j, tail = columns - columns % LANES, columns % LANES
            if tail:
                y = load_tail(c, at + i * row + j, tail)
                if bias.size:
                    y = y + load_tail(bias, bias_at + j, tail)
                store_tail(c, at + i * row + j, select(y <= 0.0, zero, y) if relu else y, tail)
    if key.size:
        if columns == row:
            rows, columns = 1, rows * columns
        for i in range(rows):
            for first in range(at + i * row, at + i * row + columns, RUN):
                _drop(c, first, min(RUN, at + i * row + columns - first), key[0], threshold, scale, numbers)


@separate
def _drop(c, first, n, key, threshold, scale, numbers):
    """Dropout of n elements, which take the bits of their places in c."""
    zero, skip = splat(0.0, c), first % 4
    for at in range(0, skip + n, GROUP):
        four = random_numbers(np.uint64(key), np.uint64((first + at) // 4))
        store(numbers, at, four[0])
        store(numbers, at + LANES, four[1])
        store(numbers, at + 2 * LANES, four[2])
        store(numbers, at + 3 * LANES, four[3])
    for i in range(0, n - LANES + 1, LANES):
        keep = load(numbers, skip + i) >= threshold
        store(c, first + i, select(keep, load(c, first + i) * scale, zero))
    i, tail = n - n % LANES, n % LANES
    if tail:
        keep = load(numbers, skip + i) >= threshold
        store_tail(c, first + i, select(keep, load_tail(c, first + i, tail) * scale, zero), tail)


@jit
def _piece(n, n1, n2):
    """Which of three pieces of n1, n2 and any number of blocks block n lies in, and the how manieth of it."""
    if n < n1:
        return 0, n
    return (1, n - n1) if n < n1 + n2 else (2, n - n1 - n2)


@kernel(
    "T[:, :], T[:, :], T[::1], T[:, :], T[::1], T[:, :], T[::1], T[::1], int64[::1], T[:, :], int64[::1], bool, "
    "int, T"
)
def _linears(worker, lo, hi, x, w1, b1, w2, b2, w3, b3, y, key, scratch, plan, relu, threshold, scale):  # fmt: skip
    """y (N, O1 + O2 + O3) = dropout(relu(x (N, I) times each weight, plus its bias)), in blocks of y."""
    (rows, depth), size, left, block_rows, block_columns = x.shape, x.itemsize, flat(x), plan[0], plan[1]
    grid, n1, n2 = -(-rows // block_rows), -(-w1.shape[1] // block_columns), -(-w2.shape[1] // block_columns)
    row, numbers = w1.shape[1] + w2.shape[1] + w3.shape[1], np.empty(RANDOM if key.size else 0, np.int32)
    for block in range(lo, hi):
        i = block % grid * block_rows
        piece, j = _piece(block // grid, n1, n2)
        j *= block_columns
        w, bias, at = w1, b1, 0
        if piece == 1:
            w, bias, at = w2, b2, w1.shape[1]
        elif piece == 2:
            w, bias, at = w3, b3, w1.shape[1] + w2.shape[1]
        m, n, at = min(block_rows, rows - i), min(block_columns, w.shape[1] - j), i * row + at + j
        a_i, b_j = x.strides[0] // size, w.strides[1] // size
        product(left, i * a_i, a_i, x.strides[1] // size, flat(w), j * b_j, w.strides[0] // size, b_j, y, at, row,
                m, depth, n, plan, True, False, scratch[worker])  # fmt: skip
        finish(y, at, row, m, n, bias, j, relu, key, threshold, scale, numbers)


@kernel("T[:, :], T[:, :], T[::1], int, int, T[:, :], int64[::1]")
def _weights(worker, lo, hi, x, g, packed, o1, o2, scratch, plan):
    """For each piece of g's columns (N, O): xᵀ g (I, O), then the sums of g over the rows (O,)."""
    (depth, rows), columns, size = x.shape, g.shape[1], x.itemsize
    left, right, block_rows, block_columns = flat(x), flat(g), plan[0], plan[1]
    a_i, a_k, b_k, b_j = x.strides[1] // size, x.strides[0] // size, g.strides[0] // size, g.strides[1] // size
    grid, n1, n2 = max(1, -(-rows // block_rows)), -(-o1 // block_columns), -(-o2 // block_columns)
    for block in range(lo, hi):
        i = block % grid * block_rows
        piece, j = _piece(block // grid, n1, n2)
        j *= block_columns
        first, row = 0, o1
        if piece == 1:
            first, row = o1, o2
        elif piece == 2:
            first, row = o1 + o2, columns - o1 - o2
        m, n, at = min(block_rows, rows - i), min(block_columns, row - j), (rows + 1) * first + j
        product(left, i * a_i, a_i, a_k, right, (first + j) * b_j, b_k, b_j, packed, at + i * row, row,
                m, depth, n, plan, True, i + block_rows >= rows, scratch[worker])  # fmt: skip


@kernel("T[:, :], T[:, :], T[:, :], T[:, :], T[::1], T[:, :], int64[::1]")
def _inputs(worker, lo, hi, g, w1, w2, w3, dx, scratch, plan):
    """dx (N, I) = g (N, O1 + O2 + O3) times the weights (I, O) side by side, transposed, in blocks of dx."""
    rows, columns, size = g.shape[0], w1.shape[0], g.itemsize
    left, block_rows, block_columns = flat(g), plan[0], plan[1]
    a_i, a_k = g.strides[0] // size, g.strides[1] // size
    grid = -(-rows // block_rows)
    for block in range(lo, hi):
        i, j = block % grid * block_rows, block // grid * block_columns
        at = 0
        for piece in range(3):
            w = w1 if piece == 0 else w2 if piece == 1 else w3
            b_j = w.strides[0] // size
            if w.shape[1] or piece == 0:
                product(left, i * a_i + at * a_k, a_i, a_k, flat(w), j * b_j, w.strides[1] // size, b_j, dx,
                        i * columns + j, columns, min(block_rows, rows - i), w.shape[1],
                        min(block_columns, columns - j), plan, at == 0, False, scratch[worker])  # fmt: skip
            at += w.shape[1]


@kernel("T[::1], T[::1], T[::1], T")
def _relu_dropout_vjp(lo, hi, g, y, out, scale):
    zero, n = splat(0.0, g), g.size
    for i in range(lo * BLOCK, min(hi * BLOCK, n - n % LANES), LANES):
        store(out, i, select(load(y, i) > 0.0, load(g, i) * scale, zero))
    if n % LANES and hi * BLOCK >= n:
        i, tail = n - n % LANES, n % LANES
        store_tail(out, i, select(load_tail(y, i, tail) > 0.0, load_tail(g, i, tail) * scale, zero), tail)


def linear(
    x: Array, weight: Array, bias: Array | None = None, key: Array | None = None, *, activation: str = "none",
    p: float = 0.0,
) -> Array:  # fmt: skip
    """dropout(activation(x @ weight + bias), p): x (..., I), weight (I, O), bias (O,) or None -> (..., O).

    Activation "none" or "relu". `key` is an int64 array of one element; p = 0: no dropout.
    """
    return _run(x, [weight], [bias], key if p else None, activation == "relu", p)


def linears(
    x: Array, w1: Array, w2: Array, w3: Array | None = None, b1: Array | None = None, b2: Array | None = None,
    b3: Array | None = None,
) -> Array:  # fmt: skip
    """x @ w + b for two or three layers side by side: x (..., I), w (I, O), b (O,) or None -> (..., O1 + O2 + O3)."""
    return _run(x, [w1, w2, w3], [b1, b2, b3])


def _run(
    x: Array, weights: list[Array | None], biases: list[Array | None], key: Array | None = None, relu: bool = False,
    p: float = 0.0,
) -> Array:  # fmt: skip
    if not _served(x, *weights, *biases) or not (key is None or key.dtype == np.int64):
        return NotImplemented
    rows = _rows(x)
    columns = sum(w.shape[1] for w in weights if w is not None)
    y = tape.empty((*x.shape[:-1], columns), x.dtype)
    if y.size == 0:
        return y
    weights += [None] * (3 - len(weights))
    biases = [b if b is None else tape.contiguous(b) for b in biases] + [None] * (3 - len(biases))
    pieces = tuple(w.shape[1] for w in weights if w is not None)
    plan, blocks, room = planned(*rows.shape, pieces, rows.strides, x.dtype, get_threads())
    run = _linears.serial if rows.size * columns <= SERIAL_WORK else _linears
    pairs = [array for pair in zip(weights, biases, strict=True) for array in pair]
    scratch = tape.empty((MOST_THREADS, room), x.dtype)
    run(blocks, rows, *pairs, y, key, scratch, plan, relu, keep_from(p), 1 / (1 - p) if p < 1 else 0.0)
    return y


def linear_vjp(x: Array, g: Array, *, widths: tuple[int, ...] | None = None) -> Array:
    """What the weights and biases of linear layers get for g (..., O), x (..., I) being their input, as one vector.

    widths: how many columns of g belong to each layer (None: all to one), at most three. For each in turn xᵀ g (I, O),
    then g summed over the rows (O,).
    """
    widths = widths if widths is not None else g.shape[-1:]
    if not _served(x, g) or len(widths) > 3:
        return NotImplemented
    x, g = _rows(x), _rows(g)
    (rows, inputs), columns = x.shape, g.shape[1]
    packed = tape.empty((inputs + 1) * columns, x.dtype)
    if columns:
        plan, blocks, room = planned(inputs, rows, tuple(widths), x.strides[::-1], x.dtype, get_threads())
        run = _weights.serial if x.size * columns <= SERIAL_WORK else _weights
        o1, o2, *_ = (*widths, 0, 0)
        run(blocks, x, g, packed, o1, o2, tape.empty((MOST_THREADS, room), x.dtype), plan)
    return packed


def linears_input_vjp(g: Array, w1: Array, w2: Array, w3: Array | None = None) -> Array:
    """What the input of `linears` gets: g (..., O1 + O2 + O3) times the weights (I, O), transposed -> (..., I)."""
    if not _served(g, w1, w2, w3):
        return NotImplemented
    rows, inputs = _rows(g), w1.shape[0]
    dx = tape.empty((*g.shape[:-1], inputs), g.dtype)
    if dx.size:
        plan, blocks, room = planned(*rows.shape, (inputs,), rows.strides, g.dtype, get_threads())
        run = _inputs.serial if g.size * inputs <= SERIAL_WORK else _inputs
        run(blocks, rows, w1, w2, w3, dx, tape.empty((MOST_THREADS, room), g.dtype), plan)
    return dx


def relu_dropout_vjp(g: Array, y: Array, *, p: float = 0.0) -> Array:
    """g / (1 - p) where y > 0, else 0: the pullback of y = dropout(relu(x))."""
    if not _served(g, y):
        return NotImplemented
    g, y = tape.contiguous(g), tape.contiguous(y)
    out = tape.empty(g.shape, g.dtype)
    _relu_dropout_vjp(-(-g.size // BLOCK), g, y, out, 1 / (1 - p) if p < 1 else 0.0)
    return out


def _served(first: Array, *others: Array | None) -> bool:
    return first.dtype in TILES and all(a is None or a.dtype == first.dtype for a in others)


def _rows(x: Array) -> Array:
    """(..., D) as (all rows, D), copied only where it must be."""
    if x.ndim < 2:
        return x[None, :]
    rows = as_rows(x)
    return rows if rows is not None else tape.contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
