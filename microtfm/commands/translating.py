"""`microtfm translate`."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from microtfm.commands.options import Beam, Penalty, Threads, check_search, use_threads
from microtfm.errors import UserError


def translate(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /,
              *text: Annotated[str, Parameter(help="Sentences. Without any: a file, standard input, or a prompt.")],
              file: Annotated[Path | None, Parameter(help="Translate this file line by line.")] = None,
              beam: Beam = 1, length_penalty: Penalty = 1.0, threads: Threads = None,
              show: Annotated[Literal["attention", "beam"] | None, Parameter(
                  help="Draw how one sentence came about: every head's attention, or the beam as a tree.")] = None,
              out: Annotated[Path | None, Parameter(name=["--out", "-o"], help=(
                  "The picture's file, .svg or .html. [default: in the run folder]"))] = None) -> int:
    """Translate sentences, a file, standard input line by line, or what you type at a prompt."""
    check_search(beam, length_penalty)
    if text and file is not None:
        raise UserError("Give sentences or --file, not both.")
    use_threads(threads)
    if show is not None:
        from microtfm import showing

        return showing.show(run, list(text), show, beam, length_penalty, out)
    from microtfm import prompt

    return prompt.translate(run, list(text), file, beam, length_penalty)
