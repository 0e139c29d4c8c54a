"""Right pullbacks of awkward functions, to measure how often a gradient checker raises a false alarm."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.check.faults import Array, Case, drawn, norm, norm_vjp, sigmoid, softmax, summed

SCALES = (1e-6, 1e-3, 0.1, 1.0, 1e3, 1e6)


def _share(hit: Array, axis: int = -1) -> Array:
    return hit / hit.sum(axis, keepdims=True)


def _max_vjp(g: Array, x: Array) -> tuple[Array]:
    return (g[..., None] * _share((x == x.max(-1, keepdims=True)).astype(x.dtype)),)


def _sort_vjp(g: Array, x: Array) -> tuple[Array]:
    out = np.empty_like(x)
    np.put_along_axis(out, np.argsort(x, -1, kind="stable"), g, -1)
    return (out,)


def _half(x: Array, y: Array) -> Array:
    return np.where(x > y, 1.0, np.where(x == y, 0.5, 0.0)).astype(x.dtype)


def _huber(x: Array) -> Array:
    return np.where(np.abs(x) <= 1, 0.5 * x * x, np.abs(x) - 0.5)


def _matrix_inverse_vjp(g: Array, a: Array) -> tuple[Array]:
    y = np.linalg.inv(a)
    return (-y.T @ g @ y.T,)


def _softmax_vjp(g: Array, x: Array) -> tuple[Array]:
    y = softmax(x)
    return (y * (g - (g * y).sum(-1, keepdims=True)),)


class Counting:
    """A function with a state that its results do not show."""
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Array) -> Array:
        self.calls += 1
        return np.tanh(x)


def _one_sided(x: Array) -> Array:
    if np.any(x < 0):
        raise ValueError("outside the domain")
    return x * np.sqrt(x)


def awkward() -> list[Case]:
    """Right pullbacks that a checker may stumble over."""
    x, tied = drawn(3, 4), np.array([[2.0, 2.0, 1.0], [0.0, 3.0, 3.0]])
    kinks = np.array([-1.0, 0.0, 1.0, 0.5, 0.0, 2.0])
    hilbert = 1.0 / (np.arange(4)[:, None] + np.arange(4) + 1)
    ids = np.array([2, 0, 2])

    def case(name: str, f: Any, vjp: Any, *inputs: Array) -> Case:
        return Case("right", name, f, vjp, list(inputs))

    return [
        case("relu at its kink", lambda x: np.maximum(x, 0), lambda g, x: (g * (x > 0),), kinks),
        case("abs at its kink", np.abs, lambda g, x: (g * np.sign(x),), kinks),
        case("clip at its bounds", lambda x: np.clip(x, -1, 1), lambda g, x: (g * ((x >= -1) & (x <= 1)),), kinks),
        case("huber at its joints", _huber, lambda g, x: (g * np.clip(x, -1, 1),), kinks),
        case("max with ties", lambda x: x.max(-1), _max_vjp, tied),
        case("max, the first of ties", lambda x: x.max(-1),
             lambda g, x: (g[:, None] * (np.arange(3) == x.argmax(-1)[:, None]),), tied),
        case("maximum of equal inputs", np.maximum, lambda g, x, y: (g * _half(x, y), g * _half(y, x)), kinks, kinks),
        case("sort with ties", lambda x: np.sort(x, -1), _sort_vjp, tied),
        case("floor at its jumps", np.floor, lambda g, x: (0 * g,), kinks),
        case("sign at its jump", np.sign, lambda g, x: (0 * g,), kinks),
        case("where with a jump", lambda x: np.where(x > 0, x + 1, x), lambda g, x: (g.copy(),), kinks),
        case("a plateau", lambda x: np.maximum(x, 5.0), lambda g, x: (g * (x > 5),), x),
        case("square root at 0", np.sqrt, lambda g, x: (g / (2 * np.sqrt(x)),), np.array([0.0, 1.0, 1e-9])),
        case("log at 0", np.log, lambda g, x: (g / x,), np.array([0.0, 1.0, 1e-9])),
        case("power 1.5 at 0, raising below", _one_sided, lambda g, x: (1.5 * g * np.sqrt(x),), np.array([0.0, 1.0])),
        case("cube root at 0", np.cbrt, lambda g, x: (g / (3 * np.cbrt(x)**2),), np.array([0.0, 1.0, -8.0])),
        case("a function of size 1e-9", lambda x: 1e-9 * np.sin(x), lambda g, x: (1e-9 * g * np.cos(x),), x),
        case("a large constant beside it", lambda x: 1e12 + x, lambda g, x: (g.copy(),), x),
        case("large inputs", np.sin, lambda g, x: (g * np.cos(x),), x * 1e6),
        case("inputs of all sizes", lambda x: x**2, lambda g, x: (2 * g * x,), 10.0**np.arange(-8, 9, 2)),
        case("an ill-conditioned inverse", np.linalg.inv, _matrix_inverse_vjp, hilbert),
        case("cancellation", lambda x: (1e6 + x) - 1e6, lambda g, x: (g.copy(),), x),
        case("float32 inside", lambda x: np.tanh(x.astype(np.float32)).astype(x.dtype),
             lambda g, x: (g * (1 - np.tanh(x)**2),), x),
        case("float32 inputs", np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2),), x.astype(np.float32)),
        case("returns its input", lambda x: x, lambda g, x: (g,), x),
        case("ignores an input", lambda x, y: np.exp(x), lambda g, x, y: (g * np.exp(x), np.zeros_like(y)), x, x[0]),
        case("integer input", lambda x, i: x[i], lambda g, x, i: (_gathered(g, x, i), None), x, ids),
        case("no elements", np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2),), np.zeros((0, 3))),
        case("no elements left", lambda x: x[:0], lambda g, x: (np.zeros_like(x),), x),
        case("0-d", lambda x, y: x * y, lambda g, x, y: (g * y, g * x), np.array(0.7), np.array(-2.0)),
        case("a state that does not matter", Counting(), lambda g, x: (g * (1 - np.tanh(x)**2),), x),
        case("a view", lambda x: x[::-1, 1:], lambda g, x: (_unsliced(g, x),), x),
        case("saturated", np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2),), np.array([-50.0, 0.1, 40.0])),
        case("not finite elsewhere", np.exp, lambda g, x: (g * np.exp(x),), np.array([1.0, np.inf, -2.0, np.nan])),
        case("broadcasting", np.multiply,
             lambda g, a, b: (summed(g * b, a.shape), summed(g * a, b.shape)), x, x[:, :1]),
        case("a gradient of 0", lambda x: (x - x).sum(), lambda g, x: (np.zeros_like(x),), x),
    ]


def _gathered(g: Array, x: Array, ids: Array) -> Array:
    out = np.zeros_like(x)
    np.add.at(out, ids, g)
    return out


def _unsliced(g: Array, x: Array) -> Array:
    out = np.zeros_like(x)
    out[::-1, 1:] = g
    return out


FUNCTIONS: list[tuple[str, Any, Any]] = [
    ("square", lambda x: x * x, lambda g, x: (2 * g * x,)),
    ("cube", lambda x: x**3, lambda g, x: (3 * g * x * x,)),
    ("sin", np.sin, lambda g, x: (g * np.cos(x),)),
    ("tanh", np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2),)),
    ("sigmoid", sigmoid, lambda g, x: (g * sigmoid(x) * (1 - sigmoid(x)),)),
    ("exp", np.exp, lambda g, x: (g * np.exp(x),)),
    ("expm1", np.expm1, lambda g, x: (g * np.exp(x),)),
    ("log(1 + x²)", lambda x: np.log1p(x * x), lambda g, x: (2 * g * x / (1 + x * x),)),
    ("arctan", np.arctan, lambda g, x: (g / (1 + x * x),)),
    ("hypot 1", lambda x: np.sqrt(1 + x * x), lambda g, x: (g * x / np.sqrt(1 + x * x),)),
    ("reciprocal", lambda x: 1 / (2 + x * x), lambda g, x: (-2 * g * x / (2 + x * x)**2,)),
    ("abs", np.abs, lambda g, x: (g * np.sign(x),)),
    ("relu", lambda x: np.maximum(x, 0), lambda g, x: (g * (x > 0),)),
    ("leaky relu", lambda x: np.where(x > 0, x, 0.1 * x), lambda g, x: (g * np.where(x > 0, 1, 0.1).astype(x.dtype),)),
    ("clip", lambda x: np.clip(x, -1, 1), lambda g, x: (g * ((x >= -1) & (x <= 1)),)),
    ("huber", _huber, lambda g, x: (g * np.clip(x, -1, 1),)),
    ("max", lambda x: x.max(-1), _max_vjp),
    ("sort", lambda x: np.sort(x, -1), _sort_vjp),
    ("softmax", softmax, _softmax_vjp),
    ("logsumexp", lambda x: x.max(-1) + np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)),
     lambda g, x: (g[..., None] * softmax(x),)),
    ("layer norm", norm, lambda g, x: (norm_vjp(g, x),)),
    ("variance", lambda x: x.var(-1), lambda g, x: (2 * g[..., None] * (x - x.mean(-1, keepdims=True)) / x.shape[-1],)),
    ("sum of squares", lambda x: np.asarray((x * x).sum()), lambda g, x: (2 * g * x,)),
    ("outer", lambda x: x[:, :, None] * x[:, None, :],
     lambda g, x: ((g * x[:, None, :]).sum(2) + (g * x[:, :, None]).sum(1),)),
    ("gelu", lambda x: x * sigmoid(1.702 * x),
     lambda g, x: (g * (sigmoid(1.702 * x) + 1.702 * x * sigmoid(1.702 * x) * sigmoid(-1.702 * x)),)),
]


def sweep() -> Iterator[Case]:
    """900 right cases: 25 functions at 6 scales with 6 kinds of numbers."""
    for k, (name, f, vjp) in enumerate(FUNCTIONS):
        for scale in SCALES:
            for kind in range(6):
                rng = np.random.default_rng((k, kind, int(scale * 1e6)))
                x = rng.standard_normal((2, 4))
                if kind == 1:
                    x = np.round(2 * x) / 2              # ties, some of them zeros
                elif kind == 2:
                    x *= rng.random(x.shape) < 0.5       # zeros
                elif kind == 3:
                    x *= 10.0**rng.uniform(-3, 0, x.shape)
                elif kind == 4:
                    x = np.abs(x) + 0.5
                elif kind == 5:
                    x[:] = x[:, :1]                      # every row one number
                yield Case("sweep", f"{name} · {scale:g} · {kind}", f, vjp, [x * scale])
