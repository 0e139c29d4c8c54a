"""The table, in reading order. After this import `engine.core.OPS` is complete.

Fused ops have a meaning in ops and a kernel for speed. The kernel of the same name is only an optimisation: what an op
is, is written here. Many are a line or two of other ops and have no kernel.
"""
from engine.core import Tensor
from engine.describe import describe_methods
from engine.ops import (
    activation,
    along,
    attention,
    contraction,
    diagonal,
    dropout,
    elementwise,
    embed,
    exponential,
    index,
    likelihood,
    linear,
    loss,
    matmul,
    norm,
    order,
    place,
    products,
    rearrange,
    reduce,
    regression,
    rounding,
    shape,
    softmax,
    trigonometry,
)
from engine.record import OPS

__all__ = [
    "activation", "along", "attention", "contraction", "diagonal", "dropout", "elementwise", "embed", "exponential",
    "index", "likelihood", "linear", "loss", "matmul", "norm", "order", "place", "products", "rearrange", "reduce",
    "regression", "rounding", "shape", "softmax", "trigonometry",
]

describe_methods(Tensor, OPS)
