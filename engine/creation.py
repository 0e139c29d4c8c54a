"""Tensors of given values."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Tensor
from engine.shapes import Shape
from engine.state import STATE


def zeros(shape: Shape, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A tensor of zeros, on a device (None: where `default_device` says)."""
    return _filled(shape, 0, dtype, device)


def ones(shape: Shape, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A tensor of ones, on a device (None: where `default_device` says)."""
    return _filled(shape, 1, dtype, device)


def _filled(shape: Shape, value: float, dtype: Any, device: str | None) -> Tensor:
    if not STATE.get().computing:
        return Tensor.placeholder(tuple(shape), dtype)
    return Tensor(np.full(tuple(shape), value, dtype), device=device)
