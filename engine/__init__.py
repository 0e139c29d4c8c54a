"""engine: tensors that remember how they were made, gradients of any order, kernels for the CPU.

    from engine import Tensor
    x = Tensor([[1., 2.], [3., 4.]], requires_grad=True, name="x")
    loss = (x @ x).tanh().sum()
    loss.backward()
    x.grad

Every op of the table `OPS` is a function here, `engine.softmax(x, axis=-1)`, and most are methods of `Tensor`.

What all ops share: inputs are tensors, NumPy arrays or Python numbers, and take the dtype that serves all of them (a
Python number takes that of the tensors); a result is a tensor of its own, recorded so that a gradient finds its way
back. In shapes … stands for any axes. DtypeError: an input that is none of these; DeviceError: inputs on different
devices; TypeError: an argument that is missing, or that the op does not have.
"""
from engine import ops, random
from engine.autograd import grad, hvp, jacobian
from engine.core import Tensor, constant
from engine.creation import arange, eye, full, full_like, linspace, ones, ones_like, zeros, zeros_like
from engine.device import choose as choose_device
from engine.device import default_device, precision, synchronise
from engine.diagram import graph, observe
from engine.errors import DeviceError, DtypeError, EngineError, GraphError, IndexRangeError, NotFiniteError, ShapeError
from engine.inplace import global_norm, place, update
from engine.nans import nan_check
from engine.ops.activation import (
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    selu,
    silu,
    softplus,
    softsign,
)
from engine.ops.along import add_along_axis, gather, index_add, is_last, masked_fill, scatter, take_along_axis
from engine.ops.attention import attend_across as cross_attention
from engine.ops.attention import attend_within as self_attention
from engine.ops.attention import attention as scaled_dot_product_attention
from engine.ops.contraction import dot, einsum, outer, tensordot
from engine.ops.diagonal import diag, diagonal, trace, tril, triu
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
    logical_xor,
    maximum,
    minimum,
    mul,
    neg,
    not_equal,
    reciprocal,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    sub,
    tanh,
    where,
)
from engine.ops.elementwise import pow_ as pow
from engine.ops.embed import embed
from engine.ops.exponential import exp2, expm1, log1p, log2, log10, logaddexp
from engine.ops.index import embedding, getitem, one_hot, put, scatter_add, take
from engine.ops.likelihood import binary_cross_entropy, binary_cross_entropy_with_logits, kl_div, nll_loss
from engine.ops.linear import linear, linears
from engine.ops.loss import cross_entropy
from engine.ops.matmul import matmul
from engine.ops.norm import add_norm, group_norm, layer_norm, normalize, rms_norm
from engine.ops.order import argsort, argtopk, sort, topk
from engine.ops.place import to
from engine.ops.products import cumprod, prod
from engine.ops.rearrange import flip, repeat, roll, tile, unstack
from engine.ops.reduce import all_ as all
from engine.ops.reduce import any_ as any
from engine.ops.reduce import argmax, argmin, cumsum, logsumexp, mean, norm, std, var
from engine.ops.reduce import max_ as max
from engine.ops.reduce import min_ as min
from engine.ops.reduce import sum_ as sum
from engine.ops.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from engine.ops.rounding import ceil, floor, floor_divide, remainder, trunc
from engine.ops.rounding import round_ as round
from engine.ops.shape import (
    broadcast_to,
    concat,
    expand_dims,
    moveaxis,
    pad,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
)
from engine.ops.softmax import log_softmax, softmax
from engine.ops.trigonometry import acos, acosh, asin, asinh, atan, atan2, atanh, cosh, hypot, sinh, tan
from engine.own import kernel_for
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
    "NotFiniteError",
    "Op",
    "Real",
    "Replay",
    "ShapeError",
    "Tensor",
    "abs",
    "acos",
    "acosh",
    "add",
    "add_along_axis",
    "add_norm",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "argtopk",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "broadcast_to",
    "ceil",
    "choose_device",
    "clip",
    "concat",
    "constant",
    "cos",
    "cosh",
    "cross_attention",
    "cross_entropy",
    "cumprod",
    "cumsum",
    "default_device",
    "diag",
    "diagonal",
    "div",
    "dot",
    "dropout",
    "einsum",
    "elu",
    "embed",
    "embedding",
    "equal",
    "erf",
    "exp",
    "exp2",
    "expand_dims",
    "expm1",
    "eye",
    "flip",
    "floor",
    "floor_divide",
    "full",
    "full_like",
    "fused",
    "gather",
    "gelu",
    "getitem",
    "global_norm",
    "glu",
    "grad",
    "graph",
    "greater",
    "greater_equal",
    "group_norm",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "health",
    "huber_loss",
    "hvp",
    "hypot",
    "index_add",
    "is_last",
    "isfinite",
    "isinf",
    "isnan",
    "jacobian",
    "kernel_for",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linear",
    "linears",
    "linspace",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsigmoid",
    "logsumexp",
    "masked_fill",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mish",
    "moveaxis",
    "mse_loss",
    "mul",
    "nan_check",
    "neg",
    "nll_loss",
    "no_grad",
    "norm",
    "normalize",
    "not_equal",
    "observe",
    "one_hot",
    "ones",
    "ones_like",
    "op",
    "ops",
    "outer",
    "pad",
    "place",
    "pow",
    "precision",
    "prod",
    "put",
    "random",
    "reciprocal",
    "relu",
    "remainder",
    "repeat",
    "replay",
    "reshape",
    "rms_norm",
    "roll",
    "round",
    "rsqrt",
    "scaled_dot_product_attention",
    "scatter",
    "scatter_add",
    "scope",
    "seed",
    "self_attention",
    "selu",
    "shapes_only",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softsign",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "sub",
    "sum",
    "swapaxes",
    "synchronise",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "to",
    "topk",
    "trace",
    "transpose",
    "tril",
    "triu",
    "trunc",
    "unfused",
    "unstack",
    "update",
    "var",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> object:
    """`engine.check`, imported when it is first asked for."""
    if name == "check":
        import importlib
        return importlib.import_module("engine.check")
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
