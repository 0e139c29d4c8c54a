"""Changing tensors in place: what an optimiser does, outside the graph."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine import device
from engine.core import Tensor
from engine.errors import EngineError
from engine.state import STATE

RULES = ("adam", "sgd", "count", "copy", "accumulate", "write", "average")


def update(rule: str, *tensors: Sequence[Tensor], **settings: Any) -> None:
    """Run an in-place rule over lists of tensors of equal length and shapes; the first list is what learns.

    `update("adam", parameters, gradients, m, v, lr=…, beta1=…, beta2=…, eps=…, weight_decay=[…], step=…,
    decoupled=True, norm=None, clip_norm=0, divisor=1)`
    `update("sgd", parameters, gradients, velocities, lr=…, momentum=0, weight_decay=[…], nesterov=False, norm=None,
    clip_norm=0, divisor=1)`, without velocities where there is no momentum
    `update("count", counters, norm=None)` adds one to int64 tensors
    `update("copy", tensors, others)` and `update("accumulate", tensors, others)` write or add the others
    `update("write", tensors, others, at=…)` writes others (…, T, K) from position `at` of tensors (…, C, K) on: the
    caches of decoding, of up to four axes

    `update("average", averages, tensors, step=…, window=…, norm=None)` moves averages towards the tensors, by the share
    1 / min(window, 1 + (step - 1) / 10): the mean over the last tenth of the steps, fading, and over at most a window

    lr, step (from 1), norm and divisor are numbers or 0-d tensors. Gradients are divided by `divisor`, say the number
    of tokens that the loss was summed over, then scaled by min(1, clip_norm / (norm / divisor)) where clip_norm > 0 and
    `norm`, the `global_norm` of the gradients as they are given, is too. Where that norm is not finite, nothing at all
    is changed: the caller sees the norm and tells the person.

    Not an op: no record is kept, and a backward pass that still needs the old values raises GraphError.
    """
    if rule not in RULES:
        raise EngineError(f"update: there is no rule {rule!r}; there are {', '.join(RULES)}")
    arrays = [[t.array() for t in many] for many in tensors]
    run = device.in_place(rule, arrays[0][0] if arrays[0] else None)
    run(*arrays, **{name: _plain(x) for name, x in settings.items()})
    for t in tensors[0]:
        t.changed()
    _note(rule, *tensors, settings.values())


def global_norm(tensors: Sequence[Tensor], scale: float | Tensor = 1.0) -> Tensor:
    """The Euclidean norm of all elements of all tensors together, times `scale`: a 0-d float64 tensor.

    Squares and their sum are float64. Not an op: no gradient flows through it.
    """
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


def _note(name: str, *given: Iterable[Any]) -> None:
    """Where a step is recorded: what was written down since the last op belongs to this, and works on these tensors."""
    state = STATE.get()
    if state.recorder is not None:
        for many in given:
            state.recorder.works_on([t for t in many if isinstance(t, Tensor)])
        state.recorder.note(name, state._replace(phase="update"))


def _plain(value: Any) -> Any:
    return value.array() if isinstance(value, Tensor) else value
