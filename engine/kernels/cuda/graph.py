"""A recorded step on a card: all its launches and array operations as one CUDA graph, launched by one call.

What varies from run to run (arguments, random keys) lies in buffers that are written before. The graph is captured at
the first run, after one run launch by launch that compiles and loads everything; what array operations need for
themselves comes from a memory pool of the graph's own, so that nobody else is given it. In the simulator, and where
`timed` is asked for, the same steps run one by one.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..cpu.tape import Call, Launch
from . import NotCapturable
from .jit import SIMULATED


class Graph:
    """The steps of a recorded program. It keeps the arrays that they read and write."""

    def __init__(self, steps: Sequence[Launch | Call]) -> None:
        self._steps = [_ready(step) for step in steps]
        self._graph: Any = None
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._steps)

    def run(self) -> None:
        """All steps, in order. Raises NotCapturable."""
        if SIMULATED or not self._steps:
            for run, arguments in self._steps:
                run(*arguments)
            return
        if self._graph is None:
            self._capture()
        else:
            self._graph.launch()

    def _capture(self) -> None:
        """Run once launch by launch, and capture the same for the next time."""
        from . import provider
        cupy = provider.cupy()
        self._pool = cupy.cuda.MemoryPool()
        with cupy.cuda.using_allocator(self._pool.malloc):
            for run, arguments in self._steps:
                run(*arguments)
            cupy.cuda.get_current_stream().synchronize()
            self._graph = self._captured(cupy)
        self._graph.upload()

    def _captured(self, cupy: Any) -> Any:
        at, stream = 0, cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                for at, (run, arguments) in enumerate(self._steps):  # noqa: B007
                    run(*arguments)
            except Exception as e:
                _abandon(stream)
                raise NotCapturable(at, f"{type(e).__name__}: {e}") from e
            try:
                return stream.end_capture()
            except Exception as e:
                raise NotCapturable(at, f"{type(e).__name__}: {e}") from e

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


def _timed_here(steps: Sequence[Any]) -> np.ndarray:
    taken = []
    for run, arguments in steps:
        start = time.perf_counter_ns()
        run(*arguments)
        taken.append(time.perf_counter_ns() - start)
    return np.array(taken, np.int64)


def _abandon(stream: Any) -> None:
    """End a capture that has failed: what it leaves is of no use."""
    from contextlib import suppress
    with suppress(Exception):
        stream.end_capture()


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
