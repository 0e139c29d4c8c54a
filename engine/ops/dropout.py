"""Dropout, decided by a key."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import random
from engine.core import Tensor
from engine.describe import face
from engine.errors import ShapeError
from engine.record import Key, Op, Real, fused, op
from engine.shapes import Shape

P = "the probability of dropout, 0 to 1"
BAD_P = "ShapeError (a ValueError): p outside [0, 1]"
NO_KEY = "ShapeError (a ValueError): p outside [0, 1], or not 0 and no key"


def probability(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    if not 0 <= params["p"] <= 1:
        raise ValueError(f"p is {params['p']}; a probability lies between 0 and 1")
    return params


def probability_with_key(params: dict[str, Any], key: Shape | None) -> dict[str, Any]:
    """The parameters of an op that has dropout inside, where p = 0 needs no key."""
    if params["p"] and key is None:
        raise ValueError(f"p is {params['p']}, and dropout needs a key to be repeatable: pass engine.random.next_key()")
    return probability(params)


def _dropout_shape(s: Shape, key: Shape, **_: Any) -> Shape:
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return s


def _dropout(x: Any, key: Any, *, p: float = 0.5) -> Any:
    keep = random.uniform_array(key, x.shape) >= np.float32(p)
    return np.where(keep, x * x.dtype.type(1 / (1 - p) if p < 1 else 0), x.dtype.type(0))


def _dropout_rule(g: Tensor, y: Tensor, x: Tensor, key: Tensor, **params: Any) -> Tensor:
    return dropout_vjp(g, key, **params)


dropout_op: Op = op("dropout", _dropout, _dropout_rule, None, saves=(1,),
                residuals=("kept",),
                domain=(Real(), Key()), samples=(((3,), ()), ((2, 3), ()), ((), ()), ((0, 2), ())),
                canonical=probability,
                signature=None, shape=_dropout_shape, choices=lambda *s: {"p": [0.0, 0.3, 1.0]}, result="float",
                equation=("Y = X ⊙ [u ≥ p] / (1 − p)", "X̄ = Ȳ ⊙ [u ≥ p] / (1 − p)"),
                doc="Zero each element with probability p, scale the rest by 1/(1 − p) (Srivastava et al. 2014).\n\n"
                    "Whether an element stays is a function of the key and its position in C order alone.",
                shapes="x (…), key () → (…)", about={"p": P},
                raises=(BAD_P, "ShapeError: a key that is not one integer"))


@fused(signature=None, shape=_dropout_shape, canonical=probability, result="float", domain=(Real(), Key()),
       samples=(((3,), ()), ((2, 19), ()), ((), ()), ((0, 2), ())), choices=lambda *s: {"p": [0.0, 0.3, 1.0]},
       equation=("X̄ = Ȳ ⊙ [u ≥ p] / (1 − p)", "Y = X ⊙ [u ≥ p] / (1 − p)"), shapes="g (…), key () → (…)",
       about={"g": "the cotangent", "p": P, "kept": "what the forward kernel decided; the meaning does it again"},
       raises=(BAD_P, "ShapeError: a key that is not one integer"))
def dropout_vjp(g: Tensor, key: Tensor, *, p: float = 0.5, kept: Any = None) -> Tensor:
    """The pullback of dropout, which is dropout."""
    return dropout_op(g, key, p=p)


@face(dropout_op)
def dropout(x: Tensor, key: Tensor | None = None, *, p: float = 0.5) -> Tensor:
    """The op `dropout`; without a key, the next one of the seed."""
    return dropout_op(x, random.next_key() if key is None else key, p=p)
