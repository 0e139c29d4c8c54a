"""Changing tensors in place: what an optimiser does, outside the graph."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.core import Tensor
from engine.errors import EngineError
from engine.kernels import cpu

RULES = ("adam", "sgd")


def update(rule: str, *tensors: Sequence[Tensor], **settings: Any) -> None:
    """Run an in-place rule over lists of tensors of equal length and shapes; the first list is what learns.

    `update("adam", parameters, gradients, m, v, lr=…, beta1=…, beta2=…, eps=…, weight_decay=[…], step=…, scale=…)`
    `update("sgd", parameters, gradients, velocities, lr=…, momentum=…, weight_decay=[…], scale=…)`

    Not an op: no record is kept, and a backward pass that still needs the old values raises GraphError.
    """
    if rule not in RULES:
        raise EngineError(f"update: there is no rule {rule!r}; there are {', '.join(RULES)}")
    kernel: Any = cpu.kernel(rule)
    kernel(*[[t.array() for t in many] for many in tensors], **settings)
    for t in tensors[0]:
        t.changed()


def sum_of_squares(tensors: Sequence[Tensor]) -> float:
    """The sum of the squares of all elements of all tensors: the square of their global norm."""
    kernel: Any = cpu.kernel("sum_of_squares")
    return float(kernel([t.array() for t in tensors]))
