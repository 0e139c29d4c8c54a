"""Dropout, decided by a key."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine import random
from engine.core import Tensor
from engine.errors import ShapeError
from engine.record import Key, Op, Real, op
from engine.shapes import Shape


def probability(params: dict[str, Any], *_: Shape) -> dict[str, Any]:
    if not 0 <= params["p"] <= 1:
        raise ValueError(f"p is {params['p']}; a probability lies between 0 and 1")
    return params


def _dropout_shape(s: Shape, key: Shape, **_: Any) -> Shape:
    if key:
        raise ShapeError(f"a key is a single integer, not one of shape {key}")
    return s


def _dropout(x: Any, key: Any, *, p: float = 0.5) -> Any:
    keep = random.uniform_array(key, x.shape) >= np.float32(p)
    return np.where(keep, x * x.dtype.type(1 / (1 - p) if p < 1 else 0), x.dtype.type(0))


dropout_op: Op = op("dropout", _dropout, lambda g, y, x, key, *, p: dropout_op(g, key, p=p), None, saves=(1,),
                domain=(Real(), Key()), samples=(((3,), ()), ((2, 3), ()), ((), ()), ((0, 2), ())),
                canonical=probability,
                signature=None, shape=_dropout_shape, choices=lambda *s: {"p": [0.0, 0.3, 1.0]}, result="float",
                equation=("Y = X ⊙ [u ≥ p] / (1 − p)", "X̄ = Ȳ ⊙ [u ≥ p] / (1 − p)"),
                doc="Zero each element with probability p, scale the rest by 1/(1 − p) (Srivastava et al. 2014).\n\n"
                    "Whether an element stays is a function of the key and its position in C order alone.")


def dropout(x: Tensor, key: Tensor | None = None, *, p: float = 0.5) -> Tensor:
    """Zero each element with probability p and scale the rest by 1/(1 − p). Without a key, the next one of the seed."""
    return dropout_op(x, random.next_key() if key is None else key, p=p)
