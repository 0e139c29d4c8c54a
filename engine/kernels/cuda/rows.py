"""What kernels that work row by row have in common: how a row is shared out, and reductions over its threads.

A row of n numbers belongs to THREADS threads: a warp (`SHORT`, several rows a block) or a whole block. Thread t holds
the numbers from 4 (p THREADS + t) on, four at a time, for p = 0 .. PARTS - 1, all in registers. So a row is read once
and written once. Sums are made of each thread's own, in ascending order, and one tree over the threads, so their order
depends on the length of the row alone.

All of a row's loads are issued before the first number is used, so that they are under way together: in two loops, one
of `get4` with wide = True and one with False, each without branches that depend on memory.
"""

import math
from typing import Any

import numpy as np

from .jit import Kernel, cuda, jit, kernel
from .ptx import load4, store4
from .template import template

WARP = 32
EVERYBODY = 0xFFFFFFFF
ROWS = 8  # short rows of a block
MOST = 2**31 - 1  # elements of an array, so that they can be counted in int32
LOWEST = np.float32(-math.inf)
ZERO = np.float32(0)
FLOAT32 = np.dtype(np.float32)


@jit
def warp_sum(x):
    """The sum over the lanes of a warp, in every lane."""
    for lanes in (16, 8, 4, 2, 1):
        x = x + cuda.shfl_xor_sync(EVERYBODY, x, lanes)
    return x


@jit
def greater(x, y):
    """The larger of two; y where x is NaN."""
    return x if x > y else y


@jit
def warp_max(x):
    """The largest of the lanes of a warp, in every lane, passing over NaN."""
    for lanes in (16, 8, 4, 2, 1):
        x = greater(cuda.shfl_xor_sync(EVERYBODY, x, lanes), x)
    return x


@jit
def block_sum(x):
    """The sum over a block of whole warps, in every thread."""
    parts = cuda.shared.array(32, np.float32)
    warp, warps = cuda.threadIdx.x >> 5, cuda.blockDim.x >> 5
    x = warp_sum(x)
    if cuda.threadIdx.x & 31 == 0:
        parts[warp] = x
    cuda.syncthreads()
    lane = cuda.threadIdx.x & 31
    x = warp_sum(parts[lane] if lane < warps else ZERO)
    cuda.syncthreads()
    return x


@jit
def block_max(x):
    """The largest number of a block of whole warps, in every thread, passing over NaN."""
    parts = cuda.shared.array(32, np.float32)
    warp, warps = cuda.threadIdx.x >> 5, cuda.blockDim.x >> 5
    x = warp_max(x)
    if cuda.threadIdx.x & 31 == 0:
        parts[warp] = x
    cuda.syncthreads()
    lane = cuda.threadIdx.x & 31
    x = warp_max(parts[lane] if lane < warps else LOWEST)
    cuda.syncthreads()
    return x


@jit
def get4(x, at, i, n, wide, other):
    """Numbers i .. i + 3 of the row of n that begins at `at`, `other` behind its end; wide: n and `at` are multiples
    of four."""
    if wide:
        if i < n:
            return load4(x, at + i)
        return other, other, other, other
    a, b, c, d = other, other, other, other
    if i < n:
        a = x[at + i]
    if i + 1 < n:
        b = x[at + i + 1]
    if i + 2 < n:
        c = x[at + i + 2]
    if i + 3 < n:
        d = x[at + i + 3]
    return a, b, c, d


@jit
def put4(x, at, i, n, wide, a, b, c, d):
    """Write numbers i .. i + 3 of a row, as far as it goes."""
    if wide:
        if i < n:
            store4(x, at + i, a, b, c, d)
        return
    if i < n:
        x[at + i] = a
    if i + 1 < n:
        x[at + i + 1] = b
    if i + 2 < n:
        x[at + i + 2] = c
    if i + 3 < n:
        x[at + i + 3] = d


@jit
def finite(top):
    """A maximum to subtract: 0 where it is infinite or NaN."""
    return top if top - top == ZERO else ZERO


@jit
def row_of(rows, threads):
    """(row, thread of the row) of this thread, in blocks of `rows` rows of `threads` threads each."""
    return cuda.blockIdx.x * rows + cuda.threadIdx.x // threads, cuda.threadIdx.x % threads


FORMS = {"short": WARP, "middle": 256, "long": 1024}  # threads of a row


class Rows:
    """A row kernel from a template, for short, middle and (where that is the `longest`) long rows.

    The template's constants: THREADS and PARTS, ROWS of a block, SUM and MAX over the threads of a row, and its own.
    A short row has `parts` parts: 4, or 8 where a thread has registers for them. A block has 32 parts of short rows.
    `resident`: how many threads should fit on a multiprocessor, which limits their registers.
    """

    def __init__(self, name: str, signature: str, source: template, longest: str = "long", parts: int = 4,
                 resident: int = 0, **constants: Any) -> None:  # fmt: skip
        self._kernels: list[tuple[int, int, int, Kernel]] = []
        for form, threads in FORMS.items():
            short = threads == WARP
            parts, rows = (parts, 32 // parts) if short else (8 if form == "long" else 4, 1)
            function = source(
                f"{name}_{form}", THREADS=threads, PARTS=parts, ROWS=rows, SUM=warp_sum if short else block_sum,
                MAX=warp_max if short else block_max, **constants,
            )  # fmt: skip
            at_once = max(1, resident // (threads * rows))
            made = kernel(signature, threads=threads * rows, blocks_per_multiprocessor=at_once)(function)
            self._kernels.append((4 * threads * parts, rows, threads * rows, made))
            if form == longest:
                break

    def fits(self, n: int) -> bool:
        """Whether there is a kernel for rows of n numbers."""
        return n <= self._kernels[-1][0]

    def blocks(self, rows: int, n: int, most: int | None = None) -> int:
        """How many blocks rows of n numbers take, of which at most so many are wanted."""
        at_once = next(at_once for longest, at_once, _, _ in self._kernels if n <= longest)
        return min(-(-rows // at_once), most or rows)

    def __call__(self, rows: int, n: int, *arguments: Any, most: int | None = None) -> None:
        """Launch for rows of n numbers, in at most so many blocks where the kernel itself goes on to further rows."""
        threads, made = next((threads, made) for longest, _, threads, made in self._kernels if n <= longest)
        made[self.blocks(rows, n, most), threads](*arguments, rows, n)


def aligned(x: Any) -> bool:
    """Whether an array begins where four numbers can be read at once."""
    memory = getattr(x, "memory", x)
    address = memory.ctypes.data if isinstance(memory, np.ndarray) else memory.data.ptr
    return address % 16 == 0


def wide(n: int, *arrays: Any) -> bool:
    """Whether rows of n numbers can be read and written four at a time."""
    return n % 4 == 0 and all(aligned(a) for a in arrays if a is not None)


def served(*arrays: Any) -> bool:
    """Whether these (or None) are float32 arrays whose elements can be counted in 32 bits."""
    return all(a is None or (a.dtype == FLOAT32 and a.size <= MOST) for a in arrays)
