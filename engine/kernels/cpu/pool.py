"""Memory for results, used again: fresh memory costs a page fault every 4 KiB, more than many a kernel's whole work.

An array from the pool is a view of memory that the pool holds, too. When nobody else holds it any more (Python counts
the references), the next array of the same size may have it.
"""

import sys
import threading
from collections import OrderedDict, deque
from math import prod
from sys import getrefcount
from typing import Any

import numpy as np

Array = np.ndarray
Piece = tuple[Array, int]  # memory, and where in it an array begins

SMALLEST = 1 << 15  # bytes: below, the C library has memory at hand
LIMIT = 1 << 27  # bytes that a pool holds at most
TRIES = 8  # pieces that are looked at for one that is free
ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Pool:
    """`empty` as NumPy's, but aligned, and from memory that is no longer used where there is some of this size."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size = limit, 0
        self._pieces: OrderedDict[int, deque[Piece]] = OrderedDict()  # by bytes, the last used size at the end
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = (prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
        if size < SMALLEST or size > self.limit or not _COUNTED or not self._lock.acquire(False):
            return np.empty(shape, dtype)
        try:
            pieces = self._pieces.get(size)
            if pieces is None:
                memory, start = self._new_piece(size)
            else:
                memory, start = pieces[-1]  # the last one used may still be in a cache
                if getrefcount(memory) != _ALONE:
                    memory, start = _another(pieces) or self._new_piece(size)
                self._pieces.move_to_end(size)
        finally:
            self._lock.release()
        return np.ndarray(shape, dtype, memory, start)

    def _new_piece(self, size: int) -> Piece:
        while self.size + size > self.limit:
            oldest, pieces = next(iter(self._pieces.items()))
            pieces.popleft()
            self.size -= oldest
            if not pieces:
                del self._pieces[oldest]
        piece = _aligned(size)
        self._pieces.setdefault(size, deque()).append(piece)
        self.size += size
        return piece


def _another(pieces: deque[Piece]) -> Piece | None:
    """One of the others that is free, which goes to the end."""
    for _ in range(min(len(pieces) - 1, TRIES)):
        pieces.rotate(-1)
        memory, start = pieces[-1]
        if getrefcount(memory) == _ALONE:
            return memory, start
    return None


def _aligned(size: int) -> Piece:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    return memory, -memory.ctypes.data % ALIGNMENT


def aligned_copy(array: Array) -> Array:
    """A C-contiguous copy whose memory, if it is more than a little, begins at a cache line."""
    if array.nbytes < SMALLEST:
        return np.array(array, order="C")
    copy: Array = np.ndarray(array.shape, array.dtype, *_aligned(array.nbytes))
    np.copyto(copy, array)
    return copy


def _references_of_a_piece() -> int:
    """What `getrefcount` says in `empty` where only the pool has the memory: it differs between Pythons."""
    pieces = deque([(np.empty(1, np.uint8), 0)])
    memory, _ = pieces[-1]
    return getrefcount(memory)


_ALONE = _references_of_a_piece()
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()  # without that lock, counts are not exact
POOL = Pool()
