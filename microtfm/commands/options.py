"""What several commands have in common: their options, and how an answer is shown."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from microtfm.errors import UserError

MOST_THREADS = max(64, 2 * (os.cpu_count() or 1))

Json = Annotated[bool, Parameter(negative=(), help="One JSON object on standard output, all else on standard error.")]
Threads = Annotated[int | None, Parameter(help="Processor threads. The result does not depend on it. [default: all]")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Parameter(help=(
    "Where to compute; auto takes a card if one can be used."))]
DataDevice = Annotated[Literal["auto", "cpu", "cuda"] | None, Parameter(help=(
    "Where to compute; auto takes a card if one can be used, and says so. [default: auto]"))]
Quiet = Annotated[bool, Parameter(negative=(), help="Only what was asked for, no notes and no progress.")]
Beam = Annotated[int | None, Parameter(help="Hypotheses kept side by side; 1 is greedy search. [default: the run's]")]
Penalty = Annotated[float | None, Parameter(
    help="A: hypotheses compare by log-probability / length^A. [default: the run's]")]


def check_search(beam: int | None, length_penalty: float | None) -> None:
    """UserError for a search that cannot be."""
    from microtfm.settings import WIDEST

    if beam is not None and beam < 1:
        raise UserError(f"--beam {beam} must be 1 or more.")
    if beam is not None and beam > WIDEST:
        raise UserError(f"--beam {beam:,} must be at most {WIDEST:,}; 4 to 10 is usual.")
    if length_penalty is not None and not 0 <= length_penalty < 100:
        raise UserError(f"--length-penalty {length_penalty} must be 0 or more, and usually about 1.")


def use_threads(threads: int | None) -> None:
    """Say how many threads are wanted before the engine, which reads it once, is loaded."""
    if threads is None:
        given = os.environ.get("NUMBA_NUM_THREADS", "1")
        if not given.isdecimal() or not 1 <= int(given) <= MOST_THREADS:
            raise UserError(f"NUMBA_NUM_THREADS = {given} in the environment must be 1 to {MOST_THREADS}, or unset.")
        return
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads {threads} must be 1 to {MOST_THREADS}.")
    os.environ["NUMBA_NUM_THREADS"] = str(threads)


def show(answer: dict[str, Any], as_text: Callable[[dict[str, Any]], str], as_json: bool) -> None:
    """Print an answer as one JSON object, or for a person."""
    print(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else as_text(answer))
