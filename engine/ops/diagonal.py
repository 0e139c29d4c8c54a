"""Diagonals of matrices, and what lies on one side of them."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.index import put
from engine.ops.reduce import sum_
from engine.ops.shape import moveaxis
from engine.record import Op, fused, op
from engine.shapes import Shape


def _number(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    return {"k": int(params["k"])}


SIDE: dict[str, Any] = {"saves": (), "signature": "(i,j)->(i,j)", "canonical": _number,
                        "choices": lambda s: {"k": [0, 1, -1]}, "raises": ("ShapeError: fewer than two axes",),
                        "about": {"k": "which diagonal: 0 is the main one, above it k > 0, below it k < 0"}}

tril: Op = op("tril", lambda x, *, k=0: np.tril(x, k), lambda g, y, x, *, k: tril(g, k=k), **SIDE,
              equation=("yᵢⱼ = j ≤ i + k ? xᵢⱼ : 0", "x̄ᵢⱼ = j ≤ i + k ? ȳᵢⱼ : 0"),
              doc="Matrices with 0 above their k-th diagonal, as numpy.tril.")
triu: Op = op("triu", lambda x, *, k=0: np.triu(x, k), lambda g, y, x, *, k: triu(g, k=k), **SIDE,
              equation=("yᵢⱼ = j ≥ i + k ? xᵢⱼ : 0", "x̄ᵢⱼ = j ≥ i + k ? ȳᵢⱼ : 0"),
              doc="Matrices with 0 below their k-th diagonal, as numpy.triu.")


# --- the diagonal itself --------------------------------------------------------------------------
def _two_axes(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    a, b = (shapes.one_axis(params[name], len(s)) for name in ("axis1", "axis2"))
    if a == b:
        raise ShapeError(f"axis1 and axis2 are both axis {a}; a diagonal needs two")
    return {"offset": int(params["offset"]), "axis1": a, "axis2": b}


def _length(rows: int, cols: int, offset: int) -> int:
    return max(min(rows, cols - offset) if offset >= 0 else min(rows + offset, cols), 0)


def _rest(s: Shape, axis1: int, axis2: int) -> Shape:
    return tuple(n for i, n in enumerate(s) if i not in (axis1, axis2))


def _diagonal_shape(s: Shape, *, offset: int, axis1: int, axis2: int) -> Shape:
    return (*_rest(s, axis1, axis2), _length(s[axis1], s[axis2], offset))


DIAGONAL: dict[str, Any] = {"signature": None, "canonical": _two_axes,
                            "choices": lambda s: {"offset": [0, 1, -1], "axis1": [0], "axis2": [1, -1]},
                            "samples": (((3, 3),), ((2, 3),), ((3, 2, 2),), ((0, 2),)),
                            "about": {"offset": "which diagonal: 0 is the main one, above it offset > 0, below it < 0",
                                      "axis1": "the axis of the rows", "axis2": "the axis of the columns"},
                            "raises": ("ShapeError: an axis that there is not, or axis1 the same as axis2",)}


@fused(**DIAGONAL, shape=_diagonal_shape,
       shapes="x (…) → the shape of x without axis1 and axis2, and the length of the diagonal last",
       equation=("yᵢ = xᵢ,ᵢ₊ₖ", "x̄ᵢ,ᵢ₊ₖ = ȳᵢ, 0 elsewhere"))
def diagonal(x: Tensor, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The numbers on a diagonal of the matrices in two axes, along a new last axis, as numpy.diagonal, but a copy."""
    x = moveaxis(x, source=(axis1, axis2), destination=(0, 1))
    along = np.arange(_length(x.shape[0], x.shape[1], offset))
    return moveaxis(x[along + max(-offset, 0), along + max(offset, 0)], source=0, destination=-1)


@fused(**DIAGONAL, shape=lambda s, *, offset, axis1, axis2: _rest(s, axis1, axis2), result="sum",
       shapes="x (…) → the shape of x without axis1 and axis2",
       equation=("Y = Σᵢ xᵢ,ᵢ₊ₖ", "x̄ᵢ,ᵢ₊ₖ = Ȳ, 0 elsewhere"))
def trace(x: Tensor, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of a diagonal of the matrices in two axes, as numpy.trace."""
    return sum_(diagonal(x, offset=offset, axis1=axis1, axis2=axis2), axis=-1)


def _diag_shape(s: Shape, *, k: int) -> Shape:
    if len(s) not in (1, 2):
        raise ShapeError(f"x has {len(s)} axes; it must be a vector or a matrix (see diagonal)")
    return (_length(*s, k),) if len(s) == 2 else (s[0] + abs(k),) * 2


@fused(signature=None, canonical=_number, shape=_diag_shape,
       shapes="x (n,) → (n + |k|, n + |k|); x (m, n) → the length of its diagonal",
       about={"k": "which diagonal: 0 is the main one, above it k > 0, below it k < 0"},
       raises=("ShapeError: neither a vector nor a matrix",),
       choices=lambda s: {"k": [0, 2, -1]},
       samples=(((3,),), ((3, 3),), ((2, 3),), ((0,),), ((0, 2),)),
       equation=("yᵢ,ᵢ₊ₖ = xᵢ, 0 elsewhere; of a matrix yᵢ = xᵢ,ᵢ₊ₖ", "the other way round"))
def diag(x: Tensor, *, k: int = 0) -> Tensor:
    """The matrix with a vector on its k-th diagonal, or the k-th diagonal of a matrix, as numpy.diag."""
    if x.ndim == 2:
        return diagonal(x, offset=k)
    along = np.arange(x.shape[0])
    return put(x, index=(along + max(-k, 0), along + max(k, 0)), shape=_diag_shape(x.shape, k=k))
