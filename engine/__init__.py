"""engine: tensors that remember how they were made, gradients of any order, kernels for the CPU.

    from engine import Tensor
    x = Tensor([[1., 2.], [3., 4.]], requires_grad=True, name="x")
    loss = (x @ x).tanh().sum()
    loss.backward()
    x.grad

Every op of the table `OPS` is a function here, `engine.softmax(x, axis=-1)`, and most are methods of `Tensor`.
"""
from engine import ops, random
from engine.autograd import grad, hvp, jacobian
from engine.core import Tensor, constant
from engine.creation import ones, zeros
from engine.device import choose as choose_device
from engine.device import default_device, precision
from engine.diagram import graph, observe
from engine.errors import DeviceError, DtypeError, EngineError, GraphError, IndexRangeError, ShapeError
from engine.inplace import global_norm, place, update
from engine.ops.attention import attend_across as cross_attention
from engine.ops.attention import attend_within as self_attention
from engine.ops.attention import attention as scaled_dot_product_attention
from engine.ops.dropout import dropout
from engine.ops.elementwise import abs_ as abs
from engine.ops.elementwise import (
                                    add,
                                    astype,
                                    clip,
                                    cos,
                                    div,
                                    equal,
                                    erf,
                                    exp,
                                    gelu,
                                    greater,
                                    greater_equal,
                                    isfinite,
                                    isinf,
                                    isnan,
                                    less,
                                    less_equal,
                                    log,
                                    logical_and,
                                    logical_not,
                                    logical_or,
                                    maximum,
                                    minimum,
                                    mul,
                                    neg,
                                    not_equal,
                                    relu,
                                    sigmoid,
                                    sign,
                                    silu,
                                    sin,
                                    sqrt,
                                    sub,
                                    tanh,
                                    where,
)
from engine.ops.elementwise import pow_ as pow
from engine.ops.embed import embed
from engine.ops.index import embedding, getitem, one_hot, put, scatter_add, take
from engine.ops.linear import linear, linears
from engine.ops.loss import cross_entropy
from engine.ops.matmul import matmul
from engine.ops.norm import add_norm, layer_norm
from engine.ops.place import to
from engine.ops.reduce import argmax, cumsum, logsumexp, mean, var
from engine.ops.reduce import max_ as max
from engine.ops.reduce import min_ as min
from engine.ops.reduce import sum_ as sum
from engine.ops.shape import broadcast_to, concat, expand_dims, pad, reshape, split, squeeze, stack, swapaxes, transpose
from engine.ops.softmax import log_softmax, softmax
from engine.plan import Replay, replay
from engine.random import seed
from engine.record import OPS, Bool, Index, Key, Op, Real, fused, op
from engine.selftest import Finding, health
from engine.state import no_grad, scope, shapes_only, unfused

__all__ = [
                                    "OPS",
                                    "Bool",
                                    "DeviceError",
                                    "DtypeError",
                                    "EngineError",
                                    "Finding",
                                    "GraphError",
                                    "Index",
                                    "IndexRangeError",
                                    "Key",
                                    "Op",
                                    "Real",
                                    "Replay",
                                    "ShapeError",
                                    "Tensor",
                                    "abs",
                                    "add",
                                    "add_norm",
                                    "argmax",
                                    "astype",
                                    "broadcast_to",
                                    "choose_device",
                                    "clip",
                                    "concat",
                                    "constant",
                                    "cos",
                                    "cross_attention",
                                    "cross_entropy",
                                    "cumsum",
                                    "default_device",
                                    "div",
                                    "dropout",
                                    "embed",
                                    "embedding",
                                    "equal",
                                    "erf",
                                    "exp",
                                    "expand_dims",
                                    "fused",
                                    "gelu",
                                    "getitem",
                                    "global_norm",
                                    "grad",
                                    "graph",
                                    "greater",
                                    "greater_equal",
                                    "health",
                                    "hvp",
                                    "isfinite",
                                    "isinf",
                                    "isnan",
                                    "jacobian",
                                    "layer_norm",
                                    "less",
                                    "less_equal",
                                    "linear",
                                    "linears",
                                    "log",
                                    "log_softmax",
                                    "logical_and",
                                    "logical_not",
                                    "logical_or",
                                    "logsumexp",
                                    "matmul",
                                    "max",
                                    "maximum",
                                    "mean",
                                    "min",
                                    "minimum",
                                    "mul",
                                    "neg",
                                    "no_grad",
                                    "not_equal",
                                    "observe",
                                    "one_hot",
                                    "ones",
                                    "op",
                                    "ops",
                                    "pad",
                                    "place",
                                    "pow",
                                    "precision",
                                    "put",
                                    "random",
                                    "relu",
                                    "replay",
                                    "reshape",
                                    "scaled_dot_product_attention",
                                    "scatter_add",
                                    "scope",
                                    "seed",
                                    "self_attention",
                                    "shapes_only",
                                    "sigmoid",
                                    "sign",
                                    "silu",
                                    "sin",
                                    "softmax",
                                    "split",
                                    "sqrt",
                                    "squeeze",
                                    "stack",
                                    "sub",
                                    "sum",
                                    "swapaxes",
                                    "take",
                                    "tanh",
                                    "to",
                                    "transpose",
                                    "unfused",
                                    "update",
                                    "var",
                                    "where",
                                    "zeros",
]
