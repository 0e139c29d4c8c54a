"""What every side of `bench kernels` shares inside its process."""
from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from microtfm.bench.kernel_cases import Case, case

BURST = 0.0005                           # seconds: shorter work is repeated, so that reading the clock costs nothing
Work = Callable[[], Any]


class Kernels(ABC):
    """Runs one case after another."""
    work: Work
    repeats: int

    @abstractmethod
    def find(self, case: Case) -> Work | None:
        """What computes the case, everything ready but the computing; None where this side has no such function."""

    def synchronise(self) -> None:
        """Wait for what was launched; here all is done when its call returns."""
        return

    def prepare(self, values: dict[str, Any]) -> bool:
        """Get ready for a case and warm up. False where this side has no such function."""
        found = self.find(case(values))
        if found is None:
            return False
        self.work = found
        for _ in range(2):               # the first one may compile
            found()
        self.repeats = max(1, round(BURST / self._burst(1)))
        return True

    def run(self, seconds: float) -> list[float]:
        """Milliseconds of each of the runs that fill the time, at least three."""
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) * self.repeats < seconds * 1000:
            taken.append(self._burst(self.repeats) * 1000)
        return taken

    def _burst(self, repeats: int) -> float:
        work, start = self.work, time.perf_counter()
        for _ in range(repeats):
            work()
        self.synchronise()
        return (time.perf_counter() - start) / repeats
