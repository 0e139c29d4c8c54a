"""PyTorch's backward kernels: those that its autograd calls, called directly where there is one call for the op.

Dropout's is a product with the noise that the forward pass kept, as in PyTorch on a processor.
"""
from __future__ import annotations

import math
from typing import Any

import torch

from microtfm.bench.kernel_cases import HEADS, Case
from microtfm.bench.kernel_timing import Work
from microtfm.bench.kernel_torch_forward import forward

aten: Any = torch.ops.aten


def backward(case: Case, tensors: list[Any]) -> Work:
    """What computes the gradients; what the forward pass keeps is made before."""
    kernel = case.kernel
    if kernel == "scatter_add":
        return lambda: aten.embedding_dense_backward(*tensors, case.shape[0], -1, False)
    if kernel in ("linear_vjp", "linears_input_vjp", "relu_dropout_vjp"):
        return _linear(case, tensors)
    if kernel in ("relu_vjp", "gelu_vjp", "silu_vjp", "tanh_vjp", "sigmoid_vjp"):
        return _elementwise(case, *tensors)
    if kernel in ("softmax_vjp", "log_softmax_vjp"):
        y, g = forward(case, tensors[:1])(), tensors[1]
        rule = aten._softmax_backward_data if kernel == "softmax_vjp" else aten._log_softmax_backward_data
        return lambda: rule(g, y, -1, torch.float32)
    if kernel in ("layer_norm_vjp", "add_norm_vjp"):
        return _norm(case, tensors)
    if kernel == "dropout_vjp":
        noise, g = _noise(case, tensors[1]), tensors[1]
        return lambda: g * noise
    if kernel == "embed_vjp":
        return _embed(case, tensors[1], tensors[-1])
    if kernel in HEADS and not case.p:
        return _attention(case, *tensors)
    return _by_autograd(case, tensors)


def _noise(case: Case, like: Any) -> Any:
    return torch.empty_like(like).bernoulli_(1 - case.p).div_(1 - case.p)


def _linear(case: Case, tensors: list[Any]) -> Work:
    if case.kernel == "linear_vjp":
        x, g = tensors
        return lambda: [x.t().mm(g), g.sum(0)]
    if case.kernel == "linears_input_vjp":
        g, *weights = tensors
        weight = torch.cat(weights, 1).t().contiguous()
        return lambda: g.mm(weight)
    g, y = tensors
    noise = _noise(case, g) if case.p else None
    return lambda: aten.threshold_backward(g if noise is None else g * noise, y, 0)


def _elementwise(case: Case, x: Any, g: Any) -> Work:
    if case.kernel == "gelu_vjp":
        return lambda: aten.gelu_backward(g, x)
    if case.kernel == "silu_vjp":
        return lambda: aten.silu_backward(g, x)
    y = forward(case, [x])()
    if case.kernel == "relu_vjp":
        return lambda: aten.threshold_backward(g, y, 0)
    rule = aten.tanh_backward if case.kernel == "tanh_vjp" else aten.sigmoid_backward
    return lambda: rule(g, y)


def _norm(case: Case, tensors: list[Any]) -> Work:
    *streams, weight, bias, g = tensors
    noise = _noise(case, g) if case.p else None
    x = streams[0] if len(streams) == 1 else streams[0] + (streams[1] if noise is None else streams[1] * noise)
    _, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, 1e-5)

    def run() -> list[Any]:
        dx, dw, db = aten.native_layer_norm_backward(g, x, weight.shape, mean, rstd, weight, bias, [True] * 3)
        return [dx, dw, db] if noise is None else [dx, dx * noise, dw, db]
    return run


def _embed(case: Case, ids: Any, g: Any) -> Work:
    noise, scale = _noise(case, g) if case.p else None, math.sqrt(case.shape[1])

    def run() -> Any:
        scaled = (g if noise is None else g * noise) * scale
        return aten.embedding_dense_backward(scaled, ids, case.shape[0], -1, False)
    return run


def _attention(case: Case, q: Any, k: Any, v: Any, g: Any) -> Work:
    causal = "causal" in case.form
    y, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    rule = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return lambda: rule(g, q, k, v, y, lse, 0.0, causal)


def _by_autograd(case: Case, tensors: list[Any]) -> Work:
    """The last tensor is the cotangent, but for the loss, which has none."""
    given, cotangent = (tensors, None) if case.op == "cross_entropy" else (tensors[:-1], tensors[-1])
    wanted = [x.requires_grad_() for x in given if x.is_floating_point()]
    y = forward(case, given)()
    return lambda: torch.autograd.grad(y, wanted, cotangent, retain_graph=True)
