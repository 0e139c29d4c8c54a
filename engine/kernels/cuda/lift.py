"""Elementwise kernels: a function of one number from `scalar.py`, lifted over arrays, four numbers a thread.

An operand that is smaller than the result is read again and again: element i of the result takes number
i // every % size of it. So a number alone, a row (N,) under (R, N) and a column (R, 1) need no copy; what does not
follow that pattern is copied first. Truth values, comparisons, sines and other dtypes are left to the array library,
whose own kernels are as fast for them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiled import scalar
from . import tape
from .jit import cuda, jit, kernel
from .ptx import load4, store4
from .rows import FLOAT32, MOST, aligned, served

Array = Any

THREADS = 256
BLOCK = 4 * THREADS  # elements of a block


@jit
def _place(i, every, size):
    """Where in an operand of `size` numbers element i of the result finds its own."""
    if size == 1:
        return np.int64(0)
    return np.int64(np.uint32(i) // np.uint32(every) % np.uint32(size))


@jit
def _four(x, i, n, every, size):
    """The numbers that elements i .. i + 3 find; a row is as long as a multiple of four, and so is a column's run."""
    if every == 1 and size > 1:
        return load4(x, i if size >= n else _place(i, 1, size))
    y = x[_place(i, every, size)]
    return y, y, y, y


def _unary(f: Callable[..., Any]) -> Callable[[Array], Array]:
    def loop(x, out, n, wide):
        i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if wide and i + 4 <= n:
            a, b, c, d = load4(x, i)
            store4(out, i, f(a), f(b), f(c), f(d))
        else:
            for k in range(i, min(i + 4, n)):
                out[k] = f(x[k])

    loop.__name__ = f.__name__
    run = kernel("float32[::1], float32[::1], int32, bool", threads=THREADS)(loop)

    def op(x: Array) -> Array:
        if not served(x):
            return NotImplemented
        x = tape.contiguous(x)
        out = tape.empty(x.shape, x.dtype)
        if out.size:
            run[-(-x.size // BLOCK), THREADS](x, out, x.size, aligned(x))
        return out

    return _named(op, f)


def _binary(f: Callable[..., Any]) -> Callable[[Array, Array], Array]:
    def loop(x, y, out, n, x_every, x_size, y_every, y_size, wide):
        i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if wide and i + 4 <= n:
            a, b, c, d = _four(x, i, n, x_every, x_size)
            p, q, r, s = _four(y, i, n, y_every, y_size)
            store4(out, i, f(a, p), f(b, q), f(c, r), f(d, s))
        else:
            for k in range(i, min(i + 4, n)):
                out[k] = f(x[_place(k, x_every, x_size)], y[_place(k, y_every, y_size)])

    loop.__name__ = f.__name__
    run = kernel("float32[::1], float32[::1], float32[::1], int32, int32, int32, int32, int32, bool",
                 threads=THREADS)(loop)  # fmt: skip

    def op(x: Array, y: Array) -> Array:
        if not served(x, y):
            return NotImplemented
        shape = np.broadcast_shapes(x.shape, y.shape)
        if math.prod(shape) > MOST:
            return NotImplemented
        out = tape.empty(shape, FLOAT32)
        if out.size:
            (x, *how_x, wide_x), (y, *how_y, wide_y) = (_operand(a, shape) for a in (x, y))
            run[-(-out.size // BLOCK), THREADS](x, y, out, out.size, *how_x, *how_y, wide_x and wide_y)
        return out

    return _named(op, f)


def _operand(x: Array, shape: tuple[int, ...]) -> tuple[Array, int, int, bool]:
    """(x, every, size, whether four elements can be read at once): how an operand goes with a result of this shape."""
    if x.size == 1:
        return x, 1, 1, True
    if x.shape == shape:
        x = tape.contiguous(x)
        return x, 1, x.size, aligned(x)
    full = (1,) * (len(shape) - x.ndim) + x.shape
    first = next(i for i in range(len(full)) if full[i] != 1)
    last = next(i for i in range(len(full), 0, -1) if full[i - 1] != 1)
    if full[first:last] != shape[first:last]:  # ones in the middle
        x = tape.contiguous(_broadcast(x, shape))
        first, last = 0, len(shape)
    x = tape.contiguous(x)
    every, size = math.prod(shape[last:]), math.prod(shape[first:last])
    return x, every, size, every % 4 == 0 if every > 1 else aligned(x) and (first == 0 or size % 4 == 0)


def _broadcast(x: Array, shape: tuple[int, ...]) -> Array:
    out = tape.empty(shape, x.dtype)
    tape.copy_to(out, x)
    return out


@kernel("uint8[::1], float32[::1], float32[::1], float32[::1], int32, int32, int32, int32, int32, int32, int32, bool",
        threads=THREADS)  # fmt: skip
def _select(condition, x, y, out, n, c_every, c_size, x_every, x_size, y_every, y_size, wide):
    i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if wide and i + 4 <= n:
        a, b, c, d = _four(x, i, n, x_every, x_size)
        p, q, r, s = _four(y, i, n, y_every, y_size)
        e, f, g, h = _four(condition, i, n, c_every, c_size)
        store4(out, i, a if e else p, b if f else q, c if g else r, d if h else s)
    else:
        for k in range(i, min(i + 4, n)):
            seen = condition[_place(k, c_every, c_size)]
            out[k] = x[_place(k, x_every, x_size)] if seen else y[_place(k, y_every, y_size)]


def where(condition: Array, x: Array, y: Array) -> Array:
    """x where condition, else y: float32, in the shape that all three broadcast to."""
    if not served(x, y) or condition.dtype != np.bool_ or condition.size > MOST:
        return NotImplemented
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    if math.prod(shape) > MOST:
        return NotImplemented
    out = tape.empty(shape, FLOAT32)
    if out.size:
        given = [_operand(a, shape) for a in (condition, x, y)]
        (condition, *_), (x, *_), (y, *_) = given
        how = [number for _, every, size, _ in given for number in (every, size)]
        wide = all(operand[3] for operand in given)
        _select[-(-out.size // BLOCK), THREADS](condition.view(np.uint8), x, y, out, out.size, *how, wide)
    return out


@kernel("float32[::1], float32[::1], int32, float32, float32, bool", threads=THREADS)
def _clip(x, out, n, low, high, wide):
    i = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if wide and i + 4 <= n:
        a, b, c, d = load4(x, i)
        store4(out, i, _within(a, low, high), _within(b, low, high), _within(c, low, high), _within(d, low, high))
    else:
        for k in range(i, min(i + 4, n)):
            out[k] = _within(x[k], low, high)


@jit
def _within(x, low, high):
    y = low if x < low else x
    return high if y > high else y


def clip(x: Array, *, low: float | None = None, high: float | None = None) -> Array:
    """min(max(x, low), high), float32, any layout; None: no bound. A NaN stays."""
    if not served(x):
        return NotImplemented
    x = tape.contiguous(x)
    out = tape.empty(x.shape, x.dtype)
    if out.size:
        bounds = -math.inf if low is None else low, math.inf if high is None else high
        _clip[-(-x.size // BLOCK), THREADS](x, out, x.size, *bounds, aligned(x))
    return out


def _named(op: Callable[..., Any], f: Callable[..., Any]) -> Callable[..., Any]:
    op.__name__ = op.__qualname__ = f.__name__
    op.__doc__ = f"{f.__doc__} Elementwise on float32 of any layout; NotImplemented for other dtypes."
    return op


exp = _unary(scalar.exp)
log = _unary(scalar.log)
tanh = _unary(scalar.tanh)
sigmoid = _unary(scalar.sigmoid)
erf = _unary(scalar.erf)
gelu = _unary(scalar.gelu)
silu = _unary(scalar.silu)
relu = _unary(scalar.relu)
sqrt = _unary(scalar.sqrt)
abs = _unary(scalar.absolute)
neg = _unary(scalar.neg)

add = _binary(scalar.add)
sub = _binary(scalar.sub)
mul = _binary(scalar.mul)
div = _binary(scalar.div)
maximum = _binary(scalar.maximum)
minimum = _binary(scalar.minimum)
pow = _binary(scalar.pow)

relu_vjp = _binary(scalar.relu_vjp)
gelu_vjp = _binary(scalar.gelu_vjp)
tanh_vjp = _binary(scalar.tanh_vjp)
sigmoid_vjp = _binary(scalar.sigmoid_vjp)
silu_vjp = _binary(scalar.silu_vjp)
