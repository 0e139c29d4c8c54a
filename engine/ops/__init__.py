"""The table, in reading order. After this import `engine.core.OPS` is complete.

Fused ops have a meaning in ops and a kernel for speed. The kernel of the same name is only an optimisation: what an op
is, is written here.
"""
from engine.ops import (
    attention,
    dropout,
    elementwise,
    embed,
    index,
    linear,
    loss,
    matmul,
    norm,
    place,
    reduce,
    shape,
    softmax,
)

__all__ = [
    "attention", "dropout", "elementwise", "embed", "index", "linear", "loss", "matmul", "norm", "place", "reduce",
    "shape", "softmax",
]
