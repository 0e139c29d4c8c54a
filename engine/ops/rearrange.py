"""Ops that repeat numbers or put them in another order, all of them compositions."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import device as devices
from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.index import take
from engine.ops.shape import broadcast_to, concat, reshape
from engine.record import fused
from engine.shapes import Shape
from engine.state import scope


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in np.atleast_1d(value))


# --- repetition -----------------------------------------------------------------------------------
def _reps(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    reps = _tuple(params["reps"])
    if min(reps, default=0) < 0:
        raise ShapeError(f"reps {params['reps']} must not be negative")
    return {"reps": (1,) * (len(s) - len(reps)) + reps}


def _tiled(s: Shape, *, reps: tuple[int, ...]) -> Shape:
    return tuple(n * r for n, r in zip((1,) * (len(reps) - len(s)) + s, reps, strict=True))


@fused(signature=None, shapes="x (n₀, n₁, …) → (reps₀ n₀, reps₁ n₁, …), with new axes in front where reps has more",
       about={"reps": "how often along each axis, counted from the last; axes that it does not name once"},
       raises=("ShapeError: negative reps",), canonical=_reps, shape=_tiled,
       choices=lambda s: {"reps": [2, (2, 1), (1, 3), (0,)]},
       samples=(((3,),), ((2, 3),), ((),), ((2, 1, 2),), ((0, 2),)),
       equation=("Y = X side by side, as often as reps says", "X̄ = Σ of Ȳ's tiles"))
def tile(x: Tensor, *, reps: int | Sequence[int]) -> Tensor:
    """The whole of x repeated along its axes (and along new ones in front), as NumPy's tile."""
    full = (1,) * (len(reps) - x.ndim) + x.shape                       # type: ignore[arg-type]
    split = tuple(n for size in full for n in (1, size))
    copies = tuple(n for size, r in zip(full, reps, strict=True) for n in (r, size))      # type: ignore[arg-type]
    return reshape(broadcast_to(reshape(x, shape=split), shape=copies), shape=_tiled(x.shape, reps=tuple(reps)))  # type: ignore[arg-type]


def _repeats(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = params["axis"]
    axis = None if axis is None else shapes.one_axis(axis, len(s))
    size = math.prod(s) if axis is None else s[axis]
    given = params["repeats"]
    repeats = _tuple(devices.host(given.read()) if isinstance(given, Tensor) else given)
    if min(repeats, default=0) < 0 or len(repeats) not in (1, size):
        raise ShapeError(f"repeats {given} must be one number, or one for each of {size}, none negative")
    return {"repeats": repeats if len(repeats) == size else repeats * size, "axis": axis}


def _repeated(s: Shape, *, repeats: tuple[int, ...], axis: int | None) -> Shape:
    return (sum(repeats),) if axis is None else (*s[:axis], sum(repeats), *s[axis + 1:])


@fused(signature=None, canonical=_repeats, shape=_repeated,
       shapes="x (…, n, …) → (…, Σ repeats, …), along `axis`; where it is None (Σ repeats,)",
       about={"repeats": "how often, one number for all or one for each of n",
              "axis": "the axis along which they are repeated; None: all numbers in C order"},
       raises=("ShapeError: an axis that there is not, or repeats that are negative or of another number",),
       choices=lambda s: {"repeats": [2, [*range(s[-1])] if s else 3], "axis": [len(s) - 1 if s else None]},
       samples=(((3,),), ((2, 3),), ((),), ((2, 1, 2),), ((0, 2),)),
       equation=("Y = each of X, as often as repeats says", "X̄ = Σ of Ȳ's copies of it"))
def repeat(x: Tensor, *, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each number repeated in place along an axis (None: of all in one row), as NumPy's repeat."""
    ids = np.repeat(np.arange(len(repeats)), repeats)                                      # type: ignore[arg-type]
    return take(x, Tensor(ids, device=x.device), axis=axis)


# --- order ----------------------------------------------------------------------------------------
def _some(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    return {"axis": shapes.some_axes(params["axis"], len(s))}


@fused(signature=None, shapes="x (…) → (…)", raises=("ShapeError: an axis that there is not, or one named twice",),
       about={"axis": "the axis or the axes to reverse, negative ones counted from the end; None: all"},
       canonical=_some, shape=lambda s, *, axis: s,
       choices=lambda s: {"axis": [None, *range(len(s)), (0, -1) if len(s) > 1 else ()]},
       equation=("Y = X backwards", "X̄ = Ȳ backwards"))
def flip(x: Tensor, *, axis: Any = None) -> Tensor:
    """The numbers in reverse order along axes (None: all), as numpy.flip."""
    return x[tuple(slice(None, None, -1) if i in axis else slice(None) for i in range(x.ndim))]


def _shifts(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis, shift = params["axis"], _tuple(params["shift"])
    if axis is None:
        if len(shift) > 1:
            raise ShapeError(f"shift {params['shift']} has several numbers; say along which axes")
        return {"shift": shift, "axis": None}
    axes = tuple(shapes.one_axis(a, len(s)) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    if len(shift) != len(axes) and 1 not in (len(shift), len(axes)):
        raise ShapeError(f"there are {len(shift)} shifts for {len(axes)} axes")
    n = max(len(shift), len(axes)) if shift and axes else 0
    return {"shift": (shift * n)[:n], "axis": (axes * n)[:n]}


@fused(signature=None, shapes="x (…) → (…)", canonical=_shifts,
       about={"shift": "how far toward the end, one number or one for each axis; negative: toward the beginning",
              "axis": "the axis or the axes; None: all numbers in C order"},
       raises=("ShapeError: an axis that there is not, or not as many shifts as axes",),
       shape=lambda s, *, shift, axis: s,
       choices=lambda s: {"shift": [1, -2, 5], "axis": [None, *range(len(s)), (0, 0) if s else None]},
       equation=("Y = X, moved on around its axes", "X̄ = Ȳ, moved back"))
def roll(x: Tensor, *, shift: int | Sequence[int], axis: Any = None) -> Tensor:
    """Move the numbers on along axes (None: along all in C order); what leaves comes in again, as numpy.roll."""
    if axis is None:
        return reshape(_rolled(reshape(x, shape=(-1,)), shift[0], 0), shape=x.shape)       # type: ignore[index]
    for by, a in zip(shift, axis, strict=True):                                            # type: ignore[arg-type]
        x = _rolled(x, by, a)
    return x if axis else x * 1


def _rolled(x: Tensor, by: int, axis: int) -> Tensor:
    size = x.shape[axis]
    cut = size - by % size if size else 0
    before = (slice(None),) * axis
    return concat([x[(*before, slice(cut, None))], x[(*before, slice(None, cut))]], axis=axis)


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, as many tensors without it: Yᵢ = X[i], X̄[i] = Ȳᵢ. The inverse of stack."""
    axis = shapes.one_axis(axis, x.ndim)
    with scope("unstack"):
        return tuple(x[(slice(None),) * axis + (i,)] for i in range(x.shape[axis]))
