"""Simulated memory: what a kernel reads and writes, with its bounds."""

from typing import Any

import numpy as np


class SimulatedFault(Exception):
    """What a kernel did that a card forbids, or leaves undefined."""


class Memory:
    """An array as a kernel sees it: indices are checked, and negative ones are refused."""

    __slots__ = ("array", "dtype", "ndim", "shape", "size", "strides", "what")

    def __init__(self, array: np.ndarray, what: str) -> None:
        self.array, self.what = array, what
        self.shape, self.dtype, self.size = array.shape, array.dtype, array.size
        self.ndim, self.strides = array.ndim, array.strides

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._check(index)
        self.array[index] = value

    def __len__(self) -> int:
        return self.shape[0]

    def _check(self, index: Any) -> None:
        if type(index) is tuple:
            if len(index) == self.ndim and all(0 <= i < n for i, n in zip(index, self.shape, strict=True)):
                return
        elif self.ndim == 1 and 0 <= index < self.size:
            return
        raise IndexError(f"index {index} is outside {self.what} of shape {self.shape}")


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """Memory that nobody has written: NaN, or a large number."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    memory = np.empty(shape, dtype)
    memory.view(np.uint8).fill(0x7F) if memory.ndim else memory.fill(1)
    return memory
