"""Scaled dot-product attention (§3.2.1 of the paper), and its pullback."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import random, shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.dropout import dropout, probability
from engine.ops.matmul import matmul
from engine.ops.shape import concat, reshape, swapaxes
from engine.ops.softmax import softmax, softmax_vjp
from engine.record import OUT, Bool, Key, Real, fused
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
