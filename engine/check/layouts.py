"""One array in every memory layout: what a rule must not care about."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np


def strided(x: np.ndarray) -> np.ndarray:
    """Every second element of a larger array."""
    if not x.ndim:
        return x
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def backwards(x: np.ndarray) -> np.ndarray:
    """Negative strides along every axis."""
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip] if x.ndim else x


def read_only(x: np.ndarray) -> np.ndarray:
    """A copy that cannot be written to."""
    x = x.copy()
    x.flags.writeable = False
    return x


def permuted(x: np.ndarray) -> np.ndarray:
    """The axes stored in another order."""
    axes = (*range(1, x.ndim), 0) if x.ndim else ()
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes)) if x.ndim else x


def repeated(x: np.ndarray) -> np.ndarray:
    """The first element of each row for the whole row, with stride 0: other values!"""
    return np.broadcast_to(x[..., :1], x.shape) if x.ndim else x


SAME: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda x: np.array(x, order="C"),
    "Fortran": lambda x: np.array(x, order="F"),
    "strided": strided,
    "reversed": backwards,
    "read-only": read_only,
    "permuted": permuted,
}
LAYOUTS = {**SAME, "stride 0": repeated}
