"""What every side of `bench decode` shares inside its process."""
from __future__ import annotations

from abc import ABC, abstractmethod
from statistics import median
from typing import Any

import numpy as np

from microtfm.bench.sizes import Size
from microtfm.bench.stepping import timed

Ids = list[list[int]]


class Decoding(ABC):
    """A model that never ends a sentence before its full length: the logit of <eos> is always 0."""

    def __init__(self, **size: Any) -> None:
        self.size = Size(**size)
        self.source = np.empty((0, self.size.length), np.int64)
        self.beam = 1
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the model."""

    @abstractmethod
    def translate(self) -> Ids:
        """The translations of `source`, each of the size's length."""

    def prepare(self, sentences: int, beam: int) -> float:
        """Get ready for so many sentences at once and warm up. Returns the milliseconds that they take."""
        rng = np.random.default_rng(0)
        self.source = rng.integers(4, self.size.vocabulary, (sentences, self.size.length))
        self.beam = beam
        found = self.translate()
        if [len(ids) for ids in found] != [self.size.length] * sentences:
            raise RuntimeError("a translation ended early: the sides would not do the same work")
        return median(timed(self.translate, 3))

    def run(self, times: int) -> list[float]:
        """Milliseconds of each time that all sentences are translated."""
        if times > 1:
            self.translate()
        return timed(self.translate, times)
