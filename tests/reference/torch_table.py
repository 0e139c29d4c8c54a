"""What each op is in PyTorch: a function of its tensors and parameters; formulas only where PyTorch has no function."""
from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine import random

T = Any
TABLE: dict[str, Any] = {}


# --- elementwise ----------------------------------------------------------------------------------
TABLE.update({
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg, "pow": torch.pow,
    "square": torch.square, "reciprocal": torch.reciprocal, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt, "abs": torch.abs, "sign": torch.sign, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf,
    "maximum": torch.maximum, "minimum": torch.minimum, "where": torch.where, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "expm1": torch.expm1, "log1p": torch.log1p, "exp2": torch.exp2, "log2": torch.log2,
    "log10": torch.log10, "logaddexp": torch.logaddexp, "tan": torch.tan, "asin": torch.asin, "acos": torch.acos,
    "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "asinh": torch.asinh, "acosh": torch.acosh,
    "atanh": torch.atanh, "hypot": torch.hypot, "atan2": torch.atan2, "floor": torch.floor, "ceil": torch.ceil,
    "trunc": torch.trunc, "floor_divide": lambda x, y: torch.floor_divide(x.detach(), y.detach()),
    "remainder": torch.remainder,
    "clip": lambda x, low, high: torch.clip(x, low, high) if (low, high) != (None, None) else x.clone(),
    "round": lambda x, decimals: torch.round(x, decimals=decimals),
    "equal": torch.eq, "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt,
    "greater_equal": torch.ge, "logical_and": torch.logical_and, "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor, "logical_not": torch.logical_not, "isnan": torch.isnan, "isinf": torch.isinf,
    "isfinite": torch.isfinite, "to": lambda x, device, source: x.clone(),
    "astype": lambda x, dtype: x.to(getattr(torch, dtype.name)),
})

# --- activations ----------------------------------------------------------------------------------
TABLE.update({
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "selu": F.selu, "softsign": F.softsign, "mish": F.mish,
    "logsigmoid": F.logsigmoid, "hard_sigmoid": F.hardsigmoid, "hard_silu": F.hardswish,
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope), "elu": lambda x, alpha: F.elu(x, alpha),
    "softplus": lambda x, beta: F.softplus(x, beta), "hard_tanh": lambda x, low, high: F.hardtanh(x, low, high),
    "glu": lambda x, axis: F.glu(x, axis),
    "tanh_vjp": lambda g, y: g * (1 - y * y), "sigmoid_vjp": lambda g, y: g * y * (1 - y),
    "relu_vjp": lambda g, x: torch.where(x > 0, g, torch.zeros((), dtype=g.dtype)),
    "relu_dropout_vjp": lambda g, y, p: torch.where(y > 0, g * _scale(p), torch.zeros((), dtype=g.dtype)),
})


def _pulled(f: Any, count: int) -> Any:
    """The pullback of the function: all gradients of its first `count` tensors in one vector."""
    def vjp(g: T, *xs: T, **params: Any) -> T:
        with torch.enable_grad():
            leaves = [x if x.requires_grad else x.detach().clone().requires_grad_() for x in xs[:count]]
            y = f(*leaves, *xs[count:], **params)
            return torch.cat([t.reshape(-1) for t in torch.autograd.grad(y, leaves, g, create_graph=True)])
    return vjp


def _like_input(f: Any) -> Any:
    """The pullback of a function of one tensor, in that tensor's shape."""
    pulled = _pulled(f, 1)

    def vjp(g: T, x: T, *rest: T, **params: Any) -> T:
        shape = torch.broadcast_shapes(g.shape, x.shape) if not params else x.shape
        x = x.expand(shape)
        return pulled(g.expand(shape) if not params else g, x, *rest, **params).reshape(shape)
    return vjp


TABLE["gelu_vjp"], TABLE["silu_vjp"] = _like_input(F.gelu), _like_input(F.silu)


# --- reductions -----------------------------------------------------------------------------------
def _over(f: Any) -> Any:
    return lambda x, axis, keepdims: f(x, axis, keepdims) if axis else f(x.unsqueeze(0), (0,), False)


def _product(x: T, axis: Any, keepdims: bool) -> T:
    for a in sorted(axis, reverse=True):
        x = x.prod(a, keepdim=True)
    return x if keepdims else x.reshape([n for i, n in enumerate(x.shape) if i not in axis])


def _spread(f: Any) -> Any:
    def over(x: T, axis: Any, keepdims: bool, correction: float) -> T:
        if not axis:
            return f(x.unsqueeze(0), (0,), correction=correction)
        return f(x, axis, correction=correction, keepdim=keepdims)
    return over


def _place(f: Any) -> Any:
    return lambda x, axis, keepdims: f(x, axis, keepdims) if axis is not None else f(x).reshape(
        (1,) * x.ndim if keepdims else ())


def _flat(f: Any) -> Any:
    return lambda x, axis: f(x, axis) if axis is not None else f(x.reshape(-1), 0)


TABLE.update({
    "sum": _over(torch.sum), "mean": _over(torch.mean), "prod": _product, "max": _over(torch.amax),
    "min": _over(torch.amin), "logsumexp": _over(torch.logsumexp), "any": _over(torch.any), "all": _over(torch.all),
    "var": _spread(torch.var), "std": _spread(torch.std), "argmax": _place(torch.argmax),
    "argmin": _place(torch.argmin), "cumsum": _flat(torch.cumsum), "cumprod": _flat(torch.cumprod),
    "norm": lambda x, axis, keepdims, ord: torch.linalg.vector_norm(x, ord, axis, keepdims) if axis else
    torch.linalg.vector_norm(x.unsqueeze(0), ord, (0,)),
    "softmax_vjp": lambda g, y, axis: y * (g - (g * y).sum(axis, keepdim=True)),
    "log_softmax_vjp": lambda g, y, axis: g - torch.exp(y) * g.sum(axis, keepdim=True),
    "log_softmax": lambda x, axis: F.log_softmax(x, axis),
})


def _softmax(x: T, mask: T = None, *, axis: int) -> T:
    """A fully masked row is zeros, where PyTorch has NaN."""
    if mask is None:
        return F.softmax(x, axis)
    y = F.softmax(x.masked_fill(~mask, -math.inf), axis)
    return y.masked_fill(~mask.expand(x.shape).any(axis, keepdim=True), 0.0)


TABLE["softmax"] = _softmax

# --- shape, order, position -----------------------------------------------------------------------
TABLE.update({
    "reshape": lambda x, shape: x.reshape(shape), "transpose": lambda x, axes: x.permute(axes),
    "swapaxes": lambda x, axis1, axis2: x.swapaxes(axis1, axis2),
    "moveaxis": lambda x, source, destination: x.moveaxis(source, destination),
    "broadcast_to": lambda x, shape: x.broadcast_to(shape),
    "expand_dims": lambda x, axis: _each(x, sorted(axis), torch.unsqueeze),
    "squeeze": lambda x, axis: x.squeeze(axis),
    "concat": lambda *xs, axis: torch.cat(xs, axis),
    "pad": lambda x, widths, value: F.pad(x, [n for pair in reversed(widths) for n in pair], value=value) if widths
    else x.clone(),
    "tile": lambda x, reps: x.tile(reps), "flip": lambda x, axis: x.flip(axis),
    "repeat": lambda x, repeats, axis: torch.repeat_interleave(
        x.reshape(-1) if axis is None else x, torch.tensor(repeats, dtype=torch.int64), axis or 0),
    "roll": lambda x, shift, axis: x.roll(shift, axis) if axis is not None else x.roll(shift[0]),
    "tril": lambda x, k: x.tril(k), "triu": lambda x, k: x.triu(k),
    "diagonal": lambda x, offset, axis1, axis2: x.diagonal(offset, axis1, axis2),
    "trace": lambda x, offset, axis1, axis2: x.diagonal(offset, axis1, axis2).sum(-1),
    "diag": lambda x, k: torch.diag(x, k),
    "sort": lambda x, axis, descending: _sorted(x, axis, descending)[0],
    "argsort": lambda x, axis, descending: _sorted(x, axis, descending)[1],
    "topk": lambda x, k, axis, largest: _sorted(x, axis, largest)[0].narrow(axis, 0, k),
    "argtopk": lambda x, k, axis, largest: _sorted(x, axis, largest)[1].narrow(axis, 0, k),
    "getitem": lambda x, index: _indexed(x, index), "put": lambda g, index, shape: _put(g, index, shape),
    "take": lambda x, ids, axis: x.take(ids % max(x.numel(), 1)) if axis is None else
    x.index_select(axis, ids.reshape(-1) % max(x.shape[axis], 1)).reshape(
        *x.shape[:axis], *ids.shape, *x.shape[axis + 1:]),
    "embedding": lambda weight, ids: F.embedding(ids, weight),
    "scatter_add": lambda g, ids, axis, size: g.new_zeros(*g.shape[:axis], size, *g.shape[axis + ids.ndim:]).index_add(
        axis, ids.reshape(-1), g.reshape(*g.shape[:axis], ids.numel(), *g.shape[axis + ids.ndim:])),
    "one_hot": lambda ids, size, dtype: F.one_hot(ids, size).to(getattr(torch, np.dtype(dtype).name)),
    "take_along_axis": lambda x, ids, axis: torch.take_along_dim(x, ids % x.shape[axis] if ids.numel() else ids, axis),
    "gather": lambda x, ids, axis: x.gather(axis, ids),
    "add_along_axis": lambda g, ids, axis, size: g.new_zeros(*g.shape[:axis], size, *g.shape[axis + 1:]).scatter_add(
        axis, ids.expand(g.shape), g),
    "scatter": lambda x, ids, src, axis: _scatter(x, ids, src, axis),
    "index_add": lambda x, ids, src, axis: x.index_add(axis, ids, src),
    "masked_fill": lambda x, mask, value: x.masked_fill(mask, value),
    "is_last": lambda ids, axis, size: _is_last(ids, axis),
})


def _each(x: T, axes: Any, f: Any) -> T:
    for a in axes:
        x = f(x, a)
    return x


def _sorted(x: T, axis: int | None, descending: bool) -> Any:
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return torch.sort(x, dim=axis, descending=descending, stable=True)


def _indexed(x: T, index: Any) -> T:
    """PyTorch has no negative steps, so positions are indexed in NumPy and picked in PyTorch."""
    places = np.array(torch.arange(x.numel()).reshape(x.shape).numpy()[index])
    return x.reshape(-1)[torch.from_numpy(places).reshape(-1)].reshape(places.shape)


def _put(g: T, index: Any, shape: Any) -> T:
    places = torch.arange(math.prod(shape)).reshape(shape).numpy()[index]
    at = torch.from_numpy(np.array(places)).reshape(-1)
    return g.new_zeros(math.prod(shape)).index_add(0, at, g.reshape(-1)).reshape(shape)


def _is_last(ids: T, axis: int) -> T:
    moved = ids.movedim(axis, -1)
    later = torch.ones(moved.shape[-1], moved.shape[-1], dtype=torch.bool).triu(1)
    return ~((moved[..., :, None] == moved[..., None, :]) & later).any(-1).movedim(-1, axis)


def _scatter(x: T, ids: T, src: T, axis: int) -> T:
    """One id after the other, so that the last of equal ones is written."""
    for i in range(ids.shape[axis]):
        at = ids.narrow(axis, i, 1)
        x = x.scatter(axis, at, src.narrow(axis, i, 1))
    return x


# --- products -------------------------------------------------------------------------------------
TABLE.update({
    "matmul": torch.matmul, "outer": lambda a, b: torch.outer(a.reshape(-1), b.reshape(-1)),
    "dot": lambda a, b: torch.tensordot(a, b, ([a.ndim - 1], [max(b.ndim - 2, 0)])) if a.ndim and b.ndim else a * b,
    "tensordot": lambda a, b, axes: torch.tensordot(a, b, [list(part) for part in axes]),
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
})


# --- losses ---------------------------------------------------------------------------------------
def _loss(f: Any) -> Any:
    return lambda x, target, **params: f(x, target, **params)


def _classes(f: Any) -> Any:
    """PyTorch has the classes in axis 1, and NaN for the mean of no losses."""
    def loss(x: T, ids: T, *, reduction: str, ignore_index: int, **params: Any) -> T:
        each = f(x.reshape(-1, x.shape[-1]), ids.reshape(-1), reduction="none" if reduction == "none" else "sum",
                 ignore_index=ignore_index, **params)
        if reduction == "none":
            return each.reshape(ids.shape)
        return each / max(int((ids != ignore_index).sum()), 1) if reduction == "mean" else each
    return loss


TABLE.update({
    "mse_loss": _loss(F.mse_loss), "l1_loss": _loss(F.l1_loss), "smooth_l1_loss": _loss(F.smooth_l1_loss),
    "huber_loss": _loss(F.huber_loss), "kl_div": _loss(F.kl_div),
    "binary_cross_entropy": _loss(F.binary_cross_entropy),
    "binary_cross_entropy_with_logits": _loss(F.binary_cross_entropy_with_logits),
    "cross_entropy": _classes(F.cross_entropy), "nll_loss": _classes(F.nll_loss),
    "cross_entropy_vjp": _like_input(_classes(F.cross_entropy)),
})


# --- normalisation --------------------------------------------------------------------------------
def _layer_norm(x: T, weight: T = None, bias: T = None, *, eps: float) -> T:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _layer_norm_vjp(g: T, x: T, weight: T = None, *, eps: float) -> T:
    ones, zeros = torch.ones(x.shape[-1], dtype=x.dtype), torch.zeros(x.shape[-1], dtype=x.dtype)
    return _pulled(lambda x, w, b: _layer_norm(x, w, b, eps=eps), 3)(g, x, ones if weight is None else weight, zeros)


def _add_norm(x: T, h: T, key: T = None, weight: T = None, bias: T = None, *, p: float, eps: float) -> T:
    return _layer_norm(x + _dropout(h, key, p=p), weight, bias, eps=eps)


def _add_norm_vjp(g: T, x: T, h: T, key: T = None, weight: T = None, *, p: float, eps: float) -> T:
    d = x.shape[-1]
    leaves = [x, h, torch.ones(d, dtype=x.dtype) if weight is None else weight, torch.zeros(d, dtype=x.dtype)]
    packed = _pulled(lambda x, h, w, b: _add_norm(x, h, key, w, b, p=p, eps=eps), 4)(g, *leaves)
    return packed if p else torch.cat([packed[:x.numel()], packed[2 * x.numel():]])


TABLE.update({
    "layer_norm": _layer_norm, "layer_norm_vjp": _layer_norm_vjp, "add_norm": _add_norm, "add_norm_vjp": _add_norm_vjp,
    "rms_norm": lambda x, weight=None, *, eps: F.rms_norm(x, x.shape[-1:], weight, eps),
    "group_norm": lambda x, weight=None, bias=None, *, groups, eps: F.group_norm(
        x, groups, weight if weight is not None or bias is None else torch.ones_like(bias), bias, eps),
    "normalize": lambda x, axis, ord, eps: F.normalize(x, ord, axis, eps),
})


# --- linear layers and dropout --------------------------------------------------------------------
def _scale(p: float) -> float:
    return 1 / (1 - p) if p < 1 else 0.0


def _dropout(x: T, key: T, *, p: float) -> T:
    """PyTorch draws other random bits, so which numbers stay is taken from ours."""
    if not p:
        return x * 1
    keep = torch.as_tensor(random.uniform_array(key.numpy(), tuple(x.shape)) >= p)
    return torch.where(keep, x * _scale(p), torch.zeros((), dtype=x.dtype))


def _linear(x: T, weight: T, bias: T = None, key: T = None, *, activation: str, p: float) -> T:
    y = F.linear(x, weight.T, bias)
    return _dropout(F.relu(y) if activation == "relu" else y, key, p=p)


def _linears(x: T, w1: T, w2: T, w3: T = None, b1: T = None, b2: T = None, b3: T = None) -> T:
    layers = [(w1, b1), (w2, b2), *([(w3, b3)] if w3 is not None else [])]
    return torch.cat([F.linear(x, w.T, b) for w, b in layers], -1)


def _linear_vjp(x: T, g: T, *, widths: Any) -> T:
    rows, out = (t.reshape(math.prod(t.shape[:-1]), t.shape[-1]) for t in (x, g))
    parts = out.split(list(widths), 1)
    return torch.cat([t for part in parts for t in ((rows.T @ part).reshape(-1), part.sum(0))])


def _embed(weight: T, ids: T, positions: T, key: T = None, *, scale: float, p: float) -> T:
    return _dropout(F.embedding(ids, weight) * scale + positions, key, p=p)


def _embed_vjp(g: T, ids: T, key: T = None, *, size: int, scale: float, p: float) -> T:
    rows = (_dropout(g, key, p=p) * scale).reshape(-1, g.shape[-1])
    return g.new_zeros(size, g.shape[-1]).index_add(0, ids.reshape(-1), rows)


TABLE.update({
    "dropout": _dropout, "dropout_vjp": _dropout, "linear": _linear, "linears": _linears, "linear_vjp": _linear_vjp,
    "linears_input_vjp": lambda g, *ws: g @ torch.cat([w for w in ws if w is not None], 1).T,
    "embed": _embed, "embed_vjp": _embed_vjp,
})


# --- attention ------------------------------------------------------------------------------------
def _attention(q: T, k: T, v: T, mask: T = None, key: T = None, *, causal: bool, scale: float, p: float,
               again: bool = False) -> T:
    """PyTorch's own; by a formula where there is dropout, or a gradient is taken `again`, which its own does not allow.
    """
    scores = q @ k.mT * scale
    seen = torch.ones(scores.shape, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    if causal:
        seen = seen & torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
    if not p and not again:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        return y.masked_fill(~seen.any(-1, keepdim=True), 0.0)
    return _dropout(_softmax(scores, seen, axis=-1), key, p=p) @ v


def _heads(x: T, parts: int, heads: int) -> list[T]:
    return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in x.chunk(parts, 2)]


def _self_attention(qkv: T, mask: T = None, key: T = None, *, heads: int, **params: Any) -> T:
    return _attention(*_heads(qkv, 3, heads), mask, key, **params).transpose(1, 2).flatten(2)


def _cross_attention(q: T, kv: T, mask: T = None, key: T = None, *, heads: int, **params: Any) -> T:
    return _attention(*_heads(q, 1, heads), *_heads(kv, 2, heads), mask, key, **params).transpose(1, 2).flatten(2)


TABLE.update({
    "scaled_dot_product_attention": _attention, "self_attention": _self_attention, "cross_attention": _cross_attention,
    "scaled_dot_product_attention_vjp": _pulled(partial(_attention, again=True), 3),
    "self_attention_vjp": _like_input(partial(_self_attention, again=True)),
    "cross_attention_vjp": _pulled(partial(_cross_attention, again=True), 2),
})
