"""Changing tensors in place: what an optimiser does, outside the graph."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine import device
from engine.core import Tensor
from engine.errors import DeviceError, DtypeError, EngineError, IndexRangeError, ShapeError
from engine.state import STATE

RULES = {"adam": (4,), "sgd": (2, 3), "count": (1,), "copy": (2,), "accumulate": (2,), "write": (2,), "average": (2,)}
"""The rules, and how many lists of tensors each takes."""

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))


def update(rule: str, *tensors: Sequence[Tensor], **settings: Any) -> None:
    """Run an in-place rule over lists of tensors of equal length and shapes; the first list is what learns.

    `update("adam", parameters, gradients, m, v, lr=…, beta1=…, beta2=…, eps=…, weight_decay=[…], step=…,
    decoupled=True, norm=None, clip_norm=0, divisor=1)`
    `update("sgd", parameters, gradients, velocities, lr=…, momentum=0, weight_decay=[…], nesterov=False, norm=None,
    clip_norm=0, divisor=1)`, without velocities where there is no momentum
    `update("count", counters, norm=None)` adds one to int64 tensors
    `update("copy", tensors, others)` and `update("accumulate", tensors, others)` write or add the others
    `update("write", tensors, others, at=…)` writes others (…, T, K) from position `at` of tensors (…, C, K) on: the
    caches of decoding, of up to four axes; what would lie outside is refused where `at` is known here, and left out
    where it is a tensor on a card or in a step that is replayed

    `update("average", averages, tensors, step=…, window=…, norm=None)` moves averages towards the tensors, by the share
    1 / min(window, 1 + (step - 1) / 10): the mean over the last tenth of the steps, fading, and over at most a window

    lr, step (from 1), norm and divisor are numbers or 0-d tensors. Gradients are divided by `divisor`, say the number
    of tokens that the loss was summed over, then scaled by min(1, clip_norm / (norm / divisor)) where clip_norm > 0 and
    `norm`, the `global_norm` of the gradients as they are given, is too. Where that norm is not finite, nothing at all
    is changed: the caller sees the norm and tells the person.

    Not an op: no record is kept, and a backward pass that still needs the old values raises GraphError. Raises
    ShapeError, DtypeError, DeviceError and IndexRangeError before anything is changed.
    """
    if rule not in RULES:
        raise EngineError(f"update: there is no rule {rule!r}; there are {', '.join(RULES)}")
    arrays = [[t.array() for t in many] for many in tensors]
    _check(rule, tensors, arrays, settings)
    run = device.in_place(rule, arrays[0][0] if arrays[0] else None)
    run(*arrays, **{name: _plain(x) for name, x in settings.items()})
    for t in tensors[0]:
        t.changed()
    _note(rule, *tensors, settings.values())


def global_norm(tensors: Sequence[Tensor], scale: float | Tensor = 1.0) -> Tensor:
    """The Euclidean norm of all elements of all tensors together, times `scale`: a 0-d float64 tensor.

    Squares and their sum are float64; on a card those of float32 are float32, up to 4096 of them in three sums that
    neither overflow nor vanish. Not an op: no gradient flows through it. Raises DtypeError, DeviceError.
    """
    for t in tensors:
        if t.dtype not in FLOATING:
            raise DtypeError(f"global_norm: {t.node.label()} is {t.dtype}; it is of float32 and float64 tensors")
    _check_devices("global_norm", [*tensors, scale])
    arrays = [t.array() for t in tensors]
    array = device.in_place("global_norm", arrays[0] if arrays else None)(arrays, _plain(scale))
    _note("global_norm", tensors, [scale])
    return Tensor.wrap(array, Tensor.placeholder((), np.float64).node)


def place(tensors: Sequence[Tensor], device_name: str) -> None:
    """Move the numbers of leaves for good to a device, "cpu", "cuda" or "auto": parameters stay the same tensors.

    Gradients that they have go with them. Raises DeviceError where the device cannot be used.
    """
    where = device.named(device_name)
    for t in tensors:
        t.relocate(device.move(t.array(), where))
        if t.grad is not None:
            t.grad.relocate(device.move(t.grad.array(), where))


# --- what is refused ------------------------------------------------------------------------------
def _check(rule: str, tensors: Sequence[Sequence[Tensor]], arrays: list[list[Any]], settings: dict[str, Any]) -> None:
    """Whether these lists, with their arrays, and numbers are what a rule takes."""
    if len(tensors) not in RULES[rule]:
        counts = " or ".join(map(str, RULES[rule]))
        raise EngineError(f"update: {rule} takes {counts} lists of tensors, not {len(tensors)}")
    lengths = [len(many) for many in tensors]
    if len(set(lengths)) > 1:
        raise EngineError(f"update: {rule} takes lists of equal length, not of {', '.join(map(str, lengths))} tensors")
    if len({id(t) for t in tensors[0]}) < lengths[0]:
        raise EngineError(f"update: {rule}: a tensor stands twice among those that change")
    _check_devices(f"update: {rule}", [*(t for many in tensors for t in many), *settings.values()])
    _check_settings(rule, lengths[0], settings)
    for i, (first, *others) in enumerate(zip(*arrays, strict=True)):
        _check_row(rule, tensors[0][i], first, others, settings)


def _check_settings(rule: str, count: int, settings: dict[str, Any]) -> None:
    """Numbers are single ones, and there is a weight decay for each tensor."""
    for name in ("lr", "norm", "divisor", "step"):
        value = settings.get(name)
        if isinstance(value, (Tensor, np.ndarray)) and value.size != 1:
            raise ShapeError(f"update: {rule}: {name} is a single number, not of shape {value.shape}")
    step, decays = settings.get("step"), settings.get("weight_decay")
    if isinstance(step, (int, float, np.number)) and not float(step) >= 1:
        raise EngineError(f"update: {rule}: step is {step}, and steps count from 1")
    if decays is not None and len(decays) != count:
        raise EngineError(f"update: {rule}: {len(decays)} weight decays for {count} tensors")


def _check_row(rule: str, t: Tensor, first: Any, others: Sequence[Any], settings: dict[str, Any]) -> None:
    """One tensor that changes, and what goes with it."""
    dtype, shape = first.dtype, first.shape
    if rule == "count" and dtype != np.int64:
        raise DtypeError(f"update: count adds to int64 tensors, and {t.node.label()} is {dtype}")
    if rule in ("adam", "sgd", "average") and dtype not in FLOATING:
        raise DtypeError(f"update: {rule} changes float32 and float64 tensors, and {t.node.label()} is {dtype}")
    for other in others:
        if other.dtype != dtype:
            raise DtypeError(f"update: {rule}: {t.node.label()} is {dtype}, and what goes with it {other.dtype}")
        if rule == "write":
            _check_position(t, other.shape, settings.get("at"))
        elif other.shape != shape:
            raise ShapeError(f"update: {rule}: {t.node.label()} has shape {shape}, and what goes with it {other.shape}")
    if rule != "write" and not first.flags.c_contiguous:
        raise EngineError(f"update: {rule}: the numbers of {t.node.label()} do not lie one behind the other in memory. "
                          "Make a leaf of np.ascontiguousarray(x.numpy())")


def _check_position(to: Tensor, shape: tuple[int, ...], at: Any) -> None:
    """Whether an x (…, T, K) has its place in a tensor (…, C, K) from `at` on, as far as that is known here."""
    room = to.shape
    if not 2 <= len(shape) == len(room) <= 4 or shape[:-2] != room[:-2] or shape[-1] != room[-1]:
        raise ShapeError(f"{_writing(to, shape)}: all axes but the last but one must agree, and there are two to four")
    if not isinstance(at, (int, np.integer, Tensor)):
        raise DtypeError(f"{_writing(to, shape)}: `at` is a whole number or a tensor of one, not {at!r}")
    if isinstance(at, Tensor):
        if at.size != 1 or at.dtype.kind not in "iu":
            raise DtypeError(f"{_writing(to, shape)}: `at` is a whole number, not {at.dtype} of shape {at.shape}")
        if at.device != "cpu" or STATE.get().recorder is not None:
            return
        at = int(at.array().item())
    if not 0 <= at <= room[-2] - shape[-2]:
        raise IndexRangeError(f"{_writing(to, shape)} from position {at} on: that is outside its {room[-2]} positions")


def _writing(to: Tensor, shape: tuple[int, ...]) -> str:
    return f"update: write: {shape} into {to.node.label()} of shape {to.shape}"


def _check_devices(name: str, given: Iterable[Any]) -> None:
    """Whether all tensors among these are on one device."""
    places = {t.device for t in {type(x.array()): x for x in given if isinstance(x, Tensor)}.values()}
    if len(places) > 1:
        raise DeviceError(f"{name}: tensors are on {' and '.join(sorted(places))}. Move them to one device first, say "
                          "with x.to('cuda') or model.to('cuda')")


def _note(name: str, *given: Iterable[Any]) -> None:
    """Where a step is recorded: what was written down since the last op belongs to this, and works on these tensors."""
    state = STATE.get()
    if state.recorder is not None:
        for many in given:
            state.recorder.works_on([t for t in many if isinstance(t, Tensor)])
        state.recorder.note(name, state._replace(phase="update"))


def _plain(value: Any) -> Any:
    return value.array() if isinstance(value, Tensor) else value
