"""PyTorch's side of `bench kernels`. A backward kernel runs through `torch.autograd.grad`."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from microtfm.bench.kernel_cases import ATTENTION, SMOOTHING, UPDATES, Case, P
from microtfm.bench.kernel_timing import Kernels, Work
from microtfm.bench.peer_torch import use_threads
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": torch.exp, "log": torch.log, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "erf": torch.erf, "gelu": functional.gelu, "silu": functional.silu, "relu": torch.relu,
    "sqrt": torch.sqrt, "abs": torch.abs, "neg": torch.neg, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
    "div": torch.div, "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum, "where": torch.where,
    "matmul": torch.matmul, "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x, weight, bias: functional.layer_norm(x, weight.shape, weight, bias),
    "cross_entropy": lambda x, ids: functional.cross_entropy(x, ids, label_smoothing=SMOOTHING),
    "embedding": lambda table, ids: functional.embedding(ids, table),
    "take": lambda x, ids: torch.index_select(x, 0, ids),
    "dropout": lambda x: functional.dropout(x, P, training=True),
}


class TorchKernels(Kernels):
    """Every kernel has its like."""

    def __init__(self) -> None:
        use_threads()
        torch.manual_seed(0)

    def find(self, case: Case) -> Work | None:
        given, kernel = case.inputs(), case.kernel
        if kernel in UPDATES:
            return _update(kernel, *[[torch.from_numpy(x) for x in many] for many in given])
        if kernel == "uniform":
            return lambda: torch.rand(case.shape)
        tensors = [torch.from_numpy(x) for x in given]
        if kernel == "scatter_add":
            return lambda: torch.ops.aten.embedding_dense_backward(*tensors, case.shape[0], -1, False)
        if kernel.endswith("_vjp"):
            return _backward(case, tensors)
        function = _function(case)

        def forward() -> Any:
            with torch.no_grad():
                return function(*tensors)
        return forward


def _function(case: Case) -> Callable[..., Any]:
    kernel = case.kernel.removesuffix("_vjp")
    if kernel in ATTENTION:
        causal, p = case.form == "causal", P if case.form == "dropout" else 0.0
        return lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=p)
    if kernel == "sum":
        return lambda x: torch.sum(x, 0 if case.form == "columns" else -1)
    return FUNCTIONS[kernel]


def _backward(case: Case, tensors: list[Any]) -> Work:
    if case.kernel == "cross_entropy_vjp":
        wanted, given, cotangent = tensors[:1], tensors, None
    else:
        *given, cotangent = tensors
        wanted = given
    for x in wanted:
        x.requires_grad_()
    y = _function(case)(*given)
    return lambda: torch.autograd.grad(y, wanted, cotangent, retain_graph=True)


def _update(kernel: str, parameters: list[Any], gradients: list[Any], ms: list[Any], vs: list[Any]) -> Work:
    """Fused optimisers; adam's clipping is that of `clip_grad_norm_`, which scales only gradients that are too long.

    They keep averages of their own, which start at zero: the time does not depend on the numbers.
    """
    for p, g in zip(parameters, gradients, strict=True):
        p.requires_grad_()
        p.grad = g
    if kernel == "sum_of_squares":
        return lambda: torch.nn.utils.get_total_norm(gradients)
    optimiser: Any
    if kernel == "sgd":
        optimiser = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9, fused=True)
        return lambda: optimiser.step()
    optimiser = torch.optim.Adam(parameters, LEARNING_RATE, BETAS, EPSILON, fused=True)

    def adam() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
    return adam
