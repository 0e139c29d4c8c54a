"""`microtfm translate` and `serve`."""
from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from microtfm.commands.options import Beam, DataDevice, Device, Json, Penalty, Quiet, Threads, check_search, use_threads
from microtfm.errors import UserError


def translate(run: Annotated[Path, Parameter(help="Run folder of a trained model, or an exported model.")], /,
              *text: Annotated[str, Parameter(help="Sentences. Without any: a file, standard input, or a prompt.")],
              file: Annotated[Path | None, Parameter(help="Translate this file line by line.")] = None,
              beam: Beam = None, length_penalty: Penalty = None,
              nbest: Annotated[int, Parameter(help="Show so many translations of each line, with its number and "
                                                   "their scores: log-probability / length^A.")] = 1,
              alternatives: Annotated[bool, Parameter(negative=(), help=(
                  "Show how probable each token was, and what else stood to choose."))] = False,
              device: DataDevice = None, threads: Threads = None, json: Json = False, quiet: Quiet = False,
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
    if out is not None and show is None:
        raise UserError(f"--out {out} is for the picture that --show draws. Translations go to standard output: "
                        f"> {out}")
    if show is not None and (json or alternatives or nbest > 1 or file is not None):
        raise UserError(f"--show {show} draws one sentence and prints its translation; it goes with none of --json, "
                        f"--nbest, --alternatives and --file.")
    use_threads(threads)
    from microtfm.place import beside_data, computing

    with computing(device or "auto") as place:
        place = "" if quiet else beside_data(device, place)
        if show is not None:
            from microtfm import showing

            return showing.show(run, list(text), show, beam, length_penalty, out, place)
        from microtfm import translating

        mistaken = "" if quiet or len(text) != 1 or not _names_a_file(text[0]) else (
            f"{text[0]} is a file, and its name was taken for a sentence. Its lines: --file {text[0]}")
        wish = translating.Wish(beam, length_penalty, nbest, alternatives, json, quiet, (place, mistaken))
        return translating.translate(run, list(text), file, wish)


def _names_a_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):        # too long for a name, or with a character that none may have
        return False


def serve(run: Annotated[Path, Parameter(help="Run folder of a trained model, or an exported model.")], /, *,
          host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 is every one of this machine.")]
          = "127.0.0.1",
          port: Annotated[int, Parameter(help="Port to listen on; 0 is one that is free.")] = 5000,
          source: Annotated[str | None, Parameter(help="Code of the source language. [default: by its text]")] = None,
          target: Annotated[str | None, Parameter(help="Code of the target language. [default: by its text]")] = None,
          max_bytes: Annotated[int, Parameter(help="Of a request.")] = 200_000,
          max_lines: Annotated[int, Parameter(help="Of the text in a request, or pieces of HTML.")] = 500,
          timeout: Annotated[float, Parameter(help="Seconds from a request until it is answered, or given up.")] = 60.0,
          device: Device = "auto", threads: Threads = None, quiet: Quiet = False) -> int:
    """Serve translations over HTTP, as LibreTranslate does, and a page to try them on.

    curl -d q=你好 http://127.0.0.1:5000/translate
    """
    for flag, number in (("--max-bytes", max_bytes), ("--max-lines", max_lines), ("--timeout", timeout)):
        if not 0 < number < inf:
            raise UserError(f"{flag} {number} must be more than 0, and finite.")
    if not 0 <= port < 65536:
        raise UserError(f"--port {port} must be 0 to 65535.")
    use_threads(threads)
    try:
        from microtfm import serving
    except ModuleNotFoundError as error:
        raise UserError(f"microtfm serve needs {error.name}, which is not installed: pip install 'microtfm[serve]'"
                        ) from None
    from microtfm.place import beside_data, computing

    limits = serving.Limits(max_bytes, max_lines, timeout)
    with computing(device) as place:
        return serving.serve(run, host, port, source, target, limits, lambda text: None if quiet else print(
            f"{text}  {beside_data(device, place)}".rstrip(), flush=True))
