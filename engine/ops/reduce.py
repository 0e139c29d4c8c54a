"""Ops that make fewer numbers of many."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor, constant
from engine.errors import ShapeError
from engine.ops.elementwise import exp, isfinite, log, where
from engine.ops.shape import broadcast_to, expand_dims
from engine.record import OUT, Op, fused, op
from engine.shapes import Shape


def _axes(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.some_axes(params["axis"], len(s))}


def _some_axes(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    params = _axes(params, s)
    if any(s[a] == 0 for a in params["axis"]):
        raise ShapeError(f"there is no largest or smallest of zero numbers: axes {params['axis']} of shape {s}")
    return params


def _reduced(s: Shape, *, axis: tuple[int, ...], keepdims: bool, **_: Any) -> Shape:
    return shapes.reduced(s, axis, keepdims)


def _choices(s: Shape) -> dict[str, list[Any]]:
    axes: list[Any] = [None, *range(len(s))]
    return {"axis": [*axes, (0, len(s) - 1)] if len(s) > 1 else axes, "keepdims": [False, True]}


def _kept(g: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """A reduced tensor with the reduced axes kept at size 1."""
    return g if keepdims or not axis else expand_dims(g, axis=axis)


sum_ = op("sum", lambda x, *, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=keepdims),
          lambda g, y, x, *, axis, keepdims: broadcast_to(_kept(g, axis, keepdims), shape=x.shape),
          saves=(), signature=None, shape=_reduced, canonical=_axes, choices=_choices, result="sum",
          equation=("Y = Σ X", "X̄ = Ȳ, repeated"),
          doc="Sum over axes (None: all). Integers and truth values give int64.")


def _tied(g: Tensor, y: Tensor, x: Tensor, *, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """The gradient goes to the extreme element; tied elements share it equally."""
    hit = where(x == _kept(y, axis, keepdims), 1.0, 0.0).astype(x.dtype)
    return _kept(g, axis, keepdims) * (hit / sum_(hit, axis=axis, keepdims=True))


max_ = op("max", lambda x, *, axis=None, keepdims=False: np.max(x, axis=axis, keepdims=keepdims), _tied,
          saves=(0, OUT), signature=None, shape=_reduced, canonical=_some_axes, choices=_choices,
          samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),), ((2, 2, 1, 3),)),
          equation=("Y = max X", "X̄ = Ȳ ⊙ [X = Y], shared by ties"),
          doc="The largest over axes (None: all); tied elements share the gradient equally.")
min_ = op("min", lambda x, *, axis=None, keepdims=False: np.min(x, axis=axis, keepdims=keepdims), _tied,
          saves=(0, OUT), signature=None, shape=_reduced, canonical=_some_axes, choices=_choices,
          samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),), ((2, 2, 1, 3),)),
          equation=("Y = min X", "X̄ = Ȳ ⊙ [X = Y], shared by ties"),
          doc="The smallest over axes (None: all); tied elements share the gradient equally.")


def _one_or_all(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = params["axis"]
    over = s if axis is None else (s[shapes.one_axis(axis, len(s))],)
    if 0 in over:
        raise ShapeError(f"there is no largest of zero numbers: axis {axis} of shape {s}")
    return {**params, "axis": None if axis is None else shapes.one_axis(axis, len(s))}


argmax = op("argmax", lambda x, *, axis=None, keepdims=False: np.argmax(x, axis=axis, keepdims=keepdims), None,
            saves=(), signature=None, canonical=_one_or_all, result="int64",
            shape=lambda s, *, axis, keepdims: shapes.reduced(s, range(len(s)) if axis is None else (axis,), keepdims),
            choices=lambda s: {"axis": [None, *range(len(s))], "keepdims": [False, True]},
            samples=(((3,),), ((2, 3),), ((2, 1, 3),)),
            equation=("Y = the index of max X", ""), doc="Index of the largest, the first of ties (None: in C order).")


def _reversed(x: Tensor, axis: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(None, None, -1),)]


cumsum: Op = op("cumsum", lambda x, *, axis=-1: np.cumsum(x, axis=axis),
            lambda g, y, x, *, axis: _reversed(cumsum(_reversed(g, axis), axis=axis), axis),
            saves=(), signature=None, shape=lambda s, *, axis: s, result="sum",
            canonical=lambda params, s: {"axis": shapes.one_axis(params["axis"], len(s))},
            choices=lambda s: {"axis": list(range(len(s)))}, samples=(((3,),), ((2, 3),), ((2, 3, 2),), ((0,),)),
            equation=("yᵢ = Σ_{j ≤ i} xⱼ", "x̄ᵢ = Σ_{j ≥ i} ȳⱼ"), doc="Running sum along an axis.")


# --- compositions ---------------------------------------------------------------------------------
REDUCTION: dict[str, Any] = {"signature": None, "shape": _reduced, "canonical": _axes, "choices": _choices,
                             "result": "float"}


@fused(**REDUCTION, equation=("Y = Σ X / n", "X̄ = Ȳ / n, repeated"))
def mean(x: Tensor, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean over axes (None: all); of no numbers it is NaN."""
    return sum_(x, axis=axis, keepdims=keepdims) / _number(x, axis)


def _number(x: Tensor, axis: tuple[int, ...]) -> float:
    return float(np.prod([x.shape[a] for a in axis], dtype=np.int64))


@fused(**{**REDUCTION, "choices": lambda s: {**_choices(s), "correction": [0, 1] if all(n > 1 for n in s) else [0]}},
       equation=("Y = Σ (X − mean X)² / (n − correction)", "X̄ = 2 Ȳ ⊙ (X − mean X) / (n − correction)"))
def var(x: Tensor, *, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Tensor:
    """The variance over axes (None: all): of the population, or with correction=1 estimated from a sample."""
    c = x - mean(x, axis=axis, keepdims=True)
    return sum_(c * c, axis=axis, keepdims=keepdims) / (_number(x, axis) - correction)


@fused(**{**REDUCTION, "canonical": _some_axes}, samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),)),
       equation=("Y = log Σ eˣ", "X̄ = Ȳ ⊙ softmax X"))
def logsumexp(x: Tensor, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log Σ eˣ over axes (None: all), without overflow."""
    top = constant(max_(x, axis=axis, keepdims=True))
    top = where(isfinite(top), top, 0.0)
    y = log(sum_(exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else y.squeeze(axis)
