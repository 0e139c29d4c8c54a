"""Elementwise kernels: a function of one number from `scalar.py`, lifted over arrays.

`_unary`, `_binary` and `_where` hold the loops; the lines at the end are the kernels. Broadcasting is done without
copies where it is common (a 0-d operand, a row (N,) on (R, N), a column (R, 1)), else by a copy of the broadcast
operand. `like_numpy` names the NumPy function with the very same bits (additions, say, but not exp): it does the small
arrays, where NumPy's call is cheaper than ours, unless a tape is recording.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiled import scalar, trigonometry
from . import tape
from .jit import kernel

Array = np.ndarray

BLOCK = 16384  # elements of one block of work
LARGE = 65536  # from here on, two threads beat one NumPy call
LONGEST = 1 << 23  # elements of a row that a block goes through: between two blocks, signals are heard
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


_DTYPES = {"T": FLOATS, "int64": {np.dtype(np.int64)}, "bool": {np.dtype(np.bool_)}}


def _kernels(loop: Callable[..., None], inputs: int, rest: str, given: Sequence[str], result: str | None) -> dict:
    """A kernel for each dtype of the inputs; `result` is the element type of the output where it is another one."""
    found = {}
    for element in given:
        arrays = ", ".join([f"{element}[::1]"] * inputs + [f"{result or element}[::1]"])
        run = kernel(f"{arrays}, {rest}")(loop)
        found.update(dict.fromkeys(_DTYPES[element], run))
    return found


def _unary(
    f: Callable[..., Any],
    like_numpy: Callable[..., Any] | None = None,
    given: Sequence[str] = ("T",),
    result: str | None = None,
) -> Callable[[Array], Array]:
    def loop(lo, hi, x, out, n):
        start, end = lo * BLOCK, min(hi * BLOCK, n)
        a, o = x[start:end], out[start:end]
        for i in range(end - start):
            o[i] = f(a[i])

    loop.__name__ = f.__name__
    kernels = _kernels(loop, 1, "int", given, result)

    def op(x: Array) -> Array:
        run = kernels.get(x.dtype)
        if run is None:
            return NotImplemented
        if like_numpy is not None and x.size < LARGE and not tape.recording():
            with np.errstate(all="ignore"):
                return np.asarray(like_numpy(x, order="C"))
        x = tape.contiguous(x)
        out = tape.empty(x.shape, result or x.dtype)
        run(-(-x.size // BLOCK), x, out, x.size)
        return out

    return _named(op, f)


def _trigonometric(near: Callable[..., Any], far: Callable[..., Any], name: str) -> Callable[[Array], Array]:
    """A function of an angle: `near` for all elements, side by side, then `far` where that does not hold."""

    def loop(lo, hi, x, out, n):
        start, end, others = lo * BLOCK, min(hi * BLOCK, n), 0
        a, o = x[start:end], out[start:end]
        for i in range(end - start):
            o[i] = near(a[i])
            others += 0 if math.fabs(a[i]) <= trigonometry.NEAR else 1
        if others:
            for i in range(end - start):
                if not math.fabs(a[i]) <= trigonometry.NEAR:
                    o[i] = far(a[i])

    loop.__name__ = name
    run = kernel("T[::1], T[::1], int")(loop)

    def op(x: Array) -> Array:
        if x.dtype not in FLOATS:
            return NotImplemented
        x = tape.contiguous(x)
        out = tape.empty(x.shape, x.dtype)
        run(-(-x.size // BLOCK), x, out, x.size)
        return out

    return _named(op, getattr(trigonometry, name))


_ALONG_BOTH, _Y_FIXED, _X_FIXED = 0, 1, 2  # what the inner loop does


def _binary(
    f: Callable[..., Any],
    like_numpy: Callable[..., Any] | None = None,
    given: Sequence[str] = ("T",),
    result: str | None = None,
) -> Callable[[Array, Array], Array]:
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
    kernels = _kernels(loop, 2, "int, int, int, int, int, int", given, result)

    def op(x: Array, y: Array) -> Array:
        dtype = x.dtype
        run = kernels.get(dtype)
        if run is None or y.dtype != dtype:
            return NotImplemented
        if like_numpy is not None and x.size < LARGE and y.size < LARGE and not tape.recording():
            with np.errstate(all="ignore"):
                return np.asarray(like_numpy(x, y, order="C"))
        x, y, shape, cols, x_step, y_step, form = _arrange(x, y)
        out = tape.empty(shape, result or dtype)
        if out.size:
            rows = max(1, BLOCK // cols)
            run(-(-out.size // (cols * rows)), x, y, out, out.size, cols, rows, x_step, y_step, form)
        return out

    return _named(op, f)


def _arrange(x: Array, y: Array) -> tuple[Array, Array, tuple[int, ...], int, int, int, int]:
    """How two operands meet: (x, y, out shape, columns, steps of x and y from row to row, form of the inner loop)."""
    if x.shape == y.shape:
        return tape.contiguous(x), tape.contiguous(y), x.shape, BLOCK, BLOCK, BLOCK, _ALONG_BOTH
    shape = np.broadcast_shapes(x.shape, y.shape)
    if y.size == 1 and x.shape == shape:
        return tape.contiguous(x), tape.contiguous(y), shape, BLOCK, BLOCK, 0, _Y_FIXED
    if x.size == 1 and y.shape == shape:
        return tape.contiguous(x), tape.contiguous(y), shape, BLOCK, 0, BLOCK, _X_FIXED
    cols = shape[-1]
    if x.shape == shape:
        y, y_step, fixed = _row_or_column(y, shape)
        return tape.contiguous(x), y, shape, cols, cols, y_step, _Y_FIXED if fixed else _ALONG_BOTH
    if y.shape == shape:
        x, x_step, fixed = _row_or_column(x, shape)
        return x, tape.contiguous(y), shape, cols, x_step, cols, _X_FIXED if fixed else _ALONG_BOTH
    x, y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
    return tape.contiguous(x), tape.contiguous(y), shape, BLOCK, BLOCK, BLOCK, _ALONG_BOTH


def _row_or_column(y: Array, shape: tuple[int, ...]) -> tuple[Array, int, bool]:
    """The smaller operand as (contiguous array, step from row to row, whether it is one number a row)."""
    cols = shape[-1]
    if y.size == cols == y.shape[-1]:
        return tape.contiguous(y), 0, False
    if y.shape[-1] == 1:
        column = np.broadcast_to(y, (*shape[:-1], 1))
        return tape.contiguous(column), 1, True
    return tape.contiguous(np.broadcast_to(y, shape)), cols, False


def _where(condition: Array, x: Array, y: Array) -> Array:
    """x where condition, else y, in the shape that all three broadcast to."""
    if x.dtype not in FLOATS or y.dtype != x.dtype or condition.dtype != np.bool_:
        return NotImplemented
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    n = math.prod(shape)
    if n < LARGE and not tape.recording():
        return np.asarray(np.where(condition, x, y))
    condition = tape.contiguous(np.broadcast_to(condition, shape))
    x, y = (tape.contiguous(a if a.size == 1 else np.broadcast_to(a, shape)) for a in (x, y))
    out = tape.empty(shape, x.dtype)
    _select(-(-n // BLOCK), condition.view(np.uint8), x, y, out, n, min(x.size - 1, 1), min(y.size - 1, 1))
    return out


@kernel("uint8[::1], T[::1], T[::1], T[::1], int, int, int")
def _select(lo, hi, condition, x, y, out, n, x_step, y_step):
    for i in range(lo * BLOCK, min(hi * BLOCK, n)):
        a, b = x[i * x_step], y[i * y_step]
        out[i] = a if condition[i] != 0 else b


@kernel("T[::1], T[::1], int, T, T")
def _clip(lo, hi, x, out, n, low, high):
    for i in range(lo * BLOCK, min(hi * BLOCK, n)):
        y = low if x[i] < low else x[i]
        out[i] = high if y > high else y


def clip(x: Array, *, low: float | None = None, high: float | None = None) -> Array:
    """min(max(x, low), high), float32 or float64, any layout; None: no bound. A NaN stays."""
    if x.dtype not in FLOATS:
        return NotImplemented
    x = tape.contiguous(x)
    out = tape.empty(x.shape, x.dtype)
    bounds = -math.inf if low is None else low, math.inf if high is None else high
    _clip(-(-x.size // BLOCK), x, out, x.size, *bounds)
    return out


def _cast(lo, hi, x, out, n):
    for i in range(lo * BLOCK, min(hi * BLOCK, n)):
        out[i] = x[i]


_CASTS = {
    (given, to): kernel(f"{given}[::1], {to}[::1], int")(_cast)
    for given, to in [
        ("float32", "float64"), ("float64", "float32"), ("int64", "float32"), ("int64", "float64"),
        ("bool", "float32"), ("bool", "float64"), ("bool", "int64"),
    ]
}  # fmt: skip


def astype(x: Array, *, dtype: Any) -> Array:
    """The numbers in another dtype, where every number has a place in it: any layout, else NotImplemented."""
    run = _CASTS.get((x.dtype.name, np.dtype(dtype).name))
    if run is None:
        return NotImplemented
    if x.size < LARGE and not tape.recording():
        return np.asarray(x.astype(dtype, order="C"))
    x = tape.contiguous(x)
    out = tape.empty(x.shape, dtype)
    run(-(-x.size // BLOCK), x, out, x.size)
    return out


def _named(op: Callable[..., Any], f: Callable[..., Any]) -> Callable[..., Any]:
    op.__name__ = op.__qualname__ = f.__name__
    op.__doc__ = f"{f.__doc__} Elementwise, any layout; a dtype without a kernel is NotImplemented."
    return op


exp = _unary(scalar.exp)
log = _unary(scalar.log)
sin = _trigonometric(trigonometry.sin_near, trigonometry.sin_far, "sin")
cos = _trigonometric(trigonometry.cos_near, trigonometry.cos_far, "cos")
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
maximum = _binary(scalar.maximum)  # NumPy's choice among zeros of either sign is its own
minimum = _binary(scalar.minimum)
pow = _binary(scalar.pow)

relu_vjp = _binary(scalar.relu_vjp)
gelu_vjp = _binary(scalar.gelu_vjp)
tanh_vjp = _binary(scalar.tanh_vjp)
sigmoid_vjp = _binary(scalar.sigmoid_vjp)
silu_vjp = _binary(scalar.silu_vjp)

_COMPARED, _TRUTH = ("T", "int64"), ("bool",)
equal = _binary(operator.eq, np.equal, _COMPARED, "bool")
not_equal = _binary(operator.ne, np.not_equal, _COMPARED, "bool")
less = _binary(operator.lt, np.less, _COMPARED, "bool")
less_equal = _binary(operator.le, np.less_equal, _COMPARED, "bool")
greater = _binary(operator.gt, np.greater, _COMPARED, "bool")
greater_equal = _binary(operator.ge, np.greater_equal, _COMPARED, "bool")
logical_and = _binary(operator.and_, np.logical_and, _TRUTH, "bool")
logical_or = _binary(operator.or_, np.logical_or, _TRUTH, "bool")
logical_not = _unary(operator.not_, np.logical_not, _TRUTH, "bool")
isnan = _unary(math.isnan, np.isnan, result="bool")
isinf = _unary(math.isinf, np.isinf, result="bool")
isfinite = _unary(math.isfinite, np.isfinite, result="bool")

where = _where
