"""`microtfm evaluate`."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtfm.commands.options import Beam, Json, Penalty, Threads, check_search, show, use_threads


def evaluate(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /, *,
             src: Annotated[Path | None, Parameter(
                 help="Text to translate, or a TSV of source and target. Unset: the run's validation text.")] = None,
             tgt: Annotated[Path | None, Parameter(help="Its reference translations, line by line.")] = None,
             beam: Beam = 1, length_penalty: Penalty = 1.0,
             lowercase: Annotated[bool, Parameter(negative=(), help="Ignore case.")] = False,
             worst: Annotated[int, Parameter(help="Show this many of the worst translations.")] = 5,
             threads: Threads = None, json: Json = False) -> int:
    """Score a model on sentence pairs: BLEU, chrF (with sacrebleu's signatures) and exact matches."""
    check_search(beam, length_penalty)
    use_threads(threads)
    from microtfm import examination

    answer = examination.examine(run, src, tgt, beam, length_penalty, lowercase, max(worst, 0))
    show(answer, examination.as_text, json)
    return 0
