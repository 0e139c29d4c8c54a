"""Sine and cosine of one number: in float64 those of `math`, in float32 near the origin without a branch.

|x| <= NEAR is taken back to |r| <= π/4 by whole quarter turns: π/2 is split so that n times its first 25 bits is exact
in float64 (as in FreeBSD's e_rem_pio2f.c), and r is then a float32. The polynomials are those of Moshier's Cephes
`sinf` and `cosf`. Further away, every float32 is many turns, and the C library's functions serve. The error is at most
1.5 ulp.
"""

import math

import numpy as np
from numpy import int32

from .scalar import by_dtype, fma, like

NEAR = 2.0**27
_QUARTERS = 0.6366197723675814
_ROUND = 1.5 * 2.0**52
_QUARTER_HIGH, _QUARTER_LOW = 1.5707963109016418, 1.5893254773528196e-08
_ZERO, _ONE, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_EVEN, _FIRST, _SECOND = np.int32(0), np.int32(1), np.int32(2)


def _quarter_turns(x):
    """(r, n): x is n quarter turns and r more."""
    y = np.float64(x)
    n = (y * _QUARTERS + _ROUND) - _ROUND
    return np.float32((y - n * _QUARTER_HIGH) - n * _QUARTER_LOW), int32(n)


def _sine_of(r, n):
    """sin(r + n π/2) for |r| <= π/4."""
    z = r * r
    s = np.float32(-1.9515295891e-4)
    s = fma(s, z, np.float32(8.3321608736e-3))
    s = fma(s, z, np.float32(-1.6666654611e-1))
    s = fma(s * z, r, r)
    c = np.float32(2.443315711809948e-5)
    c = fma(c, z, np.float32(-1.388731625493765e-3))
    c = fma(c, z, np.float32(4.166664568298827e-2))
    c = fma(c, z, -_HALF)
    c = fma(c, z, _ONE)
    y = s if int32(n & _FIRST) == _EVEN else c
    return y if int32(n & _SECOND) == _EVEN else -y


def _sin64(x):
    return math.sin(x)


@by_dtype(_sin64)
def sin_near(x):
    """Sine of |x| <= NEAR."""
    r, n = _quarter_turns(x)
    return x if x == _ZERO else _sine_of(r, n)  # -0 stays


def _cos64(x):
    return math.cos(x)


@by_dtype(_cos64)
def cos_near(x):
    """Cosine of |x| <= NEAR."""
    r, n = _quarter_turns(x)
    return _sine_of(r, int32(n + _FIRST))


def sin(x):
    """Sine."""
    return sin_near(x) if abs(x) <= NEAR else sin_far(x)


def cos(x):
    """Cosine."""
    return cos_near(x) if abs(x) <= NEAR else cos_far(x)


def sin_far(x):
    """Sine of any number: the C library's."""
    return like(math.sin(np.float64(x)) if abs(x) < math.inf else math.nan, x)


def cos_far(x):
    """Cosine of any number: the C library's."""
    return like(math.cos(np.float64(x)) if abs(x) < math.inf else math.nan, x)
