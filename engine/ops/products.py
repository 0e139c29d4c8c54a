"""Products over axes and running products, whose gradients are right beside zeros: they never divide by a factor."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.core import Tensor
from engine.ops.reduce import ALONG, REDUCTION, backwards, kept
from engine.ops.shape import concat, expand_dims, moveaxis, pad, reshape
from engine.record import OUT, Op, op


# --- running products -----------------------------------------------------------------------------
def _before(y: Tensor) -> Tensor:
    """Running products without their own factor, along the last axis: 1, y₀, y₁, …"""
    return pad(y[..., :-1], [(0, 0)] * (y.ndim - 1) + [(1, 0)], value=1.0) if y.shape[-1] else y


def _recurrence(a: Tensor, b: Tensor) -> Tensor:
    """sᵢ = aᵢ sᵢ₋₁ + bᵢ along the last axis, s₋₁ = 0: every second one from a recurrence of half the length."""
    n = a.shape[-1]
    if n < 2:
        return b
    even, odd = (..., slice(0, n - n % 2, 2)), (..., slice(1, None, 2))
    at_odd = _recurrence(a[odd] * a[even], a[odd] * b[even] + b[odd])
    before = pad(at_odd, [(0, 0)] * (a.ndim - 1) + [(1, 0)])[..., :(n + 1) // 2]
    at_even = a[..., ::2] * before + b[..., ::2]
    if n % 2:
        at_odd = pad(at_odd, [(0, 0)] * (a.ndim - 1) + [(0, 1)])
    both = concat([expand_dims(at_even, axis=-1), expand_dims(at_odd, axis=-1)], axis=-1)
    return reshape(both, shape=(*both.shape[:-2], both.shape[-2] * 2))[..., :n]


def _cumprod_rule(g: Tensor, y: Tensor, x: Tensor, *, axis: int | None) -> Tensor:
    """x̄ᵢ = Pᵢ₋₁ Sᵢ with the products P before i, and Sᵢ = ȳᵢ + xᵢ₊₁ Sᵢ₊₁."""
    flat = reshape(x, shape=g.shape)
    g, y, flat = (moveaxis(t, source=axis or 0, destination=-1) for t in (g, y, flat))
    after = pad(flat[..., 1:], [(0, 0)] * (flat.ndim - 1) + [(0, 1)]) if flat.shape[-1] else flat
    s = backwards(_recurrence(backwards(after, g.ndim - 1), backwards(g, g.ndim - 1)), g.ndim - 1)
    return reshape(moveaxis(_before(y) * s, source=-1, destination=axis or 0), shape=x.shape)


cumprod: Op = op("cumprod", lambda x, *, axis=None: np.cumprod(x, axis=axis), _cumprod_rule, **ALONG, saves=(0, OUT),
                 equation=("yᵢ = Π_{j ≤ i} xⱼ", "x̄ᵢ = Σ_{k ≥ i} ȳₖ Π_{j ≤ k, j ≠ i} xⱼ"),
                 doc="The running product along an axis (None: of all numbers in C order), as numpy.cumprod.")


# --- products over axes ---------------------------------------------------------------------------
def _prod_rule(g: Tensor, y: Tensor, x: Tensor, *, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """ȳ times the product of the others: of those before, and of those behind."""
    stay = [i for i in range(x.ndim) if i not in axis]
    rows = x.transpose(*stay, *axis)
    flat = reshape(rows, shape=(*rows.shape[:len(stay)], math.prod([x.shape[a] for a in axis])))
    last = flat.ndim - 1
    others = _before(cumprod(flat, axis=last)) * backwards(_before(cumprod(backwards(flat, last), axis=last)), last)
    back = reshape(others, shape=rows.shape).transpose(*(int(i) for i in np.argsort([*stay, *axis])))
    return kept(g, axis, keepdims) * back


def _product(x: Any, *, axis: tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """The factors are taken in the order of their indices, whatever the memory layout; NumPy takes the memory's."""
    return np.prod(x if x.flags.c_contiguous else x.copy(), axis=axis, keepdims=keepdims)


prod = op("prod", _product, _prod_rule,
          **{**REDUCTION, "result": "sum"}, saves=(0,),
          equation=("Y = Π X", "x̄ᵢ = Ȳ Π_{j ≠ i} xⱼ"),
          doc="The product over axes (None: all), as numpy.prod; of no numbers it is 1.")
