"""Tensors of given values."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Tensor
from engine.shapes import Shape
from engine.state import STATE


def zeros(shape: Shape, dtype: Any = np.float32) -> Tensor:
    """A tensor of zeros."""
    return _filled(shape, 0, dtype)


def ones(shape: Shape, dtype: Any = np.float32) -> Tensor:
    """A tensor of ones."""
    return _filled(shape, 1, dtype)


def _filled(shape: Shape, value: float, dtype: Any) -> Tensor:
    if not STATE.get().computing:
        return Tensor.placeholder(tuple(shape), dtype)
    return Tensor(np.full(tuple(shape), value, dtype))
