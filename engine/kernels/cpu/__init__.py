"""CPU kernels, compiled by Numba on their first call. Importing this package does not import Numba.

`kernel("softmax")` gives the fast version of the op of that name, or None where there is none.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

_KERNELS = {
    "lift": [
        "exp", "log", "sin", "cos", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "sqrt", "abs", "neg",
        "add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "clip", "astype",
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
        "logical_and", "logical_or", "logical_not", "isnan", "isinf", "isfinite",
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
    "dropout": ["dropout", "dropout_vjp", "uniform"],
    "optim": ["global_norm", "adam", "sgd", "count"],
    "inplace": ["copy", "accumulate", "write", "average"],
}  # fmt: skip

# Kernels that also have a NumPy version, because no op's meaning could stand in for them: they change arrays in place.
_ALSO_WITHOUT_JIT = {"global_norm", "adam", "sgd", "count", "copy", "accumulate", "write", "average"}

MODULES = {name: module for module, names in _KERNELS.items() for name in names}

_found: dict[str, Callable[..., Any] | None] = {}


def kernel(name: str) -> Callable[..., Any] | None:
    """The kernel of the op `name`, or None: no kernel, or NUMBA_DISABLE_JIT=1 is set."""
    try:
        return _found[name]
    except KeyError:
        _found[name] = _find(name)
        return _found[name]


def add(name: str, function: Callable[..., Any]) -> None:
    """Serve the op `name`, which has no kernel here, by this function; not with NUMBA_DISABLE_JIT=1."""
    _found[name] = None if jit_disabled() else function


def _find(name: str) -> Callable[..., Any] | None:
    if name not in MODULES or (jit_disabled() and name not in _ALSO_WITHOUT_JIT):
        return None
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)


def jit_disabled() -> bool:
    """Whether NUMBA_DISABLE_JIT asks for plain Python."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
