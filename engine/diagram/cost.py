"""How much work a box is: multiplications and additions, and bytes read and written; from shapes alone."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Node, Tensor
from engine.diagram.axes import behind, expanded

FREE = {"reshape", "transpose", "swapaxes", "broadcast_to", "expand_dims", "squeeze", "getitem", "constant", "concat",
        "put", "pad", "one_hot", "astype", "take", "equal", "not_equal", "less", "greater", "where"}
CACHE: dict[Any, int] = {}


def flop(node: Node) -> int:
    """Floating-point operations of an op: a product counts as two a term, an elementwise op as one a number, moving
    numbers as none; a fused op counts as its meaning."""
    op = node.op
    if op is None or op.name in FREE or None in (node.shape,):
        return 0
    shapes = [n.shape if n is not None else None for n in node.inputs]
    if op.name == "matmul":
        return 2 * _size(node.shape) * (shapes[0] or (1,))[-1]
    if op.name in ("sum", "mean", "max", "min"):
        return _size(shapes[0] or ())
    if op.fused:
        return _of_meaning(node)
    return _size(node.shape)


def _of_meaning(node: Node) -> int:
    op: Any = node.op
    params = {k: v for k, v in node.params.items() if k not in op.residuals and not isinstance(v, np.ndarray)}
    key = (op.name, tuple(n.shape if n is not None else None for n in node.inputs), repr(params))
    if key not in CACHE:
        leaves = [None if n is None else Tensor.placeholder(n.shape, n.dtype) for n in node.inputs]
        out = expanded(op, leaves, params)
        inside = behind([out.node], [t.node for t in leaves if t is not None])
        CACHE[key] = sum(flop(n) for n in inside if n is not node and not (n.op is not None and n.op.fused))
    return CACHE[key]


def touched(node: Node) -> int:
    """Bytes that an op must at least read and write."""
    if node.op is None or node.op.view:
        return 0
    return sum(_size(n.shape) * n.dtype.itemsize for n in (node, *node.inputs) if n is not None)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod([int(n) for n in shape], dtype=np.int64))
