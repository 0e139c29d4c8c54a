"""NumPy's side of `bench kernels`: the same results in plain NumPy, as somebody who knows it would write them."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from microtfm.bench.kernel_cases import ATTENTION, SMOOTHING, UPDATES, Case, P
from microtfm.bench.kernel_timing import Kernels, Work
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE

Array = np.ndarray


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def softmax_vjp(g: Array, y: Array) -> Array:
    """y (g − Σ g y)."""
    return y * (g - (g * y).sum(-1, keepdims=True))


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    c = x - x.max(-1, keepdims=True)
    return c - np.log(np.exp(c).sum(-1, keepdims=True))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _silu_vjp(x: Array, g: Array) -> Array:
    s = _sigmoid(x)
    return g * s * (1 + x * (1 - s))


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    c = x - x.mean(-1, keepdims=True)
    return c / np.sqrt((c * c).mean(-1, keepdims=True) + np.float32(1e-5)) * weight + bias


def _layer_norm_vjp(x: Array, weight: Array, bias: Array, g: Array) -> list[Array]:
    c = x - x.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + np.float32(1e-5))
    normed, gw = c * scale, g * weight
    dx = scale * (gw - gw.mean(-1, keepdims=True) - normed * (gw * normed).mean(-1, keepdims=True))
    return [dx, (g * normed).sum(0), g.sum(0)]


def _cross_entropy(x: Array, ids: Array) -> Array:
    log_p = log_softmax(x)
    right = log_p[np.arange(len(ids)), ids]
    return -((1 - SMOOTHING) * right + SMOOTHING * log_p.mean(-1)).mean()


def _cross_entropy_vjp(x: Array, ids: Array) -> list[Array]:
    p = softmax(x)
    p -= np.float32(SMOOTHING / x.shape[-1])
    p[np.arange(len(ids)), ids] -= np.float32(1 - SMOOTHING)
    p /= np.float32(len(ids))
    return [p]


def _weights(q: Array, k: Array, causal: bool) -> Array:
    scores = q @ k.swapaxes(-1, -2) * np.float32(1 / math.sqrt(q.shape[-1]))
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, np.float32(-np.inf))
    return softmax(scores)


def _kept(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return (rng.random(shape, np.float32) >= np.float32(P)) * np.float32(1 / (1 - P))


def _attention(case: Case, q: Array, k: Array, v: Array, g: Array | None = None) -> Work:
    rng, dropout, causal = np.random.default_rng(0), case.form == "dropout", case.form == "causal"

    def forward() -> Array:
        w = _weights(q, k, causal)
        return (w * _kept(w.shape, rng) if dropout else w) @ v

    weights, scale = _weights(q, k, causal), np.float32(1 / math.sqrt(q.shape[-1]))
    kept = _kept(weights.shape, rng) if dropout else None

    def backward() -> list[Array]:
        """The weights are kept from the forward pass."""
        dw = g @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dw if kept is None else dw * kept, weights) * scale
        dv = (weights if kept is None else weights * kept).swapaxes(-1, -2) @ g
        return [ds @ k, ds.swapaxes(-1, -2) @ q, dv]
    return forward if g is None else backward


def _scatter_add(g: Array, ids: Array, size: int) -> Array:
    out = np.zeros((size, g.shape[1]), g.dtype)
    np.add.at(out, ids, g)
    return out


def _update(kernel: str, parameters: list[Array], gradients: list[Array], ms: list[Array], vs: list[Array]) -> Work:
    def squares() -> float:
        return sum(float(np.vdot(g, g)) for g in gradients)

    def sgd() -> None:
        for p, g, m in zip(parameters, gradients, ms, strict=True):
            m *= np.float32(0.9)
            m += g
            p -= np.float32(LEARNING_RATE) * m

    def adam() -> None:
        scale = np.float32(min(1.0, CLIP / math.sqrt(squares())))
        keep1, keep2 = np.float32(BETAS[0]), np.float32(BETAS[1])
        rate, root = np.float32(LEARNING_RATE / (1 - BETAS[0] ** 10)), np.float32(math.sqrt(1 - BETAS[1] ** 10))
        for p, g, m, v in zip(parameters, gradients, ms, vs, strict=True):
            g = g * scale
            m *= keep1
            m += (1 - keep1) * g
            v *= keep2
            v += (1 - keep2) * g * g
            p -= rate * m / (np.sqrt(v) / root + np.float32(EPSILON))
    return {"sum_of_squares": squares, "sgd": sgd, "adam": adam}[kernel]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x), "relu": lambda x: np.maximum(x, 0), "sqrt": np.sqrt, "abs": np.abs,
    "neg": np.negative, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "where": np.where, "matmul": np.matmul,
    "softmax": softmax, "log_softmax": log_softmax, "layer_norm": _layer_norm, "layer_norm_vjp": _layer_norm_vjp,
    "cross_entropy": _cross_entropy, "cross_entropy_vjp": _cross_entropy_vjp,
    "relu_vjp": lambda x, g: g * (x > 0), "silu_vjp": _silu_vjp,
    "embedding": lambda table, ids: table[ids], "take": lambda x, ids: np.take(x, ids, 0),
}
FROM_OUTPUT: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {       # forward, and backward from its output
    "tanh_vjp": (np.tanh, lambda y, g: g * (1 - y * y)), "sigmoid_vjp": (_sigmoid, lambda y, g: g * y * (1 - y)),
    "softmax_vjp": (softmax, lambda y, g: softmax_vjp(g, y)),
    "log_softmax_vjp": (log_softmax, lambda y, g: g - np.exp(y) * g.sum(-1, keepdims=True)),
}


class NumpyKernels(Kernels):
    """All but what needs the error function, which NumPy does not have."""

    def find(self, case: Case) -> Work | None:
        given: list[Any] = case.inputs()
        kernel = case.kernel
        rng = np.random.default_rng(0)
        if kernel in UPDATES:
            return _update(kernel, *given)
        if kernel in ATTENTION:
            return _attention(case, *given)
        if kernel == "uniform":
            return lambda: rng.random(case.shape, np.float32)
        if kernel == "dropout":
            return lambda: given[0] * _kept(case.shape, rng)
        if kernel == "sum":
            return lambda: given[0].sum(0 if case.form == "columns" else -1)
        if kernel == "scatter_add":
            return lambda: _scatter_add(given[0], given[1], case.shape[0])
        if kernel in FROM_OUTPUT:
            forward, backward = FROM_OUTPUT[kernel]
            y, g = forward(given[0]), given[1]
            return lambda: backward(y, g)
        function = FUNCTIONS.get(kernel)
        return None if function is None else lambda: function(*given)
