"""Simulated memory: what a kernel reads and writes, with its bounds."""

from typing import Any

import numpy as np

TOGETHER = 4                             # numbers that one instruction moves


class SimulatedFault(Exception):
    """What a kernel did that a card forbids, or leaves undefined."""


class Memory:
    """An array as a kernel sees it: indices are checked, and negative ones are refused.

    own: it is a block's or a thread's, and begins where a card would lay it, at a multiple of all that is asked for.
    """

    __slots__ = ("array", "begin", "dtype", "ndim", "shape", "size", "strides", "what")

    def __init__(self, array: np.ndarray, what: str, own: bool = True) -> None:
        self.array, self.what, self.begin = array, what, 0 if own else array.ctypes.data
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


def together(x: Any, i: Any, count: int = TOGETHER) -> None:
    """Refuse to access `count` numbers from x[i] on at once where they begin at no multiple of their size: a card
    would."""
    if (x.begin + int(i) * x.dtype.itemsize) % (count * x.dtype.itemsize):
        raise SimulatedFault(misaligned(i, x.what, count))


def misaligned(i: Any, what: str, count: int) -> str:
    """What is wrong with an access to several numbers."""
    return f"misaligned: {'four' if count == TOGETHER else count} numbers at once from index {i} of {what}"


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """Memory that nobody has written: NaN, or a large number."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    memory = np.empty(shape, dtype)
    memory.view(np.uint8).fill(0x7F) if memory.ndim else memory.fill(1)
    return memory
