"""What every side of `bench step` shares inside its process: the batches, warming up, timing, memory."""
from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from microtfm.bench import memory
from microtfm.bench.sizes import Size

BATCHES = 8                              # different ones, taken in turn
SMOOTHING, CLIP, LEARNING_RATE, BETAS, EPSILON = 0.1, 1.0, 1e-4, (0.9, 0.98), 1e-9
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def batches(size: Size, seed: int = 0) -> list[Batch]:
    """Random ids without padding: source, target in and target out, each (B, T) int64."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(BATCHES):
        source = rng.integers(4, size.vocabulary, (size.batch, size.length))
        target = rng.integers(4, size.vocabulary, (size.batch, size.length + 1))
        made.append((source, np.ascontiguousarray(target[:, :-1]), np.ascontiguousarray(target[:, 1:])))
    return made


def timed(work: Callable[[], Any], times: int) -> list[float]:
    """Milliseconds of each of `times` runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1000)
    return taken


class Stepper(ABC):
    """A model and its optimiser, and one training step after another."""

    def __init__(self, **size: Any) -> None:
        self.size = Size(**size)
        self.losses: list[float] = []
        self._batches = batches(self.size)
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the model and the optimiser."""

    @abstractmethod
    def count(self) -> int:
        """The numbers that learn."""

    @abstractmethod
    def train_on(self, batch: int) -> float:
        """One whole step on batch number `batch`; returns its loss, so that nothing is left to be done later."""

    def step(self) -> None:
        """Train on the next batch."""
        self.losses.append(self.train_on(len(self.losses) % BATCHES))

    def warm_up(self, started: float) -> dict[str, Any]:
        """The first step, at least two more, and up to a second of them. started: Unix time of the process's start."""
        first = timed(self.step, 1)[0]
        ready = time.time() - started
        later = timed(self.step, 2)
        while sum(later) < 1000 and len(later) < 50:
            later += timed(self.step, 1)
        step = median(later[1:])
        memory.put_down_mark()
        return {"params": self.count(), "step_ms": step, "compile_s": max(0.0, first - step) / 1000, "ready_s": ready}

    def run(self, steps: int) -> list[float]:
        """Milliseconds of each step of a turn. One more goes before several: another process has had the caches."""
        if steps > 1:
            self.step()
        return timed(self.step, steps)

    def peak_mb(self) -> float | None:
        """The most resident memory of this process since it warmed up."""
        return memory.peak_mb()
