"""A launch of the simulator, run as the kernel is compiled."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from engine.kernels.cuda.jit import KERNELS, Kernel
from engine.kernels.cuda.memory import SimulatedFault

from .machine import machine
from .memory import Fault
from .traffic import Traffic

Key = tuple[str, str, int]

LAUNCHES: Counter[Key] = Counter()
"""Launches by kernel since the process began."""
TRAFFIC: dict[Key, Traffic] = {}
"""Accesses to memory by kernel, where `compiled` counts them."""
WITHOUT: Counter[str] = Counter()
"""Launches of the engine's kernels that are not among those compiled, which the simulator ran."""


def key(kernel: Kernel) -> Key:
    """Which kernel of the engine it is: its module, its name, and its number among those of that name."""
    same = [k for k in KERNELS if (k.__module__, k.__name__) == (kernel.__module__, kernel.__name__)]
    return kernel.__module__, kernel.__name__, next(i for i, k in enumerate(same) if k is kernel)


@contextmanager
def compiled(texts: Mapping[Key, str], count_traffic: bool = False) -> Iterator[None]:
    """Launches of the kernels whose PTX is here run it."""
    simulated, key_of = Kernel._simulated, cache(key)

    def run(self: Kernel, shape: tuple[Any, ...], packed: list[Any]) -> None:
        named = key_of(self)
        if named not in texts:
            if self.__module__.startswith("engine."):
                WITHOUT[self.__name__] += 1
            simulated(self, shape, packed)
            return
        LAUNCHES[named] += 1
        traffic = TRAFFIC.setdefault(named, Traffic()) if count_traffic else None
        launch(self, texts[named], shape, packed, traffic)

    _launch_by(run)
    try:
        yield
    finally:
        _launch_by(simulated)


def _launch_by(how: Any) -> None:
    """What launches kernels from now on, those too that have been launched before."""
    Kernel._simulated = how  # type: ignore[method-assign]
    for kernel in KERNELS:
        kernel._loaded.clear()


def launch(kernel: Kernel, text: str, shape: tuple[Any, ...], packed: list[Any],
           traffic: Traffic | None = None) -> None:  # fmt: skip
    """Run a kernel's PTX on NumPy memory. Raises SimulatedFault."""
    grid, block, shared = shape
    words: list[Any] = []
    arrays: list[np.ndarray] = []
    for argument, parameter in zip(packed, kernel.parameters, strict=True):
        words += _words(argument, parameter, arrays)
    try:
        machine(text).launch(grid, block, shared, words, arrays, traffic)
    except Fault as e:
        raise SimulatedFault(f"kernel {kernel.__name__} as compiled, {e}") from e


def _words(argument: Any, parameter: Any, arrays: list[np.ndarray]) -> list[Any]:
    """An argument as numbers, as `provider.words` makes them; its memory is added to the arrays."""
    if parameter.rank is None:
        return [argument]
    if parameter.rank == -2:
        table = np.array([a.ctypes.data for a in argument], np.int64)
        arrays += [table, *argument]
        return [table.ctypes.data]
    arrays.append(argument)
    address = argument.ctypes.data if argument.size else 0
    if parameter.rank <= 0:
        return [address]
    return [0, 0, argument.size, argument.itemsize, address, *argument.shape, *argument.strides]
