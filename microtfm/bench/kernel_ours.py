"""Our side of `bench kernels`: the ops, as anybody calls them. A backward kernel runs through `engine.grad`."""
from __future__ import annotations

from typing import Any

import engine
from engine import OPS, Tensor
from microtfm.bench.kernel_cases import ATTENTION, SMOOTHING, UPDATES, Case, P
from microtfm.bench.kernel_timing import Kernels, Work
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE


class OurKernels(Kernels):
    """Every op that has a kernel."""

    def find(self, case: Case) -> Work | None:
        given = case.inputs()
        if case.kernel in UPDATES:
            return _update(case.kernel, [[Tensor(x) for x in many] for many in given])
        if case.kernel == "uniform":
            return lambda: engine.random.uniform(case.shape)
        tensors = [_tensor(x, case) for x in given]
        if case.kernel.endswith("_vjp"):
            return _backward(case, tensors)
        return lambda: _run(case, tensors)


def _tensor(x: Any, case: Case) -> Tensor:
    """A transposed operand is a view of a tensor, as it is in a model."""
    return Tensor(x) if x.flags.c_contiguous else Tensor(x.swapaxes(-1, -2)).mT


def _parameters(case: Case) -> dict[str, Any]:
    if case.kernel.startswith("cross_entropy"):
        return {"label_smoothing": SMOOTHING}
    if case.kernel in ATTENTION:
        return {"causal": case.form == "causal", "p": P if case.form == "dropout" else 0.0}
    if case.kernel == "sum":
        return {"axis": 0 if case.form == "columns" else -1}
    if case.kernel == "dropout":
        return {"p": P}
    return {"axis": 0, "size": case.shape[0]} if case.kernel == "scatter_add" else {}


def _forward(case: Case, tensors: list[Tensor]) -> Tensor:
    optional: list[Tensor | None] = []
    if case.kernel == "dropout":
        optional = [engine.random.next_key()]
    if case.kernel in ATTENTION:
        optional = [None, engine.random.next_key() if case.form == "dropout" else None]
    return OPS[case.kernel.removesuffix("_vjp")](*tensors, *optional, **_parameters(case))


def _run(case: Case, tensors: list[Tensor]) -> Tensor:
    with engine.no_grad():
        return _forward(case, tensors)


def _backward(case: Case, tensors: list[Tensor]) -> Work:
    """The last tensor is the cotangent, but for the loss, which has none."""
    if case.kernel == "cross_entropy_vjp":
        wanted, given, cotangent = tensors[:1], tensors, None
    else:
        *given, cotangent = tensors
        wanted = given
    for x in wanted:
        x.requires_grad = True
    y = _forward(case, given)
    return lambda: engine.grad(y, wanted, cotangent, retain_graph=True)


def _update(kernel: str, lists: list[list[Tensor]]) -> Work:
    """adam: clipping belongs to it."""
    parameters, gradients, m, v = lists
    decays = [0.0] * len(parameters)
    if kernel == "sum_of_squares":
        return lambda: engine.sum_of_squares(gradients)
    if kernel == "sgd":
        return lambda: engine.update("sgd", parameters, gradients, m, lr=LEARNING_RATE, momentum=0.9,
                                     weight_decay=decays)

    def adam() -> None:
        norm = engine.sum_of_squares(gradients) ** 0.5
        engine.update("adam", parameters, gradients, m, v, lr=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1],
                      eps=EPSILON, weight_decay=decays, step=10, decoupled=False, scale=min(1.0, CLIP / norm))
    return adam
