"""Softmax and log-softmax along an axis, and their pullbacks."""
from __future__ import annotations

import math
from typing import Any

from engine import shapes
from engine.core import Tensor, constant
from engine.errors import ShapeError
from engine.ops.elementwise import exp, isfinite, log, where
from engine.ops.reduce import max_, sum_
from engine.record import OUT, Bool, Real, fused
from engine.shapes import Shape


def _axis(params: dict[str, Any], *given: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.one_axis(params["axis"], len(given[0]))}


def _like_first(x: Shape, mask: Shape | None = None, **_: Any) -> Shape:
    if mask is not None and shapes.broadcast([x, mask]) != x:
        raise ShapeError(f"a mask of shape {mask} does not broadcast to {x}")
    return x


AXIS = "the axis over which the exponentials sum to 1, a negative one counted from the end"
MASK = "True = attend; None: everywhere"

ROWS: dict[str, Any] = {"signature": None, "shape": _like_first, "canonical": _axis, "result": "float",
                            "choices": lambda s, *_: {"axis": list(range(len(s)))}, "shapes": "x (…) → (…)",
                            "about": {"axis": AXIS}, "raises": ("ShapeError: an axis that there is not",)}


PAIR: dict[str, Any] = {**ROWS, "shape": lambda g, y, *, axis: shapes.same(g, y),
                        "samples": (((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (2, 1, 3)), ((0, 2), (0, 2))),
                        "shapes": "g (…), y (…) → (…)",
                        "about": {"g": "the cotangent", "y": "what the op gave", "axis": AXIS},
                        "raises": ("ShapeError: an axis that there is not, or g of another shape than y",)}


@fused(**PAIR, equation=("X̄ = Y ⊙ (Ȳ − Σ Ȳ ⊙ Y)", ""))
def softmax_vjp(g: Tensor, y: Tensor, *, axis: int = -1) -> Tensor:
    """The pullback of softmax: y (g − Σ g y)."""
    return y * (g - sum_(g * y, axis=axis, keepdims=True))


@fused(**{**ROWS, "shapes": "x (…), mask (broadcasts to that of x) → (…)", "about": {"axis": AXIS, "mask": MASK},
          "raises": ("ShapeError: an axis that there is not, or a mask that does not broadcast to x",)},
       vjps=[lambda g, y, x, mask, *, axis: softmax_vjp(g, y, axis=axis), None], saves=(OUT,), domain=(Real(), Bool()),
       samples=(((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 3), (1, 3)), ((2, 3), None), ((2, 3, 2), None), ((0, 3), None)),
       equation=("Y = eˣ ⊘ Σ eˣ", "X̄ = Y ⊙ (Ȳ − Σ Ȳ ⊙ Y)"))
def softmax(x: Tensor, mask: Tensor | None = None, *, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ along an axis, without overflow. Where a mask is false the result is 0; a fully masked row is all 0."""
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
    """The logarithm of softmax along an axis, without overflow."""
    if not x.shape[axis]:
        return x * 1
    top = constant(max_(x, axis=axis, keepdims=True))
    c = x - where(isfinite(top), top, 0.0)
    return c - log(sum_(exp(c), axis=axis, keepdims=True))
