"""Devices: where an array lives, and which kernels serve it."""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.kernels import cpu

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def of(array: Any) -> str:
    """The device of an array."""
    return "cpu"


def jit_disabled() -> bool:
    """Whether kernels are off (NUMBA_DISABLE_JIT), so that meanings run."""
    return cpu.jit_disabled()


def run(name: str, arrays: list[Any], params: dict[str, Any]) -> Any:
    """The result of the device's kernel for this op, or NotImplemented where it has none for these arrays.

    A kernel may return a tuple: the output, then residuals for the rules.
    """
    first = arrays[0].dtype if arrays[0] is not None else None
    if first not in FLOATS:
        return NotImplemented
    kernel = cpu.kernel(name)
    return kernel(*arrays, **params) if kernel is not None else NotImplemented
