"""Linear layers with what goes on them, bias, relu and dropout, and several layers of one input side by side."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.activation import relu
from engine.ops.dropout import BAD_P, NO_KEY, P, dropout_op, probability
from engine.ops.elementwise import where
from engine.ops.matmul import matmul
from engine.ops.reduce import sum_
from engine.ops.shape import concat, reshape
from engine.record import OUT, Key, Real, fused
from engine.shapes import Shape, same

ACTIVATIONS = ("none", "relu")


# --- one layer ------------------------------------------------------------------------------------
def _layer(x: Shape, weight: Shape, bias: Shape | None, name: str = "weight") -> int:
    """The number of features that come out."""
    if not x:
        raise ShapeError("a linear layer needs a feature axis; the input is 0-d")
    if len(weight) != 2 or weight[0] != x[-1]:
        raise ShapeError(f"{name} has shape {weight}; an input of {x[-1]} features takes one of ({x[-1]}, outputs)")
    if bias is not None and bias != weight[1:]:
        raise ShapeError(f"the bias beside {name} has shape {bias}; there are {weight[1]} outputs")
    return weight[1]


def _linear_shape(x: Shape, weight: Shape, bias: Shape | None = None, key: Shape | None = None, **_: Any) -> Shape:
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return (*x[:-1], _layer(x, weight, bias))


def _linear_params(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
    probability(params)
    if params["activation"] not in ACTIVATIONS:
        raise ValueError(f"activation is {params['activation']!r}; there are {' and '.join(map(repr, ACTIVATIONS))}")
    if params["p"] and given[-1] is None:
        raise ValueError(f"p is {params['p']}, and dropout needs a key to be repeatable: pass engine.random.next_key()")
    return params


def _linear_rule(g: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, key: Tensor | None, *,
                 activation: str, p: float) -> list[Tensor | None]:
    if activation == "relu":
        g = relu_dropout_vjp(g, y, p=p)
    elif p:
        g = dropout_op(g, key, p=p)
    packed = linear_vjp(x, g)
    n = weight.size
    return [matmul(g, weight.mT), reshape(packed[:n], shape=weight.shape), packed[n:] if bias is not None else None,
            None]


@fused(signature=None, shape=_linear_shape, canonical=_linear_params, result="float", joint=_linear_rule,
       saves=(0, 1, 3, OUT), domain=(Real(), Real(), Real(), Key()),
       samples=(((2, 3), (3, 5), (5,), ()), ((2, 1, 4), (4, 3), None, ()), ((4,), (4, 2), (2,), ()),
                ((3, 1), (1, 1), (1,), ()), ((0, 2), (2, 3), (3,), ()), ((2, 2), (2, 0), (0,), ()),
                ((17, 2), (2, 35), (35,), ())),
       choices=lambda *s: {"activation": [*ACTIVATIONS], "p": [0.0, 0.4]},
       equation=("Y = dropout(f(X W + b))", "S̄ = f'(Y) Ȳ: X̄ = S̄ Wᵀ, W̄ = Xᵀ S̄, b̄ = Σ S̄"),
       shapes="x (…, I), weight (I, O), bias (O,), key () → (…, O)",
       about={"key": "needed where p is not 0", "activation": 'f, "none" or "relu"', "p": P},
       raises=("ShapeError: shapes that do not fit", NO_KEY, "ShapeError (a ValueError): another activation"))
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, key: Tensor | None = None, *,
           activation: str = "none", p: float = 0.0) -> Tensor:
    """dropout(activation(x weight + bias)): a linear layer and what often goes on it."""
    y = matmul(x, weight)
    if bias is not None:
        y = y + bias
    if activation == "relu":
        y = relu(y)
    return dropout_op(y, key, p=p) if p else y                                                        # (…, O)


@fused(signature=None, shape=lambda g, y, **_: same(g, y), canonical=probability, result="float", domain=(Real(),),
       samples=(((3, 2), (3, 2)), ((), ()), ((0, 2), (0, 2)), ((21,), (21,))),
       choices=lambda *s: {"p": [0.0, 0.4, 1.0]}, equation=("X̄ = Ȳ ⊙ [y > 0] / (1 − p)", ""),
       shapes="g (…), y (…) → (…)", about={"g": "the cotangent", "y": "what the op gave", "p": P},
       raises=("ShapeError: g of another shape than y", BAD_P))
def relu_dropout_vjp(g: Tensor, y: Tensor, *, p: float = 0.0) -> Tensor:
    """The pullback of y = dropout(relu(x)): g/(1 − p) where y > 0, else 0."""
    return where(y > 0, g * (1 / (1 - p) if p < 1 else 0.0), 0.0)


# --- several layers side by side -------------------------------------------------------------------
def _linears_shape(x: Shape, w1: Shape, w2: Shape, w3: Shape | None = None, b1: Shape | None = None,
                   b2: Shape | None = None, b3: Shape | None = None, **_: Any) -> Shape:
    if w3 is None and b3 is not None:
        raise ShapeError("b3 is given without w3")
    layers = [("w1", w1, b1), ("w2", w2, b2), *([("w3", w3, b3)] if w3 is not None else [])]
    return (*x[:-1], sum(_layer(x, w, b, name) for name, w, b in layers))


def _linears_rule(g: Tensor, y: Tensor, x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor | None, b1: Tensor | None,
                  b2: Tensor | None, b3: Tensor | None) -> list[Tensor | None]:
    weights, biases = [w1, w2, w3], [b1, b2, b3]
    packed = linear_vjp(x, g, widths=tuple(w.shape[1] for w in weights if w is not None))
    dw: list[Tensor | None] = [None, None, None]
    db: list[Tensor | None] = [None, None, None]
    at = 0
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if w is not None:
            middle, end = at + w.size, at + w.size + w.shape[1]
            dw[i] = reshape(packed[at:middle], shape=w.shape)
            db[i] = packed[middle:end] if b is not None else None
            at = end
    return [linears_input_vjp(g, w1, w2, w3), *dw, *db]


@fused(signature=None, shape=_linears_shape, result="float", joint=_linears_rule, saves=(0, 1, 2, 3), domain=(Real(),),
       samples=(((2, 3), (3, 2), (3, 4), (3, 1), (2,), (4,), (1,)), ((2, 1, 2), (2, 3), (2, 3), None, None, (3,), None),
                ((3,), (3, 1), (3, 2), (3, 2), (1,), None, None), ((0, 2), (2, 1), (2, 2), None, (1,), (2,), None),
                ((2, 2), (2, 0), (2, 33), (2, 17), (0,), (33,), (17,))),
       equation=("Y = (X W₁ + b₁, X W₂ + b₂, X W₃ + b₃)", "X̄ = Ȳ₁W₁ᵀ + Ȳ₂W₂ᵀ + Ȳ₃W₃ᵀ, W̄ᵢ = Xᵀ Ȳᵢ, b̄ᵢ = Σ Ȳᵢ"),
       shapes="x (…, I), w1 (I, O₁), w2 (I, O₂), w3 (I, O₃), b1 (O₁,), b2 (O₂,), b3 (O₃,) → (…, O₁ + O₂ + O₃)",
       about={"w3": "without it there are two layers", "b3": "only with w3"})
def linears(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor | None = None, b1: Tensor | None = None,
            b2: Tensor | None = None, b3: Tensor | None = None) -> Tensor:
    """Two or three linear layers of one input, their outputs side by side."""
    layers = [(w, b) for w, b in ((w1, b1), (w2, b2), (w3, b3)) if w is not None]
    return concat([linear(x, w, b) for w, b in layers], axis=-1)


def _linears_input_shape(g: Shape, w1: Shape, w2: Shape, w3: Shape | None = None, **_: Any) -> Shape:
    weights = [w for w in (w1, w2, w3) if w is not None]
    if not g or any(len(w) != 2 or w[0] != w1[0] for w in weights):
        raise ShapeError(f"a cotangent of shape {g} and weights of shapes {', '.join(map(str, weights))}")
    outputs = sum(w[1] for w in weights)
    if g[-1] != outputs:
        raise ShapeError(f"the cotangent has {g[-1]} features, the layers have {outputs}")
    return (*g[:-1], w1[0])


@fused(signature=None, shape=_linears_input_shape, result="float", domain=(Real(),),
       samples=(((2, 7), (3, 2), (3, 4), (3, 1)), ((2, 1, 3), (2, 2), (2, 1), None), ((3,), (2, 1), (2, 2), None),
                ((0, 3), (2, 1), (2, 2), None), ((17, 3), (33, 0), (33, 1), (33, 2))),
       equation=("X̄ = Ȳ₁W₁ᵀ + Ȳ₂W₂ᵀ + Ȳ₃W₃ᵀ", ""),
       shapes="g (…, O₁ + O₂ + O₃), w1 (I, O₁), w2 (I, O₂), w3 (I, O₃) → (…, I)", about={"g": "the cotangent"})
def linears_input_vjp(g: Tensor, w1: Tensor, w2: Tensor, w3: Tensor | None = None) -> Tensor:
    """The gradient of the input of `linears`, each element one sum over the outputs of all layers."""
    return matmul(g, concat([w for w in (w1, w2, w3) if w is not None], axis=1).mT)


# --- the gradients of weights and biases -----------------------------------------------------------
def _linear_vjp_params(params: dict[str, Any], x: Shape, g: Shape) -> dict[str, Any]:
    widths = params["widths"]
    return {**params, "widths": g[-1:] if widths is None else tuple(int(n) for n in widths)}


def _linear_vjp_shape(x: Shape, g: Shape, *, widths: Sequence[int] = ()) -> Shape:
    if not x or not g or x[:-1] != g[:-1]:
        raise ShapeError(f"an input of shape {x} and a cotangent of shape {g} must differ in the last axis only")
    if sum(widths) != g[-1] or min(widths, default=0) < 0:
        raise ShapeError(f"the cotangent has {g[-1]} features, the layers have {tuple(widths)}")
    return ((x[-1] + 1) * g[-1],)


@fused(signature=None, shape=_linear_vjp_shape, canonical=_linear_vjp_params, result="float", domain=(Real(),),
       samples=(((2, 3), (2, 5)), ((2, 2, 4), (2, 2, 3)), ((3,), (2,)), ((0, 2), (0, 3)), ((3, 0), (3, 2)),
                ((21, 2), (21, 37)), ((2, 2), (2, 0))),
       choices=lambda x, g: {"widths": [None, (1, g[-1] - 1)] if g[-1] else [None]},
       equation=("W̄ = Xᵀ Ȳ, b̄ = Σ Ȳ", ""), shapes="x (…, I), g (…, O) → ((I + 1) O,)",
       about={"x": "the input of the layers", "g": "the cotangent of their outputs, side by side",
              "widths": "how many features each layer has; None: one layer has them all"})
def linear_vjp(x: Tensor, g: Tensor, *, widths: Sequence[int] | None = None) -> Tensor:
    """The gradients of the weights and biases of linear layers of one input, packed in one vector.

    In turn for each: the weight's (I, width), then the bias's (width,), a sum over the rows in their order.
    """
    x, g = (reshape(t, shape=(math.prod(t.shape[:-1]), t.shape[-1])) for t in (x, g))
    parts, at = [], 0
    for n in widths or ():
        part = g[:, at:at + n]
        parts += [reshape(matmul(x.mT, part), shape=(x.shape[1] * n,)), sum_(part, axis=0)]
        at += n
    return concat(parts)
