"""The matrix product."""
from __future__ import annotations

import math

import numpy as np

from engine.core import Tensor
from engine.ops.shape import expand_dims, reshape
from engine.record import Real, op


def _left(g: Tensor, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Ā = C̄ Bᵀ."""
    g, _, b = _promoted(g, a, b)
    left = g @ b.mT
    return left.squeeze(-2) if a.ndim == 1 else left


def _right(g: Tensor, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """B̄ = Aᵀ C̄; where b is one matrix for a whole batch, as one product over all rows."""
    vector = b.ndim == 1
    g, a, b = _promoted(g, a, b)
    if b.ndim == 2 and a.ndim > 2:
        rows = math.prod(a.shape[:-1])
        a, g = reshape(a, shape=(rows, a.shape[-1])), reshape(g, shape=(rows, g.shape[-1]))
    right = a.mT @ g
    return right.squeeze(-1) if vector else right


def _promoted(g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A vector on the left is a row, on the right a column; the product then has that axis too."""
    if b.ndim == 1:
        b, g = expand_dims(b, axis=-1), expand_dims(g, axis=-1)
    if a.ndim == 1:
        a, g = expand_dims(a, axis=0), expand_dims(g, axis=-2)
    return g, a, b


matmul = op("matmul", np.matmul, _left, _right, signature="(i?,k),(k,j?)->(i?,j?)", saves=(0, 1), domain=(Real(),),
            equation=("C = A B", "Ā = C̄ Bᵀ, B̄ = Aᵀ C̄"),
            doc="The matrix product over the last two axes, as numpy.matmul.\n\n"
                "A vector on the left is a row, on the right a column, and the product lacks that axis.",
            raises=("ShapeError: 0-d inputs, inner sizes that differ, or leading axes that do not broadcast",))
