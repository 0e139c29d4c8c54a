"""`microtfm data check`: what is in two files of parallel text, and which of their lines look wrong."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suspect:
    """A line that a person should look at."""

    line: int                            # counted from 1
    side: str                            # source, target, or both
    why: str
    weight: float                        # how far out it is: the worst come first
