"""PyTorch's side of `bench kernels`: what it does while training, without its record of a graph."""
from __future__ import annotations

from typing import Any

import torch

from microtfm.bench.kernel_cases import UPDATES, Case
from microtfm.bench.kernel_inputs import inputs
from microtfm.bench.kernel_timing import Kernels, Work
from microtfm.bench.kernel_torch_backward import backward
from microtfm.bench.kernel_torch_forward import forward
from microtfm.bench.peer_torch import device, use_threads
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE


class TorchKernels(Kernels):
    """Every kernel has its like."""

    def __init__(self) -> None:
        use_threads()
        torch.manual_seed(0)
        self.place = device()
        torch.set_default_device(self.place)

    def synchronise(self) -> None:
        if self.place.type == "cuda":
            torch.cuda.synchronize()

    def find(self, case: Case) -> Work | None:
        given = inputs(case)
        if case.kernel in UPDATES:
            return _update(case.kernel, *[[torch.from_numpy(x).to(self.place) for x in many] for many in given])
        if case.kernel == "uniform":
            return lambda: torch.rand(case.shape)
        tensors = [torch.from_numpy(x).to(self.place) for x in given]
        is_backward = case.kernel.endswith("_vjp") or case.kernel == "scatter_add"
        return _without_record((backward if is_backward else forward)(case, tensors))


def _without_record(work: Work) -> Work:
    def run() -> Any:
        with torch.no_grad():
            return work()
    return run


def _update(kernel: str, parameters: list[Any], gradients: list[Any], ms: list[Any], vs: list[Any]) -> Work:
    """Fused optimisers; adam's clipping is that of `clip_grad_norm_`, which scales only gradients that are too long.

    They keep averages of their own, which start at zero: the time does not depend on the numbers.
    """
    for p, g in zip(parameters, gradients, strict=True):
        p.requires_grad_()
        p.grad = g
    if kernel == "global_norm":
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
