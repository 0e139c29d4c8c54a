"""Scaled dot-product attention (§3.2.1 of the paper), and its pullback."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import random, shapes
from engine.core import Tensor
from engine.describe import face
from engine.errors import ShapeError
from engine.ops.dropout import NO_KEY, P, dropout, probability
from engine.ops.matmul import matmul
from engine.ops.shape import concat, reshape, split, swapaxes
from engine.ops.softmax import softmax, softmax_vjp
from engine.record import Bool, Key, Real, fused
from engine.shapes import Shape


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
    probability(params)
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
        past = Tensor(np.tril(np.ones((t, s), bool), s - t), name="causal mask", device=q.device)
        mask = past if mask is None else mask & past
    return softmax(scores, mask, axis=-1)


def _attention_rule(g: Tensor, y: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, key: Tensor | None,
                    **params: Any) -> list[Tensor | None]:
    packed = scaled_dot_product_attention_vjp(g, q, k, v, mask, key, **params)
    a, b = q.size, q.size + k.size
    return [reshape(packed[:a], shape=q.shape), reshape(packed[a:b], shape=k.shape),
            reshape(packed[b:], shape=v.shape), None, None]


HOW = {"mask": "True = attend; broadcasts to the shape of the scores", "key": "needed where p is not 0",
       "causal": "whether query t sees the keys up to t + S − T alone, of S keys and T queries",
       "scale": "by what the scores are multiplied; None: 1 / √K, K the features of a head",
       "p": P.replace("dropout", "dropout on the weights")}
HEADS = {**HOW, "heads": "H, in how many heads the D features are cut, a divisor of D"}
QKV = "queries, keys and values side by side, head h in features hK … (h + 1)K − 1 of each, K = D / H"
KV = "keys and values side by side, head h in features hK … (h + 1)K − 1 of each, K = D / H"
WEIGHTS = "the weights that the forward kernel kept, or None; the meaning finds them again"
RAISES = ("ShapeError: shapes that do not fit", NO_KEY)
HEADS_RAISE = ("ShapeError: shapes that do not fit, or features that cannot be cut into so many heads", NO_KEY)

ATTENTION: dict[str, Any] = {"signature": None, "canonical": _attention_params, "result": "float",
                             "choices": lambda *s: {"causal": [False, True], "scale": [None, 0.3], "p": [0.0, 0.4]}}


@fused(**ATTENTION, joint=_attention_rule, saves=(0, 1, 2, 3, 4), shape=_attention_shape, residuals=("weights",),
       domain=(Real(), Real(), Real(), Bool(), Key()),
       samples=(((2, 3), (4, 3), (4, 2), (1, 4), ()), ((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4), (2, 1, 1, 3), ()),
                ((2, 1, 2), (2, 3, 2), (2, 3, 2), None, ()), ((1, 3, 2), (1, 3, 2), (1, 3, 2), (3, 3), ())),
       equation=("Y = softmax(Q Kᵀ / √K) V", "V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K"),
       shapes="q (…, T, K), k (…, S, K), v (…, S, N), mask (broadcasts to (…, T, S)), key () → (…, T, N)",
       about={"q": "queries", "k": "keys", "v": "values", **HOW}, raises=RAISES)
def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
                                 key: Tensor | None = None, *,
                                 causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """softmax(q kᵀ · scale) v, scaled dot-product attention (§3.2.1 of the paper).

    A query that may see no key gives zeros.
    """
    weights = _weights(q, k, mask, causal, 1.0 if scale is None else scale)
    if p:
        weights = dropout(weights, key, p=p)
    return matmul(weights, v)                                                                        # (…, T, N)


@face(scaled_dot_product_attention)
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
    return (sum(math.prod(s) for s in (q, k, v)),)


@fused(**ATTENTION, shape=_attention_vjp_shape,
       saves=(0, 1, 2, 3, 4, 5), domain=(Real(), Real(), Real(), Real(), Bool(), Key()),
       samples=(((2, 2), (2, 3), (4, 3), (4, 2), (1, 4), ()), ((2, 1, 2), (2, 1, 2), (2, 3, 2), (2, 3, 2), None, ())),
       equation=("V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K", ""),
       shapes="g (…, T, N), q (…, T, K), k (…, S, K), v (…, S, N), mask (broadcasts to (…, T, S)), key () → "
              "(the sizes of q, k and v together,)",
       about={"g": "the cotangent", "q": "queries", "k": "keys", "v": "values", **HOW, "weights": WEIGHTS},
       raises=RAISES)
def scaled_dot_product_attention_vjp(g: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
                                     key: Tensor | None = None, *, causal: bool = False, scale: float | None = None,
                                     p: float = 0.0, weights: Any = None) -> Tensor:
    """The pullback of attention, packed in one vector: q's gradient, then k's, then v's."""
    s = 1.0 if scale is None else scale
    w = _weights(q, k, mask, causal, s)
    kept = dropout(w, key, p=p) if p else w
    dv = matmul(kept.mT, g)
    dw = matmul(g, v.mT)
    ds = softmax_vjp(dropout(dw, key, p=p) if p else dw, w, axis=-1)
    dq, dk = matmul(ds, k) * s, matmul(ds.mT, q) * s
    return concat([reshape(t, shape=(t.size,)) for t in (dq, dk, dv)])


# --- all heads of packed projections --------------------------------------------------------------
def _head_shapes(q: Shape, packed: Shape, parts: int, heads: int) -> tuple[Shape, Shape]:
    """(B, H, T, K) and (B, H, S, K) of queries (B, T, D) and keys in `packed` (B, S, parts · D)."""
    if len(q) != 3 or len(packed) != 3:
        raise ShapeError("packed projections have three axes: batch, length and features")
    if packed[2] != parts * q[2]:
        raise ShapeError(f"{packed[2]} features are not {parts} times {q[2]}")
    if heads < 1 or q[2] % heads:
        raise ShapeError(f"{q[2]} features cannot be cut into {heads} equal heads")
    return (q[0], heads, q[1], q[2] // heads), (packed[0], heads, packed[1], q[2] // heads)


def _self_shape(qkv: Shape, mask: Shape | None = None, key: Shape | None = None, *, heads: int, **_: Any) -> Shape:
    if len(qkv) != 3 or qkv[2] % 3:
        raise ShapeError("qkv has three axes, and queries, keys and values of one size side by side in the last")
    out = (*qkv[:2], qkv[2] // 3)
    q, k = _head_shapes(out, qkv, 3, heads)
    _attention_shape(q, k, k, mask, key)
    return out


def _cross_shape(q: Shape, kv: Shape, mask: Shape | None = None, key: Shape | None = None, *, heads: int,
                 **_: Any) -> Shape:
    one, k = _head_shapes(q, kv, 2, heads)
    _attention_shape(one, k, k, mask, key)
    return q


def _packed_params(features: Any) -> Any:
    """The params in normal form; `features` gives D from the shapes that are given."""
    def canonical(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
        params = {**params, "heads": int(params["heads"])}
        d = features(given) // max(1, params["heads"])
        return _attention_params(params, (d,), (), (), (), given[-1])
    return canonical


def _split_heads(x: Tensor, parts: int, heads: int) -> list[Tensor]:
    """The parts of x (B, T, parts · D), each as (B, H, T, K)."""
    b, t, _ = x.shape
    return [swapaxes(reshape(part, shape=(b, t, heads, part.shape[2] // heads)), axis1=1, axis2=2)
            for part in (split(x, parts, axis=2) if parts > 1 else [x])]


def _join_heads(parts: list[Tensor]) -> Tensor:
    """The reverse: tensors (B, H, T, K) as one of shape (B, T, parts · D)."""
    b, h, t, k = parts[0].shape
    flat = [reshape(swapaxes(x, axis1=1, axis2=2), shape=(b, t, h * k)) for x in parts]
    return concat(flat, axis=2) if len(flat) > 1 else flat[0]


def _gradients(g: Tensor, parts: list[Tensor], heads: int, *rest: Any, **params: Any) -> list[Tensor]:
    """The gradients of the parts q, k and v, all (B, H, …, K), for g (B, T, D)."""
    q, k, v = parts
    packed = scaled_dot_product_attention_vjp(*_split_heads(g, 1, heads), q, k, v, *rest, **params)
    a, b = q.size, q.size + k.size
    return [reshape(packed[:a], shape=q.shape), reshape(packed[a:b], shape=k.shape),
            reshape(packed[b:], shape=v.shape)]


def _choices(size: Any) -> Any:
    """Parameters that tests may draw: `size` gives the features of all heads from the shapes."""
    return lambda *s: {"heads": [h for h in range(1, size(s) + 1) if size(s) % h == 0], "causal": [False, True],
                       "scale": [None, 0.3], "p": [0.0, 0.4]}


ONE: dict[str, Any] = {"signature": None, "result": "float", "canonical": _packed_params(
    lambda given: given[-3][-1] // 3 if given[-3] else 0)}
TWO: dict[str, Any] = {"signature": None, "result": "float", "canonical": _packed_params(
    lambda given: given[-4][-1] if given[-4] else 0)}


def _self_rule(g: Tensor, y: Tensor, qkv: Tensor, mask: Tensor | None, key: Tensor | None, **params: Any) -> Tensor:
    return self_attention_vjp(g, qkv, mask, key, **params)


@fused(**ONE, vjps=[_self_rule, None, None],
       saves=(0, 1, 2), shape=_self_shape, residuals=("weights",), domain=(Real(), Bool(), Key()),
       choices=_choices(lambda s: s[0][2] // 3),
       samples=(((2, 3, 12), (2, 1, 1, 3), ()), ((1, 2, 9), None, ()), ((2, 1, 6), (1, 1), ())),
       equation=("Y = [softmax(Qₕ Kₕᵀ / √K) Vₕ]ₕ, X = [Q K V]",
                 "V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K"),
       shapes="qkv (B, T, 3D), mask (broadcasts to (B, H, T, T)), key () → (B, T, D)",
       about={"qkv": QKV, **HEADS}, raises=HEADS_RAISE)
def self_attention(qkv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *, heads: int,
                   causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """Attention of H heads side by side (§3.2.2 of the paper) on packed projections of one sequence.

    A query that may see no key gives zeros.
    """
    q, k, v = _split_heads(qkv, 3, heads)
    return _join_heads([scaled_dot_product_attention(q, k, v, mask, key, causal=causal, scale=scale, p=p)])


def _self_vjp_shape(g: Shape, qkv: Shape, mask: Shape | None = None, key: Shape | None = None, **params: Any) -> Shape:
    shapes.same(g, _self_shape(qkv, mask, key, **params))
    return qkv


@fused(**ONE, shape=_self_vjp_shape, saves=(0, 1, 2, 3), domain=(Real(), Real(), Bool(), Key()),
       choices=_choices(lambda s: s[0][2]),
       samples=(((2, 3, 4), (2, 3, 12), (2, 1, 1, 3), ()), ((1, 2, 2), (1, 2, 6), None, ())),
       equation=("V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K", ""),
       shapes="g (B, T, D), qkv (B, T, 3D), mask (broadcasts to (B, H, T, T)), key () → (B, T, 3D)",
       about={"g": "the cotangent", "qkv": QKV, **HEADS, "weights": WEIGHTS}, raises=HEADS_RAISE)
def self_attention_vjp(g: Tensor, qkv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *, heads: int,
                       causal: bool = False, scale: float | None = None, p: float = 0.0,
                       weights: Any = None) -> Tensor:
    """The pullback of `self_attention`, of the shape of its input."""
    parts = _split_heads(qkv, 3, heads)
    return _join_heads(_gradients(g, parts, heads, mask, key, causal=causal, scale=scale, p=p))


def _cross_rule(g: Tensor, y: Tensor, q: Tensor, kv: Tensor, mask: Tensor | None, key: Tensor | None,
                **params: Any) -> list[Tensor | None]:
    packed = cross_attention_vjp(g, q, kv, mask, key, **params)
    return [reshape(packed[:q.size], shape=q.shape), reshape(packed[q.size:], shape=kv.shape), None, None]


@fused(**TWO, joint=_cross_rule, saves=(0, 1, 2, 3), shape=_cross_shape, residuals=("weights",),
       domain=(Real(), Real(), Bool(), Key()), choices=_choices(lambda s: s[0][2]),
       samples=(((2, 3, 4), (2, 2, 8), (2, 1, 1, 2), ()), ((1, 2, 3), (1, 4, 6), None, ()),
                ((2, 1, 2), (2, 3, 4), (1, 3), ())),
       equation=("Y = [softmax(Qₕ Kₕᵀ / √K) Vₕ]ₕ, X = [K V]",
                 "V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K"),
       shapes="q (B, T, D), kv (B, S, 2D), mask (broadcasts to (B, H, T, S)), key () → (B, T, D)",
       about={"q": "queries", "kv": KV, **HEADS}, raises=HEADS_RAISE)
def cross_attention(q: Tensor, kv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *, heads: int,
                    causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """Attention of H heads side by side (§3.2.2 of the paper) from one sequence to another.

    A query that may see no key gives zeros.
    """
    one, k, v = *_split_heads(q, 1, heads), *_split_heads(kv, 2, heads)
    return _join_heads([scaled_dot_product_attention(one, k, v, mask, key, causal=causal, scale=scale, p=p)])


def _cross_vjp_shape(g: Shape, q: Shape, kv: Shape, mask: Shape | None = None, key: Shape | None = None,
                     **params: Any) -> Shape:
    shapes.same(g, _cross_shape(q, kv, mask, key, **params))
    return (math.prod(q) + math.prod(kv),)


@fused(**TWO, shape=_cross_vjp_shape, saves=(0, 1, 2, 3, 4), domain=(Real(), Real(), Real(), Bool(), Key()),
       choices=_choices(lambda s: s[0][2]),
       samples=(((2, 3, 4), (2, 3, 4), (2, 2, 8), (2, 1, 1, 2), ()), ((1, 2, 3), (1, 2, 3), (1, 4, 6), None, ())),
       equation=("V̄ = Pᵀ Ȳ, S̄ = softmax'(Ȳ Vᵀ), Q̄ = S̄ K/√K, K̄ = S̄ᵀ Q/√K", ""),
       shapes="g (B, T, D), q (B, T, D), kv (B, S, 2D), mask (broadcasts to (B, H, T, S)), key () → "
              "(the sizes of q and kv together,)",
       about={"g": "the cotangent", "q": "queries", "kv": KV, **HEADS, "weights": WEIGHTS}, raises=HEADS_RAISE)
def cross_attention_vjp(g: Tensor, q: Tensor, kv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *,
                        heads: int, causal: bool = False, scale: float | None = None, p: float = 0.0,
                        weights: Any = None) -> Tensor:
    """The pullback of `cross_attention`, packed in one vector: q's gradient, then kv's."""
    parts = [*_split_heads(q, 1, heads), *_split_heads(kv, 2, heads)]
    dq, dk, dv = _gradients(g, parts, heads, mask, key, causal=causal, scale=scale, p=p)
    return concat([reshape(x, shape=(x.size,)) for x in (_join_heads([dq]), _join_heads([dk, dv]))])


@face(self_attention)
def attend_within(qkv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *, heads: int,
                  causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """The op `self_attention`; where dropout needs a key and none is given, the next one of the seed."""
    if p and key is None:
        key = random.next_key()
    return self_attention(qkv, mask, key, heads=heads, causal=causal, scale=scale, p=p)


@face(cross_attention)
def attend_across(q: Tensor, kv: Tensor, mask: Tensor | None = None, key: Tensor | None = None, *, heads: int,
                  causal: bool = False, scale: float | None = None, p: float = 0.0) -> Tensor:
    """The op `cross_attention`; where dropout needs a key and none is given, the next one of the seed."""
    if p and key is None:
        key = random.next_key()
    return cross_attention(q, kv, mask, key, heads=heads, causal=causal, scale=scale, p=p)
