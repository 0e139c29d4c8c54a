"""The functions of `scalar.py` and `philox.py`, callable inside code compiled by Numba for any of its targets.

Kernels import them from here. Each is registered with `overload`, which compiles it into its caller: it costs no call
and needs no cache entry of its own.
"""

import math
import types as python
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from . import philox as random_bits
from . import scalar, trigonometry
from .philox import keep_from, philox, uniform, unit
from .scalar import exp, like, log

__all__ = ["exp", "keep_from", "like", "log", "philox", "scalar", "trigonometry", "uniform", "unit"]


def _register(function: Callable, choose: Callable) -> None:
    """`choose` maps the types of the arguments to the Python function that Numba compiles."""
    overload(function, {"error_model": "numpy", "forceinline": True}, strict=False, target="generic")(choose)


def _itself(function: Callable) -> Callable:
    return lambda *_: function


def _by_dtype(float32: Callable, float64: Callable) -> Callable:
    return lambda x: float32 if x == types.float32 else float64


@intrinsic
def _bitcast(typing_context: Any, x: Any, dtype: Any) -> Any:
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return dtype.dtype(x, dtype), codegen


def _bits(x):
    return lambda x: _bitcast(x, types.int32)


def _from_bits(n):
    return lambda n: _bitcast(np.int32(n), types.float32)


@intrinsic
def _rounded_once(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    return x(x, x, x), lambda context, builder, signature, arguments: builder.fma(*arguments)


def _fma(x, y, z):
    return lambda x, y, z: _rounded_once(x, y, z)


def _like(value, x):
    dtype = x
    return lambda value, x: dtype(value)


def _sqrt(x):
    return lambda x: math.sqrt(x)  # one instruction; NaN below 0


# What Python says in a way that Numba does not understand, said in Numba's.
_IN_NUMBA: dict[Callable, Callable] = {
    scalar.bits: _bits,
    scalar.from_bits: _from_bits,
    scalar.fma: _fma,
    scalar.like: _like,
    scalar.sqrt: _sqrt,
}

for _module in (scalar, trigonometry, random_bits):
    _functions: list[Callable] = [f for f in vars(_module).values() if isinstance(f, python.FunctionType)]
    for _function in _functions:
        if _function in _IN_NUMBA:
            _register(_function, _IN_NUMBA[_function])
        elif _function in scalar.BY_DTYPE:
            _register(_function, _by_dtype(*scalar.BY_DTYPE[_function]))
        elif _function.__module__ == _module.__name__:
            _register(_function, _itself(_function))
