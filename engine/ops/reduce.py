"""Ops that make fewer numbers of many."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor, constant
from engine.errors import ShapeError
from engine.ops.elementwise import abs_, exp, isfinite, log, not_equal, sqrt, where
from engine.ops.shape import broadcast_to, expand_dims, reshape
from engine.record import OUT, Op, Real, fused, op
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


def kept(g: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """A reduced tensor with the reduced axes kept at size 1."""
    return g if keepdims or not axis else expand_dims(g, axis=axis)


AXES = {"axis": "an axis or a tuple of axes to go over, negative ones counted from the end; None: all",
        "keepdims": "whether these axes stay, with size 1"}
OVER: dict[str, Any] = {"about": AXES, "raises": ("ShapeError: an axis that there is not, or one named twice",),
                        "shapes": "x (…) → the shape of x without the axes gone over; with keepdims 1 for each of them"}
SOME: dict[str, Any] = {**OVER, "raises": (*OVER["raises"], "ShapeError: axes that hold no number")}

sum_ = op("sum", lambda x, *, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=keepdims),
          lambda g, y, x, *, axis, keepdims: broadcast_to(kept(g, axis, keepdims), shape=x.shape),
          saves=(), signature=None, shape=_reduced, canonical=_axes, choices=_choices, result="sum",
          equation=("Y = Σ X", "X̄ = Ȳ, repeated"),
          doc="The sum over axes (None: all), as numpy.sum; of no numbers it is 0.", **OVER)


def _tied(g: Tensor, y: Tensor, x: Tensor, *, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """The gradient goes to the extreme element; tied elements share it equally."""
    hit = where(x == kept(y, axis, keepdims), 1.0, 0.0).astype(x.dtype)
    return kept(g, axis, keepdims) * (hit / sum_(hit, axis=axis, keepdims=True))


max_ = op("max", lambda x, *, axis=None, keepdims=False: np.max(x, axis=axis, keepdims=keepdims), _tied,
          saves=(0, OUT), signature=None, shape=_reduced, canonical=_some_axes, choices=_choices,
          samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),), ((2, 2, 1, 3),)),
          equation=("Y = max X", "X̄ = Ȳ ⊙ [X = Y], shared by ties"),
          doc="The largest over axes (None: all), as numpy.max; tied elements share the gradient equally.", **SOME)
min_ = op("min", lambda x, *, axis=None, keepdims=False: np.min(x, axis=axis, keepdims=keepdims), _tied,
          saves=(0, OUT), signature=None, shape=_reduced, canonical=_some_axes, choices=_choices,
          samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),), ((2, 2, 1, 3),)),
          equation=("Y = min X", "X̄ = Ȳ ⊙ [X = Y], shared by ties"),
          doc="The smallest over axes (None: all), as numpy.min; tied elements share the gradient equally.", **SOME)


def _one_or_all(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = params["axis"]
    over = s if axis is None else (s[shapes.one_axis(axis, len(s))],)
    if 0 in over:
        raise ShapeError(f"there is no largest of zero numbers: axis {axis} of shape {s}")
    return {**params, "axis": None if axis is None else shapes.one_axis(axis, len(s))}


ONE_INDEX: dict[str, Any] = {
    "saves": (), "signature": None, "canonical": _one_or_all, "result": "int64",
    "shape": lambda s, *, axis, keepdims: shapes.reduced(s, range(len(s)) if axis is None else (axis,), keepdims),
    "choices": lambda s: {"axis": [None, *range(len(s))], "keepdims": [False, True]},
    "samples": (((3,),), ((2, 3),), ((2, 1, 3),)),
    "shapes": "x (…) → the shape of x without the axis; with keepdims 1 there",
    "about": {"axis": "the axis to go along, a negative one counted from the end; None: all numbers in C order",
              "keepdims": "whether the axes gone over stay, with size 1"},
    "raises": ("ShapeError: an axis that there is not, or that holds no number",)}

argmax = op("argmax", lambda x, *, axis=None, keepdims=False: np.argmax(x, axis=axis, keepdims=keepdims), None,
            **ONE_INDEX, equation=("Y = the index of max X", ""),
            doc="The index of the largest along an axis, as numpy.argmax: the first of ties, the first NaN if any.")
argmin = op("argmin", lambda x, *, axis=None, keepdims=False: np.argmin(x, axis=axis, keepdims=keepdims), None,
            **ONE_INDEX, equation=("Y = the index of min X", ""),
            doc="The index of the smallest along an axis, as numpy.argmin: the first of ties, the first NaN if any.")


# --- truth ----------------------------------------------------------------------------------------
TRUTH: dict[str, Any] = {"saves": (), "signature": None, "shape": _reduced, "canonical": _axes, "choices": _choices,
                         "result": "bool", **OVER}

any_ = op("any", lambda x, *, axis=None, keepdims=False: np.any(x, axis=axis, keepdims=keepdims), None, **TRUTH,
          equation=("Y = ⋁ X", ""), doc="Whether one number over axes (None: all) is not 0; of no numbers false.")
all_ = op("all", lambda x, *, axis=None, keepdims=False: np.all(x, axis=axis, keepdims=keepdims), None, **TRUTH,
          equation=("Y = ⋀ X", ""), doc="Whether no number over axes (None: all) is 0; of no numbers it is true.")


# --- running sum ----------------------------------------------------------------------------------
def one_or_flat(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    """Parameters whose `axis` is one axis, or None for all numbers in C order."""
    axis = params["axis"]
    return {**params, "axis": None if axis is None else shapes.one_axis(axis, len(s))}


def along(s: Shape, *, axis: int | None, **_: Any) -> Shape:
    """The shape of an op that goes along an axis, or (None) over all numbers in C order."""
    return s if axis is not None else (math.prod(s),)


def backwards(x: Tensor, axis: int | None) -> Tensor:
    """x in reverse order along an axis; None is the one axis that flattening leaves."""
    return x[(slice(None),) * (axis or 0) + (slice(None, None, -1),)]


def _cumsum_rule(g: Tensor, y: Tensor, x: Tensor, *, axis: int | None) -> Tensor:
    return reshape(backwards(cumsum(backwards(g, axis), axis=axis), axis), shape=x.shape)


ALONG: dict[str, Any] = {"signature": None, "shape": along, "canonical": one_or_flat, "result": "sum",
                         "choices": lambda s: {"axis": [None, *range(len(s))]},
                         "samples": (((3,),), ((2, 3),), ((2, 3, 2),), ((0,),), ((),)),
                         "shapes": "x (…) → (…); where `axis` is None (n,), n the number of all",
                         "about": {"axis": "the axis to go along, a negative one counted from the end; None: all "
                                           "numbers in C order"},
                         "raises": ("ShapeError: an axis that there is not",)}

cumsum: Op = op("cumsum", lambda x, *, axis=None: np.cumsum(x, axis=axis), _cumsum_rule, **ALONG, saves=(),
                equation=("yᵢ = Σ_{j ≤ i} xⱼ", "x̄ᵢ = Σ_{j ≥ i} ȳⱼ"),
                doc="The running sum along an axis (None: of all numbers in C order), as numpy.cumsum.")


# --- compositions ---------------------------------------------------------------------------------
REDUCTION: dict[str, Any] = {"signature": None, "shape": _reduced, "canonical": _axes, "choices": _choices,
                             "result": "float", **OVER}
SPREAD: dict[str, Any] = {
    **REDUCTION, "about": {**AXES, "correction": "what is taken from the number n of numbers before dividing by it: 0 "
                                                 "for a population, 1 for a sample"},
    "choices": lambda s: {**_choices(s), "correction": [0, 1] if all(n > 1 for n in s) else [0]}}


@fused(**REDUCTION, equation=("Y = Σ X / n", "X̄ = Ȳ / n, repeated"))
def mean(x: Tensor, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean over axes (None: all), as numpy.mean; of no numbers it is NaN."""
    return sum_(x, axis=axis, keepdims=keepdims) / _number(x, axis)


def _number(x: Tensor, axis: tuple[int, ...]) -> float:
    return float(math.prod([x.shape[a] for a in axis]))


@fused(**SPREAD,
       equation=("Y = Σ (X − mean X)² / (n − correction)", "X̄ = 2 Ȳ ⊙ (X − mean X) / (n − correction)"))
def var(x: Tensor, *, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Tensor:
    """The variance over axes (None: all): of the population, or with correction=1 estimated from a sample."""
    c = x - mean(x, axis=axis, keepdims=True)
    return sum_(c * c, axis=axis, keepdims=keepdims) / (_number(x, axis) - correction)


@fused(**SPREAD,
       samples=(((3,),), ((2, 3),), ((3, 2, 4),), ((0, 2),)),
       equation=("Y = √(Σ (X − mean X)² / (n − correction))", "X̄ = Ȳ ⊙ (X − mean X) ⊘ ((n − correction) Y)"))
def std(x: Tensor, *, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Tensor:
    """The standard deviation over axes (None: all), the root of `var`; its gradient where all are equal is 0."""
    return _root(var(x, axis=axis, keepdims=keepdims, correction=correction))


def _root(x: Tensor) -> Tensor:
    """√x, with a gradient of 0 at 0."""
    return where(x == 0, 0.0, sqrt(where(x == 0, 1.0, x)))


@fused(**{**REDUCTION, **SOME, "canonical": _some_axes}, samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),)),
       equation=("Y = log Σ eˣ", "X̄ = Ȳ ⊙ softmax X"))
def logsumexp(x: Tensor, *, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log Σ eˣ over axes (None: all), without overflow."""
    top = constant(max_(x, axis=axis, keepdims=True))
    top = where(isfinite(top), top, 0.0)
    y = log(sum_(exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else y.squeeze(axis)


# --- the length of a vector -----------------------------------------------------------------------
def _norm_params(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    params = {**params, "ord": float(params["ord"])}
    if math.isnan(params["ord"]):
        raise ShapeError("norm: ord is NaN; it is a number or an infinity")
    return _some_axes(params, s) if math.isinf(params["ord"]) else _axes(params, s)


@fused(**{**REDUCTION, "canonical": _norm_params,
          "about": {**AXES, "ord": "p, which norm it is: any number, inf, -inf or 0"},
          "raises": (*OVER["raises"], "ShapeError: an ord of NaN, or of ±inf over axes that hold no number"),
          "choices": lambda s: {**_choices(s), "ord": [2, 1, 3, 0.5, math.inf, -math.inf, 0]}},
       domain=(Real(kinks=(0.0,)),), samples=(((3,),), ((2, 3),), ((2, 1, 3),), ((),), ((1, 2, 1),)),
       equation=("Y = (Σ |X|ᵖ)^(1/p)", "X̄ = Ȳ ⊙ sign X ⊙ (|X| ⊘ Y)ᵖ⁻¹"))
def norm(x: Tensor, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """The p-norm (Σ |x|ᵖ)^(1/p) of the vectors over axes (None: of all numbers), p = `ord`, without overflow.

    inf is the largest |x|, -inf the smallest, 0 counts what is not 0. The gradient at an x of 0 is 0, for every p.
    """
    size = abs_(x)
    if math.isinf(ord):
        return (max_ if ord > 0 else min_)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_(not_equal(x, 0), axis=axis, keepdims=keepdims).astype(x.dtype)
    if ord == 1:
        return sum_(size, axis=axis, keepdims=keepdims)
    top = constant(max_(size, axis=axis, keepdims=True)) if x.size else constant(sum_(size, axis=axis, keepdims=True))
    top = where(isfinite(top) & (top > 0), top, 1.0)
    part = size / top
    if ord == 2:
        y = _root(sum_(part * part, axis=axis, keepdims=True))
    else:
        power = where(part == 0, 0.0 if ord > 0 else math.inf, where(part == 0, 1.0, part) ** ord)
        total = sum_(power, axis=axis, keepdims=True)
        y = where(total == 0, 0.0, where(total == 0, 1.0, total) ** (1 / ord))
    y = top * y
    return y if keepdims else y.squeeze(axis)
