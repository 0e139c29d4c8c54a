"""Mathematics on one number: what every elementwise kernel does to each element.

Each function is plain Python and runs as such on NumPy scalars, with no Numba in sight. `compiled.py` makes the same
functions callable inside code compiled by Numba, for the CPU and for CUDA: kernels import them from there.

In float64 the functions are those of `math`. In float32 they are branch-free: range reduction and a polynomial, in
operations that a compiler turns into vector instructions (it cannot do so with a call to `expf`). Products and sums
are fused only where `fma` says so, so the bits are the same on every machine. The error over the whole range, subnormal
results included, is at most 2 ulp (silu 2.5; gelu 4 ulp of |x|, so of its value on the right only); sources are named
where the constants are. A function that needs one treatment per dtype is a pair joined by `by_dtype`; the others serve
both dtypes, with constants through `like`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import int32  # Numba widens int32 arithmetic to int64: each step says int32 again

from .philox import keep_from, philox, philox4x32, philox_numpy, uniform, unit

__all__ = ["keep_from", "philox", "philox4x32", "philox_numpy", "uniform", "unit"]

BY_DTYPE: dict[Callable, tuple[Callable, Callable]] = {}
"""function -> (its float32 form, its float64 form), for whoever compiles these functions."""


def by_dtype(float64: Callable) -> Callable[[Callable], Callable]:
    """Decorator: the decorated float32 function and `float64` become one function that chooses by its argument."""

    def join(float32: Callable) -> Callable:
        def function(x: Any) -> Any:
            return float32(x) if isinstance(x, np.float32) else float64(x)

        function.__name__, function.__doc__ = float32.__name__, float32.__doc__
        BY_DTYPE[function] = (float32, float64)
        return function

    return join


def like(value: float, x: Any) -> Any:
    """The constant `value` in the dtype of `x`."""
    return type(x)(value)


def bits(x: np.float32) -> np.int32:
    """The bit pattern of a float32."""
    return x.view(np.int32)


def from_bits(n: np.int32) -> np.float32:
    """The float32 of a bit pattern."""
    return n.view(np.float32)


def fma(x, y, z):
    """x y + z, rounded once (in Python at most one ulp beside it, and almost never)."""
    return type(x)(np.float64(x) * np.float64(y) + np.float64(z))


# --- exp and log ----------------------------------------------------------------------------------

_LOG2E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)  # few bits: n * _LN2_HIGH is exact
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(1.5 * 2**23)  # x + _ROUND - _ROUND rounds to the nearest integer, which sits in its low bits
_EXP_LOW, _EXP_HIGH = np.float32(-125.0), np.float32(89.0)  # beyond: 0 (even times 125) and inf
_ONE_BITS = np.int32(0x3F800000)
_MANTISSA_BITS = np.int32(23)
_ONE_BIT = np.int32(1)
_ZERO32 = np.float32(0.0)
_HALF32 = np.float32(0.5)
_HALF32 = np.float32(0.5)
_ONE32 = np.float32(1.0)
_TWO32 = np.float32(2.0)
_NAN32 = np.float32(np.nan)
_INF32 = np.float32(np.inf)


def _power_of_two(n):
    return from_bits(int32(int32(n << _MANTISSA_BITS) + _ONE_BITS))


def _exp_parts(x, low):
    """exp(x + low) as three factors (m, s, t): m in [0.7, 1.5], s and t powers of two, whose product may not exist.

    The result of m * s * t is then rounded once, however large or small. `low` is a small correction to x.
    """
    x = _EXP_LOW if x < _EXP_LOW else x  # a NaN stays
    x = _EXP_HIGH if x > _EXP_HIGH else x
    shifted = fma(x, _LOG2E, _ROUND)
    n = shifted - _ROUND
    r = fma(n, -_LN2_LOW, fma(n, -_LN2_HIGH, x) + low)
    p = np.float32(0.0013813161058351398)
    p = fma(p, r, np.float32(0.008369410410523415))
    p = fma(p, r, np.float32(0.04166845604777336))
    p = fma(p, r, np.float32(0.16666515171527863))
    p = fma(p, r, np.float32(0.4999999403953552))
    m = fma(fma(p, r, _ONE32), r, _ONE32)
    exponent = bits(shifted)  # plus a constant without low bits, which the shifts to the left drop
    half = int32(exponent >> _ONE_BIT)
    return m, _power_of_two(half), _power_of_two(int32(exponent - half))


def _exp64(x):
    return math.exp(x) if x < 709.782712893384 else x * math.inf  # math.exp raises where NumPy gives inf


@by_dtype(_exp64)
def exp(x):
    """eˣ."""
    m, s, t = _exp_parts(x, _ZERO32)
    return m * s * t


_TINY = np.float32(2.0**-126)
_LIFT = np.float32(2.0**25)
_LIFT_EXPONENT = np.int32(25)
_NO_EXPONENT = np.int32(0)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA = np.int32(0x007FFFFF)


def _log64(x):
    if x > 0.0:
        return math.log(x)
    return -math.inf if x == 0.0 else math.nan


@by_dtype(_log64)
def log(x):
    """Natural logarithm. Polynomial: Moshier's Cephes `logf`."""
    subnormal = x < _TINY
    pattern = int32(bits(x * _LIFT if subnormal else x) - _SQRT_HALF_BITS)
    exponent = int32(pattern >> _MANTISSA_BITS)
    n = np.float32(int32(exponent - (_LIFT_EXPONENT if subnormal else _NO_EXPONENT)))
    # x = (1 + f) 2ⁿ with sqrt(1/2) <= 1 + f < sqrt(2)
    f = from_bits(int32(int32(pattern & _MANTISSA) + _SQRT_HALF_BITS)) - _ONE32
    p = np.float32(7.0376836292e-2)
    p = p * f + np.float32(-1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f + np.float32(-1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f + np.float32(-1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f + np.float32(-2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    z = f * f
    y = ((f * z * p + n * _LN2_LOW) - _HALF32 * z + f) + n * _LN2_HIGH
    y = y if x > _ZERO32 else (-_INF32 if x == _ZERO32 else _NAN32)
    return y if x < _INF32 else x + x  # inf and NaN


# --- tanh, sigmoid, erf ---------------------------------------------------------------------------


def _tanh64(x):
    return math.tanh(x)


@by_dtype(_tanh64)
def tanh(x):
    """Hyperbolic tangent. Polynomial for |x| < 0.625: Moshier's Cephes `tanhf`."""
    a = abs(x)
    z = x * x
    p = np.float32(-5.70498872745e-3)
    p = p * z + np.float32(2.06390887954e-2)
    p = p * z + np.float32(-5.37397155531e-2)
    p = p * z + np.float32(1.33314422036e-1)
    p = p * z + np.float32(-3.33332819422e-1)
    small = p * z * x + x
    large = _ONE32 - _TWO32 / (exp(a + a) + _ONE32)
    large = -large if x < _ZERO32 else large
    return large if a > np.float32(0.625) else small


def sigmoid(x):
    """1 / (1 + e⁻ˣ), without overflow on either side."""
    e = exp(-abs(x))
    one = like(1.0, x)
    y = (e if x < 0 else one) / (one + e)
    left = e - e * y if e < like(0.25, x) else y
    return left if x < 0 else y


def _erf64(x):
    return math.erf(x)


@by_dtype(_erf64)
def erf(x):
    """Error function. The two polynomials are those of N. Juffa's `my_erff`."""
    a = abs(x)
    a = np.float32(4.0) if a > np.float32(4.0) else a  # erf(4) is 1 in float32
    z = a * a
    p = np.float32(-1.72853470e-5) * a + np.float32(3.83197126e-4)
    q = np.float32(-3.88396438e-3) * a + np.float32(2.42546219e-2)
    p = p * z + q
    p = p * a + np.float32(-1.06777877e-1)
    p = p * a + np.float32(-6.34846687e-1)
    p = p * a + np.float32(-1.28717512e-1)
    large = _ONE32 - exp(p * a - a)
    large = -large if x < _ZERO32 else large
    p = np.float32(-5.96761703e-4)
    p = p * z + np.float32(4.99119423e-3)
    p = p * z + np.float32(-2.67681349e-2)
    p = p * z + np.float32(1.12819925e-1)
    p = p * z + np.float32(-3.76125336e-1)
    p = p * z + np.float32(1.28379166e-1)
    return large if a > np.float32(0.927734375) else p * x + x


# --- gelu and silu --------------------------------------------------------------------------------

_GELU_END, _SLOPE_END = np.float32(5.36), np.float32(5.76)  # beyond: 0 on the left; x, and 1, on the right

# Our own fits, from the highest power down; that of the denominators has the coefficient 1, which is left out.
_GELU_ABOVE = tuple(np.array([0.0192672759, 5.21300411, 133.937088, 3806.32837, 27266.4746, 326841.469], np.float32))
_GELU_BELOW = tuple(np.array([59.1308708, 1519.13818, 23208.7266, 204891.484, 819270.125], np.float32))
_SLOPE_ABOVE = tuple(np.array([0.0215505194, 4.01633787, 2.14693999, 1589.54858, -3462.28906, 89125.1016], np.float32))
_SLOPE_BELOW = tuple(np.array([21.4507751, 393.528717, 4577.55615, 32895.4648, 111701.633], np.float32))


def _half_and_odd(x, end, above, below):
    """1/2 + x above(x²) / below(x²), with what lies beyond -end and end taken there."""
    a = -end if x < -end else x
    a = end if a > end else a
    z = a * a
    p = fma(fma(fma(fma(fma(above[0], z, above[1]), z, above[2]), z, above[3]), z, above[4]), z, above[5])
    q = fma(fma(fma(fma(z + below[0], z, below[1]), z, below[2]), z, below[3]), z, below[4])
    return a * (p / q) + _HALF32


def _gelu64(x):
    return x * (0.5 * math.erfc(x * -0.7071067811865476))


@by_dtype(_gelu64)
def gelu(x):
    """x Φ(x), Φ the normal distribution function (Hendrycks & Gimpel 2016): the exact form, Φ within 1.7e-7. NaN at
    -inf, as 0 · inf."""
    return x * _half_and_odd(x, _GELU_END, _GELU_ABOVE, _GELU_BELOW)


def _gelu_slope64(x):
    return 0.5 * math.erfc(x * -0.7071067811865476) + x * (0.3989422804014327 * math.exp(-0.5 * (x * x)))


@by_dtype(_gelu_slope64)
def gelu_slope(x):
    """Φ(x) + x φ(x), the derivative of gelu, within 3.2e-7. NaN at both infinities, as 0 · inf."""
    return fma(x, _ZERO32, _half_and_odd(x, _SLOPE_END, _SLOPE_ABOVE, _SLOPE_BELOW))


def _silu64(x):
    return x * sigmoid(x)


@by_dtype(_silu64)
def silu(x):
    """x sigmoid(x). NaN at -inf, as 0 · inf."""
    m, s, t = _exp_parts(-abs(x), _ZERO32)
    e = m * s * t
    y = (e if x < _ZERO32 else _ONE32) / (_ONE32 + e)
    left = (_EXP_LOW if x < _EXP_LOW else x) * m * s * t
    left = left - left * y if e < np.float32(0.25) else x * y
    left = left if x > -_INF32 else _NAN32
    return left if x < _ZERO32 else x * y


# --- the others, and the pullbacks of the activations ---------------------------------------------


def neg(x):
    """-x."""
    return -x


def absolute(x):
    """|x|."""
    return abs(x)


def sqrt(x):
    """Square root; NaN below 0."""
    return like(math.sqrt(x) if x >= 0 else math.nan, x)


def add(x, y):
    """x + y."""
    return x + y


def sub(x, y):
    """x - y."""
    return x - y


def mul(x, y):
    """x y."""
    return x * y


def div(x, y):
    """x / y, as IEEE 754 has it for y = 0."""
    return x / y


def relu(x):
    """max(x, 0); a NaN stays."""
    zero = like(0.0, x)
    return zero if x <= zero else x


def pow(x, y):
    """xʸ; a square is one exact product."""
    return x * x if y == 2 else x**y


def maximum(x, y):
    """The larger of two; NaN if either is."""
    return x if x >= y or x != x else y


def minimum(x, y):
    """The smaller of two; NaN if either is."""
    return x if x <= y or x != x else y


def relu_vjp(g, x):
    """The pullback of relu: g where x > 0."""
    return g if x > 0 else like(0.0, g)


def gelu_vjp(g, x):
    """The pullback of gelu."""
    return g * gelu_slope(x)


def tanh_vjp(g, y):
    """The pullback of y = tanh(x)."""
    return g * (like(1.0, y) - y * y)


def sigmoid_vjp(g, y):
    """The pullback of y = sigmoid(x)."""
    return g * (y * (like(1.0, y) - y))


def silu_vjp(g, x):
    """The pullback of silu."""
    y = sigmoid(x)
    one = like(1.0, x)
    return g * (y * (one + x * (one - y)))
