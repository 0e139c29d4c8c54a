"""A recorded step on a card: all its launches and array operations as one CUDA graph, launched by one call.

What varies from run to run (arguments, random keys) lies in buffers that are written before. The first run is made
launch by launch, which compiles and loads everything; then the same is captured for the next. What array operations
need for themselves comes from a memory pool of the graph's own, so that nobody else is given it, and is there before
the capture: to ask a full card for more would free what the graph already uses.

Operations that no graph can hold (they wait for numbers, or call cuBLAS) run by themselves between two graphs; `alone`
says which and why. In the simulator, and where `timed` is asked for, the same steps run one by one.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu.tape import Call, Launch
from .jit import SIMULATED


class Graph:
    """The steps of a recorded program. It keeps the arrays that they read and write."""

    def __init__(self, steps: Sequence[Launch | Call]) -> None:
        self._steps = [_ready(step) for step in steps]
        self._pieces: list[Callable[[], Any]] | None = None  # what a run calls, from the second on
        self._pool: Any = None
        self.alone: dict[int, str] = {}  # places of steps that no graph can hold, and why

    def __len__(self) -> int:
        return len(self._steps)

    def run(self) -> None:
        """All steps, in order."""
        if SIMULATED:
            for run, arguments in self._steps:
                run(*arguments)
        elif self._pieces is None:
            self._begin()
        else:
            for piece in self._pieces:
                piece()

    def _begin(self) -> None:
        """Run launch by launch, and capture the same for the next time."""
        from . import provider
        cupy = provider.cupy()
        stream, self._pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        stream.wait_event(cupy.cuda.get_current_stream().record())
        with stream, cupy.cuda.using_allocator(self._pool.malloc):  # whose memory is a stream's own
            try:
                for run, arguments in self._steps:
                    run(*arguments)
            finally:
                stream.synchronize()
            self._pool.set_limit(size=max(1, self._pool.total_bytes()))
            try:
                self._pieces = self._captured(stream)
            except _Unfinished as e:
                self.alone = dict.fromkeys(range(len(self._steps)), str(e))
                self._pieces = [partial(run, *arguments) for run, arguments in self._steps]

    def _captured(self, stream: Any) -> list[Callable[[], Any]]:
        """Graphs, and between them the steps that no graph can hold. Raises _Unfinished."""
        pieces: list[Callable[[], Any]] = []
        first, stop, why, end = 0, len(self._steps), "", len(self._steps)
        while first < end:
            try:
                if first < stop:
                    pieces.append(self._graph_of(stream, first, stop).launch)
            except _Broken as e:
                stop, why = e.step, str(e)
                continue
            if stop < end:
                run, arguments = self._steps[stop]
                pieces.append(partial(run, *arguments))
                self.alone[stop] = why
            first, stop = stop + 1, end
        return pieces

    def _graph_of(self, stream: Any, first: int, stop: int) -> Any:
        """These steps as one graph. Raises _Broken where one of them cannot be part of it, and _Unfinished where it
        cannot be made of them, say for want of memory."""
        at = first
        stream.begin_capture()
        try:
            for at in range(first, stop):
                run, arguments = self._steps[at]
                run(*arguments)
                stream.is_capturing()  # raises where the step has broken it off
        except BaseException as e:
            with suppress(Exception):  # what a capture that failed leaves is of no use
                stream.end_capture()
            if isinstance(e, Exception):
                raise _Broken(at, f"{type(e).__name__}: {e}") from e
            raise
        try:
            graph = stream.end_capture()
            graph.upload()
        except Exception as e:
            raise _Unfinished(f"{type(e).__name__}: {e}") from e
        return graph

    def run_timed(self) -> np.ndarray:
        """Every step by itself: -> int64 (steps,), the nanoseconds that each took on the card."""
        if SIMULATED:
            return _timed_here(self._steps)
        from . import provider
        cupy = provider.cupy()
        marks = [cupy.cuda.Event() for _ in range(len(self._steps) + 1)]
        marks[0].record()
        for mark, (run, arguments) in zip(marks[1:], self._steps, strict=True):
            run(*arguments)
            mark.record()
        marks[-1].synchronize()
        spans = pairwise(marks)
        return np.array([round(cupy.cuda.get_elapsed_time(a, b) * 1e6) for a, b in spans], np.int64)


class _Broken(Exception):
    """A step does what a CUDA graph cannot hold."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(cause)
        self.step = step


class _Unfinished(Exception):
    """No graph can be made of steps each of which could be part of one."""


def _timed_here(steps: Sequence[Any]) -> np.ndarray:
    taken = []
    for run, arguments in steps:
        start = time.perf_counter_ns()
        run(*arguments)
        taken.append(time.perf_counter_ns() - start)
    return np.array(taken, np.int64)


def _ready(step: Launch | Call) -> tuple[Any, tuple[Any, ...]]:
    """What to call for a step, and with what; a launch with its arguments already packed."""
    if isinstance(step, Call):
        return step.function, step.arrays
    kernel, arguments = step.kernel, step.arguments
    return _Packed(kernel.loaded(arguments), arguments), (step.blocks, kernel.packed(arguments))


class _Packed:
    """A loaded kernel, with the arrays that its packed arguments point into."""

    __slots__ = ("arguments", "launch")

    def __init__(self, launch: Any, arguments: tuple[Any, ...]) -> None:
        self.launch, self.arguments = launch, arguments

    def __call__(self, shape: Any, packed: list[Any]) -> None:
        self.launch(shape, packed)
