"""Elementwise ops. One row each: a name, what it computes, and how a cotangent comes back through each input."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import device as devices
from engine.core import Tensor
from engine.errors import DtypeError, GraphError
from engine.record import OPS, OUT, Bool, Op, Real, fused, op

TWO = "(),()->()"
POSITIVE = Real(0.5, 3.0)
ANY = Real(-2.0, 2.0)


# --- arithmetic -----------------------------------------------------------------------------------
add = op("add", np.add, lambda g, z, x, y: g, lambda g, z, x, y: g,
         signature=TWO, saves=(), equation=("Z = X + Y", "X̄ = Z̄, Ȳ = Z̄"),
         doc="The sum x + y; of truth values x or y.")
sub = op("sub", np.subtract, lambda g, z, x, y: g, lambda g, z, x, y: -g,
         signature=TWO, saves=(), result="number", equation=("Z = X − Y", "X̄ = Z̄, Ȳ = −Z̄"),
         doc="The difference x − y.")
mul = op("mul", np.multiply, lambda g, z, x, y: g * y, lambda g, z, x, y: g * x,
         signature=TWO, saves=(0, 1), equation=("Z = X ⊙ Y", "X̄ = Z̄ ⊙ Y, Ȳ = Z̄ ⊙ X"),
         doc="The product x · y, number by number; of truth values x and y.")
div = op("div", np.true_divide, lambda g, z, x, y: g / y, lambda g, z, x, y: -g * z / y,
         signature=TWO, saves=(1, OUT), result="float", domain=(ANY, POSITIVE),
         equation=("Z = X ⊘ Y", "X̄ = Z̄ ⊘ Y, Ȳ = −Z̄ ⊙ Z ⊘ Y"),
         doc="The quotient x / y; a number divided by 0 is infinite, and 0 / 0 is NaN.")
neg = op("neg", np.negative, lambda g, y, x: -g, saves=(), result="number", equation=("Y = −X", "X̄ = −Ȳ"),
         doc="The negative, −x.")


def _power_base(g: Tensor, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """y·x^(y−1), and 0 where y is 0, whatever x."""
    return g * where(y == 0, 0.0, y * x ** where(y == 0, 1.0, y - 1))


def _power_exponent(g: Tensor, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z·log x, and 0 where x is 0 and y is not negative (the limit for y > 0)."""
    none = logical_and(x == 0, y >= 0)
    return g * where(none, 0.0, z * log(where(none, 1.0, x)))


def _no_fractions(x: Any, y: Any) -> None:
    if x.dtype.kind in "iu" and y.size and y.min() < 0:
        raise DtypeError("pow: an integer to a negative power is no integer. Make the base a float: x.astype(…)")


pow_ = op("pow", np.power, _power_base, _power_exponent, signature=TWO, saves=(0, 1, OUT), result="number",
          domain=(POSITIVE, ANY),
          check=_no_fractions, equation=("Z = Xʸ", "X̄ = Z̄ ⊙ Y ⊙ Xʸ⁻¹, Ȳ = Z̄ ⊙ Z ⊙ log X"),
          doc="x to the power of y; a negative number to a power that is not whole is NaN.",
          raises=("ShapeError: shapes that do not broadcast", "DtypeError: an integer to a negative power"))
square = op("square", np.square, lambda g, y, x: g * (2 * x), saves=(0,), result="number",
            equation=("Y = X²", "X̄ = 2 Ȳ ⊙ X"),
            doc="The square, x · x.")
reciprocal = op("reciprocal", np.reciprocal, lambda g, y, x: -g * y * y, saves=(OUT,), result="float",
                domain=(POSITIVE,), equation=("Y = 1 ⊘ X", "X̄ = −Ȳ ⊙ Y²"), doc="1 / x; of integers as of floats.")
exp = op("exp", np.exp, lambda g, y, x: g * y, saves=(OUT,), result="float", equation=("Y = eˣ", "X̄ = Ȳ ⊙ Y"),
         doc="The exponential function, eˣ.")
log: Op = op("log", np.log, lambda g, y, x: g / x, saves=(0,), result="float", domain=(POSITIVE,),
         equation=("Y = log X", "X̄ = Ȳ ⊘ X"), doc="Natural logarithm; -inf at 0, NaN below.")
sqrt = op("sqrt", np.sqrt, lambda g, y, x: g / (2 * y), saves=(OUT,), result="float", domain=(POSITIVE,),
          equation=("Y = √X", "X̄ = Ȳ ⊘ 2Y"),
          doc="The square root; NaN below 0.")


@fused(domain=(POSITIVE,), result="float", equation=("Y = 1 ⊘ √X", "X̄ = −½ Ȳ ⊙ Y ⊘ X"))
def rsqrt(x: Tensor) -> Tensor:
    """1 / √x; inf at 0, NaN below."""
    return reciprocal(sqrt(x))


abs_ = op("abs", np.absolute, lambda g, y, x: g * sign(x), saves=(0,), domain=(Real(kinks=(0.0,)),),
          equation=("Y = |X|", "X̄ = Ȳ ⊙ sign X"), doc="Absolute value; its gradient at 0 is 0.")
sign: Op = op("sign", np.sign, None, saves=(), result="number", domain=(Real(kinks=(0.0,)),),
              equation=("Y = sign X", ""), doc="−1, 0 or 1, the sign of x; NaN of NaN. Constant in steps.")
sin = op("sin", np.sin, lambda g, y, x: g * cos(x), saves=(0,), result="float",
         equation=("Y = sin X", "X̄ = Ȳ ⊙ cos X"),
         doc="The sine of x in radians.")
cos: Op = op("cos", np.cos, lambda g, y, x: -g * sin(x), saves=(0,), result="float",
         equation=("Y = cos X", "X̄ = −Ȳ ⊙ sin X"),
         doc="The cosine of x in radians.")

_erf: Any = np.frompyfunc(math.erf, 1, 1)
erf = op("erf", lambda x: devices.erf(x) if devices.of(x) == "cuda" else np.asarray(_erf(x)).astype(x.dtype),
         lambda g, y, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x), saves=(0,), result="float",
         equation=("Y = erf X", "X̄ = Ȳ ⊙ 2/√π e^(−X²)"), doc="The error function, 2/√π ∫₀ˣ e^(−t²) dt.")


# --- two values, one taken ------------------------------------------------------------------------
maximum = op("maximum", np.maximum, lambda g, z, x, y: g * _share(x >= y, x > y),
             lambda g, z, x, y: g * _share(y >= x, y > x),
             signature=TWO, saves=(0, 1), equation=("Z = max(X, Y)", "X̄ = Z̄ ⊙ [X > Y], halves where equal"),
             doc="The larger of two; where they are equal each gets half of the gradient.")
minimum = op("minimum", np.minimum, lambda g, z, x, y: g * _share(x <= y, x < y),
             lambda g, z, x, y: g * _share(y <= x, y < x),
             signature=TWO, saves=(0, 1), equation=("Z = min(X, Y)", "X̄ = Z̄ ⊙ [X < Y], halves where equal"),
             doc="The smaller of two; where they are equal each gets half of the gradient.")


def _share(at_least: Tensor, more: Tensor) -> Tensor:
    """1 where strictly, ½ where equal, 0 elsewhere."""
    return where(at_least, where(more, 1.0, 0.5), 0.0)


where: Op = op("where", lambda condition, x, y: np.where(condition, x, y), None,
           lambda g, z, c, x, y: where(c, g, 0.0), lambda g, z, c, x, y: where(c, 0.0, g),
           signature="(),(),()->()", saves=(0,), domain=(Bool(floats=True), ANY, ANY),
           equation=("Z = C ? X : Y", "X̄ = C ? Z̄ : 0, Ȳ = C ? 0 : Z̄"),
           doc="x where the condition holds, else y, as numpy.where.")


def _holds(integers: np.iinfo, bound: float) -> bool:
    return float(bound).is_integer() and integers.min <= bound <= integers.max


def number_for(op: str, dtype: np.dtype, value: float) -> float:
    """A value as a number of a dtype. Raises DtypeError where its integers do not have it."""
    if dtype.kind not in "iub":
        return value
    if not _holds(np.iinfo(dtype if dtype.kind != "b" else np.int64), value):
        raise DtypeError(f"{op}: {dtype} has no {value}; give x a dtype that has: x.astype(…)")
    return int(value)


def _clip_limits(params: dict[str, Any], *given: Any) -> dict[str, Any]:
    return {name: _limit(name, value) for name, value in params.items()}


def _limit(name: str, value: Any) -> Any:
    """A limit as a number."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise GraphError(f"clip: {name} requires a gradient, and limits get none: use maximum or minimum")
    if isinstance(value, (Tensor, np.ndarray)):
        if value.size != 1:
            raise ValueError(f"{name} has shape {value.shape}, and limits are single numbers; for limits of every "
                             "element there are maximum and minimum")
        value = value.item()
    if value is not None and value != value:
        raise ValueError(f"{name} is NaN, which limits nothing")
    return value


def _clip(x: Any, *, low: float | None = None, high: float | None = None) -> Any:
    if x.dtype.kind in "iu" and not all(_holds(np.iinfo(x.dtype), bound) for bound in (low, high) if bound is not None):
        raise DtypeError(f"clip: {x.dtype} has no number at the limits {low} and {high}; make x a float: x.astype(…)")
    bounds: list[Any] = [None if bound is None else x.dtype.type(bound) for bound in (low, high)]
    return x.copy() if low is None and high is None else np.clip(x, *bounds)


def _clip_rule(g: Tensor, y: Tensor, x: Tensor, *, low: float | None, high: float | None) -> Tensor:
    if low is not None:
        g = where(x >= low, g, 0.0)
    return where(x <= high, g, 0.0) if high is not None else g


clip = op("clip", _clip, _clip_rule, saves=(0,), canonical=_clip_limits, result="number",
          domain=(Real(kinks=(-1.0, 0.5)),),
          choices=lambda *s: {"low": [-1.0, None], "high": [0.5, None]},
          equation=("Y = min(max(X, low), high)", "X̄ = Ȳ ⊙ [low ≤ X ≤ high]"),
          doc="Limit the values to [low, high]; NaN stays.",
          about={"low": "the smallest value; None: no limit", "high": "the largest value; None: no limit"},
          raises=("DtypeError: limits that the integers of x do not have",))


# --- S-shaped ones: fused, with the gradient as a fused op of its own -----------------------------
@fused(signature=TWO, result="float", equation=("X̄ = Ȳ ⊙ (1 − Y²)", ""),
       about={"g": "the cotangent", "y": "what tanh gave"})
def tanh_vjp(g: Tensor, y: Tensor) -> Tensor:
    """The pullback of tanh: g (1 − y²)."""
    return g * (1 - y * y)


tanh = op("tanh", np.tanh, lambda g, y, x: tanh_vjp(g, y), saves=(OUT,), result="float",
          equation=("Y = tanh X", "X̄ = Ȳ ⊙ (1 − Y²)"),
          doc="The hyperbolic tangent.")


@fused(signature=TWO, result="float", equation=("X̄ = Ȳ ⊙ Y ⊙ (1 − Y)", ""),
       about={"g": "the cotangent", "y": "what sigmoid gave"})
def sigmoid_vjp(g: Tensor, y: Tensor) -> Tensor:
    """The pullback of sigmoid: g y (1 − y)."""
    return g * y * (1 - y)


sigmoid = op("sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda g, y, x: sigmoid_vjp(g, y), saves=(OUT,), result="float",
             equation=("Y = 1 / (1 + e⁻ˣ)", "X̄ = Ȳ ⊙ Y ⊙ (1 − Y)"),
             doc="The logistic function, 1 / (1 + e⁻ˣ).")


# --- truth ----------------------------------------------------------------------------------------
def _truth(name: str, meaning: Any, equation: str, doc: str, inputs: int = 2) -> Any:
    return op(name, meaning, *[None] * inputs, signature=TWO if inputs == 2 else "()->()", saves=(), result="bool",
              equation=(equation, ""), doc=doc)


equal = _truth("equal", np.equal, "Z = [X = Y]", "Whether x equals y; NaN equals nothing.")
not_equal = _truth("not_equal", np.not_equal, "Z = [X ≠ Y]", "Whether x differs from y; NaN differs from all.")
less = _truth("less", np.less, "Z = [X < Y]", "Whether x is less than y.")
less_equal = _truth("less_equal", np.less_equal, "Z = [X ≤ Y]", "Whether x is at most y.")
greater = _truth("greater", np.greater, "Z = [X > Y]", "Whether x is greater than y.")
greater_equal = _truth("greater_equal", np.greater_equal, "Z = [X ≥ Y]", "Whether x is at least y.")
logical_and = _truth("logical_and", np.logical_and, "Z = X ∧ Y", "Whether neither x nor y is 0.")
logical_or = _truth("logical_or", np.logical_or, "Z = X ∨ Y", "Whether x or y is not 0.")
logical_xor = _truth("logical_xor", np.logical_xor, "Z = X ⊕ Y", "Whether one of x and y is 0 and the other is not.")
logical_not = _truth("logical_not", np.logical_not, "Y = ¬X", "Whether x is 0.", 1)
isnan = _truth("isnan", np.isnan, "Y = [X is NaN]", "Whether x is NaN.", 1)
isinf = _truth("isinf", np.isinf, "Y = [X is ±∞]", "Whether x is an infinity.", 1)
isfinite = _truth("isfinite", np.isfinite, "Y = [X is finite]", "Whether x is neither NaN nor an infinity.", 1)

astype = op("astype", lambda x, *, dtype: x.astype(dtype), lambda g, y, x, *, dtype: OPS["astype"](g, dtype=x.dtype),
            saves=(), result="param", canonical=lambda params, *s: {"dtype": np.dtype(params["dtype"])},
            choices=lambda *s: {"dtype": [np.float64]}, equation=("Y = X in another dtype", "X̄ = Ȳ in X's dtype"),
            doc="The values in another dtype, as NumPy's astype: a float that becomes an integer is cut toward 0.",
            about={"dtype": "a dtype or the name of one"}, raises=("TypeError: a dtype that NumPy does not know",))
