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
    """Rounding leaves integers as they are."""
    return op(name, lambda x: x.copy() if x.dtype.kind in "iu" else meaning(x), None, saves=(), result="number",
              domain=STEPS, equation=(equation, ""), doc=doc)


floor = _whole("floor", np.floor, "Y = ⌊X⌋", "The largest whole number that is not above x.")
ceil = _whole("ceil", np.ceil, "Y = ⌈X⌉", "The smallest whole number that is not below x.")
trunc = _whole("trunc", np.trunc, "Y = sign X ⌊|X|⌋", "The whole number next to x toward 0.")
round_ = op("round", lambda x, *, decimals=0: np.round(x, decimals), None, saves=(), result="number", domain=STEPS,
            canonical=lambda params, *s: {"decimals": int(params["decimals"])},
            choices=lambda s: {"decimals": [0, 1, -1]}, equation=("Y = X to the nearest 10⁻ᵈ", ""),
            doc="To `decimals` places (before the point where negative); halves go to the even neighbour.")

# Quotients between −1 and 1, so that a test meets two of the steps and never their edge.
APART = (Real(-2.0, 2.0, kinks=(0.0,)), Real(2.5, 4.0))

floor_divide: Op = op("floor_divide", np.floor_divide, None, None, signature=TWO, saves=(), result="number",
                      domain=APART, equation=("Z = ⌊X ⊘ Y⌋", ""),
                      doc="The quotient rounded down, x // y; an integer divided by 0 gives 0.")
remainder = op("remainder", np.remainder, lambda g, z, x, y: g, lambda g, z, x, y: -g * floor_divide(x, y),
               signature=TWO, saves=(0, 1), result="number", domain=APART,
               equation=("Z = X − Y ⊙ ⌊X ⊘ Y⌋", "X̄ = Z̄, Ȳ = −Z̄ ⊙ ⌊X ⊘ Y⌋"),
               doc="What x // y leaves, x % y, with the sign of y; an integer divided by 0 leaves 0.")
