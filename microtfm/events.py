"""What a training run tells while it goes on. A listener overrides what it wants to hear."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Opening:
    """The run as it begins."""

    folder: Path
    device: str
    threads: int
    pairs: int
    valid: int
    vocabulary: tuple[int, int]          # source, target
    parameters: int
    model: str
    last_step: int | None
    minutes: float | None
    step: int                            # > 0 when resumed
    seconds: float                       # spent until now


@dataclass(frozen=True)
class Sample:
    """One validation sentence, its reference and the model's translation now."""

    source: str
    reference: str
    translation: str


class Events:
    """Hears nothing: the listener for silence, and the base of all others."""

    def placed(self, place: str) -> None:
        """Where "auto" computes, and why; told before all else."""

    def notice(self, text: str) -> None:
        """Something a person should know."""

    def opening(self, opening: Opening) -> None:
        """All is prepared, training begins."""

    def first_step(self, seconds: float) -> None:
        """The first update is done; with a cold cache most of its time went into compiling."""

    def stepped(self, metrics: dict[str, Any]) -> None:
        """A line of metrics.jsonl was written: step, loss, lr, tokens_per_s, seconds, ..."""

    def validated(self, metrics: dict[str, Any], samples: list[Sample], best: bool) -> None:
        """The model was validated: valid_loss, bleu, chrf, ..."""

    def judged(self, right: bool, text: str) -> None:
        """Where the run lies in what earlier runs of its recipe were like, after a validation, or once before the first
        where that comes too late."""

    def stopping(self) -> None:
        """A signal came in. Called inside the signal handler: nothing here may write to a buffered stream."""

    def closing(self) -> None:
        """Training is over, one way or the other."""
