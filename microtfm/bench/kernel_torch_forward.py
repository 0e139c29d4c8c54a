"""PyTorch's forward kernels, as they run in training: dropout is on."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from microtfm.bench.kernel_cases import HEADS, PACKED, REDUCTIONS, SMOOTHING, Case, P
from microtfm.bench.kernel_timing import Work

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": torch.exp, "log": torch.log, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "erf": torch.erf, "gelu": functional.gelu, "silu": functional.silu, "relu": torch.relu,
    "sqrt": torch.sqrt, "abs": torch.abs, "neg": torch.neg, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
    "div": torch.div, "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum, "where": torch.where,
    "not_equal": torch.ne, "matmul": torch.matmul, "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x, weight, bias: functional.layer_norm(x, weight.shape, weight, bias),
    "cross_entropy": lambda x, ids: functional.cross_entropy(x, ids, label_smoothing=SMOOTHING),
    "embedding": lambda table, ids: functional.embedding(ids, table),
    "take": lambda x, ids: torch.index_select(x, 0, ids),
    "dropout": lambda x: functional.dropout(x, P, training=True),
}
REDUCE: dict[str, Callable[..., Any]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin, "argmax": torch.argmax}


def forward(case: Case, tensors: list[Any]) -> Work:
    """The op of a case; weights of linear layers lie as PyTorch keeps them: (outputs, inputs), in one matrix."""
    op = case.op
    if op in REDUCTIONS:
        reduce, axis = REDUCE[op], 0 if case.form == "columns" else -1
        return lambda: reduce(tensors[0], axis)
    if op == "linear":
        return _linear(case, tensors)
    if op == "linears":
        x, weights, biases = tensors[0], tensors[1:1 + case.layers], tensors[1 + case.layers:]
        weight, bias = torch.cat(weights, 1).t().contiguous(), torch.cat(biases)
        return lambda: functional.linear(x, weight, bias)
    if op in HEADS:
        return lambda: _attend(case, *tensors)
    if op in PACKED:
        return lambda: _packed(case, *tensors)
    if op == "add_norm":
        x, h, weight, bias = tensors
        return lambda: functional.layer_norm(x + functional.dropout(h, case.p), weight.shape, weight, bias)
    if op == "embed":
        table, ids, positions = tensors
        scale = math.sqrt(case.shape[1])
        return lambda: functional.dropout(functional.embedding(ids, table) * scale + positions, case.p)
    function = FUNCTIONS[op]
    return lambda: function(*tensors)


def _linear(case: Case, tensors: list[Any]) -> Work:
    x, weight, bias = tensors
    weight = weight.t().contiguous()

    def run() -> Any:
        y = functional.linear(x, weight, bias)
        y = torch.relu(y) if "relu" in case.form else y
        return functional.dropout(y, case.p) if case.p else y
    return run


def _attend(case: Case, q: Any, k: Any, v: Any) -> Any:
    return functional.scaled_dot_product_attention(q, k, v, is_causal="causal" in case.form, dropout_p=case.p)


def _packed(case: Case, *given: Any) -> Any:
    """As nn.MultiheadAttention does between its projections."""
    heads = [part for x in given for part in _split(x, case.shape[1], case.shape[1] * case.shape[4])]
    return _attend(case, *heads).transpose(1, 2).flatten(2)


def _split(x: Any, heads: int, features: int) -> Any:
    """(B, T, parts · D) as parts (B, H, T, K)."""
    b, t, width = x.shape
    return x.view(b, t, width // features, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
