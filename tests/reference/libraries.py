"""PyTorch, NumPy and JAX behind one call."""
from __future__ import annotations

from typing import Any

import numpy as np

from .array_table import TABLE as ARRAYS
from .compare import Reference, Unanswered, quiet


class Torch(Reference):
    """PyTorch: values and gradients."""

    def __init__(self) -> None:
        from .torch_table import TABLE
        super().__init__("PyTorch", TABLE)

    def call(self, op: str, arrays: list[Any], params: dict[str, Any], cotangent: Any, real: list[int]) -> Any:
        import torch
        xs = [None if a is None else torch.from_numpy(np.array(a, order="C")) for a in arrays]
        for i in real:
            xs[i].requires_grad_(cotangent is not None)
        try:
            y = quiet(self.table[op], *_shortened(xs), **params)
        except (RuntimeError, TypeError, IndexError) as e:
            if all(arrays[i].dtype.kind == "f" for i in real):
                raise
            raise Unanswered(str(e)) from None
        gradients = None
        if cotangent is not None:
            leaves = [xs[i] for i in real]
            found = [None] * len(leaves)
            if y.requires_grad:
                found = torch.autograd.grad(y, leaves, torch.from_numpy(cotangent), allow_unused=True)
            gradients = [np.zeros(x.shape, cotangent.dtype) if g is None else g.numpy()
                         for g, x in zip(found, leaves, strict=True)]
        return y.detach().numpy(), gradients


class NumPy(Reference):
    """NumPy: values."""

    def __init__(self) -> None:
        super().__init__("NumPy", ARRAYS)

    def call(self, op: str, arrays: list[Any], params: dict[str, Any], cotangent: Any, real: list[int]) -> Any:
        try:
            return np.asarray(quiet(self.table[op], np, *_shortened(arrays), **params)), None
        except TypeError as e:
            raise Unanswered(str(e)) from None


class Jax(Reference):
    """JAX: values and gradients."""

    def __init__(self) -> None:
        import jax
        jax.config.update("jax_enable_x64", True)
        super().__init__("JAX", ARRAYS)

    def call(self, op: str, arrays: list[Any], params: dict[str, Any], cotangent: Any, real: list[int]) -> Any:
        import jax
        import jax.numpy as jnp
        arrays = [None if a is None else jnp.asarray(a) for a in _shortened(arrays)]

        def f(*leaves: Any) -> Any:
            given = list(arrays)
            for i, x in zip(real, leaves, strict=True):
                given[i] = x
            return self.table[op](jnp, *given, **params)
        try:
            if cotangent is None:
                return np.asarray(quiet(f, *[arrays[i] for i in real])), None
            y, pull = quiet(jax.vjp, f, *[arrays[i] for i in real])
            return np.asarray(y), [np.asarray(g) for g in quiet(pull, jnp.asarray(cotangent, y.dtype))]
        except TypeError as e:
            raise Unanswered(str(e)) from None


def _shortened(xs: list[Any]) -> list[Any]:
    """Without the optional inputs that were left out at the end."""
    while xs and xs[-1] is None:
        xs = xs[:-1]
    return xs
