"""Exponentials and logarithms to other bases, near 0 and of sums."""
from __future__ import annotations

import math

import numpy as np

from engine.core import Tensor
from engine.ops.elementwise import POSITIVE, TWO, exp, isinf, sigmoid, where
from engine.record import OUT, Real, op

LN2, LN10 = math.log(2), math.log(10)

expm1 = op("expm1", np.expm1, lambda g, y, x: g * exp(x), saves=(0,), result="float",
           equation=("Y = eˣ − 1", "X̄ = Ȳ ⊙ eˣ"), doc="eˣ − 1, exact also where x is small.")
log1p = op("log1p", np.log1p, lambda g, y, x: g / (1 + x), saves=(0,), result="float", domain=(Real(-0.5, 3.0),),
           equation=("Y = log(1 + X)", "X̄ = Ȳ ⊘ (1 + X)"), doc="log(1 + x), exact also where x is small.")
exp2 = op("exp2", np.exp2, lambda g, y, x: g * y * LN2, saves=(OUT,), result="float",
          equation=("Y = 2ˣ", "X̄ = Ȳ ⊙ Y log 2"), doc="2 to the power of x.")
log2 = op("log2", np.log2, lambda g, y, x: g / (x * LN2), saves=(0,), result="float", domain=(POSITIVE,),
          equation=("Y = log₂ X", "X̄ = Ȳ ⊘ (X log 2)"), doc="Logarithm to base 2; -inf at 0, NaN below.")
log10 = op("log10", np.log10, lambda g, y, x: g / (x * LN10), saves=(0,), result="float", domain=(POSITIVE,),
           equation=("Y = log₁₀ X", "X̄ = Ȳ ⊘ (X log 10)"), doc="Logarithm to base 10; -inf at 0, NaN below.")


def _part(x: Tensor, y: Tensor) -> Tensor:
    """eˣ / (eˣ + eʸ); a half where both are the same infinity."""
    return sigmoid(where(isinf(x) & (x == y), 0.0, x - y))


logaddexp = op("logaddexp", np.logaddexp, lambda g, z, x, y: g * _part(x, y), lambda g, z, x, y: g * _part(y, x),
               signature=TWO, saves=(0, 1), result="float",
               equation=("Z = log(eˣ + eʸ)", "X̄ = Z̄ ⊙ σ(X − Y), Ȳ = Z̄ ⊙ σ(Y − X)"),
               doc="log(eˣ + eʸ) without overflow.")
