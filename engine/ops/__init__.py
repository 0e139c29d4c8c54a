"""The table, in reading order. After this import `engine.core.OPS` is complete.

Fused ops have a meaning in ops and a kernel for speed: softmax, norm, loss, dropout, attention. The kernel of the same
name is only an optimisation: what an op is, is written here.
"""
from engine.ops import attention, dropout, elementwise, index, loss, matmul, norm, reduce, shape, softmax

__all__ = ["attention", "dropout", "elementwise", "index", "loss", "matmul", "norm", "reduce", "shape", "softmax"]
