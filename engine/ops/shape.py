"""Ops that move numbers without changing them. Each is the adjoint of its neighbour."""
from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.elementwise import number_for
from engine.record import Op, fused, op
from engine.shapes import Shape

# --- reshape ⇄ reshape ----------------------------------------------------------------------------
reshape: Op = op("reshape", lambda x, *, shape: x.reshape(shape), lambda g, y, x, *, shape: reshape(g, shape=x.shape),
             saves=(), view=True, shape=lambda s, *, shape: shape, signature=None,
             canonical=lambda params, s: {"shape": shapes.filled(params["shape"], _count(s))},
             choices=lambda s: {"shape": [(-1,), (_count(s), 1), s[::-1], (1, *s)]}
             if _count(s) else {"shape": [s, s[::-1]]},
             equation=("Y = X, reshaped", "X̄ = Ȳ, reshaped back"),
             doc="The same numbers in C order in another shape, as numpy.reshape.", shapes="x (…) → `shape`",
             about={"shape": "the new shape, a number or a sequence of them; one size may be -1, what is left"},
             raises=("ShapeError: a shape of another number of numbers, or with several sizes of -1",))


def _count(shape: Shape) -> int:
    return math.prod(shape)


# --- transpose ⇄ transpose by the inverse ---------------------------------------------------------
def _permutation(params: dict[str, Any], shape: Shape) -> dict[str, Any]:
    axes = params["axes"]
    order = tuple(range(len(shape)))[::-1] if axes is None else tuple(shapes.one_axis(a, len(shape)) for a in axes)
    if sorted(order) != list(range(len(shape))):
        raise ShapeError(f"axes {axes} are not a permutation of the {len(shape)} axes")
    return {"axes": order}


transpose: Op = op("transpose", lambda x, *, axes=None: x.transpose(axes),
               lambda g, y, x, *, axes: transpose(g, axes=tuple(int(i) for i in np.argsort(axes))),
               saves=(), view=True, signature=None, shape=lambda s, *, axes: tuple(s[a] for a in axes),
               canonical=_permutation, choices=lambda s: {"axes": [None, (*range(1, len(s)), 0) if s else ()]},
               equation=("Y = X with its axes permuted", "X̄ = Ȳ with its axes put back"),
               doc="Permute the axes, as numpy.transpose; None reverses them.",
               shapes="x (n₀, n₁, …) → the sizes in the order of `axes`",
               about={"axes": "axis i of the result is axis axes[i] of x; None: the axes in reverse order"},
               raises=("ShapeError: axes that are no permutation of those of x",))
swapaxes: Op = op("swapaxes", lambda x, *, axis1, axis2: np.swapaxes(x, axis1, axis2),
              lambda g, y, x, *, axis1, axis2: swapaxes(g, axis1=axis1, axis2=axis2),
              saves=(), view=True, signature=None, shape=lambda s, *, axis1, axis2: _swapped(s, axis1, axis2),
              canonical=lambda params, s: {k: shapes.one_axis(a, len(s)) for k, a in params.items()},
              choices=lambda s: {"axis1": list(range(len(s))), "axis2": list(range(len(s)))},
              samples=(((3,),), ((2, 3),), ((2, 3, 4),), ((0, 2, 1, 3),)),
              equation=("Y = X with two axes swapped", "X̄ = Ȳ with them swapped back"),
              doc="Swap two axes, as numpy.swapaxes.", shapes="x (…, a, …, b, …) → (…, b, …, a, …)",
              about={"axis1": "one of the two, a negative one counted from the end", "axis2": "the other"},
              raises=("ShapeError: an axis that there is not",))


def _swapped(shape: Shape, a: int, b: int) -> Shape:
    out = list(shape)
    out[a], out[b] = out[b], out[a]
    return tuple(out)


def _moved(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    pairs = [[shapes.one_axis(a, len(s)) for a in (axes if isinstance(axes, (tuple, list)) else (axes,))]
             for axes in (params["source"], params["destination"])]
    if len(pairs[0]) != len(pairs[1]) or any(len(set(axes)) != len(axes) for axes in pairs):
        raise ShapeError(f"source {params['source']} and destination {params['destination']} must be as many "
                         "different axes")
    return {"source": tuple(pairs[0]), "destination": tuple(pairs[1])}


def _order(ndim: int, source: tuple[int, ...], destination: tuple[int, ...]) -> tuple[int, ...]:
    order = [i for i in range(ndim) if i not in source]
    for at, axis in sorted(zip(destination, source, strict=True)):
        order.insert(at, axis)
    return tuple(order)


@fused(signature=None, canonical=_moved, shapes="x (…) → the sizes in their new order",
       about={"source": "an axis or several, negative ones counted from the end", "destination": "where they go"},
       raises=("ShapeError: an axis that there is not or that is named twice, or not as many places as axes",),
       shape=lambda s, *, source, destination: tuple(s[a] for a in _order(len(s), source, destination)),
       choices=lambda s: {"source": [0, -1], "destination": [-1, 0]},
       samples=(((3,),), ((2, 3),), ((2, 3, 4),), ((0, 2),)),
       equation=("Y = X with axes moved", "X̄ = Ȳ with them moved back"))
def moveaxis(x: Tensor, *, source: Any, destination: Any) -> Tensor:
    """Move the axes `source` to the places `destination`, as numpy.moveaxis; the others keep their order."""
    return transpose(x, axes=_order(x.ndim, source, destination))


# --- broadcast_to ⇄ sum ---------------------------------------------------------------------------
def _can_broadcast(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    target = tuple(int(n) for n in params["shape"])
    if shapes.broadcast([s, target]) != target:
        raise ShapeError(f"a tensor of shape {s} does not broadcast to {target}")
    return {"shape": target}


broadcast_to = op("broadcast_to", lambda x, *, shape: np.broadcast_to(x, shape), lambda g, y, x, *, shape: g,
                  saves=(), view=True, signature=None, shape=lambda s, *, shape: shape, canonical=_can_broadcast,
                  choices=lambda s: {"shape": [s, (2, *s), (3, 1, *s)]},
                  equation=("Y = X, repeated along new or size-1 axes", "X̄ = Ȳ summed over them"),
                  doc="Repeat along new axes in front and axes of size 1, without copying, as numpy.broadcast_to.",
                  shapes="x (…) → `shape`", about={"shape": "the new shape, a sequence of sizes"},
                  raises=("ShapeError: a shape to which that of x does not broadcast",))


# --- expand_dims ⇄ squeeze ------------------------------------------------------------------------
def _new_axes(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = params["axis"]
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    return {"axis": shapes.some_axes(axis, len(s) + count)}


def _expanded(s: Shape, *, axis: tuple[int, ...]) -> Shape:
    rest = iter(s)
    return tuple(1 if i in axis else next(rest) for i in range(len(s) + len(axis)))


expand_dims = op("expand_dims", lambda x, *, axis: np.expand_dims(x, axis),
                 lambda g, y, x, *, axis: squeeze(g, axis=axis), saves=(), view=True, signature=None, shape=_expanded,
                 canonical=_new_axes, choices=lambda s: {"axis": [0, -1, (0, 2) if s else (0, 1)]},
                 equation=("Y = X with new axes of size 1", "X̄ = Ȳ without them"),
                 doc="Insert axes of size 1, as numpy.expand_dims.",
                 shapes="x (…) → (…, 1, …), with a 1 at each place of `axis`",
                 about={"axis": "where the new axes stand in the result, a number or several"},
                 raises=("ShapeError: a place that the result does not have, or one named twice",))


def _single_axes(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = params["axis"]
    axes = tuple(i for i, n in enumerate(s) if n == 1) if axis is None else shapes.some_axes(axis, len(s))
    for a in axes:
        if s[a] != 1:
            raise ShapeError(f"axis {a} has size {s[a]}; only an axis of size 1 can be squeezed out")
    return {"axis": axes}


squeeze: Op = op("squeeze", lambda x, *, axis=None: np.squeeze(x, axis),
             lambda g, y, x, *, axis: expand_dims(g, axis=axis), saves=(), view=True, signature=None,
             shape=lambda s, *, axis: shapes.reduced(s, axis, False), canonical=_single_axes,
             choices=lambda s: {"axis": [None]}, samples=(((1, 3, 1),), ((1,),), ((2, 1, 2),), ((3,),), ((0, 1),)),
             equation=("Y = X without axes of size 1", "X̄ = Ȳ with them"),
             doc="Remove axes of size 1 (None: all of them), as numpy.squeeze.",
             shapes="x (…, 1, …) → (…), without the axes of `axis`",
             about={"axis": "the axis or the axes to remove; None: all of size 1"},
             raises=("ShapeError: an axis that there is not, or of another size than 1",))


# --- concat ⇄ getitem -----------------------------------------------------------------------------
def _joined(*given: Shape, axis: int) -> Shape:
    first = given[0]
    for s in given:
        if len(s) != len(first) or any(a != b for i, (a, b) in enumerate(zip(s, first, strict=True)) if i != axis):
            raise ShapeError(f"all shapes must be equal except along axis {axis}: {first} and {s}")
    return (*first[:axis], sum(s[axis] for s in given), *first[axis + 1:])


def _concat_rule(g: Tensor, y: Tensor, *xs: Tensor, axis: int) -> list[Tensor]:
    ends = np.cumsum([0] + [x.shape[axis] for x in xs])
    return [g[(slice(None),) * axis + (slice(int(lo), int(hi)),)] for lo, hi in pairwise(ends)]


concat = op("concat", lambda *xs, axis=0: np.concatenate(xs, axis), joint=_concat_rule, variadic=True, saves=(),
            signature=None, shape=_joined,
            canonical=lambda params, *s: {"axis": shapes.one_axis(params["axis"], len(s[0]))},
            choices=lambda *s: {"axis": [0, -1]},
            samples=(((2, 2), (2, 2)), ((2, 1), (2, 1), (2, 1)), ((3,), (3,), (3,)), ((0, 2), (0, 2))),
            equation=("Y = [X₁, X₂, …]", "X̄ᵢ = Ȳ's part that Xᵢ became"),
            doc="Join tensors along an axis that they have, as numpy.concatenate.",
            shapes="xs (…, n₁, …), (…, n₂, …), … → (…, n₁ + n₂ + …, …), along `axis`",
            about={"axis": "the axis along which they are joined, a negative one counted from the end"},
            raises=("ShapeError: no tensor, an axis that there is not, or shapes that differ outside it",))


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    return concat([expand_dims(t, axis=axis) for t in tensors], axis=axis)


def split(x: Tensor, sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Cut into `sections` equal parts, or before each of the given positions, along an axis. Each part is a getitem."""
    axis = shapes.one_axis(axis, x.ndim)
    size = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or size % sections:
            raise ShapeError(f"split: axis {axis} of size {size} cannot be cut into {sections} equal parts")
        cuts = [size // sections * i for i in range(sections + 1)]
    else:
        cuts = [0, *(min(max(int(c), 0), size) for c in sections), size]
    return tuple(x[(slice(None),) * axis + (slice(lo, max(lo, hi)),)] for lo, hi in pairwise(cuts))


# --- pad ⇄ getitem --------------------------------------------------------------------------------
def _widths(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    given = np.asarray(params["widths"], dtype=np.int64)
    try:
        pairs = np.broadcast_to(given, (len(s), 2))
    except ValueError:
        raise ShapeError(f"widths {params['widths']} are not a (before, after) pair for each of {len(s)} axes"
                         ) from None
    if (pairs < 0).any():
        raise ShapeError(f"widths {params['widths']} must not be negative")
    return {"widths": tuple((int(a), int(b)) for a, b in pairs), "value": params["value"]}


def _pad(x: Any, *, widths: Any, value: float = 0.0) -> Any:
    value = number_for("pad", x.dtype, value)
    return np.pad(x, widths, constant_values=value) if x.ndim else x.copy()


def _pad_rule(g: Tensor, y: Tensor, x: Tensor, *, widths: Any, value: float) -> Tensor:
    return g[tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))]


pad = op("pad", _pad, _pad_rule,
         saves=(), signature=None, canonical=_widths,
         shape=lambda s, *, widths, value: tuple(a + n + b for n, (a, b) in zip(s, widths, strict=True)),
         choices=lambda s: {"widths": [0, 1, [(i % 2, 2) for i in range(len(s))] or 0], "value": [0.0, 1.5]},
         equation=("Y = X inside a border", "X̄ = Ȳ inside the border"),
         doc="Add a border of `value` around the numbers, as numpy.pad.",
         shapes="x (n₀, n₁, …) → (before₀ + n₀ + after₀, …)",
         about={"widths": "how much is added: one number, one (before, after) pair, or a pair for each axis",
                "value": "what the border holds"},
         raises=("ShapeError: widths that are negative, or not one pair for each axis",
                 "DtypeError: a value that the integers of x do not have"))

