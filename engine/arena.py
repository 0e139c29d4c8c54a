"""Where the buffers of a recorded step lie in one piece of memory: those never needed together share a place."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LINE = 64                                # bytes: every buffer begins at a cache line


class Buffer(NamedTuple):
    """A buffer's size in bytes, and the first and the last launch of the step that touch it."""
    size: int
    first: int
    last: int


def layout(buffers: Sequence[Buffer]) -> tuple[list[int], int]:
    """The offset of each buffer, and the size of the memory that holds them all.

    The largest first, each at the lowest place that is free during its life ("greedy by size", Pisarchyk & Lee,
    "Efficient Memory Management for Deep Neural Net Inference", 2020, §5.2).
    """
    offsets = [0] * len(buffers)
    placed = np.zeros((len(buffers), 4), np.int64)       # offset, end, first, last; in ascending order of offsets
    count = total = 0
    for i in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first)):
        size, first, last = -(-buffers[i].size // LINE) * LINE, buffers[i].first, buffers[i].last
        rivals = placed[:count][(placed[:count, 2] <= last) & (placed[:count, 3] >= first)]
        offsets[i] = _lowest_gap(rivals[:, 0], rivals[:, 1], size)
        at = int(np.searchsorted(placed[:count, 0], offsets[i]))
        placed[at + 1:count + 1] = placed[at:count].copy()
        placed[at] = offsets[i], offsets[i] + size, first, last
        count, total = count + 1, max(total, offsets[i] + size)
    return offsets, total


def _lowest_gap(starts: np.ndarray, ends: np.ndarray, size: int) -> int:
    """The lowest offset with `size` free bytes between intervals that are in ascending order of their starts."""
    if not len(starts):
        return 0
    covered = np.maximum.accumulate(ends)                # up to where everything before the next start may be taken
    free_from = np.concatenate([[0], covered])
    wide = np.flatnonzero(starts - free_from[:-1] >= size)
    return int(free_from[wide[0]] if len(wide) else covered[-1])


def allocate(size: int) -> np.ndarray:
    """`size` bytes from the beginning of a cache line on."""
    memory = np.empty(size + LINE, np.uint8)
    skip = -memory.ctypes.data % LINE
    return memory[skip:skip + size]
