"""What a real run shows of every op: time, values, where it was called. `with observe(): ...`, then draw the graph."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np

from engine import device
from engine.core import Node, Tensor
from engine.record import Op
from engine.state import STATE

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FEW = 6                                  # tensors of at most so many numbers are shown in full
LIBRARY = {"cpu": "NumPy", "cuda": "CuPy"}
SAMPLE = 64                              # numbers of a tensor that are kept for comparing runs
CELLS = 16                               # of a small picture of attention, at most so many rows and columns
ATTENDING = ("softmax", "scaled_dot_product_attention", "self_attention", "cross_attention")
Picture = list[list[list[int]]]          # heads × rows × columns, 0 to 255


@dataclass
class Seen:
    """What was measured of one tensor."""
    seconds: float | None = None         # None for a leaf
    device: str = ""
    rms: float = 0.0
    low: float = 0.0
    high: float = 0.0
    finite: bool = True
    numbers: tuple[float, ...] = ()      # all of them, where there are few
    sample: tuple[float, ...] = ()       # some of them, always at the same places, to compare runs by
    line: str = ""                       # where the op was called
    weights: Picture = field(default_factory=list)           # attention weights of the first sentence
    defined: bool = False                # fused ops ran by their definitions: the run was unfused, or kernels are off
    rules: list[tuple[str, str, Seen]] = field(default_factory=list)     # phase and op of what pulled back through it


@contextmanager
def observe(times: bool = True) -> Iterator[None]:
    """Note time, values and source line of every op inside, for `graph()`: forward, and backward too where it runs.

    times=False: values alone, so that the picture of a fixed computation is always the same.
    """
    token = STATE.set(STATE.get()._replace(watch=_note if times else _note_values))
    try:
        yield
    finally:
        STATE.reset(token)


def _note_values(out: Tensor, op: Op, tensors: Sequence[Tensor | None], began: int) -> None:
    _keep(out, op, tensors, 0.0)


def _note(out: Tensor, op: Op, tensors: Sequence[Tensor | None], began: int) -> None:
    _keep(out, op, tensors, (perf_counter_ns() - began) * 1e-9)


def _keep(out: Tensor, op: Op, tensors: Sequence[Tensor | None], took: float) -> None:
    seen = measured(out.array())
    seen.seconds, seen.line = took, _caller()
    where = device.of(out.array())
    plain = device.kernels(where).kernel(op.name) is None or all(t is None or t.dtype.name == "longdouble"
                                                                 for t in tensors)
    seen.device = f"{where} {LIBRARY[where] if plain else 'kernel'}"
    if op.name in ATTENDING:
        seen.weights = _weights(op, out, tensors)
    state = STATE.get()
    seen.defined = not state.fusing or device.jit_disabled()
    if state.phase != "forward" and state.of is not None and not state.recording:
        if state.of.seen is None:
            state.of.seen = Seen()
        state.of.seen.rules.append((state.phase, op.name, seen))
        return
    out.node.seen = seen
    for t in tensors:
        if t is not None and t.node.op is None and t.node.seen is None and t._array is not None:
            t.node.seen = measured(t._array)


def measured(array: Any) -> Seen:
    """The statistics of an array."""
    if not array.size:
        return Seen()
    array = device.host(array)
    x = np.asarray(array, np.float64) if array.dtype.kind != "c" else np.abs(array)
    finite = bool(np.isfinite(x).all())
    real = x if finite else x[np.isfinite(x)]
    numbers = tuple(float(v) for v in x.reshape(-1)) if x.size <= FEW else ()
    if not real.size:
        return Seen(finite=False, numbers=numbers)
    flat = x.reshape(-1)
    sample = tuple(float(v) for v in flat[::max(1, -(-flat.size // SAMPLE))])
    return Seen(None, "", float(np.sqrt(np.mean(real * real))), float(real.min()), float(real.max()), finite, numbers,
                sample)


def _caller() -> str:
    """The line outside the engine that called the op."""
    frame: Any = sys._getframe(3)
    while frame is not None and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    if frame is None:
        return ""
    parts = frame.f_code.co_filename.replace(os.sep, "/").split("/")
    return f"{'/'.join(parts[-2:])}:{frame.f_lineno}"


def _weights(op: Op, out: Tensor, tensors: Sequence[Tensor | None]) -> Picture:
    """The attention weights of the first sentence, head by head, small."""
    weights = device.host(out.array()) if op.name == "softmax" else _softmaxed(op, out, tensors)
    if weights.ndim < 2 or not weights.size:
        return []
    heads = weights.reshape(-1, *weights.shape[-2:])[:weights.shape[1] if weights.ndim == 4 else 1][:8]
    heads = np.nan_to_num(heads[:, :CELLS, :CELLS])      # a weight that is no number is shown as none
    return [[[int(255 * min(max(float(v), 0.0), 1.0)) for v in row] for row in head] for head in heads]


def _softmaxed(op: Op, out: Tensor, tensors: Sequence[Tensor | None]) -> Any:
    """softmax(q kᵀ / √K) of the first sentence, as the attention ops find it on their way and do not keep it."""
    arrays: list[Any] = [None if t is None else device.host(t.array()) for t in tensors]
    params, first = out.node.params, arrays[0]
    if op.name == "self_attention":      # queries, keys and values side by side
        d = first.shape[-1] // 3
        q, k, mask = first[..., :d], first[..., d:2 * d], arrays[1]
    elif op.name == "cross_attention":   # queries; keys and values side by side
        q, k, mask = first, arrays[1][..., :first.shape[-1]], arrays[2]
    else:
        q, k, mask = first, arrays[1], arrays[3]
    if "heads" in params:
        q, k = (np.swapaxes(x.reshape(*x.shape[:-1], params["heads"], -1), -2, -3) for x in (q, k))
    q, k = q[:1] if q.ndim > 2 else q, k[:1] if k.ndim > 2 else k
    with np.errstate(all="ignore"):
        scores = np.matmul(q, np.swapaxes(k, -1, -2), dtype=np.float64) / np.sqrt(q.shape[-1])
    t, s = scores.shape[-2:]
    allowed = np.tril(np.ones((t, s), bool), s - t) if params.get("causal") else np.ones((t, s), bool)
    if mask is not None:
        allowed = allowed & (mask[:1] if mask.ndim > 2 else mask)
    scores = np.where(allowed, scores, -np.inf)
    top = np.max(scores, axis=-1, keepdims=True, initial=-1e30)
    e = np.exp(scores - top)
    return e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-30)


class Rules:
    """Hands out what was measured of a backward pass that was not recorded, to the boxes derived for it."""

    def __init__(self) -> None:
        self.taken: dict[tuple[int, str, str], int] = {}

    def of(self, node: Node) -> Seen | None:
        """What was measured of this node."""
        if node.seen is not None and (node.op is None or node.seen.seconds is not None):
            return node.seen
        if node.of is None or node.of.seen is None or node.op is None:
            return None
        key = (id(node.of), node.phase, node.op.name)
        k = self.taken[key] = self.taken.get(key, -1) + 1
        found = [seen for phase, name, seen in node.of.seen.rules if (phase, name) == key[1:]]
        return found[k] if k < len(found) else None
