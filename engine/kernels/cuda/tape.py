"""Memory on the card for the functions around the kernels: the counterpart of the CPU's `tape`, on the same tape.

While a step is recorded, arrays that it makes have an address range and no numbers (`SimulatedArray`s whose memory is
never touched, on a card too): the program gives them their place on the card before it runs.
"""

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..cpu.tape import CURRENT, call, recording
from .arrays import SimulatedArray
from .jit import SIMULATED

__all__ = ["SimulatedArray", "call", "contiguous", "copy_to", "empty", "fill", "from_numpy", "recording"]


def empty(shape: Sequence[int] | int, dtype: Any) -> Any:
    """An uninitialised C-contiguous array on the card, for results and for scratch memory."""
    tape = CURRENT.tape
    if tape is not None:
        array = SimulatedArray(np.empty(shape, dtype))
        tape.made.append(array)
        return array
    if SIMULATED:
        return SimulatedArray.poisoned(shape, dtype)
    from . import provider
    return provider.cupy().empty(shape, dtype)


def from_numpy(array: Any) -> Any:
    """A copy on the card."""
    if SIMULATED:
        return SimulatedArray(np.array(array, order="C"))
    from . import provider
    return provider.cupy().asarray(array, order="C")


def adopted(array: Any) -> Any:
    """An array of whatever library, on the card, as one of CuPy's, in the same memory."""
    if SIMULATED:
        return array
    from . import provider
    return provider.cupy().asarray(array)


def send(out: Any, array: np.ndarray) -> None:
    """Write an array's numbers as they are now into one on the card, of the same shape and dtype, without waiting."""
    if SIMULATED:
        out.set(np.asarray(array, order="C"))
    else:
        from . import provider
        provider.send(out, array)


def laid_out(array: np.ndarray) -> Any:
    """A copy on the card with the same strides."""
    extents = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    if not array.size or min(extents, default=0) == max(extents, default=0) == 0:
        return from_numpy(array)
    low, high = sum(min(0, e) for e in extents), sum(max(0, e) for e in extents)
    start = array.__array_interface__["data"][0] + low
    text = (ctypes.c_char * (high - low + array.itemsize)).from_address(start)
    memory = from_numpy(np.frombuffer(text, np.uint8))
    return within(memory, -low, array.shape, array.strides, array.dtype)


def contiguous(x: Any) -> Any:
    """x itself if it is C-contiguous, else a copy that is."""
    if x.flags.c_contiguous:
        return x
    out = empty(x.shape, x.dtype)
    copy_to(out, x)
    return out


def copy_to(out: Any, x: Any) -> None:
    """Write the numbers of x into out, of the same shape."""
    call(_copy, out, x)


def fill(out: Any, value: float) -> None:
    """Write one number everywhere."""
    call(partial(_fill, value), out)


def _copy(out: Any, x: Any) -> None:
    out[...] = x


def _fill(value: float, out: Any) -> None:
    out.fill(value)


def lasting(shape: Any, dtype: Any) -> Any:
    """An array of any numbers that is no part of what a tape records."""
    if SIMULATED:
        return SimulatedArray(np.empty(shape, dtype))
    from . import provider
    return provider.cupy().empty(shape, dtype)


def within(memory: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> Any:
    """An array in a piece of memory, its first element at a byte."""
    if SIMULATED:
        return SimulatedArray(np.ndarray(shape, dtype, memory.memory, offset, strides))
    from . import provider
    return provider.cupy().ndarray(shape, dtype, memory.data + offset, strides)


def address(array: Any) -> int:
    """Where an array's first element lies: on the card, or, of one of a recording, in its range of addresses."""
    if isinstance(array, SimulatedArray):
        return int(array.memory.__array_interface__["data"][0])
    return int(array.data.ptr)


def mark() -> tuple[int, int]:
    """How much is written on the tape."""
    tape = CURRENT.tape
    return (len(tape.steps), len(tape.made)) if tape is not None else (0, 0)


def roll_back(to: tuple[int, int]) -> None:
    """Take back what was written since that mark."""
    tape = CURRENT.tape
    if tape is not None:
        del tape.steps[to[0]:], tape.made[to[1]:]
