"""The first number that is not finite, at the op that made it: `with nan_check(): ...` around a step."""
from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from engine import device as devices
from engine.core import Node, Tensor
from engine.errors import NotFiniteError
from engine.record import Op
from engine.state import STATE

ENGINE = os.path.dirname(os.path.abspath(__file__)) + os.sep
LIBRARY = (os.path.dirname(os.path.abspath(os.__file__)), "site-packages")


class Line(NamedTuple):
    """A line of somebody's source."""
    file: str
    number: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        return f"{self.file}:{self.number}" + (f": {text}" if text else "")


@contextmanager
def nan_check() -> Iterator[None]:
    """Stop at the first op, forward or backward, that makes a NaN or an infinity.

    Raises NotFiniteError, which says the op, the scope that it ran in, the line that called it (in the backward pass:
    that called the op whose gradient it is), its inputs' ranges, and where the first such number stands. A NaN that was
    in a leaf from the start (an input, a parameter) is called that, by the tensor's name; so is an infinity in a tensor
    that learns. Other infinities that are passed on, such as those of a mask, are let pass. Steps under `replay` run as
    they are written. Outside the context nothing is checked, and nothing costs any time.
    """
    watch, before = _Watch(), STATE.get().watch

    def both(out: Tensor, op: Op, tensors: Sequence[Tensor | None], began: int) -> None:
        if before is not None:
            before(out, op, tensors, began)
        watch.look(out, op, tensors)

    token = STATE.set(STATE.get()._replace(watch=both, begins=watch.root))
    try:
        yield
    finally:
        STATE.reset(token)


class _Watch:
    """What is known of the ops so far: which line called them."""

    def __init__(self) -> None:
        self.lines: WeakKeyDictionary[Node, list[Line]] = WeakKeyDictionary()

    def look(self, out: Tensor, op: Op, tensors: Sequence[Tensor | None]) -> None:
        state = STATE.get()
        backward = state.phase != "forward" and state.of is not None
        if not backward:
            self.lines[out.node] = _callers()
        if out.dtype.kind not in "fc" or not out.size:
            return
        array = devices.host(out.array())
        if np.isfinite(array).all():
            return
        inputs = [t for t in tensors if t is not None and t._array is not None]
        for t in inputs:
            if _spoilt(t):
                what = _name_of(op, tensors, t)
                raise _error(out, f"{what} already held {_kinds(devices.host(t.array()))} before {op.name} used it"
                             f"{self._where(out, op, backward)}. {_shown(op, tensors)}", op, what)
        if np.isnan(array).any() or not any(_has(t, np.isinf) for t in inputs):
            first = [int(k) for k in np.argwhere(~np.isfinite(array))[0]]
            count = int(np.sum(~np.isfinite(array)))
            raise _error(out, f"{op.name} made {_kinds(array)} ({count} of {array.size} numbers, the first at {first})"
                         f"{self._where(out, op, backward)}. {_shown(op, tensors)}", op, None)

    def root(self, root: Tensor) -> None:
        """A backward pass starts from this tensor."""
        if root._array is not None and not np.isfinite(devices.host(root.array())).all():
            what = root.node.label()
            raise _error(root, f"backward() starts from {what}, which is {_kinds(devices.host(root.array()))} and was "
                         "made before nan_check() was entered: enter it before the forward pass", root.op, what)

    def _where(self, out: Tensor, op: Op, backward: bool) -> str:
        state = STATE.get()
        node = state.of if backward else out.node
        scope = f" in {'/'.join(state.scope)}" if state.scope else ""
        lines = self.lines.get(node, [])
        place = " called from ".join(map(str, lines)) if lines else "a line that ran before nan_check() was entered"
        if not backward:
            return f"{scope}, at {place}"
        return f"{scope}, in the backward pass of {node.op.name if node.op else 'a leaf'}, which ran at {place}"


def _error(out: Tensor, message: str, op: Op | None, tensor: str | None) -> NotFiniteError:
    error = NotFiniteError(message)
    error.op, error.scope, error.tensor = op.name if op else "", STATE.get().scope, tensor
    error.phase, error.failed = STATE.get().phase, out.node
    return error


def _spoilt(t: Tensor) -> bool:
    """Whether a tensor holds NaN, or is a leaf that learns and holds an infinity: no op seen here has made that."""
    return _has(t, np.isnan) or (t.node.op is None and t.requires_grad and _has(t, np.isinf))


def _has(t: Tensor, which: Any) -> bool:
    return t.dtype.kind in "fc" and bool(which(devices.host(t.array())).any())


def _kinds(array: Any) -> str:
    found = [name for name, seen in (("NaN", np.isnan(array).any()), ("inf", np.isposinf(np.real(array)).any()),
                                     ("-inf", np.isneginf(np.real(array)).any())) if seen]
    return " and ".join(found)


def _name_of(op: Op, tensors: Sequence[Tensor | None], t: Tensor) -> str:
    place = next(i for i, other in enumerate(tensors) if other is t)
    if t.name or t.node.op is None:
        return t.name or f"the input {op.inputs[min(place, len(op.inputs) - 1)]}"
    return t.node.label()


def _shown(op: Op, tensors: Sequence[Tensor | None]) -> str:
    """The inputs with their ranges."""
    parts = []
    for t in tensors:
        if t is None or t._array is None:
            continue
        a, name = devices.host(t.array()), _name_of(op, tensors, t).removeprefix("the input ")
        finite = a[np.isfinite(a)] if a.dtype.kind in "fc" else a
        span = f"from {np.min(finite):.6g} to {np.max(finite):.6g}" if finite.size and a.dtype.kind in "fiu" else ""
        bad = f"{int(a.size - finite.size)} not finite" if finite.size != a.size else ""
        parts.append(", ".join(p for p in (f"{name} {a.dtype} {t.shape} {span}".rstrip(), bad) if p))
    return f"Its inputs: {'; '.join(parts)}." if parts else ""


def _callers() -> list[Line]:
    """The line outside the engine that called the op, and the line outside that line's package that led there."""
    frame: Any = sys._getframe(3)
    while frame is not None and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    if frame is None:
        return []
    lines, package = [Line(frame.f_code.co_filename, frame.f_lineno)], _package(frame)
    while frame is not None:
        file = frame.f_code.co_filename
        if _package(frame) not in (package, "engine") and not any(part in file for part in LIBRARY):
            return [*lines, Line(file, frame.f_lineno)] if not file.startswith("<") else lines
        frame = frame.f_back
    return lines


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]
