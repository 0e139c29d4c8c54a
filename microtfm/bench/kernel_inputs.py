"""The arrays that the kernels of `bench kernels` get: the same for every side."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from microtfm.bench.kernel_cases import BINARY, UPDATES, Case
from microtfm.bench.sizes import SIZES

Array = np.ndarray
POSITIVE = ("log", "sqrt", "pow", "div")


class Draw:
    """Random arrays in the order of asking."""

    def __init__(self, case: Case) -> None:
        self.rng, self.shape, self.case = np.random.default_rng(0), case.shape, case

    def reals(self, *shape: int, low: float = -2.0) -> Array:
        """From [low, 2)."""
        return self.rng.uniform(low, 2.0, shape).astype(self.case.dtype)

    def ids(self, size: int, *shape: int) -> Array:
        """From 0 … size − 1, int64."""
        return self.rng.integers(0, size, shape)


def inputs(case: Case) -> list[Any]:
    """Arrays in the order of the op's inputs, without mask and key; for updates lists of arrays.

    A pullback of an op that runs before it has the op's inputs, then the cotangent, if there is one.
    """
    draw = Draw(case)
    if case.kernel in UPDATES:
        return _of_update(draw)
    given: list[Any] = MAKERS.get(case.op, _elements)(draw)
    if case.backward and case.op != "cross_entropy":
        given.append(draw.reals(*_out(case)))
    return given


def _out(case: Case) -> tuple[int, ...]:
    """The shape of the output of an op that is differentiated."""
    s = case.shape
    if case.op == "embed":
        return (*s[2:], s[1])
    if case.op == "scaled_dot_product_attention":
        return (*s[:3], s[4])
    return (s[0], s[2], s[1] * s[4]) if case.op in ("self_attention", "cross_attention") else s


def _elements(draw: Draw) -> list[Array]:
    op = draw.case.op
    made = [draw.reals(*draw.shape, low=0.1 if op in POSITIVE else -2.0) for _ in range(2 if op in BINARY else 1)]
    if draw.case.form == "row":
        made[1] = np.ascontiguousarray(made[1][0])
    return made


def _matmul(draw: Draw) -> list[Array]:
    *batch, m, k, n = draw.shape
    form = draw.case.form
    a = draw.reals(*batch, k, m).swapaxes(-1, -2) if form == "a.mT" else draw.reals(*batch, m, k)
    return [a, draw.reals(*batch, n, k).swapaxes(-1, -2) if form == "b.mT" else draw.reals(*batch, k, n)]


def _linear(draw: Draw) -> list[Array]:
    m, k, n = draw.shape
    return [draw.reals(m, k), draw.reals(k, n), draw.reals(n)]


def _weights(draw: Draw) -> list[Array]:
    _, k, n = draw.shape
    layers = draw.case.layers
    return [draw.reals(k, n // layers) for _ in range(layers)]


def _linears(draw: Draw) -> list[Array]:
    """The input, the weights, the biases."""
    m, k, n = draw.shape
    layers = draw.case.layers
    return [draw.reals(m, k), *_weights(draw), *(draw.reals(n // layers) for _ in range(layers))]


def _norm(draw: Draw, streams: int) -> list[Array]:
    d = draw.shape[-1]
    return [*(draw.reals(*draw.shape) for _ in range(streams)), draw.reals(d), draw.reals(d)]


def _heads(draw: Draw) -> list[Array]:
    b, h, t, s, k = draw.shape
    return [draw.reals(b, h, t, k), draw.reals(b, h, s, k), draw.reals(b, h, s, k)]


def _packed(draw: Draw) -> list[Array]:
    b, h, t, s, k = draw.shape
    return [draw.reals(b, t, 3 * h * k)] if draw.case.op == "self_attention" else [
        draw.reals(b, t, h * k), draw.reals(b, s, 2 * h * k)]


def _embed(draw: Draw) -> list[Array]:
    size, d, b, t = draw.shape
    return [draw.reals(size, d), draw.ids(size, b, t), draw.reals(t, d)]


def _table(draw: Draw) -> list[Array]:
    size, d, n = draw.shape
    return [draw.reals(n, d) if draw.case.op == "scatter_add" else draw.reals(size, d), draw.ids(size, n)]


def _of_update(draw: Draw) -> list[list[Array]]:
    """Parameters, gradients, and two running averages."""
    shapes = SIZES[draw.case.form].shapes() if draw.case.form in SIZES else [draw.shape]
    return [[draw.reals(*shape, low=-2.0 if i < 3 else 0.0) for shape in shapes] for i in range(4)]


MAKERS: dict[str, Callable[[Draw], list[Array]]] = {
    "matmul": _matmul, "linear": _linear, "linears": _linears,
    "linear_vjp": lambda draw: [draw.reals(*draw.shape[:2]), draw.reals(draw.shape[0], draw.shape[2])],
    "linears_input_vjp": lambda draw: [draw.reals(draw.shape[0], draw.shape[2]), *_weights(draw)],
    "relu_dropout_vjp": lambda draw: [draw.reals(*draw.shape), np.maximum(draw.reals(*draw.shape), 0)],
    "layer_norm": lambda draw: _norm(draw, 1), "add_norm": lambda draw: _norm(draw, 2),
    "cross_entropy": lambda draw: [draw.reals(*draw.shape), draw.ids(draw.shape[-1], *draw.shape[:-1])],
    "scaled_dot_product_attention": _heads, "self_attention": _packed, "cross_attention": _packed,
    "embed": _embed, "embedding": _table, "take": _table, "scatter_add": _table,
    "where": lambda draw: [draw.reals(*draw.shape) > 0, draw.reals(*draw.shape), draw.reals(*draw.shape)],
    "not_equal": lambda draw: [draw.ids(3, *draw.shape), draw.ids(3, *draw.shape)],
    "uniform": lambda draw: [],
}

