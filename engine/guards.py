"""The checks of a step that is replayed on a card: made on the host, on the arguments, before anything is launched.

Inside a CUDA graph nobody can refuse a number. What ops refuse (ids outside a table) comes from outside in the end.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine import device
from engine.errors import GraphError
from engine.record import OPS, Index
from engine.recorder import Check


def is_check(step: Any) -> bool:
    """Whether a step of a recording refuses values, and does nothing else."""
    return isinstance(getattr(step, "function", None), Check)


def guard(step: Any, label: Any, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], None]:
    """The check of a step as a function of the host's arguments.

    Raises GraphError where it looks at ids that the step itself computes.
    """
    check, sources = step.function, []
    for i, array in enumerate(step.arrays):
        found = _in_argument(array, inputs) if device.is_on_card(array) else None
        if found is None and isinstance(check.op.kind(i), Index) and not isinstance(array, np.ndarray):
            around = OPS.get(label.scope[-1]) if label.scope else None
            if around is not None and around is not check.op and around.check:
                return lambda arguments: None            # part of a meaning, whose op has checked the same ids
            raise GraphError(f"{check.op.name} looks ids up that the step itself computes, and on a card nobody could "
                             "refuse bad ones. Compute them outside the step and pass them as an argument, or run it "
                             "without replay.")
        sources.append(found if found is not None else partial(_fixed, array))
    return lambda arguments: check(*(source(arguments) for source in sources))


def _fixed(array: Any, arguments: Sequence[Any]) -> Any:
    return array


def _in_argument(array: Any, inputs: Sequence[Any]) -> Callable[[Sequence[Any]], Any] | None:
    """Where an array is an argument, or a view of one: the same view of the host's arguments."""
    for i, buffer in enumerate(inputs):
        offset = device.address(array) - device.address(buffer)
        if buffer.nbytes and 0 <= offset < buffer.nbytes and array.dtype == buffer.dtype:
            return partial(_view, i, offset, array.shape, array.strides)
    return None


def _view(i: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], arguments: Sequence[Any]) -> Any:
    whole = np.ascontiguousarray(device.host(arguments[i]))
    return np.ndarray(shape, whole.dtype, whole, offset, strides)
