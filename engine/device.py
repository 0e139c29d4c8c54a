"""Devices: where an array lives, how it gets there, and which kernels serve it.

A device is an array library and a module of kernels. "cpu": NumPy and `kernels.cpu`. "cuda": CuPy and `kernels.cuda`,
or both simulated on NumPy memory where NUMBA_ENABLE_CUDASIM=1 is set. An op's meaning is NumPy's functions, which
NumPy's dispatch hands on to CuPy, so every op runs on either; kernels make the hot ones fast.
"""
from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from engine.arrays import (
    DEVICES,
    add_at,
    address,
    array_of,
    beside,
    beside_in,
    checksum,
    choose,
    current,
    empty,
    empty_on_tape,
    erf,
    failed,
    graph,
    host,
    is_on_card,
    laid_out,
    load,
    made,
    memory,
    move,
    named,
    of,
    of_data,
    of_inputs,
    on_card,
    picked,
    short_of_memory,
    together,
    usable,
    within,
    write,
)
from engine.errors import DeviceError
from engine.kernels import cpu, cuda
from engine.state import STATE

__all__ = [
    "DEVICES",
    "add_at",
    "address",
    "array_of",
    "beside",
    "beside_in",
    "checksum",
    "choose",
    "current",
    "current_precision",
    "default_device",
    "empty",
    "empty_on_tape",
    "erf",
    "failed",
    "given_up",
    "graph",
    "host",
    "in_place",
    "is_on_card",
    "jit_disabled",
    "kernels",
    "laid_out",
    "load",
    "made",
    "memory",
    "move",
    "named",
    "of",
    "of_data",
    "of_inputs",
    "on_card",
    "picked",
    "precision",
    "run",
    "run_meaning",
    "short_of_memory",
    "synchronise",
    "together",
    "usable",
    "within",
    "write",
]


def kernels(device: str) -> ModuleType:
    """The module of a device's kernels."""
    if device == "cpu":
        return cpu
    from engine.kernels import cuda
    return cuda


@contextmanager
def default_device(name: str) -> Iterator[str]:
    """Tensors of given values made inside live on this device, where nothing else is said: "cpu", "cuda" or "auto".

    Raises DeviceError where there is no such device, or it cannot be used: then the message says what to do.
    """
    chosen = named(name)
    token = STATE.set(STATE.get()._replace(device=chosen))
    try:
        yield chosen
    except MemoryError as e:
        short_of_memory(e, chosen)
    finally:
        STATE.reset(token)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Products of float32 matrices inside are computed in "float32", "tf32x3", "tf32" or "bf16", where the device can.

    The others are for cards, for their tensor cores. tf32 and bf16 round the factors to 10 and 7 bits of mantissa, sum
    in float32 and are several times as fast. tf32x3 makes three products of TF32 for one and is about as exact as
    float32, where no number is below 1e-34: a sum of eight products has up to twice its error, one of 700 half of it.
    Tensors, and what learns, stay float32. On the CPU everything is float32. Raises DeviceError.
    """
    from engine.kernels.cuda import precision as chosen
    if name not in chosen.PRECISIONS:
        raise DeviceError(f"there is no precision {name!r}; there are {', '.join(chosen.PRECISIONS)}")
    before = chosen.set_precision(name)
    try:
        yield
    finally:
        chosen.set_precision(before)


def current_precision() -> str:
    """What `precision` says here."""
    from engine.kernels.cuda.precision import precision
    return precision()


def synchronise() -> None:
    """Wait until the device of `default_device` has done all that it was given: for whoever reads a clock."""
    if current() == "cuda":
        from engine.kernels.cuda import card
        card.synchronise()


# --- kernels --------------------------------------------------------------------------------------
def jit_disabled() -> bool:
    """Whether kernels are off (NUMBA_DISABLE_JIT), so that meanings run."""
    return cpu.jit_disabled()


def run(name: str, arrays: list[Any], params: dict[str, Any]) -> Any:
    """The result of the device's kernel for this op, or NotImplemented where it has none for these arrays.

    A kernel may return a tuple: the output, then residuals for the rules.
    """
    for a in arrays:
        if a is not None:
            if type(a) is np.ndarray or not is_on_card(a):           # also NumPy's numbers, which meanings give
                break
            return _run_on_card(name, arrays, params)
    kernel = cpu.kernel(name)
    return kernel(*arrays, **params) if kernel is not None else NotImplemented


def run_meaning(op: Any, arrays: Sequence[Any], params: dict[str, Any]) -> Any:
    """The result of an op's meaning on these arrays, in which NaN and infinity are values and not accidents.

    Raises DeviceError where arrays on a card lack what it asks of them, or memory, or where it leaves the card.
    """
    for a in arrays:
        if type(a) is not np.ndarray and a is not None:
            break
    else:
        with np.errstate(all="ignore"):
            return op.meaning(*arrays, **params)
    try:
        with np.errstate(all="ignore"):
            result = op.meaning(*arrays, **params)
    except (MemoryError, RuntimeError) as e:
        failed(e, of_inputs(arrays))
        raise
    except TypeError as e:
        lacking = re.match(r"no implementation found for '(.*?)'", str(e))
        if lacking is None:
            raise
        raise DeviceError(f"{op.name}: its meaning calls {lacking[1]}, which arrays on a card do not have. Write it "
                          "with other functions, or compute it with x.to('cpu').") from e
    if of(made(result)) == "cpu" and of_inputs(arrays) == "cuda" and op.name != "to":
        raise DeviceError(f"{op.name}: its meaning makes {type(result).__name__} on the processor of arrays on a card. "
                          "Write it with functions that keep them there, or compute it with x.to('cpu').")
    return result


def _run_on_card(name: str, arrays: list[Any], params: dict[str, Any]) -> Any:
    kernel = cuda.kernel(name)
    if kernel is None:
        return NotImplemented
    from engine.kernels.cuda import tape
    before = tape.mark()
    try:
        with on_card():
            return kernel(*arrays, **params)
    except cuda.CompileFailure as e:
        tape.roll_back(before)
        cuda.give_up(name)
        warnings.warn(f"{e}. The op {name} runs by its definition from now on, which is slower.", RuntimeWarning,
                      stacklevel=2)
        return NotImplemented


def given_up() -> int:
    """How many kernels have been given up: what is recorded before is not what is recorded after."""
    return cuda.given_up()


def in_place(rule: str, like: Any) -> Any:
    """The function that changes arrays of this one's device in place by a rule (`engine.update`, `global_norm`)."""
    if of(like) == "cpu":
        return cpu.kernel(rule)

    def serve(*lists: Any, **settings: Any) -> Any:
        with np.errstate(all="ignore"):
            result = _run_on_card(rule, list(lists), settings)
            if result is NotImplemented:
                from engine.kernels.cuda import plain
                return getattr(plain, rule)(*lists, **settings)
            return result

    return serve


class Loan:
    """An array handed out by `Tensor.data`. It lives as long as somebody holds the array or any view of it: NumPy keeps
    the object alive that a view's memory came from."""
    __slots__ = ("__array_interface__", "__weakref__", "array")

    def __init__(self, array: Any) -> None:
        self.array = array
        if of(array) == "cpu":
            self.__array_interface__ = array.__array_interface__

    def itself(self) -> Loan:
        """In place of a weak reference, where it cannot be known who holds the array."""
        return self

    def take(self) -> Any:
        """The array, in the same memory."""
        return np.asarray(self) if of(self.array) == "cpu" else self.array
