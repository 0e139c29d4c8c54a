"""The checks of a step that is replayed on a card: made on the host, on the arguments, before anything is launched.

Inside a CUDA graph nobody can refuse a number. What ops refuse (ids outside a table) comes from outside in the end, or
is a place that the engine itself has found (`argmax`, `argsort`), which lies in the axis that it was found in. Where
the step makes ids of ids, the host makes the same ones: whole numbers come out alike on both.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine import device
from engine.errors import GraphError, IndexRangeError
from engine.record import OPS, Index, Op
from engine.recorder import Check, Origin

PLACES = frozenset({"argmax", "argmin", "argsort", "argtopk"})           # their results lie in the axis of their input
DIVISIONS = frozenset({"floor_divide", "remainder"})                     # by zero they are not alike everywhere
EXACT = DIVISIONS | frozenset({                                          # of whole numbers, the same bits on any device
    "add", "sub", "mul", "neg", "abs", "sign", "square", "clip", "maximum", "minimum", "where", "sum", "prod", "max",
    "min", "cumsum", "cumprod", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_xor", "logical_not", "astype", "reshape", "transpose", "swapaxes", "moveaxis",
    "broadcast_to", "expand_dims", "squeeze", "concat", "take", "take_along_axis", "getitem", "pad", "flip", "roll",
    "repeat", "tile", "diag", "diagonal", "trace", "tril", "triu"})

Values = dict[int, np.ndarray]                           # by buffer: whole numbers of the step, made on the host
Reader = Callable[[Sequence[Any], Values], Any]          # of the host's arguments


def is_check(step: Any) -> bool:
    """Whether a step of a recording refuses values, and does nothing else."""
    return isinstance(getattr(step, "function", None), Check)


class Guards:
    """`guards(arguments)` makes the checks of a program and raises what they raise.

    To make it raises GraphError where a check looks at ids of which nobody knows anything before the step runs.
    """

    def __init__(self, checks: Iterable[tuple[Any, Any]], inputs: Sequence[Any], origins: Iterable[Origin],
                 written: Sequence[Any]) -> None:
        """checks: steps and their labels; written: what changes after the checks. What the step has made is given as
        places in its buffers."""
        self._inputs, self._written = inputs, written
        self._origins: dict[int, Origin] = {}            # by buffer, in order; views of one come later
        for origin in origins:
            if _is_place(origin.out):
                self._origins.setdefault(origin.out.buffer, origin)
        self._made: dict[int, list[Reader]] = {}         # by buffer: what it takes to make its numbers on the host
        for buffer, origin in self._origins.items():
            self._note_made(buffer, origin)
        self._checks: list[tuple[Check, list[Reader], list[int]]] = []
        for step, label in checks:
            self._add(step.function, step.arrays, label)

    def __call__(self, arguments: Sequence[Any]) -> None:
        values: Values = {}
        for check, readers, behind in self._checks:
            for buffer in behind:
                if buffer not in values:
                    values[buffer] = self._again(buffer, arguments, values)
            check(*(read(arguments, values) for read in readers))

    # -- what is known of an array before the step runs
    def _reader(self, array: Any) -> Reader | None:
        """The numbers of an array, where the host can know them."""
        if any(_overlap(array, other) for other in self._written):
            return None
        if _is_place(array):
            known = array.buffer in self._made and _covers(self._origins[array.buffer].out, array)
            return partial(_made, array, self._origins[array.buffer].out.offset) if known else None
        return _in_argument(array, self._inputs) or partial(_outside, array)

    def _note_made(self, buffer: int, origin: Origin) -> None:
        if origin.op.name not in EXACT or _holds_card_arrays(list(origin.params.values())):
            return
        if all(a is not None and a.dtype.kind in "iub" for a in origin.arrays):
            readers = [self._reader(a) for a in origin.arrays]
            if None not in readers:
                self._made[buffer] = readers             # type: ignore[assignment]

    def _again(self, buffer: int, arguments: Sequence[Any], values: Values) -> np.ndarray:
        """The whole numbers of a buffer, made on the host."""
        origin, given = self._origins[buffer], [read(arguments, values) for read in self._made[buffer]]
        if origin.op.name in DIVISIONS and not np.all(given[1]):
            raise GraphError(f"{origin.op.name} divides by zero, and its result is looked up: on a card nobody could "
                             "refuse what comes of it")
        out = np.empty(origin.out.shape, origin.out.dtype)
        out[...] = origin.op.meaning(*given, **origin.params)
        return out

    def _behind(self, array: Any) -> list[int]:
        """The buffers to be made for an array, in order."""
        if not _is_place(array) or array.buffer not in self._made:
            return []
        wanted = {array.buffer}
        for buffer in reversed(self._made):              # what a buffer is made of stands before it
            if buffer in wanted:
                wanted |= {a.buffer for a in self._origins[buffer].arrays if _is_place(a)}
        return [buffer for buffer in self._made if buffer in wanted]

    # -- the checks
    def _add(self, check: Check, arrays: Sequence[Any], label: Any) -> None:
        readers, behind, settled = [], [], False
        for i, array in enumerate(arrays):
            read: Reader | None = partial(_as_it_is, array)
            if array is not None and _is_looked_at(check.op, i, array):
                read, behind = self._reader(array), self._behind(array)
                if read is None and (self._is_in_range(check, arrays, i) or _is_part_of_checked(check.op, label)):
                    settled = True
                elif read is None:
                    raise GraphError(_refusal(check.op, i))
            readers.append(read or partial(_as_it_is, array))
        if not settled:
            self._checks.append((check, readers, behind))

    def _is_in_range(self, check: Check, arrays: Sequence[Any], i: int) -> bool:
        """Whether input `i` is places that the engine has found, none of which can be refused."""
        origin = self._origins.get(arrays[i].buffer) if _is_place(arrays[i]) else None
        if origin is None or origin.op.name not in PLACES or not _covers(origin.out, arrays[i]):
            return False
        if any(_overlap(arrays[i], other) for other in self._written):
            return False
        given, axis = origin.arrays[0], origin.params["axis"]
        n = given.size if axis is None else given.shape[axis]
        worst = np.array([0, max(n - 2, 0), max(n - 1, 0)])              # the last, and the last but what is ignored
        try:
            check(*arrays[:i], worst, *arrays[i + 1:])
        except IndexRangeError:
            return False
        return True


def _is_looked_at(op: Op, i: int, array: Any) -> bool:
    """Whether a check reads the numbers of an input, and not only its shape and dtype."""
    return isinstance(op.kind(i), Index) or (op.name == "pow" and i == 1 and array.dtype.kind in "iu")


def _is_part_of_checked(op: Op, label: Any) -> bool:
    """Whether a launch is part of a meaning, whose op has checked the same ids."""
    around = OPS.get(label.scope[-1]) if label.scope else None
    return around is not None and around is not op and around.check is not None


def _refusal(op: Op, i: int) -> str:
    what = "looks ids up" if isinstance(op.kind(i), Index) else "takes exponents"
    return (f"{op.name} {what} that the step itself computes, and on a card nobody could refuse bad ones. Compute them "
            "outside the step and pass them as an argument, or run it without replay.")


# --- arrays ---------------------------------------------------------------------------------------
def _is_place(array: Any) -> bool:
    """Whether an array is the step's own, given by where it lies."""
    return hasattr(array, "buffer")


def _covers(whole: Any, part: Any) -> bool:
    return whole.dtype == part.dtype and 0 <= part.offset - whole.offset < whole.size * whole.dtype.itemsize


def _overlap(a: Any, b: Any) -> bool:
    if _is_place(a) or _is_place(b):
        return _is_place(a) and _is_place(b) and a.buffer == b.buffer
    if device.of(a) != device.of(b):
        return False
    (low, high), (start, end) = _extent(a), _extent(b)
    return low < end and start < high


def _extent(array: Any) -> tuple[int, int]:
    at, spans = device.address(array), [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return (at + sum(min(0, span) for span in spans),
            at + sum(max(0, span) for span in spans) + array.dtype.itemsize if array.size else at)


def _holds_card_arrays(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_card_arrays, value))
    return device.is_on_card(value)


def _as_it_is(array: Any, arguments: Sequence[Any], values: Values) -> Any:
    return array


def _outside(array: Any, arguments: Sequence[Any], values: Values) -> Any:
    """Of an array that was made outside the step, what it holds now."""
    return device.host(array)


def _made(place: Any, start: int, arguments: Sequence[Any], values: Values) -> np.ndarray:
    return np.ndarray(place.shape, place.dtype, values[place.buffer], place.offset - start, place.strides)


def _in_argument(array: Any, inputs: Sequence[Any]) -> Reader | None:
    """Where an array is an argument, or a view of one: the same view of the host's arguments."""
    for i, buffer in enumerate(inputs):
        offset = device.address(array) - device.address(buffer)
        same = device.of(array) == device.of(buffer) and array.dtype == buffer.dtype
        if buffer.nbytes and 0 <= offset < buffer.nbytes and same:
            return partial(_view, i, offset, array.shape, array.strides)
    return None


def _view(i: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], arguments: Sequence[Any],
          values: Values) -> Any:
    whole = np.ascontiguousarray(device.host(arguments[i]))
    return np.ndarray(shape, whole.dtype, whole, offset, strides)
