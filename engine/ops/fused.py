"""Fused ops of the Transformer: a meaning in ops, a kernel for speed.

The kernel of the same name is only an optimisation: what an op is, is written here.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import random, shapes
from engine.core import Tensor, constant
from engine.errors import DtypeError, ShapeError
from engine.ops.elementwise import exp, isfinite, log, sqrt, where
from engine.ops.index import check_ids, one_hot
from engine.ops.matmul import matmul
from engine.ops.reduce import max_, mean, sum_
from engine.ops.shape import concat, reshape, swapaxes
from engine.record import OUT, Bool, Index, Key, Op, Real, fused, op
from engine.shapes import Shape


# --- softmax --------------------------------------------------------------------------------------
def _axis(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.one_axis(params["axis"], len(given[0]))}


def _like_first(x: Shape, mask: Shape | None = None, **_: Any) -> Shape:
    if mask is not None and shapes.broadcast([x, mask]) != x:
        raise ShapeError(f"a mask of shape {mask} does not broadcast to {x}")
    return x


ROWS: dict[str, Any] = {"signature": None, "shape": _like_first, "canonical": _axis, "result": "float",
                            "choices": lambda s, *_: {"axis": list(range(len(s)))}}


PAIR: dict[str, Any] = {**ROWS, "shape": lambda g, y, *, axis: _same(g, y),
                        "samples": (((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (2, 1, 3)), ((0, 2), (0, 2)))}


def _same(g: Shape, y: Shape) -> Shape:
    if g != y:
        raise ShapeError(f"both must have one shape, not {g} and {y}")
    return g


@fused(**PAIR, equation=("X̄ = Y ⊙ (Ȳ − Σ Ȳ ⊙ Y)", ""))
def softmax_vjp(g: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """The pullback of softmax: y (g − Σ g y)."""
    return y * (g - sum_(g * y, axis=axis, keepdims=True))


@fused(**ROWS, vjps=[lambda g, y, x, mask, *, axis: softmax_vjp(g, y, axis=axis), None], saves=(OUT,),
       domain=(Real(), Bool()),
       samples=(((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (1, 3)), ((2, 3), None), ((2, 3, 2), None), ((0, 3), None)),
       equation=("Y = eˣ ⊘ Σ eˣ", "X̄ = Y ⊙ (Ȳ − Σ Ȳ ⊙ Y)"))
def softmax(x: Tensor, mask: Tensor | None = None, *, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along an axis. Where a mask (True = attend) is false the result is 0; a fully masked row is all 0."""
    if mask is not None:
        x = where(mask, x, -math.inf)
    top = constant(max_(x, axis=axis, keepdims=True)) if x.shape[axis] else x
    e = exp(x - where(isfinite(top), top, 0.0))
    if mask is None:
        return e / sum_(e, axis=axis, keepdims=True)
    e = where(mask, e, 0.0)
    total = sum_(e, axis=axis, keepdims=True)
    return e / where(total == 0, 1.0, total)


@fused(**PAIR, equation=("X̄ = Ȳ − eʸ ⊙ Σ Ȳ", ""))
def log_softmax_vjp(g: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """The pullback of log_softmax: g − eʸ Σ g."""
    return g - exp(y) * sum_(g, axis=axis, keepdims=True)


@fused(**{**ROWS, "samples": (((3,),), ((2, 3),), ((2, 1, 3),), ((0, 3),))}, saves=(OUT,),
       vjps=[lambda g, y, x, *, axis: log_softmax_vjp(g, y, axis=axis)],
       equation=("Y = X − log Σ eˣ", "X̄ = Ȳ − eʸ ⊙ Σ Ȳ"))
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """log softmax along an axis, without overflow."""
    if not x.shape[axis]:
        return x * 1
    top = constant(max_(x, axis=axis, keepdims=True))
    c = x - where(isfinite(top), top, 0.0)
    return c - log(sum_(exp(c), axis=axis, keepdims=True))


# --- layer norm -----------------------------------------------------------------------------------
def _feature_axis(x: Shape, weight: Shape | None = None, bias: Shape | None = None, **_: Any) -> Shape:
    if not x:
        raise ShapeError("layer norm needs a feature axis; the input is 0-d")
    for name, s in (("weight", weight), ("bias", bias)):
        if s is not None and s != x[-1:]:
            raise ShapeError(f"{name} has shape {s}; the feature axis has size {x[-1]}")
    return x


def _layer_norm_rule(g: Tensor, y: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float,
                     mean: Any = None, rstd: Any = None) -> list[Tensor | None]:
    packed = layer_norm_vjp(g, x, weight, eps=eps, mean=mean, rstd=rstd)
    n, d = x.size, x.shape[-1]
    return [reshape(packed[:n], shape=x.shape), packed[n:n + d] if weight is not None else None,
            packed[n + d:] if bias is not None else None]


@fused(joint=_layer_norm_rule, saves=(0, 1), signature=None, shape=_feature_axis, result="float",
       residuals=("mean", "rstd"), domain=(Real(),),
       samples=(((2, 3), (3,), (3,)), ((2, 2, 4), (4,), None), ((3,), None, None), ((0, 2), (2,), (2,)),
                ((2, 1), (1,), (1,))),
       equation=("Y = (X − mean X) ⊘ √(var X + ε) ⊙ w + b",
                 "X̂ = (X − mean X)/σ: X̄ = (w Ȳ − mean(w Ȳ) − X̂ mean(w Ȳ X̂))/σ, w̄ = Σ Ȳ X̂, b̄ = Σ Ȳ"))
def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Normalise each vector over the last axis to mean 0 and (population) variance 1, then scale and shift.

    Ba, Kiros & Hinton 2016. The mean and the variance are taken over the features of one position, never over a batch.
    """
    c = x - mean(x, axis=-1, keepdims=True)
    y = c / sqrt(mean(c * c, axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * weight
    return y + bias if bias is not None else y


def _layer_norm_vjp_shape(g: Shape, x: Shape, weight: Shape | None = None, **_: Any) -> Shape:
    _same(g, _feature_axis(x, weight))
    return (int(np.prod(x, dtype=np.int64)) + 2 * x[-1],)


@fused(signature=None, result="float", shape=_layer_norm_vjp_shape, domain=(Real(),),
       samples=(((2, 3), (2, 3), (3,)), ((2, 2, 4), (2, 2, 4), None), ((3,), (3,), (3,)), ((0, 2), (0, 2), (2,))),
       equation=("X̄ = (w Ȳ − mean(w Ȳ) − X̂ mean(w Ȳ X̂))/σ, w̄ = Σ Ȳ X̂, b̄ = Σ Ȳ", ""))
def layer_norm_vjp(g: Tensor, x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-5, mean: Any = None,
                   rstd: Any = None) -> Tensor:
    """The pullback of layer_norm, packed in one vector: x's gradient, then weight's, then bias's.

    `mean` and `rstd` are what the forward kernel found; the meaning finds them again.
    """
    d = x.shape[-1]
    c = x - _mean(x)
    rstd_ = 1 / sqrt(_mean(c * c) + eps)
    normed = c * rstd_
    gw = g * weight if weight is not None else g
    dx = rstd_ * (gw - _mean(gw) - normed * _mean(gw * normed))
    rows = tuple(range(x.ndim - 1))
    dw, db = sum_(g * normed, axis=rows), sum_(g, axis=rows)
    return concat([reshape(dx, shape=(x.size,)), reshape(dw, shape=(d,)), reshape(db, shape=(d,))])


def _mean(x: Tensor) -> Tensor:
    return mean(x, axis=-1, keepdims=True)


# --- cross-entropy --------------------------------------------------------------------------------
def _class_ids(logits: Any, ids: Any, *, ignore_index: int, **_: Any) -> None:
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"cross_entropy: class ids must be integers, got {ids.dtype}")
    check_ids(np.where(ids == ignore_index, 0, ids) if logits.shape[-1] else ids[ids != ignore_index], logits.shape[-1],
              "cross_entropy")


def _loss_shape(logits: Shape, ids: Shape, *, reduction: str, **_: Any) -> Shape:
    if not logits or logits[:-1] != ids:
        raise ShapeError(f"logits {logits} need class ids of shape {logits[:-1]}, got {ids}")
    return ids if reduction == "none" else ()


def _loss_params(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    if params["reduction"] not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {params['reduction']!r}; it must be 'mean', 'sum' or 'none'")
    if not 0 <= params["label_smoothing"] <= 1:
        raise ValueError(f"label_smoothing is {params['label_smoothing']}; it must lie between 0 and 1")
    return params


LOSS: dict[str, Any] = {
    "signature": None, "canonical": _loss_params, "result": "float",
    "choices": lambda *s: {"reduction": ["mean", "sum", "none"], "label_smoothing": [0.0, 0.1],
                           "ignore_index": [-100, 1]}}


def _loss_vjp_shape(g: Shape, logits: Shape, ids: Shape, **params: Any) -> Shape:
    loss = _loss_shape(logits, ids, **params)
    if g != loss:
        raise ShapeError(f"the cotangent has shape {g}; with reduction={params['reduction']!r} the loss has {loss}")
    return logits


def _loss_vjp_choices(g: Shape, logits: Shape, ids: Shape) -> dict[str, list[Any]]:
    fits = [r for r in ("mean", "sum", "none") if g == _loss_shape(logits, ids, reduction=r)]
    return {**LOSS["choices"](), "reduction": fits}


@fused(**{**LOSS, "choices": _loss_vjp_choices}, shape=_loss_vjp_shape, domain=(Real(), Real(), Index(1, -1)),
       check=lambda g, logits, ids, **params: _class_ids(logits, ids, **params), saves=(0, 1, 2),
       samples=(((), (3,), ()), ((2,), (2, 3), (2,)), ((), (2, 3), (2,)), ((2, 2), (2, 2, 4), (2, 2)),
                ((0,), (0, 3), (0,)), ((), (0, 3), (0,))),
       equation=("X̄ = (softmax X − q) Ȳ / n", ""))
def cross_entropy_vjp(g: Tensor, logits: Tensor, ids: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0,
                      reduction: str = "mean", lse: Any = None) -> Tensor:
    """The pullback of cross_entropy. `lse` is the log-sum-exp that the forward kernel found; the meaning finds it
    again."""
    ids = _as_int64(ids)
    real = ids != ignore_index
    target = one_hot(where(real, ids, 0), size=logits.shape[-1], dtype=logits.dtype)
    target = target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    each = g.expand_dims(-1) if reduction == "none" else g
    if reduction == "mean":
        each = each / _count(real, logits)
    return where(real.expand_dims(-1), (softmax(logits, axis=-1) - target) * each, 0.0)


@fused(**LOSS, shape=_loss_shape, check=_class_ids, domain=(Real(), Index(0, -1)), saves=(0, 1), residuals=("lse",),
       vjps=[lambda g, y, logits, ids, **params: cross_entropy_vjp(g, logits, ids, **params), None],
       samples=(((3,), ()), ((2, 3), (2,)), ((2, 2, 4), (2, 2)), ((0, 3), (0,))),
       equation=("yᵢ = −Σⱼ qᵢⱼ log softmax(X)ᵢⱼ, q = (1 − s) one-hot + s/V", "X̄ = (softmax X − q) Ȳ / n"))
def cross_entropy(logits: Tensor, ids: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0,
                  reduction: str = "mean") -> Tensor:
    """Cross-entropy of class ids (…) under logits (…, V), from log-softmax, with label smoothing (paper §5.4).

    Ids equal to `ignore_index` count for nothing; "mean" divides by the number of the others (0 where there is none),
    "sum" and "none" do not.
    """
    ids = _as_int64(ids)
    real = ids != ignore_index
    target = one_hot(where(real, ids, 0), size=logits.shape[-1], dtype=logits.dtype)
    target = target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    log_p = log_softmax(logits, axis=-1)
    loss = where(real, -sum_(where(target == 0, 0.0, target * log_p), axis=-1), 0.0)
    if reduction == "none":
        return loss
    return sum_(loss) if reduction == "sum" else sum_(loss) / _count(real, logits)


def _as_int64(ids: Tensor) -> Tensor:
    """Ids of any integer dtype in one that also holds a negative `ignore_index`."""
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def _count(real: Tensor, like: Tensor) -> Tensor:
    """How many ids are real, at least 1."""
    return sum_(where(real, 1.0, 0.0)).astype(like.dtype).maximum(1.0)


# --- dropout --------------------------------------------------------------------------------------
def _probability(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    if not 0 <= params["p"] <= 1:
        raise ValueError(f"p is {params['p']}; a probability lies between 0 and 1")
    return params


def _dropout_shape(s: Shape, key: Shape, **_: Any) -> Shape:
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return s


def _dropout(x: Any, key: Any, *, p: float = 0.5) -> Any:
    keep = random.uniform_array(key, x.shape) >= np.float32(p)
    return np.where(keep, x * x.dtype.type(1 / (1 - p) if p < 1 else 0), x.dtype.type(0))


dropout_op: Op = op("dropout", _dropout, lambda g, y, x, key, *, p: dropout_op(g, key, p=p), None, saves=(1,),
                domain=(Real(), Key()), samples=(((3,), ()), ((2, 3), ()), ((), ()), ((0, 2), ())),
                canonical=_probability,
                signature=None, shape=_dropout_shape, choices=lambda *s: {"p": [0.0, 0.3, 1.0]}, result="float",
                equation=("Y = X ⊙ [u ≥ p] / (1 − p)", "X̄ = Ȳ ⊙ [u ≥ p] / (1 − p)"),
                doc="Zero each element with probability p, scale the rest by 1/(1 − p) (Srivastava et al. 2014).\n\n"
                    "Whether an element stays is a function of the key and its position in C order alone.")


def dropout(x: Tensor, key: Tensor | None = None, *, p: float = 0.5) -> Tensor:
    """Zero each element with probability p and scale the rest by 1/(1 − p). Without a key, the next one of the seed."""
    return dropout_op(x, random.next_key() if key is None else key, p=p)


# --- attention ------------------------------------------------------------------------------------
def _attention_shape(q: Shape, k: Shape, v: Shape, mask: Shape | None = None, key: Shape | None = None,
                     **_: Any) -> Shape:
    if min(len(q), len(k), len(v)) < 2:
        raise ShapeError("q, k and v need a length and a feature axis")
    if q[:-2] != k[:-2] or q[:-2] != v[:-2]:
        raise ShapeError(f"the leading axes of q {q[:-2]}, k {k[:-2]} and v {v[:-2]} must be equal")
    if q[-1] != k[-1]:
        raise ShapeError(f"q has {q[-1]} features and k has {k[-1]}; their dot product needs as many")
    if k[-2] != v[-2]:
        raise ShapeError(f"there are {k[-2]} keys but {v[-2]} values")
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    scores = (*q[:-1], k[-2])
    if mask is not None and shapes.broadcast([scores, mask]) != scores:
        raise ShapeError(f"a mask of shape {mask} does not broadcast to the scores' {scores}")
    return (*q[:-1], v[-1])


def _attention_params(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
    _probability(params)
    q, *_, key = given[-5:]
    if params["p"] and key is None:
        raise ValueError(f"p is {params['p']}, and dropout needs a key to be repeatable: pass engine.random.next_key()")
    scale = params["scale"] if params["scale"] is not None else 1 / math.sqrt(max(q[-1] if q else 1, 1))
    return {**params, "scale": scale}


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) over the keys that may be attended to."""
    scores = matmul(q, swapaxes(k, axis1=-1, axis2=-2)) * scale                                    # (…, T, S)
    if causal:
        t, s = scores.shape[-2:]
        past = Tensor(np.tril(np.ones((t, s), bool), s - t), name="causal")
        mask = past if mask is None else mask & past
    return softmax(scores, mask, axis=-1)


def _attention_rule(g: Tensor, y: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, key: Tensor | None, *,
                    lse: Any = None, **params: Any) -> list[Tensor | None]:
    out = y._array if lse is not None else None
    packed = scaled_dot_product_attention_vjp(g, q, k, v, mask, key, lse=lse, out=out, **params)
    a, b = q.size, q.size + k.size
    return [reshape(packed[:a], shape=q.shape), reshape(packed[a:b], shape=k.shape),
            reshape(packed[b:], shape=v.shape), None, None]


ATTENTION: dict[str, Any] = {"signature": None, "canonical": _attention_params, "result": "float",
                             "choices": lambda *s: {"causal": [False, True], "scale": [None, 0.3], "p": [0.0, 0.4]}}


@fused(**ATTENTION, joint=_attention_rule, saves=(0, 1, 2, 3, 4, OUT), shape=_attention_shape, residuals=("lse",),
       domain=(Real(), Real(), Real(), Bool(), Key()),
       samples=(((2, 3), (4, 3), (4, 2), (1, 4), ()), ((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4), (2, 1, 1, 3), ()),
                ((2, 1, 2), (2, 3, 2), (2, 3, 2), None, ()), ((1, 3, 2), (1, 3, 2), (1, 3, 2), (3, 3), ())),
       equation=("Y = softmax(Q Kᵀ / √K) V", "V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K"))
def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
                                 key: Tensor | None = None, *,
                                 causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """softmax(q kᵀ · scale) v, the paper's §3.2.1 (scale 1/√K unless given).

    q (…, T, K), k (…, S, K), v (…, S, N) give (…, T, N). mask: True = attend, broadcasts to (…, T, S). causal: query t
    sees keys up to t + S − T. p: dropout on the weights, decided by `key`. A query that may see no key gives zeros.
    """
    weights = _weights(q, k, mask, causal, 1.0 if scale is None else scale)
    if p:
        weights = dropout(weights, key, p=p)
    return matmul(weights, v)                                                                        # (…, T, N)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *,
              causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """The op `scaled_dot_product_attention`; where dropout needs a key and none is given, the next one of the seed."""
    if p and key is None:
        key = random.next_key()
    return scaled_dot_product_attention(q, k, v, mask, key, causal=causal, scale=scale, p=p)


def _attention_vjp_shape(g: Shape, q: Shape, k: Shape, v: Shape, mask: Shape | None = None, key: Shape | None = None,
                         **_: Any) -> Shape:
    out = _attention_shape(q, k, v, mask, key)
    if g != out:
        raise ShapeError(f"the cotangent has shape {g}, the result has {out}")
    return (sum(int(np.prod(s, dtype=np.int64)) for s in (q, k, v)),)


@fused(**ATTENTION, shape=_attention_vjp_shape,
       saves=(0, 1, 2, 3, 4, 5), domain=(Real(), Real(), Real(), Real(), Bool(), Key()),
       samples=(((2, 2), (2, 3), (4, 3), (4, 2), (1, 4), ()), ((2, 1, 2), (2, 1, 2), (2, 3, 2), (2, 3, 2), None, ())),
       equation=("V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K", ""))
def scaled_dot_product_attention_vjp(g: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
                                     key: Tensor | None = None, *, causal: bool = False, scale: float | None = None,
                                     p: float = 0.0, lse: Any = None, out: Any = None) -> Tensor:
    """The pullback of attention, packed in one vector: q's gradient, then k's, then v's.

    `lse` and `out` are what the forward kernel found; the meaning finds them again.
    """
    s = 1.0 if scale is None else scale
    weights = _weights(q, k, mask, causal, s)
    kept = dropout(weights, key, p=p) if p else weights
    dv = matmul(kept.mT, g)
    dw = matmul(g, v.mT)
    ds = softmax_vjp(dropout(dw, key, p=p) if p else dw, weights, axis=-1)
    dq, dk = matmul(ds, k) * s, matmul(ds.mT, q) * s
    return concat([reshape(t, shape=(t.size,)) for t in (dq, dk, dv)])
