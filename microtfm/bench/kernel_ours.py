"""Our side of `bench kernels`: the ops, as anybody calls them. A pullback is called as `engine.grad` calls it."""
from __future__ import annotations

import numpy as np

import engine
from engine import OPS, Tensor
from microtfm.bench.kernel_cases import UPDATES, Case
from microtfm.bench.kernel_inputs import inputs
from microtfm.bench.kernel_timing import Kernels, Work
from microtfm.bench.stepping import BETAS, CLIP, EPSILON, LEARNING_RATE
from microtfm.bench.watching import Seen, watching


class OurKernels(Kernels):
    """Every op that has a kernel."""

    def synchronise(self) -> None:
        engine.synchronise()

    def find(self, case: Case) -> Work | None:
        given = inputs(case)
        if case.kernel in UPDATES:
            return _update(case.kernel, [[Tensor(x) for x in many] for many in given])
        if case.kernel == "uniform":
            return lambda: engine.random.uniform(case.shape)
        call = calling(case, [_tensor(x) for x in given])
        op, arguments, parameters = OPS[case.kernel], call.inputs, call.parameters
        return lambda: op(*arguments, **parameters)

    def run(self, seconds: float) -> list[float]:
        with engine.no_grad():
            return super().run(seconds)


def _tensor(x: np.ndarray) -> Tensor:
    """A transposed operand is a view of a tensor, as it is in a model."""
    return Tensor(x) if x.flags.c_contiguous else Tensor(x.swapaxes(-1, -2)).mT


def calling(case: Case, tensors: list[Tensor]) -> Seen:
    """The call that the case is about, made once. What a pullback gets of its op, it gets from a real backward pass."""
    found: list[Seen] = []

    def note(seen: Seen) -> None:
        if seen.name == case.kernel:
            found.append(seen)

    with watching(note):
        if case.backward:
            _backward(case, tensors)
        else:
            _forward(case, tensors)
    if not found:
        raise RuntimeError(f"{case.op} did not call {case.kernel}: there are no kernels under NUMBA_DISABLE_JIT=1")
    return found[-1]


def _forward(case: Case, tensors: list[Tensor]) -> Tensor:
    """Tensors fill the op's inputs in order, but for those that a case does not give."""
    names, given = OPS[case.op].inputs, iter(tensors)
    absent = {"mask"} | ({"w3", "b3"} if case.layers == 2 else set())
    arguments = [_key(case) if name == "key" else None if name in absent else next(given) for name in names]
    return OPS[case.op](*arguments, **case.parameters())


def _key(case: Case) -> Tensor | None:
    return engine.random.next_key() if case.p else None


def _backward(case: Case, tensors: list[Tensor]) -> None:
    """The last tensor is the cotangent, but for the loss, which has none."""
    given, cotangent = (tensors, None) if case.op == "cross_entropy" else (tensors[:-1], tensors[-1])
    wanted = [x for x in given if x.dtype.kind == "f"]
    for x in wanted:
        x.requires_grad = True
    engine.grad(_forward(case, given), wanted, cotangent, retain_graph=True)


def _update(kernel: str, lists: list[list[Tensor]]) -> Work:
    """As training does it: recorded once and replayed. adam: clipping belongs to it."""
    parameters, gradients, m, v = lists
    decays, steps = [0.0] * len(parameters), Tensor(np.array(10))

    def sgd() -> None:
        engine.update("sgd", parameters, gradients, m, lr=LEARNING_RATE, momentum=0.9, weight_decay=decays)

    def adam() -> None:
        engine.update("adam", parameters, gradients, m, v, lr=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1],
                      eps=EPSILON, weight_decay=decays, step=steps, decoupled=False,
                      norm=engine.global_norm(gradients), clip_norm=CLIP)
    return engine.replay({"global_norm": lambda: engine.global_norm(gradients), "sgd": sgd, "adam": adam}[kernel])
