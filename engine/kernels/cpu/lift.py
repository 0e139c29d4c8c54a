"""Elementwise kernels: a function of one number from `scalar.py`, lifted over arrays.

`_unary`, `_binary` and `_where` hold the loops; the lines at the end are the kernels. Broadcasting is done without
copies where it is common (a 0-d operand, a row (N,) on (R, N), a column (R, 1)), else by a copy of the broadcast
operand. `like_numpy` names the NumPy function with the very same bits (additions, say, but not exp): it does the small
arrays, where NumPy's call is cheaper than ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiled import scalar
from .jit import kernel

Array = np.ndarray

BLOCK = 16384  # elements of one block of work
LARGE = 65536  # from here on, two threads beat one NumPy call
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


def _unary(f: Callable[..., Any], like_numpy: Callable[..., Any] | None = None) -> Callable[[Array], Array]:
    def loop(lo, hi, x, out, n):
        for block in range(lo, hi):
            start = block * BLOCK
            end = min(start + BLOCK, n)
            a, o = x[start:end], out[start:end]
            for i in range(end - start):
                o[i] = f(a[i])

    loop.__name__ = f.__name__
    run = kernel("T[::1], T[::1], int")(loop)

    def op(x: Array) -> Array:
        if x.dtype not in FLOATS:
            return NotImplemented
        if like_numpy is not None and x.size < LARGE:
            return np.asarray(like_numpy(x, order="C"))
        x = np.asarray(x, order="C")
        out = np.empty(x.shape, x.dtype)
        run(-(-x.size // BLOCK), x, out, x.size)
        return out

    return _named(op, f)


_ALONG_BOTH, _Y_FIXED, _X_FIXED = 0, 1, 2  # what the inner loop does


def _binary(f: Callable[..., Any], like_numpy: Callable[..., Any] | None = None) -> Callable[[Array, Array], Array]:
    def loop(lo, hi, x, y, out, n, cols, rows, x_step, y_step, form):
        for row in range(lo * rows, min(hi * rows, (n + cols - 1) // cols)):
            m = min(cols, n - row * cols)
            o = out[row * cols : row * cols + m]
            a, b = x[row * x_step : row * x_step + m], y[row * y_step : row * y_step + m]
            if form == _ALONG_BOTH:
                for i in range(m):
                    o[i] = f(a[i], b[i])
            elif form == _Y_FIXED:
                fixed = b[0]
                for i in range(m):
                    o[i] = f(a[i], fixed)
            else:
                fixed = a[0]
                for i in range(m):
                    o[i] = f(fixed, b[i])

    loop.__name__ = f.__name__
    run = kernel("T[::1], T[::1], T[::1], int, int, int, int, int, int")(loop)

    def op(x: Array, y: Array) -> Array:
        dtype = x.dtype
        if dtype not in FLOATS or y.dtype != dtype:
            return NotImplemented
        if like_numpy is not None and x.size < LARGE and y.size < LARGE:
            return np.asarray(like_numpy(x, y, order="C"))
        x, y, shape, cols, x_step, y_step, form = _arrange(x, y)
        out = np.empty(shape, dtype)
        if out.size:
            rows = max(1, BLOCK // cols)
            run(-(-out.size // (cols * rows)), x, y, out, out.size, cols, rows, x_step, y_step, form)
        return out

    return _named(op, f)


def _arrange(x: Array, y: Array) -> tuple[Array, Array, tuple[int, ...], int, int, int, int]:
    """How two operands meet: (x, y, out shape, columns, steps of x and y from row to row, form of the inner loop)."""
    if x.shape == y.shape:
        return np.asarray(x, order="C"), np.asarray(y, order="C"), x.shape, BLOCK, BLOCK, BLOCK, _ALONG_BOTH
    shape = np.broadcast_shapes(x.shape, y.shape)
    if y.size == 1 and x.shape == shape:
        return np.asarray(x, order="C"), np.asarray(y, order="C"), shape, BLOCK, BLOCK, 0, _Y_FIXED
    if x.size == 1 and y.shape == shape:
        return np.asarray(x, order="C"), np.asarray(y, order="C"), shape, BLOCK, 0, BLOCK, _X_FIXED
    cols = shape[-1]
    if x.shape == shape:
        y, y_step, fixed = _row_or_column(y, shape)
        return np.asarray(x, order="C"), y, shape, cols, cols, y_step, _Y_FIXED if fixed else _ALONG_BOTH
    if y.shape == shape:
        x, x_step, fixed = _row_or_column(x, shape)
        return x, np.asarray(y, order="C"), shape, cols, x_step, cols, _X_FIXED if fixed else _ALONG_BOTH
    x, y = np.broadcast_arrays(x, y)
    return np.asarray(x, order="C"), np.asarray(y, order="C"), shape, BLOCK, BLOCK, BLOCK, _ALONG_BOTH


def _row_or_column(y: Array, shape: tuple[int, ...]) -> tuple[Array, int, bool]:
    """The smaller operand as (contiguous array, step from row to row, whether it is one number a row)."""
    cols = shape[-1]
    if y.size == cols == y.shape[-1]:
        return np.asarray(y, order="C"), 0, False
    if y.shape[-1] == 1:
        column = np.broadcast_to(y, (*shape[:-1], 1))
        return np.asarray(column, order="C"), 1, True
    return np.ascontiguousarray(np.broadcast_to(y, shape)), cols, False


def _where(condition: Array, x: Array, y: Array) -> Array:
    """x where condition, else y, each of the result's shape or one number; other broadcasts are NumPy's."""
    if x.dtype not in FLOATS or y.dtype != x.dtype or condition.dtype != np.bool_:
        return NotImplemented
    one_each = all(a.size == 1 or a.shape == condition.shape for a in (x, y))
    if condition.size < LARGE or not one_each or x.ndim > condition.ndim or y.ndim > condition.ndim:
        return np.where(condition, x, y)
    condition, x, y = (np.asarray(a, order="C") for a in (condition, x, y))
    out = np.empty(condition.shape, x.dtype)
    n = out.size
    _select(-(-n // BLOCK), condition.view(np.uint8), x, y, out, n, min(x.size - 1, 1), min(y.size - 1, 1))
    return out


@kernel("uint8[::1], T[::1], T[::1], T[::1], int, int, int")
def _select(lo, hi, condition, x, y, out, n, x_step, y_step):
    for i in range(lo * BLOCK, min(hi * BLOCK, n)):
        a, b = x[i * x_step], y[i * y_step]
        out[i] = a if condition[i] != 0 else b


def _named(op: Callable[..., Any], f: Callable[..., Any]) -> Callable[..., Any]:
    op.__name__ = op.__qualname__ = f.__name__
    op.__doc__ = f"{f.__doc__} Elementwise, float32 or float64, any layout; anything else is NotImplemented."
    return op


exp = _unary(scalar.exp)
log = _unary(scalar.log)
sin = _unary(scalar.sin)
cos = _unary(scalar.cos)
tanh = _unary(scalar.tanh)
sigmoid = _unary(scalar.sigmoid)
erf = _unary(scalar.erf)
gelu = _unary(scalar.gelu)
silu = _unary(scalar.silu)
relu = _unary(scalar.relu)
sqrt = _unary(scalar.sqrt, np.sqrt)
abs = _unary(scalar.absolute, np.abs)
neg = _unary(scalar.neg, np.negative)

add = _binary(scalar.add, np.add)
sub = _binary(scalar.sub, np.subtract)
mul = _binary(scalar.mul, np.multiply)
div = _binary(scalar.div, np.divide)
maximum = _binary(scalar.maximum, np.maximum)
minimum = _binary(scalar.minimum, np.minimum)
pow = _binary(scalar.pow)

relu_vjp = _binary(scalar.relu_vjp)
gelu_vjp = _binary(scalar.gelu_vjp)
tanh_vjp = _binary(scalar.tanh_vjp)
sigmoid_vjp = _binary(scalar.sigmoid_vjp)
silu_vjp = _binary(scalar.silu_vjp)

where = _where
