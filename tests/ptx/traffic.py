"""How well accesses to memory fit a card: wavefronts of shared memory, and sectors of global memory.

Shared memory has 32 banks of 4 bytes. What a warp asks for of words goes through at once, of 8 bytes by 16 threads, of
16 bytes by 8 threads, and as many times more as different words of one bank are asked for. Global memory comes in
sectors of 32 bytes ("CUDA C++ Best Practices Guide", "Shared Memory and Memory Banks", "Coalesced Access").
"""
from __future__ import annotations

from collections import Counter

import numpy as np

Array = np.ndarray
BANKS, SECTOR, WARP = 32, 32, 32


class Traffic:
    """Counts, under (the kind of memory, the kind of access)."""

    def __init__(self) -> None:
        self.needed: Counter[tuple[str, str]] = Counter()  # wavefronts or sectors that the accesses take
        self.least: Counter[tuple[str, str]] = Counter()  # that as many bytes would take if they lay well

    def shared(self, kind: str, at: Array, width: int, lanes: Array) -> None:
        """An access to shared memory at these offsets."""
        part = lanes // {8: 16, 16: 8}.get(width, WARP)
        words = at[:, None] // 4 + np.arange(max(1, width // 4))
        pairs = np.unique(np.stack([np.repeat(part, words.shape[1]), words.ravel()]), axis=1)
        asked = np.unique(np.stack([pairs[0], pairs[1] % BANKS]), axis=1, return_counts=True)
        most: Counter[int] = Counter()
        for one, times in zip(asked[0][0].tolist(), asked[1].tolist(), strict=True):
            most[one] = max(most[one], times)
        self.needed["shared", kind] += sum(most.values())
        self.least["shared", kind] += len(most)

    def memory(self, kind: str, at: Array, width: int, lanes: Array) -> None:
        """An access to global memory at these addresses."""
        warp = lanes // WARP
        ends = np.stack([np.tile(warp, 2), np.concatenate([at, at + width - 1]) // SECTOR])
        self.needed["global", kind] += np.unique(ends, axis=1).shape[1]
        units = np.unique(np.stack([warp, at // width]), axis=1)
        _, count = np.unique(units[0], return_counts=True)
        self.least["global", kind] += int((-(-count * width // SECTOR)).sum())
