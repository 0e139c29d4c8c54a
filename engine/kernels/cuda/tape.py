"""Memory on the card for the functions around the kernels: the counterpart of the CPU's `tape`, on the same tape.

While a step is recorded, arrays that it makes have an address range and no numbers (`SimulatedArray`s whose memory is
never touched, on a card too): the program gives them their place on the card before it runs.
"""

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
