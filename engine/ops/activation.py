"""Activations. The hot ones have a kernel, and their gradient is a fused op of its own."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine import shapes
from engine.core import Tensor
from engine.errors import ShapeError
from engine.ops.elementwise import ANY, TWO, abs_, clip, erf, exp, sigmoid, tanh, where
from engine.ops.exponential import expm1, logaddexp
from engine.ops.shape import split
from engine.record import Op, Real, fused, op
from engine.shapes import Shape

KINK = (Real(kinks=(0.0,)),)


relu_vjp: Op = op("relu_vjp", lambda g, x: np.where(x > 0, g, g.dtype.type(0)), lambda h, z, g, x: relu_vjp(h, x), None,
              signature=TWO, saves=(1,), domain=(ANY, Real(kinks=(0.0,))),
              equation=("X̄ = Ȳ ⊙ [X > 0]", "Z̄ ⊙ [X > 0]"),
              doc="The pullback of relu: g where x > 0, else 0.", about={"g": "the cotangent"})


relu = op("relu", lambda x: np.maximum(x, x.dtype.type(0)), lambda g, y, x: relu_vjp(g, x), saves=(0,),
          domain=KINK, equation=("Y = max(X, 0)", "X̄ = Ȳ ⊙ [X > 0]"),
          doc="Rectified linear unit, the larger of x and 0; its gradient at 0 is 0.")


@fused(signature=TWO, result="float", equation=("X̄ = Ȳ ⊙ (Φ(X) + X ⊙ φ(X))", ""), about={"g": "the cotangent"})
def gelu_vjp(g: Tensor, x: Tensor) -> Tensor:
    """The pullback of gelu: g (Φ(x) + x φ(x)), φ the normal density."""
    return g * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


@fused(vjps=[lambda g, y, x: gelu_vjp(g, x)], saves=(0,), result="float",
       equation=("Y = X ⊙ Φ(X)", "X̄ = Ȳ ⊙ (Φ(X) + X ⊙ φ(X))"))
def gelu(x: Tensor) -> Tensor:
    """Gaussian error linear unit, x·Φ(x) with Φ the normal distribution function (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


@fused(signature=TWO, result="float", equation=("X̄ = Ȳ ⊙ σ(X) ⊙ (1 + X ⊙ (1 − σ(X)))", ""),
       about={"g": "the cotangent"})
def silu_vjp(g: Tensor, x: Tensor) -> Tensor:
    """The pullback of silu: g s (1 + x (1 − s)) with s = σ(x)."""
    s = sigmoid(x)
    return g * s * (1 + x * (1 - s))


@fused(vjps=[lambda g, y, x: silu_vjp(g, x)], saves=(0,), result="float",
       equation=("Y = X ⊙ σ(X)", "X̄ = Ȳ ⊙ σ(X) ⊙ (1 + X ⊙ (1 − σ(X)))"))
def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit (swish), x·σ(x) (Elfwing, Uchibe & Doya 2018)."""
    return x * sigmoid(x)


# --- compositions: bent at 0 ----------------------------------------------------------------------
@fused(domain=KINK, result="float", choices=lambda s: {"slope": [0.01, 0.5]},
       equation=("Y = X > 0 ? X : aX", "X̄ = X > 0 ? Ȳ : aȲ"), about={"slope": "a, the slope where x is not positive"})
def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    """x where it is positive, else slope · x (Maas, Hannun & Ng 2013); its gradient at 0 is the slope."""
    return where(x > 0, x, slope * x)


@fused(domain=KINK, result="float", choices=lambda s: {"alpha": [1.0, 0.5]},
       equation=("Y = X > 0 ? X : α(eˣ − 1)", "X̄ = X > 0 ? Ȳ : αȲeˣ"),
       about={"alpha": "α; it tends to −α far below 0"})
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: x where it is positive, else α(eˣ − 1) (Clevert et al. 2016); its gradient at 0 is α."""
    return where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x)))


@fused(domain=KINK, result="float", equation=("Y = λ elu(X, α)", "X̄ = X > 0 ? λȲ : λαȲeˣ"))
def selu(x: Tensor) -> Tensor:
    """Self-normalising exponential linear unit: λ elu(x, α) with the constants of Klambauer et al. (2017)."""
    return 1.0507009873554805 * elu(x, alpha=1.6732632423543772)


@fused(domain=KINK, result="float", equation=("Y = X ⊘ (1 + |X|)", "X̄ = Ȳ ⊘ (1 + |X|)²"))
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|): like tanh, with slower tails."""
    return x / (1 + abs_(x))


# --- smooth ones ----------------------------------------------------------------------------------
@fused(result="float", choices=lambda s: {"beta": [1.0, 2.5]},
       equation=("Y = log(1 + e^(βX)) / β", "X̄ = Ȳ ⊙ σ(βX)"),
       about={"beta": "β, how sharp the bend at 0 is; not 0"})
def softplus(x: Tensor, *, beta: float = 1.0) -> Tensor:
    """log(1 + e^(βx)) / β, a smooth relu, without overflow."""
    return logaddexp(x, 0.0) if beta == 1 else logaddexp(beta * x, 0.0) / beta


@fused(result="float", equation=("Y = log σ(X)", "X̄ = Ȳ ⊙ σ(−X)"))
def logsigmoid(x: Tensor) -> Tensor:
    """The logarithm of the logistic function, without overflow."""
    return -logaddexp(-x, 0.0)


@fused(result="float",
       equation=("Y = X ⊙ tanh(log(1 + eˣ))", "X̄ = Ȳ ⊙ (T + X ⊙ (1 − T²) ⊙ σ(X)), T = tanh(log(1 + eˣ))"))
def mish(x: Tensor) -> Tensor:
    """x · tanh(softplus(x)) (Misra 2019)."""
    return x * tanh(softplus(x))


# --- limited ones ---------------------------------------------------------------------------------
@fused(domain=(Real(kinks=(-1.0, 1.0)),), result="float", choices=lambda s: {"low": [-1.0], "high": [1.0]},
       about={"low": "the smallest value", "high": "the largest value"},
       equation=("Y = min(max(X, low), high)", "X̄ = Ȳ ⊙ [low ≤ X ≤ high]"))
def hard_tanh(x: Tensor, *, low: float = -1.0, high: float = 1.0) -> Tensor:
    """x limited to [low, high]; its gradient at the limits is 1."""
    return clip(x, low=low, high=high)


@fused(domain=(Real(-4.0, 4.0, kinks=(-3.0, 3.0)),), result="float",
       equation=("Y = min(max(X/6 + ½, 0), 1)", "X̄ = Ȳ/6 ⊙ [−3 ≤ X ≤ 3]"))
def hard_sigmoid(x: Tensor) -> Tensor:
    """The logistic function as three straight pieces: x/6 + ½ limited to [0, 1]."""
    return clip(x / 6 + 0.5, low=0.0, high=1.0)


@fused(domain=(Real(-4.0, 4.0, kinks=(-3.0, 3.0)),), result="float",
       equation=("Y = X ⊙ hard_sigmoid(X)", "X̄ = Ȳ ⊙ (hard_sigmoid(X) + X/6 ⊙ [−3 ≤ X ≤ 3])"))
def hard_silu(x: Tensor) -> Tensor:
    """silu with the straight pieces of hard_sigmoid (hard swish; Howard et al. 2019)."""
    return x * hard_sigmoid(x)


# --- gated ----------------------------------------------------------------------------------------
def _halves(params: dict[str, Any], s: Shape) -> dict[str, Any]:
    axis = shapes.one_axis(params["axis"], len(s))
    if s[axis] % 2:
        raise ShapeError(f"axis {axis} of size {s[axis]} cannot be cut into two halves")
    return {"axis": axis}


@fused(signature=None, canonical=_halves, result="float", shapes="x (…, 2n, …) → (…, n, …), along `axis`",
       about={"axis": "the axis that is cut in half, negative ones counted from the end"},
       raises=("ShapeError: an axis that there is not, or of odd size",),
       choices=lambda s: {"axis": [i for i, n in enumerate(s) if n % 2 == 0]},
       shape=lambda s, *, axis: (*s[:axis], s[axis] // 2, *s[axis + 1:]),
       samples=(((4,),), ((3, 2),), ((2, 3, 4),), ((0, 2),), ((2, 1, 2, 2),)),
       equation=("Y = A ⊙ σ(B), X = [A, B]", "Ā = Ȳ ⊙ σ(B), B̄ = Ȳ ⊙ A ⊙ σ(B) ⊙ (1 − σ(B))"))
def glu(x: Tensor, *, axis: int = -1) -> Tensor:
    """Gated linear unit: the first half of an axis times the logistic function of the second (Dauphin et al. 2017)."""
    a, b = split(x, 2, axis=axis)
    return a * sigmoid(b)
