"""Losses of predicted numbers: how far x is from its target."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.elementwise import abs_, square, where
from engine.ops.reduce import mean, sum_
from engine.record import Op, Real, fused
from engine.shapes import Shape, same

REDUCTIONS = ("mean", "sum", "none")


def reduction_of(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    """Parameters whose `reduction` is one that there is. Raises ShapeError."""
    if params["reduction"] not in REDUCTIONS:
        raise ShapeError(f"reduction is {params['reduction']!r}; it must be 'mean', 'sum' or 'none'")
    return params


REDUCE = '"mean" of all losses, their "sum", or "none": all of them'
ABOUT = {"target": "what x should be", "reduction": REDUCE}
MISFIT = "ShapeError: x and the target of different shapes, or another reduction"
LOSS_SHAPES = 'x (…), target (…) → (), or (…) where the reduction is "none"'


def _loss_shape(x: Shape, target: Shape, *, reduction: str, **_: Any) -> Shape:
    return same(x, target) if reduction == "none" else (same(x, target), ())[1]


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean of all losses, their sum, or all of them."""
    if reduction == "none":
        return loss
    return mean(loss) if reduction == "mean" else sum_(loss)


def loss(**fields: Any) -> Callable[[Callable[..., Any]], Op]:
    """Decorator: a loss of x and a target of the same shape, with a `reduction`."""
    more = fields.pop("choices", {})
    return fused(**{"signature": None, "canonical": reduction_of, "shape": _loss_shape, "result": "float",
                    "choices": lambda *s: {"reduction": [*REDUCTIONS], **more},
                    "samples": (((3,), (3,)), ((2, 3), (2, 3)), ((), ()), ((0, 2), (0, 2)), ((2, 1, 2), (2, 1, 2))),
                    "shapes": LOSS_SHAPES, "raises": (MISFIT,), **fields,
                    "about": {**ABOUT, **fields.get("about", {})}})


# The difference is 0.875 to 1.375 in size: on either side of the bends that tests ask for, never at one.
LOW, HIGH = Real(0.0, 0.375), Real(1.25, 1.375)


@loss(domain=(Real(),), equation=("Y = (X − T)², its mean or sum", "X̄ = 2 Ȳ ⊙ (X − T) / n, T̄ = −X̄"))
def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The squared difference between x and its target."""
    return reduced(square(x - target), reduction)


@loss(domain=(LOW, HIGH), equation=("Y = |X − T|, its mean or sum", "X̄ = Ȳ ⊙ sign(X − T) / n, T̄ = −X̄"))
def l1_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """The absolute difference between x and its target; its gradient is 0 where they are equal."""
    return reduced(abs_(x - target), reduction)


def _positive(name: str, allowed: float) -> Callable[..., dict[str, Any]]:
    def canonical(params: dict[str, Any], *s: Shape) -> dict[str, Any]:
        if not params[name] >= allowed:
            raise ShapeError(f"{name} is {params[name]}; it must be positive")
        return reduction_of(params)
    return canonical


@loss(domain=(LOW, HIGH), choices={"beta": [0.5, 2.0, 0.0]}, canonical=_positive("beta", 0),
      about={"beta": "β, the size of the difference up to which it is squared; 0: nowhere"},
      raises=(MISFIT, "ShapeError (a ValueError): a negative beta"),
      equation=("Y = |D| < β ? D²/2β : |D| − β/2, D = X − T", "X̄ = Ȳ ⊙ (|D| < β ? D/β : sign D) / n, T̄ = −X̄"))
def smooth_l1_loss(x: Tensor, target: Tensor, *, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """The absolute difference, rounded off where it is smaller than beta (Girshick 2015)."""
    size = abs_(x - target)
    if not beta:
        return reduced(size, reduction)
    near = size < beta
    return reduced(where(near, _squared(x, target, near) * (0.5 / beta), size - beta / 2), reduction)


@loss(domain=(LOW, HIGH), choices={"delta": [0.5, 2.0]}, canonical=_positive("delta", 1e-300),
      about={"delta": "δ, the size of the difference up to which it is squared; above 0"},
      raises=(MISFIT, "ShapeError (a ValueError): a delta that is not positive"),
      equation=("Y = |D| ≤ δ ? D²/2 : δ(|D| − δ/2), D = X − T", "X̄ = Ȳ ⊙ (|D| ≤ δ ? D : δ sign D) / n, T̄ = −X̄"))
def huber_loss(x: Tensor, target: Tensor, *, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Half the squared difference, straight on from where it is larger than delta (Huber 1964)."""
    size = abs_(x - target)
    near = size <= delta
    slope = where(near, 0.0, delta)      # delta may be infinite
    return reduced(where(near, 0.5 * _squared(x, target, near), slope * (size - delta / 2)), reduction)


def _squared(x: Tensor, target: Tensor, near: Tensor) -> Tensor:
    """The squared difference where it is near, else 0: the gradient of one that overflows would be 0 · ∞."""
    return square(where(near, x - target, 0.0))
