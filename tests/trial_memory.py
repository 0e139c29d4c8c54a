"""Memory over a long training with batches of many shapes: it must stay flat once every shape has been met.

    python tests/trial_memory.py 10000         # exit code 1 if it grew by more than ALLOWED over the second half
"""
from __future__ import annotations

import gc
import random
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import NUMBERS, settings

from microtfm import train
from microtfm.events import Events

ALLOWED = 2.0                            # MiB


def corpus() -> list[tuple[str, str]]:
    """Sentences of 1 to 40 words, so that batches come in some fifty shapes."""
    rng = random.Random(0)
    found = []
    for _ in range(1500):
        words = [rng.choice(list(NUMBERS)) for _ in range(rng.randrange(1, 41))]
        found.append(("".join(words), " ".join(NUMBERS[word] for word in reversed(words))))
    return found


def resident() -> float:
    """Memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


class Watching(Events):
    """Notes the memory every hundredth of the way."""

    def __init__(self, steps: int) -> None:
        self.every, self.seen = max(steps // 100, 10), []

    def stepped(self, metrics: dict[str, Any]) -> None:
        if metrics["step"] % self.every == 0:
            self.seen.append((metrics["step"], resident()))


def main(steps: int = 10_000) -> float:
    """Train so long and print the memory. Returns the growth over the second half, in MiB."""
    train.curves.draw = lambda metrics, picture: False           # type: ignore[assignment]
    watching = Watching(steps)
    with tempfile.TemporaryDirectory() as name:
        chosen = settings(Path(name) / "run", steps=steps, batch_tokens=200, validate_every=max(steps // 10, 1),
                          save_every=max(steps // 20, 1), log_every=10)
        train.train(replace(chosen, tokens=replace(chosen.tokens, max_length=60)), watching, (corpus(), corpus()[:50]))
    gc.collect()
    for step, size in watching.seen[:: max(len(watching.seen) // 12, 1)]:
        print(f"step {step:7,}   {size:8.1f} MiB")
    half = [size for step, size in watching.seen if step >= steps // 2]
    growth = max(half[-3:]) - max(half[:3])
    print(f"from step {steps // 2:,} to {steps:,}: {growth:+.2f} MiB")
    return growth


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > ALLOWED)
