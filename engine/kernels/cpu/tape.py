"""The tape of a step: kernel launches written down instead of run, and where kernels get their memory.

While a tape is recording in a Python thread, a kernel called there notes itself and its arguments and computes nothing.
So what stands around the kernels (the functions named after ops) may look at shapes, strides and dtypes, never at the
numbers in an array, and takes all memory from `empty`: `contiguous` copies where NumPy's `np.asarray(x, order="C")`
would, `copy_to` and `fill` write.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .pool import POOL

Array = np.ndarray


class Launch(NamedTuple):
    """A kernel and the blocks and arguments of one call of it. CUDA's blocks are (grid, block, shared bytes)."""

    kernel: Any
    blocks: Any
    arguments: tuple[Any, ...]
    serial: bool


class Call(NamedTuple):
    """A Python function of arrays that runs between kernels: it changes what is in them and returns nothing."""

    function: Any
    arrays: tuple[Any, ...]


class Addresses:
    """Several flat arrays for one kernel, which sees a table int64[:, 2] of their addresses and sizes.

    While recording, an argument of a launch; else `table` makes the array. (Kernels on a card get their own table.)
    """

    on_card: Any = None

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays

    def table(self) -> Array:
        """(address of the first element, number of elements) of each array, which the caller keeps alive."""
        return np.array([(a.ctypes.data, a.size) for a in self.arrays], np.int64).reshape(-1, 2)


def addresses(arrays: Sequence[Array]) -> Any:
    """The argument, for a parameter int64[:, :], by which a kernel reaches several C-contiguous arrays."""
    several = Addresses(arrays)
    return several.table() if CURRENT.tape is None else several


class Tape:
    """What one run of a step would do, in order, and the memory that it asked for."""

    def __init__(self) -> None:
        self.steps: list[Launch | Call] = []
        self.made: list[Any] = []

    def empty(self, shape: tuple[int, ...] | int, dtype: Any) -> Array:
        """Memory of the step's own: no page of it is touched before the step runs."""
        array = np.empty(shape, dtype)
        self.made.append(array)
        return array


class _Current(threading.local):
    tape: Tape | None = None


CURRENT = _Current()


def recording() -> bool:
    """Whether kernels called in this thread are written down instead of run."""
    return CURRENT.tape is not None


def empty(shape: tuple[int, ...] | int, dtype: Any) -> Array:
    """An uninitialised C-contiguous array, for results and for scratch memory."""
    tape = CURRENT.tape
    return POOL.empty(shape, dtype) if tape is None else tape.empty(shape, dtype)


def call(function: Any, *arrays: Any) -> None:
    """Run a Python function of arrays, now or whenever the step that is being recorded runs."""
    tape = CURRENT.tape
    if tape is None:
        function(*arrays)
    else:
        tape.steps.append(Call(function, arrays))


def copy_to(out: Array, x: Array) -> None:
    """Write the numbers of x into out, of the same shape."""
    call(np.copyto, out, x)


def fill(out: Array, value: float) -> None:
    """Write one number everywhere."""
    call(partial(_fill, value), out)


def _fill(value: float, out: Array) -> None:
    out.fill(value)


def contiguous(x: Array) -> Array:
    """x itself if it is C-contiguous, else a copy that is."""
    if x.flags.c_contiguous:
        return x
    out = empty(x.shape, x.dtype)
    copy_to(out, x)
    return out
