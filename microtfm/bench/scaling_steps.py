"""The process of `bench scaling`: one step of ours for each point of an axis."""
from __future__ import annotations

from typing import Any

from microtfm.bench.ours import OurStep
from microtfm.bench.stepping import timed


class Steps:
    """Several sizes side by side."""

    def __init__(self, sizes: list[dict[str, Any]]) -> None:
        self.steps = [OurStep(**size) for size in sizes]

    def warm_up(self, point: int) -> float:
        """Three steps of a point, of which two record it. Returns the milliseconds of the third."""
        return timed(self.steps[point].step, 3)[2]

    def run(self, point: int, steps: int) -> list[float]:
        """Milliseconds of each step of a turn."""
        return self.steps[point].run(steps)
