"""A kernel of your own under an op of your own: it makes the op fast, and `check_op` compares it with the meaning."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from engine import promotion, shapes
from engine.errors import EngineError
from engine.kernels import cpu
from engine.kernels.cpu import tape
from engine.record import Op

WIDE = "gFDG"                            # long doubles and complex numbers: those of checks


def kernel_for(op: Op) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: run this function instead of the op's meaning, on the CPU.

    It takes the input arrays (any memory layout, never to be written to) and the op's parameters as keywords, and gives
    a new array of the shape and dtype that the op's record promises; it may be compiled by Numba or call anything else.
    A step under `replay` calls it at every run. Numbers wider than float64, with which checks compare, are left to the
    meaning, and with NUMBA_DISABLE_JIT=1 all are. Raises EngineError where the engine has a kernel for this op already.
    `check_op(op)` tells whether it is right.
    """
    if op.name in cpu.MODULES:
        raise EngineError(f"kernel_for: {op.name} has a kernel of the engine; define an op of your own")

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        cpu.add(op.name, partial(_run, op, function))
        return function
    return register


def _run(op: Op, function: Callable[..., Any], *arrays: Any, **params: Any) -> Any:
    if any(a is not None and a.dtype.char in WIDE for a in arrays):
        return NotImplemented
    given = [None if a is None else a.shape for a in arrays]
    shape = op.shape(*given, **params) if op.shape else shapes.result_shape(op.signature or "()->()", *given)
    dtype = promotion.result_dtype(op, arrays, params)
    if tape.CURRENT.tape is None:
        return _checked(op, function(*arrays, **params), shape, dtype)
    out = tape.empty(shape, dtype)
    tape.call(partial(_into, op, function, params), out, *arrays)
    return out


def _into(op: Op, function: Callable[..., Any], params: dict[str, Any], out: np.ndarray, *arrays: Any) -> None:
    np.copyto(out, _checked(op, function(*arrays, **params), out.shape, out.dtype))


def _checked(op: Op, result: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = np.asarray(result)
    if array.shape != shape or array.dtype != dtype:
        raise EngineError(f"{op.name}: its own kernel gives {array.dtype} {array.shape}, the op's record promises "
                          f"{dtype} {shape}")
    return array
