"""Order along an axis: where the sorted numbers stand, and the numbers themselves. NaN counts as the largest.

Equal numbers keep their order, and each has the gradient of its own place in the result.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor
from engine.describe import face
from engine.errors import ShapeError
from engine.ops.along import take_along_axis
from engine.ops.reduce import along, one_or_flat
from engine.ops.shape import reshape
from engine.record import fused, op
from engine.shapes import Shape
from engine.state import scope

SORT: dict[str, Any] = {"signature": None, "shape": lambda s, *, axis, descending: along(s, axis=axis),
                        "canonical": one_or_flat,
                        "choices": lambda s: {"axis": [None, *range(len(s))], "descending": [False, True]},
                        "samples": (((3,),), ((2, 3),), ((2, 4, 2),), ((0, 2),), ((1, 1),)),
                        "shapes": "x (…) → (…); where `axis` is None (n,), n the number of all",
                        "about": {"axis": "the axis to sort along, a negative one counted from the end; None: all "
                                          "numbers in C order", "descending": "whether the largest comes first"},
                        "raises": ("ShapeError: an axis that there is not",)}


def _argsort(x: Any, *, axis: int | None = -1, descending: bool = False) -> Any:
    if axis is None:
        x, axis = x.reshape(-1), 0
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)


argsort = op("argsort", _argsort, None, **SORT, saves=(), result="int64",
             equation=("X[Y] in order along the axis", ""),
             doc="Where the numbers sorted along an axis (None: all of them) stand; equal ones keep their order, NaN "
                 "counts as the largest.")


@fused(**SORT, equation=("Y = X[argsort X]", "X̄[argsort X] = Ȳ"))
def sort(x: Tensor, *, axis: int | None = -1, descending: bool = False) -> Tensor:
    """The numbers in order along an axis (None: all of them, in one row); NaN counts as the largest."""
    places = argsort(x, axis=axis, descending=descending)
    return take_along_axis(reshape(x, shape=(-1,)) if axis is None else x, places, axis=axis or 0)


# --- the largest few ------------------------------------------------------------------------------
def _few(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis, k = shapes.one_axis(params["axis"], len(s)), params["k"]
    if not isinstance(k, (int, np.integer)) or not 0 <= k <= s[axis]:
        raise ShapeError(f"k is {k!r}; axis {axis} of shape {s} has {s[axis]} numbers to choose from")
    return {**params, "axis": axis, "k": int(k)}


TOP: dict[str, Any] = {"signature": None, "canonical": _few,
                       "shape": lambda s, *, k, axis, largest: (*s[:axis], k, *s[axis + 1:]),
                       "choices": lambda s: {"axis": [len(s) - 1], "k": [0, 1, s[-1]], "largest": [True, False]},
                       "samples": (((3,),), ((2, 3),), ((2, 1, 4),), ((0, 2),)),
                       "shapes": "x (…, n, …) → (…, k, …), along `axis`",
                       "about": {"k": "how many, 0 to n", "axis": "the axis to look along, a negative one counted from "
                                 "the end", "largest": "whether the largest are taken, the largest first; else the "
                                 "smallest, the smallest first"},
                       "raises": ("ShapeError: an axis that there is not, or a k that is not in 0 … n",)}


def _argtopk(x: Any, *, k: int, axis: int = -1, largest: bool = True) -> Any:
    return _argsort(x, axis=axis, descending=largest)[(slice(None),) * (axis % x.ndim) + (slice(k),)]


argtopk = op("argtopk", _argtopk, None, **TOP, saves=(), result="int64",
             equation=("Y = the places of the k largest of X", ""),
             doc="Where the k largest (or smallest) along an axis stand, in order; the first of ties come first.")


@fused(**TOP, equation=("Y = X[argtopk X]", "X̄[argtopk X] = Ȳ"))
def topk_(x: Tensor, *, k: int, axis: int = -1, largest: bool = True) -> Tensor:
    """The k largest (or smallest) numbers along an axis, in order."""
    return take_along_axis(x, argtopk(x, k=k, axis=axis, largest=largest), axis=axis)


@face(topk_)
def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) numbers along an axis, in order, and where they stand: (values, int64 places).

    Y = X[places], X̄[places] = Ȳ. Of equal numbers those that come first are taken, and have the gradient.
    """
    with scope("topk"):
        places = argtopk(x, k=k, axis=axis, largest=largest)
        return take_along_axis(x, places, axis=axis), places
