"""A recorded step as a program: fixed buffers, and a straight line of kernel launches over them."""
from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from engine.arena import Buffer, layout
from engine.core import Tensor
from engine.kernels.cpu.table import Table
from engine.kernels.cpu.tape import Addresses, Call, Launch
from engine.recorder import Label, Recorder

Step = Launch | Call


class Place(NamedTuple):
    """An array of the step's own: where in which of its buffers."""
    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def within(self, memory: np.ndarray, start: int) -> np.ndarray:
        """The array, its buffer beginning at byte `start` of the memory."""
        return np.ndarray(self.shape, self.dtype, memory, start + self.offset, self.strides)


@dataclass(frozen=True)
class Output:
    """A tensor that the step returns: where its numbers lie, and its name."""
    place: Any
    name: str | None


class Program:
    """What a recorded step does, with the memory it works in still to be chosen (`bind`)."""

    def __init__(self, recorder: Recorder, inputs: Sequence[np.ndarray], result: Any) -> None:
        self.recorder, self.inputs = recorder, inputs
        self.leaves = [t for t in recorder.leaves.values() if t.grad is not None]
        self._buffers = [a for a in recorder.tape.made if a.nbytes]
        self._starts = sorted((_address(a), i) for i, a in enumerate(self._buffers))
        self.steps: list[Step] = [_mapped(step, self._place) for step in recorder.tape.steps]
        self.labels: list[Label] = recorder.labels
        self._outputs: list[Output] = []
        self.result = over(Tensor, result, self._output)
        self.gradients = [self._place(t.grad.array()) for t in self.leaves if t.grad is not None]
        self._lay_out()
        self._forget()
        self.size: int                                   # bytes of memory that `bind` wants
        self.memory: np.ndarray | None = None

    def _place(self, array: Any) -> Any:
        """Where an array of the step's own lies; any other array as it is."""
        if not array.nbytes:
            return np.empty(array.shape, array.dtype)
        address = _address(array)
        low = address + sum(min(0, (n - 1) * stride) for n, stride in zip(array.shape, array.strides, strict=True))
        at = bisect_right(self._starts, (low, len(self._buffers))) - 1
        start, i = self._starts[at] if at >= 0 else (0, 0)
        if at < 0 or low >= start + self._buffers[i].nbytes:
            return array
        return Place(i, address - start, array.shape, array.strides, array.dtype)

    def _output(self, t: Tensor) -> Output:
        self._outputs.append(Output(self._place(t.array()), t.name))
        return self._outputs[-1]

    def _lay_out(self) -> None:
        """Choose an offset for each buffer. What outlives the step has memory of its own."""
        first, last = [-1] * len(self._buffers), [-1] * len(self._buffers)
        for at, step in enumerate(self.steps):
            for place in arrays_of(step):
                if isinstance(place, Place):
                    first[place.buffer] = at if first[place.buffer] < 0 else first[place.buffer]
                    last[place.buffer] = at
        for output in self._outputs:
            if isinstance(output.place, Place):
                last[output.place.buffer] = len(self.steps)
        kept = {place.buffer for place in self.gradients if isinstance(place, Place)}
        self.kept = {i: np.empty(self._buffers[i].nbytes, np.uint8) for i in kept}
        shared = [i for i in range(len(self._buffers)) if i not in kept and last[i] >= 0]
        found, self.size = layout([Buffer(self._buffers[i].nbytes, max(first[i], 0), last[i]) for i in shared])
        self.offsets = dict(zip(shared, found, strict=True))

    def _forget(self) -> None:
        """Drop the memory of the recording: no page of what is large was ever touched."""
        self.recorder.tape.made, self.recorder.tape.steps = [], []
        self._buffers, self._starts = [], []

    def array(self, place: Any) -> np.ndarray:
        """The array at a place, in the memory that the program is bound to."""
        if not isinstance(place, Place):
            return place
        if place.buffer in self.kept:
            return place.within(self.kept[place.buffer], 0)
        assert self.memory is not None
        return place.within(self.memory, self.offsets[place.buffer])

    def bind(self, memory: np.ndarray) -> None:
        """Work in this memory from now on: at least `size` bytes from the beginning of a cache line on."""
        self.memory = memory
        self.segments: list[Table | Call] = []
        launches: list[Launch] = []
        for step in (_mapped(step, self.array) for step in self.steps):
            if isinstance(step, Launch):
                launches.append(step)
                continue
            self._close(launches)
            self.segments.append(step)
            launches = []
        self._close(launches)
        for leaf, place in zip(self.leaves, self.gradients, strict=True):
            gradient = self.array(place)
            leaf.grad = Tensor.wrap(gradient, leaf.grad.node) if leaf.grad is not None else Tensor(gradient)
        self._gradients = [leaf.grad for leaf in self.leaves]

    def answer(self) -> Any:
        """What the step returns, its tensors copied from the program's memory."""
        return over(Output, self.result, lambda out: Tensor(self.array(out.place), name=out.name))

    def _close(self, launches: list[Launch]) -> None:
        if launches:
            self.segments.append(Table(launches))

    def run(self) -> None:
        """Everything once, in order, on what the input buffers and the keys hold now."""
        with np.errstate(all="ignore"):
            for segment in self.segments:
                if isinstance(segment, Call):
                    segment.function(*segment.arrays)
                else:
                    segment.run()
        self._finish()

    def run_timed(self) -> list[tuple[Label, float]]:
        """Like `run`: the seconds that each step took, with the op that it serves."""
        taken: list[float] = []
        with np.errstate(all="ignore"):
            for segment in self.segments:
                if isinstance(segment, Call):
                    start = time.perf_counter()
                    segment.function(*segment.arrays)
                    taken.append(time.perf_counter() - start)
                else:
                    taken += (segment.run_timed() / 1e9).tolist()
        self._finish()
        return list(zip(self.labels, taken, strict=True))

    def _finish(self) -> None:
        """Say what was changed in place, and hand out the gradients."""
        for owner in self.recorder.owners.values():
            owner.version += 1
            owner.digest = None
        for leaf, gradient in zip(self.leaves, self._gradients, strict=True):
            leaf.grad = gradient

    def difference(self, other: Program) -> str | None:
        """What is not the same in another recording of the step; None if they agree."""
        for mine, theirs, label in zip(self.steps, other.steps, self.labels, strict=False):
            name = mine.kernel.__name__ if isinstance(mine, Launch) else getattr(mine.function, "__name__", "a call")
            if not _agree(_fixed(mine), _fixed(theirs)):
                return f"{label} runs {name} with other sizes or parameters"
            for a, b in zip(arrays_of(mine), arrays_of(theirs), strict=True):
                if not _agree(a, b):
                    return f"{label} reads another array that was made outside the step, or from other numbers"
        if len(self.steps) != len(other.steps):
            return f"one has {len(self.steps)} launches, the other {len(other.steps)}"
        return None


def over(kind: type, result: Any, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and dictionaries with everything of a kind changed."""
    if isinstance(result, kind):
        return change(result)
    if isinstance(result, (tuple, list)):
        items = [over(kind, item, change) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    if isinstance(result, dict):
        return {key: over(kind, item, change) for key, item in result.items()}
    return result


def arrays_of(step: Step) -> Iterator[Any]:
    """The arrays (or their places) that a step works on."""
    for argument in (step.arguments if isinstance(step, Launch) else step.arrays):
        if isinstance(argument, Addresses):
            yield from argument.arrays
        elif isinstance(argument, (np.ndarray, Place)):
            yield argument


def _mapped(step: Step, change: Any) -> Step:
    """The same step on other arrays."""
    def one(argument: Any) -> Any:
        if isinstance(argument, Addresses):
            return Addresses([change(a) for a in argument.arrays])
        return change(argument) if isinstance(argument, (np.ndarray, Place)) else argument

    if isinstance(step, Launch):
        return step._replace(arguments=tuple(map(one, step.arguments)))
    return step._replace(arrays=tuple(map(one, step.arrays)))


def _fixed(step: Step) -> tuple[Any, ...]:
    """What of a step must be the same in every recording, besides its arrays."""
    if isinstance(step, Launch):
        plain = [x for x in step.arguments if not isinstance(x, (np.ndarray, Place, Addresses))]
        return (step.kernel, step.blocks, step.serial, plain, len(list(arrays_of(step))))
    f = step.function
    return ((f.func, f.args, f.keywords) if isinstance(f, partial) else (f,)) + (len(list(arrays_of(step))),)


def _agree(a: Any, b: Any) -> bool:
    """Whether two values are the same; arrays by their numbers."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype
        return same and (not a.nbytes or _address(a) == _address(b) or a.tobytes() == b.tobytes())
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_agree(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b or a != a)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])
