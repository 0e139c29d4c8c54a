"""Layer normalisation over the last axis, alone and after a residual connection (Add & Norm), and their pullbacks;
normalisation by the mean square, over groups, and to length 1."""
from __future__ import annotations

import math
from typing import Any

from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.dropout import NO_KEY, P, dropout_op, probability_with_key
from engine.ops.elementwise import maximum, rsqrt, sqrt
from engine.ops.reduce import mean, norm, sum_
from engine.ops.shape import concat, reshape
from engine.record import Key, Real, fused
from engine.shapes import Shape, same

SCALED = {"weight": "scales each feature", "bias": "shifts each feature"}
EPS = "what is added to the variance before its root is taken"
FOUND = {"mean": "the means that the forward kernel found, or None",
         "rstd": "1 / σ that it found, or None; the meaning finds both again"}


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
                 "X̂ = (X − mean X)/σ: X̄ = (w Ȳ − mean(w Ȳ) − X̂ mean(w Ȳ X̂))/σ, w̄ = Σ Ȳ X̂, b̄ = Σ Ȳ"),
       shapes="x (…, D), weight (D,), bias (D,) → (…, D)", about={**SCALED, "eps": EPS})
def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Normalise each vector over the last axis to mean 0 and (population) variance 1, then scale and shift.

    Layer normalisation (Ba, Kiros & Hinton 2016; §3.1 of the paper). The mean and the variance are taken over the
    features of one position, never over a batch.
    """
    c = x - mean(x, axis=-1, keepdims=True)
    y = c / sqrt(mean(c * c, axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * weight
    return y + bias if bias is not None else y


def _layer_norm_vjp_shape(g: Shape, x: Shape, weight: Shape | None = None, **_: Any) -> Shape:
    same(g, _feature_axis(x, weight))
    return (math.prod(x) + 2 * x[-1],)


@fused(signature=None, result="float", shape=_layer_norm_vjp_shape, domain=(Real(),),
       samples=(((2, 3), (2, 3), (3,)), ((2, 2, 4), (2, 2, 4), None), ((3,), (3,), (3,)), ((0, 2), (0, 2), (2,))),
       equation=("X̄ = (w Ȳ − mean(w Ȳ) − X̂ mean(w Ȳ X̂))/σ, w̄ = Σ Ȳ X̂, b̄ = Σ Ȳ", ""),
       shapes="g (…, D), x (…, D), weight (D,) → (the size of x + 2D,)",
       about={"g": "the cotangent", "weight": SCALED["weight"], "eps": EPS, **FOUND})
def layer_norm_vjp(g: Tensor, x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-5, mean: Any = None,
                   rstd: Any = None) -> Tensor:
    """The pullback of layer_norm, packed in one vector: x's gradient, then weight's, then bias's."""
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


# --- add & norm -----------------------------------------------------------------------------------
def _add_norm_shape(x: Shape, h: Shape, key: Shape | None = None, weight: Shape | None = None,
                    bias: Shape | None = None, **_: Any) -> Shape:
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return _feature_axis(same(x, h), weight, bias)


def _add_norm_rule(g: Tensor, y: Tensor, x: Tensor, h: Tensor, key: Tensor | None, weight: Tensor | None,
                   bias: Tensor | None, **params: Any) -> list[Tensor | None]:
    packed = add_norm_vjp(g, x, h, key, weight, **params)
    n, d = x.size, x.shape[-1]
    end = 2 * n if params["p"] else n
    dx = reshape(packed[:n], shape=x.shape)
    dh = reshape(packed[n:end], shape=x.shape) if params["p"] else dx
    return [dx, dh, None, packed[end:end + d] if weight is not None else None,
            packed[end + d:] if bias is not None else None]


ADD_NORM: dict[str, Any] = {"signature": None, "result": "float", "choices": lambda *s: {"p": [0.0, 0.4]}}


@fused(**ADD_NORM, joint=_add_norm_rule, saves=(0, 1, 2, 3), shape=_add_norm_shape,
       canonical=lambda params, x, h, key, *s: probability_with_key(params, key),
       residuals=("mean", "rstd", "s", "kept"), domain=(Real(), Real(), Key(), Real()),
       samples=(((2, 3), (2, 3), (), (3,), (3,)), ((2, 2, 4), (2, 2, 4), (), (4,), None), ((3,), (3,), (), None, None),
                ((0, 2), (0, 2), (), (2,), (2,)), ((2, 1), (2, 1), (), None, (1,)),
                ((2, 19), (2, 19), (), (19,), (19,))),
       equation=("S = X + dropout(H), Y = (S − mean S) ⊘ √(var S + ε) ⊙ w + b",
                 "X̄ = S̄ (as in layer_norm), H̄ = dropout(S̄), w̄ = Σ Ȳ Ŝ, b̄ = Σ Ȳ"),
       shapes="x (…, D), h (…, D), key (), weight (D,), bias (D,) → (…, D)",
       about={"x": "the residual stream", "h": "what the sub-layer gave", "key": "needed where p is not 0", **SCALED,
              "p": P, "eps": EPS}, raises=("ShapeError: shapes that do not fit", NO_KEY))
def add_norm(x: Tensor, h: Tensor, key: Tensor | None = None, weight: Tensor | None = None,
             bias: Tensor | None = None, *, p: float = 0.0, eps: float = 1e-5) -> Tensor:
    """layer_norm(x + dropout(h)): the "Add & Norm" around each sub-layer (§3.1 and §5.4 of the paper)."""
    return layer_norm(x + (dropout_op(h, key, p=p) if p else h), weight, bias, eps=eps)


def _add_norm_vjp_shape(g: Shape, x: Shape, h: Shape, key: Shape | None = None, weight: Shape | None = None, *,
                        p: float, **_: Any) -> Shape:
    same(g, _add_norm_shape(x, h, key, weight))
    return (math.prod(x) * (2 if p else 1) + 2 * x[-1],)


@fused(**ADD_NORM, shape=_add_norm_vjp_shape,
       canonical=lambda params, g, x, h, key, *s: probability_with_key(params, key),
       domain=(Real(), Real(), Real(), Key(), Real()),
       samples=(((2, 3), (2, 3), (2, 3), (), (3,)), ((2, 2, 4), (2, 2, 4), (2, 2, 4), (), None),
                ((3,), (3,), (3,), (), (3,)), ((0, 2), (0, 2), (0, 2), (), (2,))),
       equation=("X̄ = S̄ (as in layer_norm), H̄ = dropout(S̄), w̄ = Σ Ȳ Ŝ, b̄ = Σ Ȳ", ""),
       shapes="g (…, D), x (…, D), h (…, D), key (), weight (D,) → (the size of x, twice where p is not 0, + 2D,)",
       about={"g": "the cotangent", "key": "needed where p is not 0", "weight": SCALED["weight"], "p": P, "eps": EPS,
              **FOUND, "s": "x + dropout(h) that the forward kernel found, or None",
              "kept": "the random bits that it decided, or None; the meaning finds both again"},
       raises=("ShapeError: shapes that do not fit", NO_KEY))
def add_norm_vjp(g: Tensor, x: Tensor, h: Tensor, key: Tensor | None = None, weight: Tensor | None = None, *,
                 p: float = 0.0, eps: float = 1e-5, mean: Any = None, rstd: Any = None, s: Any = None,
                 kept: Any = None) -> Tensor:
    """The pullback of add_norm, packed in one vector: x's gradient, then h's if p is not 0 (else it is x's), then
    weight's, then bias's."""
    packed = layer_norm_vjp(g, x + (dropout_op(h, key, p=p) if p else h), weight, eps=eps)
    if not p:
        return packed
    n = x.size
    dh = dropout_op(reshape(packed[:n], shape=x.shape), key, p=p)
    return concat([packed[:n], reshape(dh, shape=(n,)), packed[n:]])


# --- other normalisations, as compositions --------------------------------------------------------
@fused(signature=None, shape=_feature_axis, result="float", domain=(Real(),),
       samples=(((2, 3), (3,)), ((2, 2, 4), None), ((3,), (3,)), ((0, 2), (2,))),
       equation=("Y = X ⊘ √(mean X² + ε) ⊙ w", "X̂ = X/r: X̄ = (w Ȳ − X̂ mean(w Ȳ X̂))/r, w̄ = Σ Ȳ X̂"),
       shapes="x (…, D), weight (D,) → (…, D)",
       about={"weight": SCALED["weight"], "eps": "what is added to the mean square before its root is taken"})
def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """Divide each vector over the last axis by the root of its mean square, then scale (Zhang & Sennrich 2019)."""
    y = x * rsqrt(mean(x * x, axis=-1, keepdims=True) + eps)
    return y * weight if weight is not None else y


def _group_shape(x: Shape, weight: Shape | None = None, bias: Shape | None = None, *, groups: int, **_: Any) -> Shape:
    if len(x) < 2:
        raise ShapeError(f"group norm needs a batch and a channel axis (B, C, …); x has shape {x}")
    if groups < 1 or x[1] % groups:
        raise ShapeError(f"{x[1]} channels cannot be cut into {groups} equal groups")
    for name, s in (("weight", weight), ("bias", bias)):
        if s is not None and s != (x[1],):
            raise ShapeError(f"{name} has shape {s}; there are {x[1]} channels")
    return x


@fused(signature=None, shape=_group_shape, result="float", domain=(Real(),),
       samples=(((2, 4, 3), (4,), (4,)), ((2, 6), None, (6,)), ((1, 2, 2, 2), (2,), None), ((0, 2, 3), (2,), (2,)),
                ((2, 2, 0), None, None)),
       choices=lambda x, *s: {"groups": [n for n in (1, 2, x[1]) if x[1] % n == 0]},
       equation=("Y = (X − mean X) ⊘ √(var X + ε) ⊙ w + b, over each group", "as in layer_norm, over each group"),
       shapes="x (B, C, …), weight (C,), bias (C,) → (B, C, …)",
       about={"weight": "scales each channel", "bias": "shifts each channel", "groups": "in how many groups the C "
              "channels are cut, a divisor of C", "eps": EPS},
       raises=("ShapeError: shapes that do not fit, or channels that cannot be cut into so many groups",))
def group_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, groups: int,
               eps: float = 1e-5) -> Tensor:
    """Normalise groups of channels of each example to mean 0 and variance 1, then scale and shift (Wu & He 2018)."""
    size = x.size // max(x.shape[0] * groups, 1)
    y = reshape(layer_norm(reshape(x, shape=(x.shape[0], groups, size)), eps=eps), shape=x.shape) if x.size else x * 1
    each = (x.shape[1], *(1,) * (x.ndim - 2))
    if weight is not None:
        y = y * reshape(weight, shape=each)
    return y + reshape(bias, shape=each) if bias is not None else y


def _normalize_params(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.one_axis(params["axis"], len(s)), "ord": float(params["ord"])}


@fused(signature=None, canonical=_normalize_params, shape=lambda s, **_: s, result="float",
       domain=(Real(kinks=(0.0,)),), samples=(((3,),), ((2, 3),), ((2, 3, 2),), ((0, 2),)),
       choices=lambda s: {"axis": list(range(len(s))), "ord": [2, 1, 3] if all(s) else [2]},
       equation=("Y = X ⊘ max(‖X‖ₚ, ε)", "X̄ = (Ȳ − n Σ Ȳ Y) ⊘ ‖X‖ₚ, n = the gradient of ‖X‖ₚ"), shapes="x (…) → (…)",
       about={"axis": "the axis along which a vector lies, a negative one counted from the end",
              "ord": "p, which norm it is: see norm", "eps": "ε, the least that is divided by"},
       raises=("ShapeError: an axis that there is not",))
def normalize(x: Tensor, *, axis: int = -1, ord: float = 2, eps: float = 1e-12) -> Tensor:
    """The vectors along an axis divided by their p-norm (p = `ord`), or by eps where that is less."""
    return x / maximum(norm(x, axis=axis, keepdims=True, ord=ord), eps)
