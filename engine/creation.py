"""Tensors of given values. A shape is a tuple or one integer; the dtype is float32 unless said otherwise; they live on
`device`, "cpu", "cuda" or "auto", or (None) where `default_device` says."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.core import Tensor
from engine.errors import DtypeError, ShapeError
from engine.state import STATE


def zeros(shape: int | Sequence[int], dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype, device)


def ones(shape: int | Sequence[int], dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype, device)


def full(shape: int | Sequence[int], value: float, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A tensor of one value."""
    sizes = sizes_of(shape)
    return _made(sizes, dtype, device, lambda: np.full(sizes, value, dtype))


def zeros_like(x: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros in the shape of a tensor or array, and in its dtype unless another is given; on its device."""
    return full_like(x, 0, dtype, device)


def ones_like(x: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """Ones in the shape of a tensor or array, and in its dtype unless another is given; on its device."""
    return full_like(x, 1, dtype, device)


def full_like(x: Any, value: float, dtype: Any = None, device: str | None = None) -> Tensor:
    """One value in the shape of a tensor or array, and in its dtype unless another is given; on its device."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return full(x.shape, value, x.dtype if dtype is None else dtype, x.device if device is None else device)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None,
           device: str | None = None) -> Tensor:
    """start, start + step, … up to and without stop; with one number, 0, 1, … up to and without it.

    int64 where all numbers are integers, else float32. Raises ShapeError for a step of 0.
    """
    if step == 0:
        raise ShapeError("arange: step is 0, so the end is never reached")
    given = (0, start, step) if stop is None else (start, stop, step)
    if dtype is None:
        dtype = np.int64 if all(isinstance(n, (int, np.integer)) for n in given) else np.float32
    values = np.arange(*given)
    return _made(values.shape, dtype, device, lambda: values.astype(dtype))


def linspace(start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: Any = np.float32,
             device: str | None = None) -> Tensor:
    """`num` evenly spaced numbers from start to stop, stop itself included if `endpoint`."""
    (n,) = sizes_of(num)
    return _made((n,), dtype, device, lambda: np.linspace(start, stop, n, endpoint).astype(dtype))


def eye(rows: int, cols: int | None = None, k: int = 0, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """A matrix with ones on its k-th diagonal and zeros elsewhere; square unless `cols` is given."""
    n, m = sizes_of((rows, rows if cols is None else cols))
    return _made((n, m), dtype, device, lambda: np.eye(n, m, k, dtype))


def sizes_of(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of integers. Raises ShapeError where it is none."""
    try:
        sizes = tuple(n.__index__() for n in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    except AttributeError:
        raise ShapeError(f"a shape is an integer or a tuple of integers, not {shape!r}") from None
    if min(sizes, default=0) < 0:
        raise ShapeError(f"a shape has no negative sizes: {shape!r}")
    return sizes


def _made(shape: tuple[int, ...], dtype: Any, device: str | None, make: Callable[[], np.ndarray]) -> Tensor:
    """The tensor, or under `shapes_only()` one of its shape."""
    if np.dtype(dtype).kind not in "fiubc":
        raise DtypeError(f"a tensor holds numbers, not {np.dtype(dtype)}")
    return Tensor(make(), device=device) if STATE.get().computing else Tensor.placeholder(shape, dtype)
