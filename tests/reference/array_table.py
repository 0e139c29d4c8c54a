"""What each op is in NumPy and in JAX, whose names are NumPy's: a function of the module, the arrays, the parameters.

Ops that neither has under a name of its own are compared with PyTorch alone.
"""
from __future__ import annotations

from typing import Any

Array = Any
TABLE: dict[str, Any] = {}


def _named(**names: str) -> None:
    """Ops that take arrays and nothing else, by their name there."""
    for name, there in names.items():
        TABLE[name.rstrip("_")] = _function(there)


def _function(name: str) -> Any:
    return lambda xp, *xs: getattr(xp, name)(*xs)


_named(**{name: name for name in (
    "add", "square", "reciprocal", "exp", "log", "sqrt", "sign", "sin", "cos", "maximum", "minimum", "where", "tanh",
    "expm1", "log1p", "exp2", "log2", "log10", "logaddexp", "tan", "sinh", "cosh", "hypot", "floor", "ceil", "trunc",
    "floor_divide", "remainder", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and",
    "logical_or", "logical_xor", "logical_not", "isnan", "isinf", "isfinite", "matmul", "outer", "dot")})
_named(sub="subtract", mul="multiply", div="true_divide", neg="negative", pow="power", abs="absolute", asin="arcsin",
       acos="arccos", atan="arctan", asinh="arcsinh", acosh="arccosh", atanh="arctanh", atan2="arctan2")

TABLE.update({
    "rsqrt": lambda xp, x: 1 / xp.sqrt(x), "sigmoid": lambda xp, x: 1 / (1 + xp.exp(-x)),
    "relu": lambda xp, x: xp.maximum(x, 0), "softplus": lambda xp, x, beta: xp.logaddexp(beta * x, 0) / beta,
    "logsigmoid": lambda xp, x: -xp.logaddexp(-x, 0), "leaky_relu": lambda xp, x, slope: xp.where(x > 0, x, slope * x),
    "clip": lambda xp, x, low, high: x if (low, high) == (None, None) else xp.clip(x, low, high),
    "hard_tanh": lambda xp, x, low, high: xp.clip(x, low, high),
    "round": lambda xp, x, decimals: xp.round(x, decimals), "astype": lambda xp, x, dtype: x.astype(dtype),
})


# --- reductions and running ones ------------------------------------------------------------------
def _reduction(name: str) -> Any:
    return lambda xp, x, axis, keepdims: getattr(xp, name)(x, axis=axis, keepdims=keepdims)


def _along(name: str) -> Any:
    return lambda xp, x, axis: getattr(xp, name)(x, axis=axis)


TABLE.update({name: _reduction(name) for name in (
    "sum", "mean", "prod", "max", "min", "any", "all", "argmax", "argmin")})
TABLE.update({name: _along(name) for name in ("cumsum", "cumprod")})
TABLE.update({
    "var": lambda xp, x, axis, keepdims, correction: xp.var(x, axis=axis, keepdims=keepdims, ddof=correction),
    "std": lambda xp, x, axis, keepdims, correction: xp.std(x, axis=axis, keepdims=keepdims, ddof=correction),
    "norm": lambda xp, x, axis, keepdims, ord: xp.linalg.norm(_rows(xp, x, axis), ord, axis=-1).reshape(
        [1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis]),
})


def _rows(xp: Any, x: Array, axis: tuple[int, ...]) -> Array:
    """The numbers of some axes side by side in the last one."""
    stay = [i for i in range(x.ndim) if i not in axis]
    size = 1
    for a in axis:
        size *= x.shape[a]
    return xp.transpose(x, [*stay, *axis]).reshape([*(x.shape[i] for i in stay), size])


# --- shape, order, position -----------------------------------------------------------------------
TABLE.update({
    "reshape": lambda xp, x, shape: xp.reshape(x, shape), "transpose": lambda xp, x, axes: xp.transpose(x, axes),
    "swapaxes": lambda xp, x, axis1, axis2: xp.swapaxes(x, axis1, axis2),
    "moveaxis": lambda xp, x, source, destination: xp.moveaxis(x, source, destination),
    "broadcast_to": lambda xp, x, shape: xp.broadcast_to(x, shape),
    "expand_dims": lambda xp, x, axis: xp.expand_dims(x, axis), "squeeze": lambda xp, x, axis: xp.squeeze(x, axis),
    "concat": lambda xp, *xs, axis: xp.concatenate(xs, axis),
    "pad": lambda xp, x, widths, value: xp.pad(x, widths, constant_values=value) if widths else x,
    "tile": lambda xp, x, reps: xp.tile(x, reps), "flip": lambda xp, x, axis: xp.flip(x, axis),
    "repeat": lambda xp, x, repeats, axis: xp.repeat(x, xp.asarray(repeats, int), axis),
    "roll": lambda xp, x, shift, axis: xp.roll(x, shift if axis is not None else shift[0], axis),
    "tril": lambda xp, x, k: xp.tril(x, k), "triu": lambda xp, x, k: xp.triu(x, k),
    "diagonal": lambda xp, x, **params: xp.diagonal(x, **params),
    "trace": lambda xp, x, **params: xp.trace(x, **params),
    "diag": lambda xp, x, k: xp.diag(x, k), "getitem": lambda xp, x, index: x[index],
    "take": lambda xp, x, ids, axis: xp.take(x, ids, axis), "embedding": lambda xp, weight, ids: weight[ids],
    "take_along_axis": lambda xp, x, ids, axis: xp.take_along_axis(
        x, xp.broadcast_to(ids, _wide(x, ids, axis)), axis),
    "sort": lambda xp, x, axis, descending: _turned(xp, xp.sort(x, axis), axis, descending),
    "argsort": lambda xp, x, axis, descending: xp.argsort(x, axis, kind="stable") if not descending else
    xp.argsort(-x, axis, kind="stable"),
    "masked_fill": lambda xp, x, mask, value: xp.where(mask, value, x),
    "one_hot": lambda xp, ids, size, dtype: xp.eye(size, dtype=dtype)[ids],
    "tensordot": lambda xp, a, b, axes: xp.tensordot(a, b, axes),
    "einsum": lambda xp, *xs, subscripts: xp.einsum(subscripts, *xs),
})


def _wide(x: Array, ids: Array, axis: int) -> tuple[int, ...]:
    """The ids' shape, as wide as x outside the axis."""
    return tuple(m if i == axis else max(m, n) for i, (m, n) in enumerate(zip(ids.shape, x.shape, strict=True)))


def _turned(xp: Any, x: Array, axis: int | None, descending: bool) -> Array:
    return xp.flip(x, 0 if axis is None else axis) if descending else x


# --- losses ---------------------------------------------------------------------------------------
def _reduced(xp: Any, each: Array, reduction: str) -> Array:
    return {"mean": xp.mean, "sum": xp.sum, "none": lambda x: x}[reduction](each)


TABLE.update({
    "mse_loss": lambda xp, x, t, reduction: _reduced(xp, (x - t) ** 2, reduction),
    "l1_loss": lambda xp, x, t, reduction: _reduced(xp, abs(x - t), reduction),
})
