"""What dtype an op computes in: numbers and arrays become tensors, and real inputs take the dtype that serves all.

Arrays keep their dtype, a Python number takes the tensors', an integer beside a float takes the float's; otherwise the
array API's promotion table holds.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import engine.core as core
from engine import device as devices
from engine.errors import DtypeError, GraphError
from engine.record import OPS, Bool, Key, Op
from engine.state import STATE

if TYPE_CHECKING:
    from engine.core import Tensor

FLOAT32 = np.dtype(np.float32)


def coerce(op: Op, inputs: Sequence[Any]) -> Sequence[Any]:
    """Inputs as tensors, the real ones of one dtype, the others of what the op reads."""
    dtype: Any = None
    for i, x in enumerate(inputs):
        if not isinstance(x, core.Tensor):
            if x is None and (op.variadic or op.inputs[i] in op.optional):
                continue
            break
        if op.is_real(i):
            if dtype is None:
                dtype = x.node.dtype
            elif x.node.dtype is not dtype and x.node.dtype != dtype:
                break
        elif (fixed := op.fixed(i)) is not None and x.node.dtype != fixed:
            break
    else:
        if dtype is None or dtype.kind in "fc" or op.result not in ("float", "number"):
            return inputs
    return _promoted(op, inputs)


def _promoted(op: Op, inputs: Sequence[Any]) -> list[Tensor | None]:
    """Numbers and arrays made tensors, and the real inputs cast to the dtype that serves all of them."""
    want: Any = None
    for i, x in enumerate(inputs):
        if isinstance(x, core.Tensor) and op.is_real(i):
            want = x.dtype if want is None else _promote(want, x.dtype)
    tensors: list[Any] = []
    for i, x in enumerate(inputs):
        if x is None and not (op.variadic or op.inputs[i] in op.optional):
            raise DtypeError(f"{op.name}: {op.inputs[i]} is None; it needs a tensor")
        tensors.append(x if x is None or isinstance(x, core.Tensor) else _literal(op, i, x, want))
    for i, t in enumerate(tensors):
        if t is not None and op.is_real(i):
            want = t.dtype if want is None else _promote(want, t.dtype)
    if op.result == "number" and want is not None and want.kind == "b":
        given = ", ".join(f"{t.node.label()} {t.shape}" for i, t in enumerate(tensors) if op.is_real(i))
        raise DtypeError(f"{op.name} is not defined for truth values, which {given} holds; make numbers of them first: "
                         "x.astype('int64')")
    if op.result == "float" and want is not None and want.kind in "iub":
        want = FLOAT32
    return [t if t is None else _cast(t, want if op.is_real(i) else _read_as(op, i, t)) for i, t in enumerate(tensors)]


def _cast(t: Tensor, dtype: np.dtype | None) -> Tensor:
    return t if dtype is None or t.dtype == dtype else core.apply(OPS["astype"], (t,), {"dtype": dtype})


def _read_as(op: Op, i: int, t: Tensor) -> np.dtype | None:
    """The dtype in which an op reads an input that is not real. Raises DtypeError for one that says another thing."""
    kind = op.kind(i)
    if isinstance(kind, Key) and t.dtype.kind not in "iu":
        raise DtypeError(_no_key(op, t))
    if isinstance(kind, Bool) and t.dtype.kind not in "iub" and not kind.floats:
        raise DtypeError(_no_mask(op, i, t))
    return op.fixed(i)


def _no_key(op: Op, t: Tensor) -> str:
    number = t.node.name if t.node.literal else None
    hint = f"; a probability is given by name: p={number or '…'}" if "p" in op.defaults else ""
    return (f"{op.name}: a key is one integer, as engine.random.next_key() gives it, not "
            f"{number or f'{t.node.label()} of {t.dtype}'}{hint}")


def _no_mask(op: Op, i: int, t: Tensor) -> str:
    name = op.inputs[i]
    says = f" ({op.about[name].partition(';')[0]})" if name in op.about else ""
    return (f"{op.name}: {name} holds truth values{says}, and {t.node.label()} is {t.dtype}, in which 0 may mean "
            f"either; make one of it with `{name} == 0` or `{name} > 0`")


def _literal(op: Op, i: int, x: Any, dtype: np.dtype | None) -> Tensor:
    """A Python number takes the tensors' dtype, an array keeps its own."""
    if isinstance(x, (bool, int, float, complex)) and not isinstance(x, np.generic):
        natural = np.dtype(type(x)) if not isinstance(x, float) else FLOAT32
        if dtype is not None and op.is_real(i) and (dtype.kind in "fc" or (natural.kind in "ib" and dtype.kind != "b")):
            natural = dtype
        try:
            array = np.array(x, natural)
        except OverflowError:
            raise DtypeError(f"{op.name}: the number {x} does not fit into {natural}; use astype() first") from None
        t = core.Tensor.wrap(array if STATE.get().computing else None, core.Node((), array.dtype, STATE.get()))
        t.node.literal, t.node.name = True, repr(x)
        return t
    try:
        return core.Tensor(x)
    except (ValueError, TypeError) as e:
        raise DtypeError(f"{op.name}: input {i} is a {type(x).__name__}, not a tensor, array or number ({e})") from None


def _promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """The dtype of a result of both: a float beats an integer and keeps its width; otherwise the array API's table."""
    if a.kind in "fc" and b.kind in "iub":
        return a
    if b.kind in "fc" and a.kind in "iub":
        return b
    return np.promote_types(a, b)


def result_dtype(op: Op, tensors: Sequence[Tensor | None], params: dict[str, Any]) -> np.dtype:
    """The output's dtype, from the record alone."""
    if op.result in ("bool", "int64"):
        return np.dtype(op.result)
    if op.result == "param":
        return np.dtype(params["dtype"])
    dtype = next((t.dtype for i, t in enumerate(tensors) if t is not None and op.is_real(i)), FLOAT32)
    if op.result == "sum" and dtype.kind in "iub":
        return np.dtype(np.uint64 if dtype.kind == "u" else np.int64)
    return dtype


def followed(tensors: Sequence[Tensor | None], apart: Sequence[Any], arrays: Sequence[Any]) -> list[Tensor | None]:
    """The tensors of arrays of two devices, and what became of these: single numbers that went to the others are moved
    by an op where a gradient must find its way back. Raises GraphError where a recorded step would not see them change.
    """
    state, out = STATE.get(), list(tensors)
    for i, (t, before, after) in enumerate(zip(tensors, apart, arrays, strict=True)):
        if t is None or before is after or t.node.literal:
            continue
        if state.recorder is not None:
            raise GraphError(f"{t.node.label()} is a number on {devices.of(before)} in a step that is recorded for "
                             f"replay on {devices.of(after)}. Move it there before, or call the step inside "
                             f"engine.default_device({devices.of(after)!r}).")
        if state.recording and t.node.requires_grad:
            out[i] = core.apply(OPS["to"], (t,), {"device": devices.of(after), "source": devices.of(before)})
    return out
