"""Devices: where an array lives, and which kernels serve it."""
from __future__ import annotations

from typing import Any

from engine.kernels import cpu


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
    kernel = cpu.kernel(name)
    return kernel(*arrays, **params) if kernel is not None else NotImplemented
