"""Losses of predicted probabilities, from their logarithms or from logits; 0 log 0 is 0."""
from __future__ import annotations

from typing import Any

from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.activation import softplus
from engine.ops.along import take_along_axis
from engine.ops.elementwise import exp, log, where
from engine.ops.loss import as_int64, check_classes, count, without_classes
from engine.ops.reduce import sum_
from engine.ops.regression import LOSS_SHAPES, MISFIT, REDUCTIONS, loss, reduced, reduction_of
from engine.ops.shape import expand_dims, squeeze
from engine.record import Index, Real, fused
from engine.shapes import Shape, same

PROBABILITY = Real(0.0625, 0.9375)


def _times_log(p: Tensor, x: Tensor) -> Tensor:
    """p log x, and 0 where both are 0."""
    return p * log(where((p == 0) & (x == 0), 1.0, x))


# --- one of several classes -----------------------------------------------------------------------
def _nll_shape(log_p: Shape, ids: Shape, *, reduction: str, **_: Any) -> Shape:
    if not log_p or log_p[:-1] != ids:
        raise ShapeError(f"log-probabilities {log_p} need class ids of shape {log_p[:-1]}, got {ids}")
    return ids if reduction == "none" else ()


@fused(signature=None, canonical=reduction_of, shape=_nll_shape, result="float", domain=(Real(), Index(0, -1)),
       check=lambda log_p, ids, **params: check_classes("nll_loss", log_p, ids, **params),
       samples=(((3,), ()), ((2, 3), (2,)), ((2, 2, 4), (2, 2)), ((0, 3), (0,))),
       choices=lambda *s: {"reduction": [*REDUCTIONS], "ignore_index": [-100, 1]},
       equation=("yᵢ = −x at (i, idᵢ), their mean or sum", "X̄ at (i, idᵢ) = −ȳᵢ / n"),
       shapes='log_p (…, V), ids (…) → (), or (…) where the reduction is "none"',
       about={"log_p": "log-probabilities, one for each class, as log_softmax gives them",
              "ids": "classes in 0 … V − 1, or `ignore_index`", "ignore_index": "the id that counts for nothing",
              "reduction": '"mean": the sum divided by the number of ids that count, 0 where there is none; "sum"; or '
                           '"none": one loss an id'},
       raises=("ShapeError: ids of another shape than log_p has before the last axis, or another reduction",))
def nll_loss(log_p: Tensor, ids: Tensor, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """The negative log-likelihood of class ids under log-probabilities."""
    if not log_p.shape[-1]:
        return without_classes(log_p, reduction)
    ids = as_int64(ids)
    real = ids != ignore_index
    picked = take_along_axis(log_p, expand_dims(where(real, ids, 0), axis=-1), axis=-1)
    each = where(real, -squeeze(picked, axis=-1), 0.0)
    if reduction != "mean":
        return reduced(each, reduction)
    return sum_(each) / count(real, log_p)


# --- distributions --------------------------------------------------------------------------------
def _kl_params(params: dict[str, Any], x: Shape, target: Shape) -> dict[str, Any]:
    if params["reduction"] != "batchmean":
        return reduction_of(params)
    if not x:
        raise ShapeError("reduction 'batchmean' needs a batch axis; x is 0-d")
    return params


def _kl_shape(x: Shape, target: Shape, *, reduction: str, log_target: bool) -> Shape:
    return same(x, target) if reduction == "none" else (same(x, target), ())[1]


@fused(signature=None, canonical=_kl_params, shape=_kl_shape, result="float", domain=(Real(-3.0, -0.125), PROBABILITY),
       samples=(((3,), (3,)), ((2, 3), (2, 3)), ((2, 1, 2), (2, 1, 2)), ((0, 2), (0, 2))),
       choices=lambda *s: {"reduction": ["mean", "batchmean", "sum", "none"], "log_target": [False, True]},
       equation=("Y = T ⊙ (log T − X), its mean or sum", "X̄ = −Ȳ ⊙ T / n, T̄ = Ȳ ⊙ (log T + 1 − X) / n"),
       shapes=LOSS_SHAPES, raises=(MISFIT, "ShapeError: batchmean of x that is 0-d"),
       about={"x": "log-probabilities", "target": "probabilities",
              "log_target": "whether the target holds logarithms of them",
              "reduction": '"mean" of all losses, as PyTorch has it, their "sum", "batchmean": the sum divided by the '
                           'size of the first axis, or "none": all of them'})
def kl_div(x: Tensor, target: Tensor, *, log_target: bool = False, reduction: str = "mean") -> Tensor:
    """The Kullback–Leibler divergence T (log T − x) of probabilities T from log-probabilities x, number by number.

    Where each row is a distribution, "batchmean" is the mean divergence of one from another.
    """
    p = exp(target) if log_target else target
    known = target if log_target else log(where(p == 0, 1.0, p))
    each = p * (where(p == 0, 0.0, known) - where(p == 0, 0.0, x))
    return sum_(each) / x.shape[0] if reduction == "batchmean" else reduced(each, reduction)


# --- yes or no ------------------------------------------------------------------------------------
@loss(domain=(Real(), PROBABILITY),
      equation=("Y = T log(1 + e⁻ˣ) + (1 − T) log(1 + eˣ), its mean or sum",
                "X̄ = Ȳ ⊙ (σ(X) − T) / n, T̄ = −Ȳ ⊙ X / n"),
      about={"x": "logits", "target": "probabilities of yes"})
def binary_cross_entropy_with_logits(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of probabilities of yes under logits x: exact also where the prediction is sure."""
    return reduced(target * softplus(-x) + (1 - target) * softplus(x), reduction)


@loss(domain=(PROBABILITY, PROBABILITY),
      equation=("Y = −T log X − (1 − T) log(1 − X), its mean or sum", "X̄ = Ȳ ⊙ (X − T) ⊘ (X (1 − X)) / n"),
      about={"x": "predicted probabilities of yes", "target": "probabilities of yes"})
def binary_cross_entropy(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of probabilities of yes under predicted ones; infinite where the prediction is sure and wrong."""
    return reduced(-_times_log(target, x) - _times_log(1 - target, 1 - x), reduction)
