"""A recorded step as a program: fixed buffers, and a straight line of kernel launches over them."""
from __future__ import annotations

import math
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from engine import device
from engine.arena import Buffer, layout
from engine.core import Tensor
from engine.errors import GraphError
from engine.guards import Guards, is_check
from engine.kernels.cpu.table import Table
from engine.kernels.cpu.tape import Addresses, Call, Launch
from engine.recorder import TWO_DEVICES, Label, Recorder

Step = Launch | Call


class Place(NamedTuple):
    """An array of the step's own: where in which of its buffers."""
    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def within(self, memory: Any, start: int) -> Any:
        """The array, its buffer beginning at byte `start` of the memory."""
        if device.of(memory) == "cuda":
            return device.within(memory, start + self.offset, self.shape, self.strides, self.dtype)
        return np.ndarray(self.shape, self.dtype, memory, start + self.offset, self.strides)


@dataclass(frozen=True)
class Output:
    """A tensor that the step returns: where its numbers lie, and its name."""
    place: Any
    name: str | None


class Program:
    """What a recorded step does, with the memory it works in still to be chosen (`bind`)."""

    def __init__(self, recorder: Recorder, inputs: Sequence[Any], result: Any) -> None:
        self.recorder, self.inputs = recorder, inputs
        self.device = _device_of(recorder)
        self.leaves = [t for t in recorder.leaves.values() if t.grad is not None]
        self._buffers = [a for a in recorder.tape.made if a.nbytes]
        self._starts = sorted((device.address(a), i) for i, a in enumerate(self._buffers))
        self.steps: list[Step] = [_mapped(step, self._place) for step in recorder.tape.steps]
        self.labels: list[Label] = recorder.labels
        self._outputs: list[Output] = []
        self.result = over(Tensor, result, self._output)
        self.gradients = [self._place(t.grad.array()) for t in self.leaves if t.grad is not None]
        if self.device == "cuda":
            self._guards = self._guarded()
        self._lay_out()
        self._forget()
        self.size: int                                   # bytes of memory that `bind` wants
        self.memory: Any = None
        self.segments: list[Any] = []

    def _guarded(self) -> Guards:
        """The checks, which a card cannot make."""
        place = partial(_each, self._place)
        origins = [origin._replace(arrays=place(origin.arrays), out=self._place(origin.out))
                   for origin in self.recorder.origins]
        return Guards([both for both in self._both() if is_check(both[0])], self.inputs, origins,
                      place([*self.recorder.written, *self.recorder.key_buffers]))

    def _place(self, array: Any) -> Any:
        """Where an array of the step's own lies; any other array as it is."""
        if not array.nbytes:
            return device.empty(array.shape, array.dtype, self.device)
        address = device.address(array)
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
        self.kept = {i: device.empty(self._buffers[i].nbytes, np.uint8, self.device) for i in kept}
        shared = [i for i in range(len(self._buffers)) if i not in kept and last[i] >= 0]
        found, self.size = layout([Buffer(self._buffers[i].nbytes, max(first[i], 0), last[i]) for i in shared])
        self.offsets = dict(zip(shared, found, strict=True))

    def _forget(self) -> None:
        """Drop the memory of the recording: no page of what is large was ever touched."""
        self.recorder.tape.made, self.recorder.tape.steps = [], []
        self.recorder.origins, self.recorder.written = [], []
        self._buffers, self._starts = [], []

    def array(self, place: Any) -> Any:
        """The array at a place, in the memory that the program is bound to."""
        if not isinstance(place, Place):
            return place
        if place.buffer in self.kept:
            return place.within(self.kept[place.buffer], 0)
        assert self.memory is not None
        return place.within(self.memory, self.offsets[place.buffer])

    def unbind(self) -> None:
        """Let go of the memory, and of all that was made for it."""
        self.memory, self.segments = None, []

    def bind(self, memory: Any) -> None:
        """Work in this memory from now on: at least `size` bytes from the beginning of a cache line on."""
        self.unbind()
        self.memory = memory
        try:
            self._bind()
        except BaseException as e:
            self.unbind()
            if isinstance(e, (MemoryError, RuntimeError)):
                device.failed(e, self.device)
            raise

    def _bind(self) -> None:
        launches: list[Launch] = []
        if self.device == "cuda":
            self.segments.append(device.graph([_mapped(step, self.array) for step, _ in self._launched()]))
        for step in (_mapped(step, self.array) for step in self.steps if self.device == "cpu"):
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

    def _both(self) -> Iterator[tuple[Step, Label]]:
        return zip(self.steps, self.labels, strict=True)

    def _launched(self) -> list[tuple[Step, Label]]:
        """What runs on the device, with labels: on a card, the checks are made before, on the host's arguments."""
        return [(step, label) for step, label in self._both() if self.device == "cpu" or not is_check(step)]

    def load(self, arrays: Sequence[Any]) -> None:
        """Take the arguments of the next run. Raises what the checks of ops raise."""
        if self.device == "cuda":
            with np.errstate(all="ignore"):
                self._guards(arrays)
        for buffer, array in zip(self.inputs, arrays, strict=True):
            device.load(buffer, array)

    def _close(self, launches: list[Launch]) -> None:
        if launches:
            self.segments.append(Table(launches))

    def run(self) -> None:
        """Everything once, in order, on what the input buffers and the keys hold now. Raises DeviceError."""
        self._through(_run)

    def run_timed(self) -> list[tuple[Label, float]]:
        """Like `run`: the seconds that each step took, with the op that it serves."""
        taken: list[float] = []
        self._through(lambda segment: taken.extend(_timed(segment)))
        return list(zip([label for _, label in self._launched()], taken, strict=True))

    def _through(self, run: Callable[[Any], None]) -> None:
        try:
            with np.errstate(all="ignore"):
                for segment in self.segments:
                    run(segment)
        except (MemoryError, RuntimeError) as e:
            device.failed(e, self.device)
            raise
        finally:
            self._changed()
        self._finish()

    def _changed(self) -> None:
        """What the step changes in place, all of it or a part, is another value than before."""
        for owner in self.recorder.owners.values():
            owner.version += 1
            owner.digest = None

    def _finish(self) -> None:
        """Hand out the gradients, and say once what no graph of a card could hold."""
        for leaf, gradient in zip(self.leaves, self._gradients, strict=True):
            leaf.grad = gradient
        if self.device == "cuda" and self.segments[0].alone:
            labels, alone = self._launched(), dict(self.segments[0].alone)
            self.segments[0].alone.clear()
            first = min(alone)
            others = f" and {len(alone) - 1} more operations" if len(alone) > 1 else ""
            warnings.warn(f"{labels[first][1]}{others} cannot be part of a CUDA graph ({alone[first]}): when replayed, "
                          "this runs by itself between two graphs, which is slower.", RuntimeWarning, stacklevel=5)

    def clear_gradients(self) -> None:
        """After a run that was refused or broken off, no leaf has a gradient."""
        for leaf in self.leaves:
            leaf.grad = None

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


def _run(segment: Any) -> None:
    if isinstance(segment, Call):
        segment.function(*segment.arrays)
    else:
        segment.run()


def _timed(segment: Any) -> list[float]:
    """Run a segment: the seconds of each of its steps."""
    if not isinstance(segment, Call):
        return (segment.run_timed() / 1e9).tolist()
    start = time.perf_counter()
    segment.function(*segment.arrays)
    return [time.perf_counter() - start]


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


def _each(change: Callable[[Any], Any], arrays: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(a if a is None else change(a) for a in arrays)


def arrays_of(step: Step) -> Iterator[Any]:
    """The arrays (or their places) that a step works on."""
    for argument in (step.arguments if isinstance(step, Launch) else step.arrays):
        if isinstance(argument, Addresses):
            yield from argument.arrays
        elif _is_array(argument):
            yield argument


def _mapped(step: Step, change: Any) -> Step:
    """The same step on other arrays."""
    def one(argument: Any) -> Any:
        if isinstance(argument, Addresses):
            return Addresses([change(a) for a in argument.arrays])
        return change(argument) if _is_array(argument) else argument

    if isinstance(step, Launch):
        return step._replace(arguments=tuple(map(one, step.arguments)))
    return step._replace(arrays=tuple(map(one, step.arrays)))


def _fixed(step: Step) -> tuple[Any, ...]:
    """What of a step must be the same in every recording, besides its arrays."""
    if isinstance(step, Launch):
        plain = [x for x in step.arguments if not isinstance(x, Addresses) and not _is_array(x)]
        return (step.kernel, step.blocks, step.serial, plain, len(list(arrays_of(step))))
    f = step.function
    return ((f.func, f.args, f.keywords) if isinstance(f, partial) else (f,)) + (len(list(arrays_of(step))),)


def _agree(a: Any, b: Any) -> bool:
    """Whether two values are the same; arrays by their numbers."""
    if a is b:
        return True
    if _is_array(a) and type(a) is type(b) and not isinstance(a, Place):
        same = a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype
        return same and (not a.nbytes or device.address(a) == device.address(b)
                         or device.host(a).tobytes() == device.host(b).tobytes())
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_agree(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b or a != a)


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Place)) or device.is_on_card(value)


def _device_of(recorder: Recorder) -> str:
    """Where a recorded step computes. Raises GraphError where it does on two devices."""
    found = {device.of(a) for a in recorder.tape.made}
    if len(found) > 1:
        raise GraphError(TWO_DEVICES)
    return found.pop() if found else device.current()
