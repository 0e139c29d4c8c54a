"""NumPy's side of `bench kernels`: the same results in plain NumPy, as somebody who knows it would write them."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from microtfm.bench.kernel_cases import HEADS, PACKED, REDUCTIONS, SMOOTHING, UPDATES, Case
from microtfm.bench.kernel_inputs import inputs
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


def _kept(shape: tuple[int, ...], p: float, rng: np.random.Generator) -> Array:
    """0 where dropped, else what it is scaled by."""
    return (rng.random(shape, np.float32) >= np.float32(p)) * np.float32(1 / (1 - p))


def _dropped(x: Array, p: float, rng: np.random.Generator) -> Array:
    return x * _kept(x.shape, p, rng) if p else x


def _attend(case: Case, rng: np.random.Generator, q: Array, k: Array, v: Array) -> Array:
    return _dropped(_weights(q, k, "causal" in case.form), case.p, rng) @ v


def _attend_vjp(case: Case, rng: np.random.Generator, q: Array, k: Array, v: Array) -> Callable[[Array], list[Array]]:
    """The weights are kept from the forward pass."""
    weights, scale = _weights(q, k, "causal" in case.form), np.float32(1 / math.sqrt(q.shape[-1]))
    kept = _kept(weights.shape, case.p, rng) if case.p else None

    def backward(g: Array) -> list[Array]:
        dw = g @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dw if kept is None else dw * kept, weights) * scale
        dv = (weights if kept is None else weights * kept).swapaxes(-1, -2) @ g
        return [ds @ k, ds.swapaxes(-1, -2) @ q, dv]
    return backward


def _split(case: Case, *packed: Array) -> list[Array]:
    """Each (B, T, parts · D) as parts (B, H, T, K)."""
    heads, k = case.shape[1], case.shape[4]
    views = [x.reshape(*x.shape[:2], -1, heads, k).transpose(2, 0, 3, 1, 4) for x in packed]
    return [part for view in views for part in view]


def _joined(parts: list[Array]) -> Array:
    b, h, t, k = parts[0].shape
    out = np.empty((b, t, len(parts), h, k), parts[0].dtype)
    for i, part in enumerate(parts):
        out[:, :, i] = part.swapaxes(1, 2)
    return out.reshape(b, t, -1)


def _attention(case: Case, given: list[Array]) -> Work:
    rng = np.random.default_rng(0)
    if case.kernel == HEADS[0]:
        return lambda: _attend(case, rng, *given)
    if not case.backward:
        return lambda: _joined([_attend(case, rng, *_split(case, *given))])
    *inside, g = given
    if case.kernel in HEADS:
        rule = _attend_vjp(case, rng, *inside)
        return lambda: rule(g)
    rule = _attend_vjp(case, rng, *(np.ascontiguousarray(x) for x in _split(case, *inside)))

    def backward() -> list[Array]:
        dq, dk, dv = rule(_split(case, g)[0])
        return [_joined([dq, dk, dv])] if case.op == "self_attention" else [_joined([dq]), _joined([dk, dv])]
    return backward


def _linear(case: Case, given: list[Array]) -> Work:
    """Layers side by side are one product."""
    rng, n = np.random.default_rng(0), case.layers
    if case.kernel == "linear_vjp":
        x, g = given
        return lambda: _linear_vjp(x, g, n)
    if case.kernel == "linears_input_vjp":
        g, whole = given[0], np.concatenate(given[1:], 1)
        return lambda: g @ whole.T
    if case.kernel == "relu_dropout_vjp":
        (g, y), scale = given, np.float32(1 / (1 - case.p))
        return lambda: g * (y > 0) * scale if case.p else g * (y > 0)
    x, whole, bias = given[0], np.concatenate(given[1:1 + n], 1), np.concatenate(given[1 + n:])

    def forward() -> Array:
        y = x @ whole
        y += bias
        return _dropped(np.maximum(y, 0, out=y) if "relu" in case.form else y, case.p, rng)
    return forward


def _linear_vjp(x: Array, g: Array, layers: int) -> list[Array]:
    dw, db = np.hsplit(x.T @ g, layers), np.split(g.sum(0), layers)
    return [part for pair in zip(dw, db, strict=True) for part in pair]


def _add_norm(case: Case, given: list[Array]) -> Work:
    rng = np.random.default_rng(0)
    x, h, weight, bias, *rest = given
    if not case.backward:
        return lambda: _layer_norm(x + _dropped(h, case.p, rng), weight, bias)
    kept = _kept(h.shape, case.p, rng) if case.p else None
    s = x + (h if kept is None else h * kept)

    def backward() -> list[Array]:
        dx, dw, db = _layer_norm_vjp(s, weight, bias, *rest)
        return [dx, dw, db] if kept is None else [dx, dx * kept, dw, db]
    return backward


def _embed(case: Case, table: Array, ids: Array, positions: Array, g: Array | None = None) -> Work:
    rng, scale = np.random.default_rng(0), np.float32(math.sqrt(case.shape[1]))
    if g is None:
        return lambda: _dropped(table[ids] * scale + positions, case.p, rng)
    kept = _kept(g.shape, case.p, rng) if case.p else np.float32(1)
    return lambda: _scatter_add(g * (kept * scale), ids, len(table))


def _reduce(case: Case, x: Array) -> Work:
    reduces: dict[str, Callable[..., Any]] = {"sum": np.sum, "max": np.max, "min": np.min, "argmax": np.argmax}
    reduce, axis = reduces[case.kernel], case.parameters()["axis"]
    return lambda: reduce(x, axis)


def _scatter_add(g: Array, ids: Array, size: int) -> Array:
    out = np.zeros((size, g.shape[-1]), g.dtype)
    np.add.at(out, ids, g)
    return out


def _update(kernel: str, parameters: list[Array], gradients: list[Array], ms: list[Array], vs: list[Array]) -> Work:
    def norm() -> float:
        return math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))

    def sgd() -> None:
        for p, g, m in zip(parameters, gradients, ms, strict=True):
            m *= np.float32(0.9)
            m += g
            p -= np.float32(LEARNING_RATE) * m

    def adam() -> None:
        scale = np.float32(min(1.0, CLIP / norm()))
        keep1, keep2 = np.float32(BETAS[0]), np.float32(BETAS[1])
        rate, root = np.float32(LEARNING_RATE / (1 - BETAS[0] ** 10)), np.float32(math.sqrt(1 - BETAS[1] ** 10))
        for p, g, m, v in zip(parameters, gradients, ms, vs, strict=True):
            g = g * scale
            m *= keep1
            m += (1 - keep1) * g
            v *= keep2
            v += (1 - keep2) * g * g
            p -= rate * m / (np.sqrt(v) / root + np.float32(EPSILON))
    return {"global_norm": norm, "sgd": sgd, "adam": adam}[kernel]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x), "relu": lambda x: np.maximum(x, 0), "sqrt": np.sqrt, "abs": np.abs,
    "neg": np.negative, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "where": np.where, "not_equal": np.not_equal,
    "matmul": np.matmul,
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
        given: list[Any] = inputs(case)
        kernel = case.kernel
        if kernel in UPDATES:
            return _update(kernel, *given)
        if kernel in HEADS + PACKED:
            return _attention(case, given)
        if case.op in ("linear", "linears", "linear_vjp", "linears_input_vjp", "relu_dropout_vjp"):
            return _linear(case, given)
        if case.op == "add_norm":
            return _add_norm(case, given)
        if case.op == "embed":
            return _embed(case, *given)
        if kernel in REDUCTIONS:
            return _reduce(case, *given)
        return _plain(case, given)


def _plain(case: Case, given: list[Any]) -> Work | None:
    rng = np.random.default_rng(0)
    if case.kernel == "uniform":
        return lambda: rng.random(case.shape, np.float32)
    if case.kernel == "dropout":
        return lambda: _dropped(given[0], case.p, rng)
    if case.kernel == "dropout_vjp":
        kept, g = _kept(case.shape, case.p, rng), given[1]
        return lambda: g * kept
    if case.kernel == "scatter_add":
        return lambda: _scatter_add(given[0], given[1], case.shape[0])
    if case.kernel in FROM_OUTPUT:
        forward, backward = FROM_OUTPUT[case.kernel]
        y, cotangent = forward(given[0]), given[1]
        return lambda: backward(y, cotangent)
    function = FUNCTIONS.get(case.kernel)
    return None if function is None else lambda: function(*given)
