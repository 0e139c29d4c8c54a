"""Cross-entropy of class ids under logits, and its pullback."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Tensor
from engine.errors import DtypeError, ShapeError
from engine.ops.elementwise import where
from engine.ops.index import check_ids, one_hot
from engine.ops.reduce import sum_
from engine.ops.softmax import log_softmax, softmax
from engine.record import Index, Real, fused
from engine.shapes import Shape


def check_classes(name: str, logits: Any, ids: Any, *, ignore_index: int, **_: Any) -> None:
    """Refuse ids that are neither classes nor `ignore_index`. Raises IndexRangeError, DtypeError."""
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"{name}: class ids must be integers, got {ids.dtype}")
    check_ids(np.where(ids == ignore_index, 0, ids) if logits.shape[-1] else ids[ids != ignore_index], logits.shape[-1],
              name)


def _loss_shape(logits: Shape, ids: Shape, *, reduction: str, **_: Any) -> Shape:
    if not logits or logits[:-1] != ids:
        raise ShapeError(f"logits {logits} need class ids of shape {logits[:-1]}, got {ids}")
    return ids if reduction == "none" else ()


def _loss_params(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    if params["reduction"] not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {params['reduction']!r}; it must be 'mean', 'sum' or 'none'")
    if not 0 <= params["label_smoothing"] <= 1:
        raise ValueError(f"label_smoothing is {params['label_smoothing']}; it must lie between 0 and 1")
    return params


LOSS: dict[str, Any] = {
    "signature": None, "canonical": _loss_params, "result": "float",
    "choices": lambda *s: {"reduction": ["mean", "sum", "none"], "label_smoothing": [0.0, 0.1],
                           "ignore_index": [-100, 1]},
    "about": {"logits": "one for each class", "ids": "classes in 0 … V − 1, or `ignore_index`",
              "ignore_index": "the id that counts for nothing",
              "label_smoothing": "s, 0 to 1: the part of the target that all V classes share equally",
              "reduction": '"mean": the sum divided by the number of ids that count, 0 where there is none; "sum"; or '
                           '"none": one loss an id'},
    "raises": ("ShapeError: ids of another shape than the logits have before the last axis",
               "ShapeError (a ValueError): another reduction, or a label_smoothing outside [0, 1]")}


def _loss_vjp_shape(g: Shape, logits: Shape, ids: Shape, **params: Any) -> Shape:
    loss = _loss_shape(logits, ids, **params)
    if g != loss:
        raise ShapeError(f"the cotangent has shape {g}; with reduction={params['reduction']!r} the loss has {loss}")
    return logits


def _loss_vjp_choices(g: Shape, logits: Shape, ids: Shape) -> dict[str, list[Any]]:
    fits = [r for r in ("mean", "sum", "none") if g == _loss_shape(logits, ids, reduction=r)]
    return {**LOSS["choices"](), "reduction": fits}


@fused(**{key: LOSS[key] for key in LOSS if key not in ("choices", "about")}, choices=_loss_vjp_choices,
       shape=_loss_vjp_shape, domain=(Real(), Real(), Index(1, -1)),
       check=lambda g, logits, ids, **params: check_classes("cross_entropy", logits, ids, **params), saves=(0, 1, 2),
       samples=(((), (3,), ()), ((2,), (2, 3), (2,)), ((), (2, 3), (2,)), ((2, 2), (2, 2, 4), (2, 2)),
                ((0,), (0, 3), (0,)), ((), (0, 3), (0,))),
       equation=("X̄ = (softmax X − q) Ȳ / n", ""),
       shapes='g (), or (…) where the reduction is "none", logits (…, V), ids (…) → (…, V)',
       about={**LOSS["about"], "g": "the cotangent",
              "top": "the largest logit of each row that the forward kernel found, or None",
              "total": "the sum of exp(logits − top) of each row that it found, or None",
              "counted": "the number of ids that count that it found, or None; the meaning finds all three again"})
def cross_entropy_vjp(g: Tensor, logits: Tensor, ids: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0,
                      reduction: str = "mean", top: Any = None, total: Any = None, counted: Any = None) -> Tensor:
    """The pullback of cross_entropy."""
    ids = as_int64(ids)
    real = ids != ignore_index
    each = g.expand_dims(-1) if reduction == "none" else g
    if not logits.shape[-1]:
        return logits * each             # no numbers: there is no class, and every id is ignored
    target = _target(ids, real, logits, label_smoothing)
    if reduction == "mean":
        each = each / count(real, logits)
    return where(real.expand_dims(-1), (softmax(logits, axis=-1) - target) * each, 0.0)


@fused(**LOSS, shape=_loss_shape, domain=(Real(), Index(0, -1)), saves=(0, 1),
       residuals=("top", "total", "counted"),
       check=lambda logits, ids, **params: check_classes("cross_entropy", logits, ids, **params),
       vjps=[lambda g, y, logits, ids, **params: cross_entropy_vjp(g, logits, ids, **params), None],
       samples=(((3,), ()), ((2, 3), (2,)), ((2, 2, 4), (2, 2)), ((0, 3), (0,))),
       equation=("yᵢ = −Σⱼ qᵢⱼ log softmax(X)ᵢⱼ, q = (1 − s) one-hot + s/V", "X̄ = (softmax X − q) Ȳ / n"),
       shapes='logits (…, V), ids (…) → (), or (…) where the reduction is "none"')
def cross_entropy(logits: Tensor, ids: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0,
                  reduction: str = "mean") -> Tensor:
    """Cross-entropy of class ids under logits, from log-softmax, with label smoothing (§5.4 of the paper)."""
    if not logits.shape[-1]:
        return without_classes(logits, reduction)
    ids = as_int64(ids)
    real = ids != ignore_index
    target = _target(ids, real, logits, label_smoothing)
    log_p = log_softmax(logits, axis=-1)
    loss = where(real, -sum_(where(target == 0, 0.0, target * log_p), axis=-1), 0.0)
    if reduction == "none":
        return loss
    return sum_(loss) if reduction == "sum" else sum_(loss) / count(real, logits)


def _target(ids: Tensor, real: Tensor, logits: Tensor, label_smoothing: float) -> Tensor:
    """How likely each class should be: 1 at the id, a part of it shared by all."""
    target = one_hot(where(real, ids, 0), size=logits.shape[-1], dtype=logits.dtype)
    return target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]


def without_classes(x: Tensor, reduction: str) -> Tensor:
    """The loss where x holds no class, and so every id is ignored: zeros."""
    return sum_(x, axis=-1 if reduction == "none" else None)


def as_int64(ids: Tensor) -> Tensor:
    """Ids of any integer dtype in one that also holds a negative `ignore_index`."""
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def count(real: Tensor, like: Tensor) -> Tensor:
    """How many ids are real, at least 1."""
    return sum_(where(real, 1.0, 0.0)).astype(like.dtype).maximum(1.0)
