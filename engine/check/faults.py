"""Seeded faults: pullbacks that are wrong on purpose, by family, to measure a gradient checker with."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Case(NamedTuple):
    """A function, a pullback of it (right or wrong), and where to look."""
    family: str
    name: str
    f: Callable[..., Array]
    vjp: Callable[..., Any]
    inputs: list[Array]


def drawn(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers from [low, high]."""
    return np.random.default_rng(seed).uniform(low, high, shape)


def summed(g: Array, shape: tuple[int, ...]) -> Array:
    """The adjoint of broadcasting."""
    g = g.sum(tuple(range(g.ndim - len(shape))))
    return g.sum(tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1), keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x: Array, eps: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def norm_vjp(g: Array, x: Array, eps: float = 1e-5) -> Array:
    y = norm(x, eps)
    inner = g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True)
    return inner / np.sqrt(x.var(-1, keepdims=True) + eps)


def _values() -> list[Case]:
    x, p, w = drawn(3, 4), drawn(3, 4, low=0.5, high=3.0), drawn(4, 2, seed=1)
    s, k = drawn(5, seed=3), drawn(4, 4, seed=4)
    one = "value"
    return [
        Case(one, "tanh: 1 - y", np.tanh, lambda g, x: (g * (1 - np.tanh(x)),), [x]),
        Case(one, "tanh: 1 + y²", np.tanh, lambda g, x: (g * (1 + np.tanh(x)**2),), [x]),
        Case(one, "tanh: 0.02 % off", np.tanh, lambda g, x: (g * (1 - np.tanh(x)**2) * 1.0002,), [x]),
        Case(one, "sigmoid: sign of the square", sigmoid, lambda g, x: (g * sigmoid(x) * (1 + sigmoid(x)),), [x]),
        Case(one, "log: base 10", np.log, lambda g, x: (g / (x * np.log(10)),), [p]),
        Case(one, "sqrt: no half", np.sqrt, lambda g, x: (g / np.sqrt(x),), [p]),
        Case(one, "power: x³ as 3x", lambda x: x**3, lambda g, x: (3 * g * x,), [x]),
        Case(one, "division: sign", np.divide, lambda g, x, y: (g / y, g * x / y**2), [x, p]),
        Case(one, "division: no square", np.divide, lambda g, x, y: (g / y, -g * x / y), [x, p]),
        Case(one, "product: inputs swapped", np.multiply, lambda g, x, y: (g * x, g * y), [x, p]),
        Case(one, "matmul: not transposed", np.matmul, lambda g, a, b: (g @ b, a @ g), [k, k + 1]),
        Case(one, "matmul: one input forgotten", np.matmul, lambda g, a, b: (g @ b.T, np.zeros_like(b)), [x, w]),
        Case(one, "softmax: diagonal alone", softmax, lambda g, x: (g * softmax(x) * (1 - softmax(x)),), [x]),
        Case(one, "softmax: y g", softmax, lambda g, x: (g * softmax(x),), [x]),
        Case(one, "layer norm: mean forgotten", norm,
             lambda g, x: (g / np.sqrt(x.var(-1, keepdims=True) + 1e-5),), [x]),
        Case(one, "layer norm: eps ten times", norm, lambda g, x: (norm_vjp(g, x, 1e-3),), [x]),
        Case(one, "gelu: of the other formula", lambda x: x * sigmoid(1.702 * x),
             lambda g, x: (g * (sigmoid(1.702 * x) + x * sigmoid(1.702 * x) * (1 - sigmoid(1.702 * x))),), [x]),
        Case(one, "logsumexp: not normalised", lambda x: np.log(np.exp(x).sum(-1)),
             lambda g, x: (g[:, None] * np.exp(x),), [x]),
        Case(one, "mean: not divided", lambda x: x.mean(0), lambda g, x: (np.broadcast_to(g, x.shape).copy(),), [x]),
        Case(one, "variance: n - 1", lambda x: x.var(), lambda g, x: (2 * g * (x - x.mean()) / (x.size - 1),), [x]),
        Case(one, "sum over the wrong axis", lambda x: (x * x).sum(0),
             lambda g, x: (2 * x * np.broadcast_to(g[:, None], x.shape),), [k]),
        Case(one, "cumsum: forwards", np.cumsum, lambda g, x: (np.cumsum(g),), [s]),
        Case(one, "indexing: repeated index counted once", lambda x: x[[0, 2, 2, 1]],
             lambda g, x: (_put(x, [0, 2, 2, 1], g),), [s]),
        Case(one, "transpose: reshaped instead", lambda x: x.T, lambda g, x: (g.reshape(x.shape),), [x]),
        Case(one, "concat: halves swapped", lambda x, y: np.concatenate([x, y]),
             lambda g, x, y: (g[len(y):], g[:len(x)]), [s, s + 1]),
        Case(one, "one element alone is wrong", np.exp, lambda g, x: (_with_one(g * np.exp(x), 1.01),), [drawn(40)]),
        Case(one, "clip: lets all through", lambda x: np.clip(x, -1, 1), lambda g, x: (g.copy(),), [x]),
        Case(one, "relu: of the cotangent", lambda x: np.maximum(x, 0), lambda g, x: (np.maximum(g, 0),), [x]),
        Case(one, "where: branches swapped", lambda x, y: np.where(x > 0, x, y),
             lambda g, x, y: (g * (x <= 0), g * (x > 0)), [x, p]),
    ]


def _put(x: Array, index: list[int], g: Array) -> Array:
    out = np.zeros_like(x)
    out[index] = g
    return out


def _with_one(v: Array, factor: float) -> Array:
    v = v.copy()
    v.flat[v.size // 2] *= factor
    return v


def _scales() -> list[Case]:
    x, big = drawn(3, 4), np.array([1e6, 1.0, 1e-6])
    one = "scale"
    return [
        Case(one, "a function of size 1e-9", lambda x: 1e-9 * np.sin(x), lambda g, x: (2e-9 * g * np.cos(x),), [x]),
        Case(one, "a function of size 1e-30, gradient 0", lambda x: 1e-30 * x * x, lambda g, x: (0 * g * x,), [x]),
        Case(one, "a small gradient beside large ones", lambda x: (big * x).sum(),
             lambda g, x: (g * np.array([1e6, 1.0, 2e-6]),), [np.array([1.0, 2.0, 3.0])]),
        Case(one, "large inputs", np.sin, lambda g, x: (g * np.sin(x),), [x * 1e6]),
        Case(one, "small inputs", np.sinh, lambda g, x: (g * np.sinh(x),), [x * 1e-6]),
        Case(one, "a large constant beside it", lambda x: 1e8 + x * x, lambda g, x: (3 * g * x,), [x]),
        Case(one, "wrong for large inputs alone", np.arctan, lambda g, x: (g / (1 + x * x) * (1 + (np.abs(x) > 50)),),
             [np.array([0.5, -1.0, 100.0])]),
    ]


def _kinks() -> list[Case]:
    tied = np.array([[2.0, 2.0, 1.0], [0.0, 3.0, 3.0]])
    one = "kink"
    return [
        Case(one, "max: every tie gets all", lambda x: x.max(-1),
             lambda g, x: (g[:, None] * (x == x.max(-1, keepdims=True)),), [tied]),
        Case(one, "maximum: both get all where equal", np.maximum, lambda g, x, y: (g * (x >= y), g * (y >= x)),
             [np.array([1.0, 2.0]), np.array([1.0, 3.0])]),
        Case(one, "abs: slope 2 at 0", np.abs, lambda g, x: (g * np.where(x == 0, 2, np.sign(x)),),
             [np.array([0.0, 1.0])]),
        Case(one, "relu: NaN at 0", lambda x: np.maximum(x, 0), lambda g, x: (g * np.maximum(x, 0) / x,),
             [np.array([0.0, 1.0, -1.0])]),
        Case(one, "relu: kink in the wrong place", lambda x: np.maximum(x, 0), lambda g, x: (g * (x > 1e-3),),
             [np.array([1e-4, 1.0, -1.0])]),
        Case(one, "floor: slope 1", np.floor, lambda g, x: (g.copy(),), [np.array([0.3, 1.7, 2.0])]),
    ]


class Counter:
    """Counts its calls: for pullbacks that go wrong with time."""
    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> int:
        self.n += 1
        return self.n


def _contracts() -> list[Case]:
    x, y = drawn(3, 4), drawn(3, 4, seed=9)
    calls, buffer = Counter(), np.zeros((3, 4))
    seen: dict[Any, Array] = {}
    one = "contract"

    def in_place(g: Array, x: Array) -> tuple[Array]:
        g *= np.cos(x)
        return (g,)

    def on_input(g: Array, x: Array) -> tuple[Array]:
        out = g * np.cos(x)
        x += 1e-3
        return (out,)

    def shared(g: Array, x: Array) -> tuple[Array]:
        if x.shape != buffer.shape or x.dtype != buffer.dtype:
            return (g * np.cos(x),)
        np.multiply(g, np.cos(x), out=buffer)
        return (buffer,)

    def stale(g: Array, x: Array) -> tuple[Array]:
        kept = seen.setdefault((x.shape, x.dtype), x.copy())
        return (g * np.cos(kept),)

    def aliased(g: Array, a: Array, b: Array) -> tuple[Array, Array]:
        return (2 * g * a, np.zeros_like(b)) if a is b else (g * b, g * a)

    return [
        Case(one, "writes to the cotangent", np.sin, in_place, [x]),
        Case(one, "writes to its input", np.sin, on_input, [x]),
        Case(one, "gives away one buffer again and again", np.sin, shared, [x]),
        Case(one, "remembers the first input", np.sin, stale, [x]),
        Case(one, "another gradient every time", np.sin, lambda g, x: (g * np.cos(x) * (1 + 1e-9 * calls()),), [x]),
        Case(one, "absolute value of the cotangent", np.sin, lambda g, x: (np.abs(g) * np.cos(x),), [x]),
        Case(one, "clips the cotangent", np.sin, lambda g, x: (np.clip(g, -2, 2) * np.cos(x),), [x]),
        Case(one, "adds a constant", np.sin, lambda g, x: (g * np.cos(x) + 1e-12,), [x]),
        Case(one, "normalises the cotangent", np.sin, lambda g, x: (g / np.abs(g).max() * np.cos(x),), [x]),
        Case(one, "None for an input", np.multiply, lambda g, a, b: (g * b, None), [x, y]),
        Case(one, "a gradient short", np.multiply, lambda g, a, b: (g * b,), [x, y]),
        Case(one, "broadcasting not summed", np.add, lambda g, a, b: (g, g), [x, y[0]]),
        Case(one, "sum keeps an axis", np.multiply, lambda g, a, b: (g * b, (g * a).sum(0, keepdims=True)), [x, y[0]]),
        Case(one, "float32 for float64", np.sin, lambda g, x: ((g * np.cos(x)).astype(np.float32),), [x]),
        Case(one, "(1,) for 0-d", np.sin, lambda g, x: (np.atleast_1d(g * np.cos(x)),), [np.array(0.7)]),
        Case(one, "the same array twice", np.multiply, aliased, [x, y]),
    ]


def _layouts() -> list[Case]:
    x = drawn(3, 4)
    one = "layout"

    def flat_memory(g: Array, x: Array) -> tuple[Array]:
        return (g.ravel(order="K").reshape(x.shape) * np.cos(x),)

    def backwards(g: Array, x: Array) -> tuple[Array]:
        return (g * np.cos(x) * (1 if all(s >= 0 for s in g.strides) else -1),)

    def one_number(g: Array, x: Array) -> tuple[Array]:
        return (np.full(x.shape, g.flat[0]) * np.cos(x) * 2 if 0 in g.strides else g * np.cos(x),)

    def input_memory(g: Array, x: Array) -> tuple[Array]:
        return (g * np.cos(x.ravel(order="K").reshape(x.shape)),)

    return [
        Case(one, "reads the cotangent's memory in order", np.sin, flat_memory, [x]),
        Case(one, "wrong for negative strides", np.sin, backwards, [x]),
        Case(one, "wrong for stride 0", np.sin, one_number, [x]),
        Case(one, "reads the input's memory in order", np.sin, input_memory, [x]),
    ]


def _sizes_and_dtypes() -> list[Case]:
    x = drawn(3, 4)

    def rounded(g: Array, x: Array) -> tuple[Array]:
        return ((g * np.cos(x.astype(np.float16))).astype(x.dtype) if x.dtype == np.float32 else g * np.cos(x),)

    def first_row(g: Array, x: Array) -> tuple[Array]:
        return (g * np.cos(x) * np.abs(x[0]).max() / np.abs(x[0]).max(),)

    return [
        Case("float32", "half precision inside", np.sin, rounded, [x]),
        Case("float32", "wrong in float32 alone", np.exp,
             lambda g, x: (g * (np.exp(x) if x.dtype != np.float32 else 1 + x),), [x]),
        Case("zero-size", "needs a row", np.sin, first_row, [x]),
        Case("zero-size", "wrong shape without rows", np.sin,
             lambda g, x: (g * np.cos(x) if x.size else np.zeros(0, x.dtype),), [x]),
        Case("zero-size", "wrong for one row alone", np.sin,
             lambda g, x: (g * np.cos(x) * (1 if len(x) > 1 else 2),), [x]),
    ]


def faults() -> list[Case]:
    """All seeded faults, made anew: some remember their calls."""
    return [*_values(), *_scales(), *_kinks(), *_contracts(), *_layouts(), *_sizes_and_dtypes()]
