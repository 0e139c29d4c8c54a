"""Trigonometric and hyperbolic functions with their inverses, and the polar coordinates of a point."""
from __future__ import annotations

import numpy as np

from engine.core import Tensor
from engine.ops.elementwise import ANY, TWO, sqrt, where
from engine.record import OUT, Op, Real, in_order, op

INSIDE = Real(-0.875, 0.875)

tan = op("tan", np.tan, lambda g, y, x: g * (1 + y * y), saves=(OUT,), result="float", domain=(Real(-1.25, 1.25),),
         equation=("Y = tan X", "X̄ = Ȳ ⊙ (1 + Y²)"),
         doc="The tangent of x in radians.")
asin = op("asin", np.arcsin, lambda g, y, x: g / sqrt((1 - x) * (1 + x)), saves=(0,), result="float", domain=(INSIDE,),
          equation=("Y = arcsin X", "X̄ = Ȳ ⊘ √(1 − X²)"), doc="The angle in [−π/2, π/2] of this sine; NaN outside ±1.")
acos = op("acos", np.arccos, lambda g, y, x: -g / sqrt((1 - x) * (1 + x)), saves=(0,), result="float", domain=(INSIDE,),
          equation=("Y = arccos X", "X̄ = −Ȳ ⊘ √(1 − X²)"), doc="The angle in [0, π] of this cosine; NaN outside ±1.")
atan = op("atan", np.arctan, lambda g, y, x: g / (1 + x * x), saves=(0,), result="float",
          equation=("Y = arctan X", "X̄ = Ȳ ⊘ (1 + X²)"), doc="The angle in [−π/2, π/2] of this tangent.")
sinh = op("sinh", np.sinh, lambda g, y, x: g * cosh(x), saves=(0,), result="float",
          equation=("Y = sinh X", "X̄ = Ȳ ⊙ cosh X"),
          doc="The hyperbolic sine.")
cosh: Op = op("cosh", np.cosh, lambda g, y, x: g * sinh(x), saves=(0,), result="float",
              equation=("Y = cosh X", "X̄ = Ȳ ⊙ sinh X"),
              doc="The hyperbolic cosine.")
asinh = op("asinh", np.arcsinh, lambda g, y, x: g / hypot(x, 1.0), saves=(0,), result="float",
           equation=("Y = arsinh X", "X̄ = Ȳ ⊘ √(1 + X²)"), doc="The inverse of sinh.")
acosh = op("acosh", np.arccosh, lambda g, y, x: g / (sqrt(x - 1) * sqrt(x + 1)), saves=(0,), result="float",
           domain=(Real(1.125, 4.0),), equation=("Y = arcosh X", "X̄ = Ȳ ⊘ √(X² − 1)"),
           doc="The inverse of cosh on [1, ∞); NaN below.")
atanh = op("atanh", np.arctanh, lambda g, y, x: g / ((1 - x) * (1 + x)), saves=(0,), result="float", domain=(INSIDE,),
           equation=("Y = artanh X", "X̄ = Ȳ ⊘ (1 − X²)"), doc="The inverse of tanh; infinite at ±1, NaN outside.")


# --- polar coordinates ----------------------------------------------------------------------------
def _share(x: Tensor, r: Tensor) -> Tensor:
    """x / r, and 0 where r is 0."""
    return x / where(r == 0, 1.0, r)


hypot: Op = op("hypot", np.hypot, lambda g, z, x, y: g * _share(x, z), lambda g, z, x, y: g * _share(y, z),
               signature=TWO, saves=(0, 1, OUT), result="float",
               equation=("Z = √(X² + Y²)", "X̄ = Z̄ ⊙ X ⊘ Z, Ȳ = Z̄ ⊙ Y ⊘ Z"),
               doc="√(x² + y²) without overflow; its gradient at the origin is 0.")


def _turn(x: Tensor, y: Tensor) -> Tensor:
    """x / (x² + y²), and 0 at the origin."""
    r = hypot(x, y)
    return _share(_share(x, r), r)


_angle = in_order(np.arctan2)
atan2 = op("atan2", lambda y, x: _angle(y, x), lambda g, z, y, x: g * _turn(x, y),
           lambda g, z, y, x: -g * _turn(y, x), signature=TWO, saves=(0, 1), result="float",
           domain=(ANY, Real(0.25, 2.0)),
           equation=("Z = arg(X + iY)", "Ȳ = Z̄ ⊙ X ⊘ (X² + Y²), X̄ = −Z̄ ⊙ Y ⊘ (X² + Y²)"),
           doc="The angle in [−π, π] of the point (x, y), y first, as numpy.arctan2; its gradient at the origin is 0.")
