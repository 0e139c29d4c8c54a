"""CUDA kernels. Importing this package imports neither Numba nor CuPy.

`kernel("softmax")` gives the fast version of the op of that name, or None where there is none. How kernels are written,
launched and tested is told in `jit.py`. They serve float32; what they leave to the array library, and float64, runs by
the ops' meanings.
"""

import importlib
from collections.abc import Callable
from typing import Any


class CompileFailure(Exception):
    """A kernel that could not be compiled or loaded; the cause is its `__cause__`."""


_KERNELS = {
    "lift": [
        "exp", "log", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "sqrt", "abs", "neg",
        "add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "clip",
        "relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp", "silu_vjp",
    ],
    "reduce": ["sum"],
    "extremes": ["max", "min", "argmax"],
    "matmul": ["matmul"],
    "linear": ["linear", "linear_vjp", "linears", "linears_input_vjp", "relu_dropout_vjp"],
    "softmax": ["softmax", "softmax_vjp", "log_softmax", "log_softmax_vjp"],
    "norm": ["layer_norm", "layer_norm_vjp", "add_norm", "add_norm_vjp"],
    "loss": ["cross_entropy", "cross_entropy_vjp"],
    "attention": [
        "scaled_dot_product_attention", "scaled_dot_product_attention_vjp", "self_attention", "self_attention_vjp",
        "cross_attention", "cross_attention_vjp",
    ],
    "index": ["take", "embedding", "scatter_add"],
    "embed": ["embed", "embed_vjp"],
    "joining": ["concat"],
    "dropout": ["dropout", "dropout_vjp", "uniform"],
    "optim": ["global_norm", "adam", "sgd", "count"],
    "inplace": ["copy", "accumulate", "average", "write"],
}  # fmt: skip

MODULES = {name: module for module, names in _KERNELS.items() for name in names}

_found: dict[str, Callable[..., Any] | None] = {}
_given_up: list[str] = []


def kernel(name: str) -> Callable[..., Any] | None:
    """The kernel of the op `name`, or None where there is none."""
    if name not in _found:
        found = MODULES.get(name)
        _found[name] = getattr(importlib.import_module(f"{__name__}.{found}"), name) if found else None
    return _found[name]


def give_up(name: str) -> None:
    """Never again use the kernel of this op in this process."""
    _found[name] = None
    _given_up.append(name)


def given_up() -> int:
    """How many kernels have been given up."""
    return len(_given_up)
