"""Ops that pick numbers along one axis, each line by ids of its own, and put them back: take_along_axis ⇄
add_along_axis; and those that change a copy: scatter, index_add, masked_fill."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import device as devices
from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.elementwise import number_for, where
from engine.ops.index import check_ids, from_zero, scatter_add
from engine.record import Bool, Index, Op, Real, fused, op
from engine.shapes import Shape

ALONG = "the axis along which the ids count, a negative one counted from the end"
ANY_END = "places in −n … n − 1, negative ones counted from the end, n the size of the axis"


# --- take_along_axis ⇄ add_along_axis -------------------------------------------------------------
def _lines(s: Shape, ids: Shape, axis: int) -> Shape:
    """What both broadcast to, but for the axis, where each has its own size: (the ids' there)."""
    if len(s) != len(ids):
        raise ShapeError(f"x has {len(s)} axes and the ids have {len(ids)}; they must have as many")
    both = shapes.broadcast([(*s[:axis], *s[axis + 1:]), (*ids[:axis], *ids[axis + 1:])])
    if both is None:
        raise ShapeError(f"x {s} and the ids {ids} do not broadcast outside axis {axis}")
    return (*both[:axis], ids[axis], *both[axis:])


def _places(ids: Any, shape: Shape, axis: int) -> tuple[Any, ...]:
    """The index of the numbers of `shape` at the ids along an axis."""
    n = len(shape)
    return tuple(ids if i == axis else np.arange(size, like=ids).reshape((1,) * i + (-1,) + (1,) * (n - i - 1))
                 for i, size in enumerate(shape))


def _from_zero(ids: Any, size: int) -> Any:
    """The same places counted from the start, in a dtype that holds the size."""
    ids = ids.astype(np.int64, copy=False)
    return np.where(ids < 0, ids + size, ids)


def _take(x: Any, ids: Any, *, axis: int = -1) -> Any:
    shape = _lines(x.shape, ids.shape, axis)
    x = np.broadcast_to(x, (*shape[:axis], x.shape[axis], *shape[axis + 1:]))
    return x[_places(ids, shape, axis)]


def _add(g: Any, ids: Any, *, axis: int, size: int) -> Any:
    out = np.zeros_like(g, shape=(*g.shape[:axis], size, *g.shape[axis + 1:]), order="C")
    devices.add_at(out, _places(_from_zero(ids, size), g.shape, axis), g)
    return out


def _one(params: dict[str, Any], s: Shape, *_: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.one_axis(params["axis"], len(s))}


def _check_along(x: Any, ids: Any, *, axis: int) -> None:
    check_ids(ids, x.shape[axis], "take_along_axis", -x.shape[axis])


def _take_rule(g: Tensor, y: Tensor, x: Tensor, ids: Tensor, *, axis: int) -> Tensor:
    return add_along_axis(g, ids, axis=axis, size=x.shape[axis])


take_along_axis = op("take_along_axis", _take, _take_rule, None, saves=(1,), signature=None, canonical=_one,
                     shape=lambda s, ids, *, axis: _lines(s, ids, axis), check=_check_along,
                     domain=(Real(), Index(0, -1)),
                     samples=(((3,), (2,)), ((2, 3), (2, 4)), ((2, 3), (1, 2)), ((1, 3, 2), (2, 3, 1)),
                              ((2, 3), (2, 0))),
                     equation=("yᵢⱼ = x at (i, idsᵢⱼ)", "X̄ at (i, idsᵢⱼ) += ȳᵢⱼ"),
                     doc="Pick numbers along an axis, each line by ids of its own, as numpy.take_along_axis.",
                     shapes="x (…, n, …), ids (…, k, …) → (…, k, …), along `axis`; the other axes broadcast",
                     about={"ids": ANY_END, "axis": ALONG},
                     raises=("ShapeError: an axis that there is not, or shapes that do not fit",))


def _added(s: Shape, ids: Shape, *, axis: int, size: int) -> Shape:
    if len(ids) != len(s) or _lines(s, ids, axis) != s:
        raise ShapeError(f"ids of shape {ids} do not broadcast to x {s}")
    return (*s[:axis], size, *s[axis + 1:])


add_along_axis: Op = op("add_along_axis", _add, lambda h, y, g, ids, *, axis, size: take_along_axis(h, ids, axis=axis),
                    None, saves=(1,), signature=None, shape=_added, domain=(Real(), Index("size")),
                    canonical=_one,
                    choices=lambda *s: {"axis": [len(s[0]) - 1], "size": [3, 4]},
                    samples=(((2,), (2,)), ((2, 4), (2, 4)), ((2, 3), (1, 3)), ((2, 0), (2, 0))),
                    check=lambda g, ids, *, axis, size: check_ids(ids, size, "add_along_axis", -size),
                    equation=("Y at (i, idsᵢⱼ) += xᵢⱼ", "x̄ᵢⱼ = Ȳ at (i, idsᵢⱼ)"),
                    doc="Zeros of `size` along an axis, to which g is added, each line at ids of its own: the "
                        "adjoint of take_along_axis.",
                    shapes="g (…, k, …), ids (…, k, …) → (…, size, …), along `axis`; the ids broadcast outside it",
                    about={"g": "the numbers", "ids": "places in −size … size − 1; equal ones add up", "axis": ALONG,
                           "size": "the size of the axis in the result"},
                    raises=("ShapeError: an axis that there is not, or shapes that do not fit",))


def _gathered(s: Shape, ids: Shape, *, axis: int) -> Shape:
    if len(s) != len(ids) or any(m > n for i, (m, n) in enumerate(zip(ids, s, strict=True)) if i != axis):
        raise ShapeError(f"ids of shape {ids} must have as many axes as x {s}, none longer but axis {axis}")
    return ids


def _part(x: Tensor, ids: Tensor, axis: int) -> Tensor:
    """x as far as the ids reach, all of it along the axis."""
    return x[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(ids.shape))]


@fused(signature=None, canonical=_one, shape=_gathered, domain=(Real(), Index(0, -1)),
       check=lambda x, ids, *, axis: check_ids(ids, x.shape[axis], "gather", -x.shape[axis]),
       samples=(((3,), (2,)), ((2, 3), (2, 4)), ((2, 3), (1, 2)), ((2, 2, 3), (1, 2, 1)), ((2, 3), (2, 0))),
       equation=("yᵢⱼ = x at (i, idsᵢⱼ)", "X̄ at (i, idsᵢⱼ) += ȳᵢⱼ"), about={"ids": ANY_END, "axis": ALONG},
       shapes="x (…, n, …), ids (…, k, …) → (…, k, …), along `axis`; elsewhere the ids may be shorter than x",
       raises=("ShapeError: an axis that there is not, or ids with other axes than x, or longer ones",))
def gather(x: Tensor, ids: Tensor, *, axis: int = -1) -> Tensor:
    """PyTorch's gather: y has the ids' shape, and y[i, j] is x[i, ids[i, j]] for the last axis. Nothing broadcasts."""
    return take_along_axis(_part(x, ids, axis), ids, axis=axis)


# --- a changed copy -------------------------------------------------------------------------------
def _last(ids: Any, *, axis: int, size: int) -> Any:
    """In ascending order equal ids stand side by side, the last of them at the end."""
    ids = _from_zero(ids, size)
    order = np.argsort(ids, axis=axis, kind="stable")
    ranked, before = np.take_along_axis(ids, order, axis), (slice(None),) * axis
    last = np.ones_like(ids, dtype=bool)
    last[(*before, slice(None, -1))] = ranked[(*before, slice(None, -1))] != ranked[(*before, slice(1, None))]
    return np.take_along_axis(last, np.argsort(order, axis=axis, kind="stable"), axis)


is_last = op("is_last", _last, None, saves=(), signature=None, shape=lambda s, *, axis, size: s, result="bool",
             canonical=_one, domain=(Index("size"),), samples=(((3,),), ((2, 4),), ((2, 1, 3),)),
             choices=lambda s: {"axis": list(range(len(s))), "size": [3, 5]},
             check=lambda ids, *, axis, size: check_ids(ids, size, "is_last", -size),
             equation=("Y = [no later id along the axis is equal]", ""),
             doc="Whether an id is the last along an axis that names its place.", shapes="ids (…) → (…)",
             about={"ids": "places in −size … size − 1", "axis": ALONG, "size": "how many places there are"},
             raises=("ShapeError: an axis that there is not",))


def _scattered(s: Shape, ids: Shape, src: Shape, *, axis: int) -> Shape:
    _gathered(s, ids, axis=axis)
    if src != ids:
        raise ShapeError(f"the ids have shape {ids} and src has {src}; they must be equal")
    return s


@fused(signature=None, canonical=_one, shape=_scattered, domain=(Real(), Index(0, -1), Real()),
       check=lambda x, ids, src, *, axis: check_ids(ids, x.shape[axis], "scatter", -x.shape[axis]),
       samples=(((3,), (2,), (2,)), ((2, 3), (2, 4), (2, 4)), ((2, 3), (1, 2), (1, 2)), ((2, 3), (2, 0), (2, 0))),
       equation=("Y = X, but yᵢⱼ at (i, idsᵢⱼ) is srcᵢⱼ", "X̄ = Ȳ and 0 where written, s̄rcᵢⱼ = Ȳ at (i, idsᵢⱼ)"),
       shapes="x (…, n, …), ids (…, k, …), src (…, k, …) → (…, n, …); outside `axis` the ids may be shorter than x",
       about={"ids": ANY_END, "src": "what is written", "axis": ALONG},
       raises=("ShapeError: an axis that there is not, or shapes that do not fit",))
def scatter(x: Tensor, ids: Tensor, src: Tensor, *, axis: int = -1) -> Tensor:
    """A copy of x with src written at the ids along an axis, as PyTorch's scatter.

    Where several ids along a line are equal the last one is written, and it alone has a gradient.
    """
    size = x.shape[axis]
    won = is_last(ids, axis=axis, size=size)
    to = [(0, n - m if i != axis else 0) for i, (n, m) in enumerate(zip(x.shape, ids.shape, strict=True))]
    values = add_along_axis(where(won, src, 0), ids, axis=axis, size=size).pad(to)
    written = add_along_axis(won.astype(np.int64), ids, axis=axis, size=size).pad(to)
    return where(written > 0, values, x).astype(x.dtype)


def _added_rows(s: Shape, ids: Shape, src: Shape, *, axis: int) -> Shape:
    if len(ids) != 1 or src != (*s[:axis], ids[0], *s[axis + 1:]):
        raise ShapeError(f"ids {ids} must have one axis, and src {src} be x {s} with one slice an id along axis {axis}")
    return s


@fused(signature=None, canonical=_one, shape=_added_rows, domain=(Real(), Index(0), Real()),
       check=lambda x, ids, src, *, axis: check_ids(ids, x.shape[axis], "index_add", -x.shape[axis]),
       samples=(((3,), (2,), (2,)), ((2, 3), (4,), (4, 3)), ((2, 1, 2), (1,), (1, 1, 2)), ((2, 3), (0,), (0, 3))),
       choices=lambda *s: {"axis": [0]}, equation=("Y = X, Y[ids] += S", "X̄ = Ȳ, S̄ = Ȳ[ids]"),
       shapes="x (…, n, …), ids (k,), src (…, k, …) → (…, n, …), along `axis`",
       about={"ids": ANY_END, "src": "the slices that are added, one an id", "axis": ALONG},
       raises=("ShapeError: an axis that there is not, or shapes that do not fit",))
def index_add(x: Tensor, ids: Tensor, src: Tensor, *, axis: int = 0) -> Tensor:
    """A copy of x, with the slices of src added at the ids along an axis; equal ids add up."""
    size = x.shape[axis]
    return x + scatter_add(src, from_zero(ids, size), axis=axis, size=size)


def _mask_fits(s: Shape, mask: Shape, *, value: float) -> Shape:
    if shapes.broadcast([s, mask]) != s:
        raise ShapeError(f"a mask of shape {mask} does not broadcast to {s}")
    return s


@fused(signature=None, shape=_mask_fits, domain=(Real(), Bool()), choices=lambda *s: {"value": [-1.0, 0.0]},
       samples=(((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (2, 1, 1)), ((), ()), ((0, 2), (2,))),
       equation=("Y = mask ? value : X", "X̄ = mask ? 0 : Ȳ"), shapes="x (…), mask (broadcasts to that of x) → (…)",
       about={"mask": "True = replace", "value": "the number put there"},
       raises=("ShapeError: a mask that does not broadcast to x",
               "DtypeError: a value that the integers of x do not have"))
def masked_fill(x: Tensor, mask: Tensor, *, value: float) -> Tensor:
    """A copy of x with `value` where the mask is true."""
    return where(mask, number_for("masked_fill", x.dtype, value), x).astype(x.dtype)
