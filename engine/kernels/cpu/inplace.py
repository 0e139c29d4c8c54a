"""Writing into arrays that outlive a step: copies, running sums, and one more position of a sequence."""

from collections.abc import Sequence

import numpy as np

from . import jit_disabled, tape

Array = np.ndarray

BLOCK = 16384  # elements of one block of work

if not jit_disabled():
    from .jit import kernel

    @kernel("T[::1], T[::1], int, bool")
    def _take_up(lo, hi, out, x, n, add):
        for i in range(lo * BLOCK, min(hi * BLOCK, n)):
            out[i] = out[i] + x[i] if add else x[i]

    @kernel("T[:, :, :], T[:, :, :], int64[::1]")
    def _write(lo, hi, out, x, at):
        for row in range(lo, hi):
            for j in range(out.shape[2]):
                out[row, at[0], j] = x[row, 0, j]


def copy(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Write each of x over its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, False)


def accumulate(out: Sequence[Array], x: Sequence[Array]) -> None:
    """Add each of x to its counterpart in out: C-contiguous, of one shape and dtype."""
    _all(out, x, True)


def write(out: Sequence[Array], x: Sequence[Array], *, at: Array) -> None:
    """out[:, at] = x[:, 0] for each out (B, C, D) and x (B, 1, D); `at` is an int64 array of one element."""
    for a, b in zip(out, x, strict=True):
        if jit_disabled():
            a[:, int(at)] = b[:, 0]
        else:
            _write(a.shape[0], a, b, np.asarray(at, np.int64))


def _all(out: Sequence[Array], x: Sequence[Array], add: bool) -> None:
    for a, b in zip(out, x, strict=True):
        if jit_disabled():
            np.add(a, b, out=a) if add else np.copyto(a, b)
        else:
            _take_up(-(-a.size // BLOCK), a, tape.contiguous(b), a.size, add)
