"""Comparing an op with a reference on all its samples: values, and gradients for a random cotangent."""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine import OPS, DtypeError, Op, Real, Tensor, grad

from .notes import APART, FLUSHED, STIFF
from .samples import SCALES, SMOOTH, Sample, samples

FLOATS, WHOLE = ("float64", "float32"), ("int64", "int32", "bool")


@dataclass
class Result:
    """What comparing one op has shown."""
    op: str
    values: int = 0                      # samples whose values were compared
    gradients: int = 0                   # of them, samples whose gradients were compared too
    refused: int = 0                     # dtypes that the op refuses, or the reference has no answer for
    apart: int = 0                       # samples of a difference that is meant (see notes.py)
    wrong: list[str] = field(default_factory=list)


class Reference:
    """One library: how its arrays are made, an op called, and a gradient taken."""

    def __init__(self, name: str, table: dict[str, Any]) -> None:
        self.name, self.table = name, table

    def call(self, op: str, arrays: list[Any], params: dict[str, Any], cotangent: Any,
             real: list[int]) -> tuple[np.ndarray, list[np.ndarray] | None]:
        """The value, and the gradients of the inputs `real` if there is a cotangent."""
        raise NotImplementedError


def compared(op: Op, reference: Reference, combinations: int = 6, every: int = 1) -> Result:
    """The op beside the reference, on every so many of its samples."""
    result = Result(op.name)
    for dtype in (*FLOATS, *WHOLE):
        for k, sample in enumerate(samples(op, dtype, combinations)):
            if k % every == 0:
                _compare(op, reference, sample, result)
        if not any(isinstance(op.kind(i), Real) for i in range(len(op.inputs))):
            break                        # no input to have another dtype
    return result


def _compare(op: Op, reference: Reference, sample: Sample, result: Result) -> None:
    real = [i for i, a in enumerate(sample.arrays) if a is not None and isinstance(op.kind(i), Real)]
    floating = all(sample.arrays[i].dtype.kind == "f" for i in real)
    reason = APART.get((op.name, sample.edge)) or APART.get((op.name, "")) or (
        FLUSHED if sample.edge == "subnormal" else None)
    if reason and reason.covers(sample, reference.name):
        result.apart += 1
        return
    try:
        tensors = [None if a is None else Tensor(a) for a in sample.arrays]
        for i in real:
            tensors[i].requires_grad = floating                          # type: ignore[union-attr]
        y = op(tensors, **sample.params) if op.variadic else op(*tensors, **sample.params)
    except DtypeError:
        result.refused += 1
        return
    params = canonical(op, sample)
    smooth = floating and y.requires_grad and (not sample.edge or sample.edge in SMOOTH)
    rng = np.random.default_rng(1)
    u = np.asarray(rng.integers(1, 5, y.shape) * rng.choice([-0.5, 0.5], y.shape), y.dtype) if smooth else None
    theirs = []
    for wide in (False, True):
        given = [_given(op, a, i in real, wide) for i, a in enumerate(sample.arrays)]
        try:
            cotangent = None if u is None else np.asarray(u, given[real[0]].dtype)
            theirs.append(reference.call(op.name, given, params, cotangent, real))
        except Unanswered:
            result.refused += 1
            return
        except (RuntimeError, ValueError, TypeError, IndexError) as e:
            if sample.edge or not floating:
                result.refused += 1
                return
            result.wrong.append(f"{sample}: {reference.name} refuses: {e}")
            return
    result.values += 1
    terms = max((a.size for a in sample.arrays if a is not None), default=1)
    _note(result, sample, "value", y.numpy(), [t[0] for t in theirs], terms)
    if smooth and all(t[1] is not None for t in theirs):
        result.gradients += 1
        ours = grad(y, [tensors[i] for i in real], Tensor(u))
        for at, g in enumerate(ours):
            _note(result, sample, f"gradient of input {real[at]}", g.numpy(), [t[1][at] for t in theirs], terms)


class Unanswered(Exception):
    """The reference has no such op for this dtype."""


def canonical(op: Op, sample: Sample) -> dict[str, Any]:
    """The parameters in the op's own normal form, defaults included."""
    params = {**op.defaults, **sample.params}
    params = {k: v for k, v in params.items() if k not in op.residuals}
    if op.canonical:
        params = op.canonical(params, *[None if a is None else a.shape for a in sample.arrays])
    return {k: v for k, v in params.items() if k not in HANDED_ON.get(op.name, ())}


# Parameters in which a rule hands on what the forward kernel found.
HANDED_ON = {op.name: {name for other in OPS.values() for name in other.residuals} & set(op.defaults)
             for op in OPS.values() if op.name.endswith("_vjp")}


def _given(op: Op, a: Any, real: bool, wide: bool) -> Any:
    """The array as the reference gets it: in the dtype that the op computes in, or in double precision."""
    if a is None or not real:
        return a
    if a.dtype.kind != "f" and op.result == "float":
        a = a.astype(np.float32)
    return a.astype(np.float64) if wide and a.dtype.kind == "f" else a


def _note(result: Result, sample: Sample, what: str, ours: np.ndarray, theirs: list[np.ndarray], terms: int) -> None:
    """Each number is the reference's, computed in the same dtype or in double precision, but for rounding."""
    if any(t.shape != ours.shape for t in theirs):
        result.wrong.append(f"{sample}: the {what} has shape {ours.shape}, the reference's {theirs[0].shape}")
        return
    fine = np.zeros(ours.shape, bool)
    with np.errstate(all="ignore"):
        for t in theirs:
            fine |= _close(ours, t.astype(ours.dtype), terms, SCALES[sample.edge] * STIFF.get(result.op, 1.0))
    if not fine.all():
        at = tuple(int(k) for k in np.argwhere(~fine)[0])
        result.wrong.append(f"{sample}: the {what} at {list(at)} is {ours[at]!r}, the reference's "
                            f"{' or '.join(repr(t[at]) for t in theirs)}")


def _close(a: np.ndarray, b: np.ndarray, terms: int, scale: float) -> np.ndarray:
    """Equal but for rounding: relative to the number, to a typical one beside it, and to the inputs' scale."""
    if a.dtype.kind != "f":
        return np.asarray(a == b)
    eps = float(np.finfo(a.dtype).eps)
    finite = np.abs(b[np.isfinite(b)])
    typical = min(float(np.median(finite)), 1e6) if finite.size else 0.0
    allowed = 32 * (1 + math.sqrt(terms)) * eps * (np.abs(b) + typical + scale / 8) + 4 * float(np.finfo(a.dtype).tiny)
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)) | (np.isfinite(b) & (np.abs(a - b) <= allowed)))


def quiet(f: Callable[..., Any], *args: Any, **params: Any) -> Any:
    """A call without the warnings of the library that is called."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return f(*args, **params)
