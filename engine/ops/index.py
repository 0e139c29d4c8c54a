"""Ops that pick numbers by position, and put them back: take ⇄ scatter_add, getitem ⇄ put."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import device as devices
from engine import shapes
from engine.core import Tensor
from engine.errors import DtypeError, GraphError, IndexRangeError
from engine.ops.elementwise import where
from engine.ops.shape import reshape
from engine.record import Index, Op, Real, fused, op
from engine.shapes import Shape
from engine.state import STATE


def check_ids(ids: Any, size: int, what: str, low: int = 0) -> None:
    """Refuse ids outside [low, size): a kernel would read or write foreign memory. Raises IndexRangeError,
    DtypeError."""
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"{what}: ids must be integers, got {ids.dtype}")
    if ids.size and (ids.min() < low or ids.max() >= size):
        bad = ids[(ids < low) | (ids >= size)].reshape(-1)[0]
        raise IndexRangeError(f"{what}: id {int(bad)} is out of range for {size} rows (allowed: {low} to {size - 1})")


def from_zero(ids: Tensor, size: int) -> Tensor:
    """The same places counted from the start of an axis, in a dtype that holds its size."""
    ids = ids.astype(np.int64)
    return where(ids < 0, ids + size, ids)


# --- take ⇄ scatter_add ---------------------------------------------------------------------------
def _take_axis(params: dict[str, Any], s: Shape, ids: Shape) -> dict[str, Any]:
    axis = params["axis"]
    return {"axis": None if axis is None else shapes.one_axis(axis, len(s))}


def _take_rule(g: Tensor, y: Tensor, x: Tensor, ids: Tensor, *, axis: int | None) -> Tensor:
    size = x.size if axis is None else x.shape[axis]
    added = scatter_add(g, from_zero(ids, size), axis=axis or 0, size=size)
    return reshape(added, shape=x.shape) if axis is None else added


def _check_take(x: Any, ids: Any, *, axis: int | None) -> None:
    size = x.size if axis is None else x.shape[axis]
    check_ids(ids, size, "take", -size)


take = op("take", lambda x, ids, *, axis=None: np.take(x, ids, axis=axis), _take_rule, None, saves=(1,),
          signature=None, canonical=_take_axis, domain=(Real(), Index(0)),
          shape=lambda s, i, *, axis: i if axis is None else (*s[:axis], *i, *s[axis + 1:]),
          choices=lambda *s: {"axis": [0, None]},
          samples=(((3,), (2,)), ((4, 2), (2, 3)), ((2, 1), ()), ((3, 2), (0,))),
          check=_check_take, equation=("Y = X[ids]", "X̄[ids] += Ȳ"),
          doc="Pick slices along an axis by id, as numpy.take.",
          shapes="x (…, n, …), ids (i, …) → (…, i, …, …), the axes of the ids in place of `axis`; None: the ids' own",
          about={"ids": "places in −n … n − 1, negative ones counted from the end",
                 "axis": "the axis to pick along, a negative one counted from the end; None: numbers in C order"},
          raises=("ShapeError: an axis that there is not",))


def _scatter_axis(params: dict[str, Any], s: Shape, ids: Shape) -> dict[str, Any]:
    return {**params, "axis": shapes.one_axis(params["axis"], len(s) - len(ids) + 1)}


def _scatter(g: Any, ids: Any, *, axis: int, size: int) -> Any:
    ends = axis + ids.ndim
    rows = np.moveaxis(g.reshape(*g.shape[:axis], ids.size, *g.shape[ends:]), axis, 0)
    out = np.zeros_like(g, shape=(size, *rows.shape[1:]), order="C")
    devices.add_at(out, ids.reshape(-1), rows)
    return np.moveaxis(out, 0, axis)


scatter_add: Op = op("scatter_add", _scatter, lambda h, y, g, ids, *, axis, size: take(h, ids, axis=axis), None,
                 saves=(1,),
                 signature=None, canonical=_scatter_axis, domain=(Real(), Index("size")),
                 shape=lambda s, i, *, axis, size: _scattered(s, i, axis, size),
                 choices=lambda *s: {"axis": [0], "size": [4]},
                 samples=(((2,), (2,)), ((2, 3, 2), (2, 3)), ((2,), ()), ((0, 2), (0,))),
                 check=lambda g, ids, *, axis, size: check_ids(ids, size, "scatter_add"),
                 equation=("Y[ids] += X", "X̄ = Ȳ[ids]"),
                 doc="Zeros of `size` along an axis, to which each slice of g is added at its id, in ascending order.",
                 shapes="g (…, i, …, …), ids (i, …) → (…, size, …), the axes of the ids made one",
                 about={"g": "the slices", "ids": "places in 0 … size − 1; equal ones add up",
                        "axis": "where the axes of the ids begin in g, and the axis of `size` in the result",
                        "size": "how many slices the result has"},
                 raises=("ShapeError: an axis that there is not, or ids of another shape than g has there",))


def _scattered(s: Shape, i: Shape, axis: int, size: int) -> Shape:
    if s[axis:axis + len(i)] != i:
        raise ValueError(f"the ids have shape {i}, but x has {s[axis:axis + len(i)]} at axis {axis}")
    return (*s[:axis], size, *s[axis + len(i):])


@fused(signature="(v,d),(...)->(...,d)", about={"weight": "the table, one row an id", "ids": "rows in 0 … v − 1"},
       raises=("ShapeError: a weight that is no matrix",), saves=(1,), domain=(Real(), Index(0)),
       vjps=[lambda g, y, w, ids: scatter_add(g, ids, axis=0, size=w.shape[0]), None],
       check=lambda weight, ids: check_ids(ids, weight.shape[0], "embedding"),
       equation=("Y = W[ids]", "W̄[ids] += Ȳ"))
def embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """Row ids[…] of a table for every id."""
    return take(weight, ids, axis=0)


# --- getitem ⇄ put --------------------------------------------------------------------------------
def _plain(index: Any) -> Any:
    """An index without tensors and lists: integers, slices, None, Ellipsis and arrays."""
    if isinstance(index, tuple):
        return tuple(_plain(i) for i in index)
    if isinstance(index, Tensor):
        return _values(index)
    return np.asarray(index, np.int64 if not len(index) else None) if isinstance(index, list) else index


def _values(index: Tensor) -> Any:
    """The array of an index, which must have numbers: they decide what shape the result has."""
    array, recorder = index.array(), STATE.get().recorder
    if recorder is not None and not recorder.has_numbers(array):
        raise GraphError(f"{index.node.label()} of shape {index.shape} is an index while a step is recorded for "
                         "replay, and has no numbers yet. Use engine.take, which takes ids as an input.")
    return array


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(i, (slice, int, np.integer, type(None), type(...))) and not isinstance(i, bool)
               for i in parts)


def _put(g: Any, *, index: Any, shape: Shape) -> Any:
    out = np.zeros_like(g, shape=shape, order="C")
    if _is_basic(index):
        out[index] = g
    else:
        devices.add_at(out, index, g)
    return out


def _indices(s: Shape) -> list[Any]:
    """Indices that a test may draw for this shape: one of every kind."""
    some: list[Any] = [..., (None, ...), (slice(None, None, -1), ...) if s else (), (..., slice(0, 2)) if s else ()]
    if s and s[0]:
        some += [0, -1, np.array([0, s[0] - 1, 0]), np.arange(s[0]) % 2 == 0, (np.array([[0], [0]]), ..., None)]
    if len(s) > 1 and s[0] and s[1]:
        some += [(np.array([0, 0]), np.array([0, s[1] - 1])), (slice(None), 0), (0, slice(None), None)]
    return some


def _fits(s: Shape, index: Any, shape: Shape) -> Shape:
    if devices.picked(shape, index) != s:
        raise ValueError(f"the index picks {devices.picked(shape, index)} of {shape}, but x has shape {s}")
    return shape


put: Op = op("put", _put, lambda h, y, g, *, index, shape: getitem(h, index=index), saves=(), signature=None,
         shape=lambda s, *, index, shape: _fits(s, index, shape),
         canonical=lambda params, s: {"index": _plain(params["index"]), "shape": tuple(params["shape"])},
         choices=lambda s: {"index": [(1, ...)] if s == (2,) else [(np.array([0, 2, 0]),)],
                            "shape": [(3, 2)] if s == (2,) else [(3, *s[1:])]}, samples=(((2,),), ((3, 2),), ((3,),)),
         equation=("Y[index] += X", "X̄ = Ȳ[index]"),
         doc="Zeros of `shape`, to which g is added at the index: the adjoint of getitem.", shapes="g (…) → `shape`",
         about={"index": "what picks numbers of the shape of g: see getitem", "shape": "the shape of the result"},
         raises=("ShapeError: an index that picks another shape than that of g",
                 "IndexRangeError: an index out of range"))
getitem: Op = op("getitem", lambda x, *, index: x[devices.beside_in(x, index)],
                 lambda g, y, x, *, index: put(g, index=index, shape=x.shape),
                 saves=(), view=True, signature=None, shape=lambda s, *, index: devices.picked(s, index),
                 canonical=lambda params, s: {"index": _plain(params["index"])},
                 choices=lambda s: {"index": _indices(s)}, equation=("Y = X[index]", "X̄[index] += Ȳ"),
                 doc="The numbers at an index, x[index], as in NumPy.",
                 shapes="x (…) → the shape that NumPy's x[index] has",
                 about={"index": "slices, integers, None, Ellipsis, integer arrays and boolean masks, one or a tuple"},
                 raises=("IndexRangeError: an index out of range, of too many axes, or a mask of another shape",))


# --- one-hot --------------------------------------------------------------------------------------
def _one_hot(ids: Any, *, size: int, dtype: Any = np.float32) -> Any:
    return (ids[..., None] == np.arange(size, like=ids)).astype(dtype)


one_hot = op("one_hot", _one_hot, None, saves=(), signature=None, shape=lambda s, *, size, dtype: (*s, size),
             result="param", domain=(Index("size"),), choices=lambda s: {"size": [3, 5]},
             check=lambda ids, *, size, dtype: check_ids(ids, size, "one_hot"),
             equation=("y[…, j] = [id = j]", ""), doc="1 at the id and 0 elsewhere along a new last axis.",
             shapes="ids (…) → (…, size)", raises=(),
             about={"ids": "places in 0 … size − 1", "size": "how many places there are",
                    "dtype": "the dtype of the result, or its name"})
