"""Linear layers: products with bias, relu and dropout done while a tile of the result is in registers.

Up to three layers of one input run side by side, in one launch (Q, K and V of attention). Dropout has the bits of
`dropout` on the whole result. The gradient of a bias is a chain over the rows of g, made beside that of the weight.
"""

import math
from typing import Any

import numpy as np

from . import tape
from .jit import cuda, kernel
from .matmul import Piece, as_rows, launch, plain
from .product import DEEP, GRADIENT, SIDE
from .ptx import load4, store4
from .rows import MOST, aligned, served

Array = Any

THREADS = 256
BLOCK = 4 * THREADS  # elements of a block of relu_dropout_vjp


def linear(
    x: Array, weight: Array, bias: Array | None = None, key: Array | None = None, *, activation: str = "none",
    p: float = 0.0,
) -> Array:  # fmt: skip
    """dropout(activation(x @ weight + bias), p): x (..., I), weight (I, O), bias (O,) or None -> (..., O), float32.

    Activation "none" or "relu". `key` is an int64 array of one element; p = 0: no dropout.
    """
    return _run(x, [weight], [bias], key, activation == "relu", p)


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
    columns = sum(w.shape[1] for w in weights if w is not None)
    rows = math.prod(x.shape[:-1])
    if not served(x, *weights, *biases) or rows * columns > MOST or (key is not None and key.dtype != np.int64):
        return NotImplemented
    y = tape.empty((*x.shape[:-1], columns), x.dtype)
    pieces = []
    for w, b in zip(weights, biases, strict=True):
        if w is not None:
            w = plain(w)
            k, j = (stride // w.itemsize for stride in w.strides)
            pieces.append(Piece(w, k, j, w.shape[1], b if b is None else tape.contiguous(b)))
    if y.size:
        x = _rows(x)
        i, k = (stride // x.itemsize for stride in x.strides)
        launch(x, i, k, pieces, y, *x.shape, mode=SIDE, relu=relu, key=key if p else None, p=p)
    return y


def linear_vjp(x: Array, g: Array, *, widths: tuple[int, ...] | None = None) -> Array:
    """What the weights and biases of linear layers get for g (..., O), x (..., I) being their input, as one vector.

    widths: how many columns of g belong to each layer (None: all to one), at most three. For each in turn xᵀ g (I, O),
    then g summed over the rows (O,).
    """
    widths = widths if widths is not None else g.shape[-1:]
    columns, inputs = g.shape[-1], x.shape[-1]
    if not served(x, g) or not inputs or len(widths) > 3 or (inputs + 1) * columns > MOST:
        return NotImplemented
    packed = tape.empty((inputs + 1) * columns, x.dtype)
    if columns:
        x, g = _rows(x), _rows(g)
        (a_k, a_i), (k, j) = ([stride // x.itemsize for stride in array.strides] for array in (x, g))
        pieces = [Piece(g, k, j, width) for width in widths]
        launch(x, a_i, a_k, pieces, packed, inputs, x.shape[0], mode=GRADIENT, sums=True)
    return packed


def linears_input_vjp(g: Array, w1: Array, w2: Array, w3: Array | None = None) -> Array:
    """What the input of `linears` gets: g (..., O1 + O2 + O3) times the weights (I, O), transposed -> (..., I)."""
    if not served(g, w1, w2, w3) or math.prod(g.shape[:-1]) * w1.shape[0] > MOST:
        return NotImplemented
    dx = tape.empty((*g.shape[:-1], w1.shape[0]), g.dtype)
    if dx.size:
        rows, weights = _rows(g), [plain(w) for w in (w1, w2, w3) if w is not None]
        pieces = [Piece(w, w.strides[1] // w.itemsize, w.strides[0] // w.itemsize, w.shape[1]) for w in weights]
        i, k = (stride // g.itemsize for stride in rows.strides)
        launch(rows, i, k, pieces, dx, rows.shape[0], 0, mode=DEEP, n=w1.shape[0])
    return dx


@kernel("float32[::1], float32[::1], float32[::1], int32, float32, bool", threads=THREADS)
def _relu_dropout_vjp(g, y, out, n, scale, wide):
    i, nothing = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x), np.float32(0)
    if wide and i + 4 <= n:
        a, b, c, d = load4(g, i)
        p, q, r, s = load4(y, i)
        store4(out, i, a * scale if p > nothing else nothing, b * scale if q > nothing else nothing,
               c * scale if r > nothing else nothing, d * scale if s > nothing else nothing)  # fmt: skip
    else:
        for k in range(i, min(i + 4, n)):
            out[k] = g[k] * scale if y[k] > nothing else nothing


def relu_dropout_vjp(g: Array, y: Array, *, p: float = 0.0) -> Array:
    """g / (1 - p) where y > 0, else 0: the pullback of y = dropout(relu(x))."""
    if not served(g, y):
        return NotImplemented
    g, y = tape.contiguous(g), tape.contiguous(y)
    out = tape.empty(g.shape, g.dtype)
    if out.size:
        scale, wide = 1 / (1 - p) if p < 1 else 0.0, aligned(g) and aligned(y)
        _relu_dropout_vjp[-(-g.size // BLOCK), THREADS](g, y, out, g.size, scale, wide)
    return out


def _rows(x: Array) -> Array:
    """(..., D) as (all rows, D), copied only where it must be."""
    x = plain(x if x.ndim > 1 else x[None, :])
    rows = as_rows(x)
    return rows if rows is not None else tape.contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
