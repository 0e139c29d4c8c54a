"""`microtfm translate` and `serve`."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from microtfm.commands.options import Beam, Device, Json, Penalty, Quiet, Threads, check_search, use_threads
from microtfm.errors import UserError


def translate(run: Annotated[Path, Parameter(help="Run folder of a trained model, or an exported model.")], /,
              *text: Annotated[str, Parameter(help="Sentences. Without any: a file, standard input, or a prompt.")],
              file: Annotated[Path | None, Parameter(help="Translate this file line by line.")] = None,
              beam: Beam = None, length_penalty: Penalty = None,
              nbest: Annotated[int, Parameter(help="Show so many translations of each line, with their scores: "
                                                   "log-probability / length^A.")] = 1,
              alternatives: Annotated[bool, Parameter(negative=(), help=(
                  "Show how probable each token was, and what else stood to choose."))] = False,
              device: Device = "auto", threads: Threads = None, json: Json = False, quiet: Quiet = False,
              show: Annotated[Literal["attention", "beam"] | None, Parameter(
                  help="Draw how one sentence came about: every head's attention, or the beam as a tree.")] = None,
              out: Annotated[Path | None, Parameter(name=["--out", "-o"], help=(
                  "The picture's file, .svg or .html. [default: in the run folder]"))] = None) -> int:
    """Translate sentences, a file, standard input line by line, or what you type at a prompt."""
    check_search(beam, length_penalty)
    if text and file is not None:
        raise UserError("Give sentences or --file, not both.")
    if nbest < 1:
        raise UserError(f"--nbest {nbest} must be 1 or more.")
    use_threads(threads)
    from microtfm.place import computing

    with computing(device) as place:
        if place.startswith("cuda") and not quiet:
            print(f"note: {place}", file=sys.stderr)
        if show is not None:
            from microtfm import showing
            from microtfm.run_folder import RunFolder

            own = RunFolder.open(run).settings
            return showing.show(run, list(text), show, own.beam if beam is None else beam,
                                own.length_penalty if length_penalty is None else length_penalty, out)
        from microtfm import translating

        wish = translating.Wish(beam, length_penalty, nbest, alternatives, json, quiet)
        return translating.translate(run, list(text), file, wish)
