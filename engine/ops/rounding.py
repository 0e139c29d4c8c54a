"""Whole numbers near a number, and what is left of a division. They are constant in steps: no gradient flows through
the whole part."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.ops.elementwise import TWO
from engine.record import Op, Real, op

STEPS = (Real(-1.875, 1.875, kinks=(-1.0, 0.0, 1.0)),)


def _whole(name: str, meaning: Callable[..., Any], equation: str, doc: str) -> Op:
    """Rounding leaves integers as they are, and says so."""
    return op(name, lambda x: x.copy() if x.dtype.kind in "iu" else meaning(x), None, saves=(), result="number",
              domain=STEPS, equation=(equation, ""), doc=f"{doc}, as numpy.{name}; integers stay.")


floor = _whole("floor", np.floor, "Y = ⌊X⌋", "The largest whole number that is not above x")
ceil = _whole("ceil", np.ceil, "Y = ⌈X⌉", "The smallest whole number that is not below x")
trunc = _whole("trunc", np.trunc, "Y = sign X ⌊|X|⌋", "The whole number next to x toward 0")
round_ = op("round", lambda x, *, decimals=0: np.round(x, decimals), None, saves=(), result="number", domain=STEPS,
            canonical=lambda params, *s: {"decimals": int(params["decimals"])},
            choices=lambda s: {"decimals": [0, 1, -1]}, equation=("Y = X to the nearest 10⁻ᵈ", ""),
            doc="To `decimals` places, as numpy.round; halves go to the even neighbour.",
            about={"decimals": "how many places after the point; negative: before it"})

# Quotients between −1 and 1, so that a test meets two of the steps and never their edge.
APART = (Real(-2.0, 2.0, kinks=(0.0,)), Real(2.5, 4.0))


def _divided(x: Any, y: Any) -> tuple[Any, Any]:
    """(x // y, x % y) of floats, as NumPy has them: from the exact remainder of C's fmod, whose sign is x's.

    An array library of a card may round x / y before it takes the floor, which is one off now and then.
    """
    left = np.fmod(x, y)
    across = (left != 0) & ((y < 0) != (left < 0))
    whole = (x - left) / y - across
    floored = np.floor(whole)
    floored = np.where(whole - floored > 0.5, floored + 1, floored)
    quotient = np.where(y == 0, x / y, np.where(whole == 0, np.copysign(floored, x / y), floored))
    return quotient, np.where(left == 0, np.copysign(left, y), np.where(across, left + y, left))


def _exact(function: Any, part: int) -> Callable[[Any, Any], Any]:
    """NumPy's function on its own arrays, and on integers."""
    def meaning(x: Any, y: Any) -> Any:
        if isinstance(x, (np.ndarray, np.generic)) or "f" not in (x.dtype.kind, y.dtype.kind):
            return function(x, y)
        return _divided(x, y)[part]
    return meaning


floor_divide: Op = op("floor_divide", _exact(np.floor_divide, 0), None, None, signature=TWO, saves=(), result="number",
                      domain=APART, equation=("Z = ⌊X ⊘ Y⌋", ""),
                      doc="The quotient rounded down, x // y, as numpy.floor_divide; an integer divided by 0 gives 0.")
remainder = op("remainder", _exact(np.remainder, 1), lambda g, z, x, y: g, lambda g, z, x, y: -g * floor_divide(x, y),
               signature=TWO, saves=(0, 1), result="number", domain=APART,
               equation=("Z = X − Y ⊙ ⌊X ⊘ Y⌋", "X̄ = Z̄, Ȳ = −Z̄ ⊙ ⌊X ⊘ Y⌋"),
               doc="What x // y leaves, x % y, with the sign of y, as numpy.remainder; an integer divided by 0 leaves "
                   "0.")
