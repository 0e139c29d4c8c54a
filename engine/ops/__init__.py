"""The table, in reading order. After this import `engine.core.OPS` is complete."""
from engine.ops import elementwise, fused, index, matmul, reduce, shape

__all__ = ["elementwise", "fused", "index", "matmul", "reduce", "shape"]
