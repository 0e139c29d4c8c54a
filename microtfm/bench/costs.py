"""What an op costs: floating-point operations, and the bytes that it must at least read and write."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import engine
from engine import Tensor
from microtfm.bench.kernel_cases import UPDATES, Case
from microtfm.bench.kernel_inputs import inputs
from microtfm.bench.kernel_ours import calling

VIEWS = {"reshape", "swapaxes", "transpose", "expand_dims", "squeeze", "broadcast_to"}
MOVES = {"concat", "pad", "astype", "take", "embedding", "getitem", "put", "one_hot"}          # no arithmetic
READ_IN_PART = {"take", "embedding", "getitem", "embed"}         # as many numbers of the first input as come out
PER_ELEMENT = {                          # of the largest array; 1 where nothing is said
    "gelu": 10, "gelu_vjp": 14, "silu": 4, "silu_vjp": 6, "sigmoid": 3, "sigmoid_vjp": 3, "tanh_vjp": 3,
    "softmax": 5, "softmax_vjp": 4, "log_softmax": 5, "log_softmax_vjp": 4, "layer_norm": 8, "layer_norm_vjp": 14,
    "add_norm": 10, "add_norm_vjp": 16, "cross_entropy": 6, "cross_entropy_vjp": 6, "relu_dropout_vjp": 2}
PER_SCORE = {False: 5.0, True: 9.0}      # of attention, besides its products: forward, and in the pullback
PER_PARAMETER = {"global_norm": (2.0, 4.0), "adam": (14.0, 28.0), "sgd": (4.0, 20.0)}          # FLOP, bytes


def of_op(name: str, given: Sequence[Tensor], parameters: Mapping[str, Any], out: Tensor) -> tuple[float, float]:
    """FLOP and bytes of a call. Views cost nothing; what an op keeps for its pullback is not counted.

    Products are counted exactly, those of a causal attention in full, and four in attention's pullback as if its
    weights were kept. What else a linear layer does is not counted; all other ops by a number an element.
    """
    if name in VIEWS:
        return 0.0, 0.0
    given = [x for x in given if x.ndim]
    read = [out, *given[1:]] if name in READ_IN_PART else given
    return _flop(name, given, parameters, out), float(sum(x.size * x.dtype.itemsize for x in (*read, out)))


def of_update(rule: str, count: int) -> tuple[float, float]:
    """FLOP and bytes of an update of so many float32 parameters, or of their gradients' norm."""
    flop, touched = PER_PARAMETER[rule]
    return flop * count, touched * count


def of_case(case: Case) -> tuple[float, float]:
    """FLOP and bytes of a case. Clipping belongs to Adam."""
    count = math.prod(case.shape)
    if case.kernel == "uniform":
        return float(count), 4.0 * count
    if case.kernel in UPDATES:
        parts = [case.kernel] if case.kernel != "adam" else ["global_norm", "adam"]
        costs = [of_update(part, count) for part in parts]
        return sum(flop for flop, _ in costs), sum(touched for _, touched in costs)
    with engine.shapes_only():
        call = calling(case, [Tensor(x) for x in inputs(case)])
        return of_op(case.kernel, call.tensors(), call.parameters, call.out)


def _flop(name: str, given: Sequence[Tensor], parameters: Mapping[str, Any], out: Tensor) -> float:
    if name in MOVES:
        return 0.0
    if name in ("matmul", "linear", "linears"):
        return 2.0 * out.size * given[0].shape[-1]
    if name == "linear_vjp":
        return 2.0 * given[0].size * given[1].shape[-1]
    if name == "linears_input_vjp":
        return 2.0 * given[0].size * out.shape[-1]
    if "attention" in name:
        return _attention(name, given, parameters)
    if name == "embed":
        return 3.0 * out.size
    if name in ("embed_vjp", "scatter_add"):
        return (2.0 if name == "embed_vjp" else 1.0) * given[0].size
    return float(PER_ELEMENT.get(name, 1) * max([out.size, *(x.size for x in given)]))


def _attention(name: str, given: Sequence[Tensor], parameters: Mapping[str, Any]) -> float:
    backward = name.endswith("_vjp")
    q, *rest = given[1:] if backward else given
    if name.startswith("scaled"):
        scores, depth = math.prod(q.shape[:-1]) * rest[0].shape[-2], q.shape[-1] + rest[1].shape[-1]
    else:
        heads, own = parameters["heads"], name.startswith("self")
        scores = heads * q.shape[0] * q.shape[1] * (q if own else rest[0]).shape[1]
        depth = 2 * q.shape[2] // (3 * heads if own else heads)
    return scores * (2.0 * depth * (2 if backward else 1) + PER_SCORE[backward])
