"""`microtfm evaluate` and `score`."""
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtfm.commands.options import Beam, DataDevice, Device, Json, Penalty, Threads, check_search, show, use_threads


def evaluate(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /, *,
             src: Annotated[Path | None, Parameter(
                 help="Text to translate, or a TSV of source and target. Unset: the run's validation text.")] = None,
             tgt: Annotated[Path | None, Parameter(help="Its reference translations, line by line.")] = None,
             beam: Beam = None, length_penalty: Penalty = None,
             lowercase: Annotated[bool, Parameter(negative=(), help="Ignore case.")] = False,
             tokenize: Annotated[str | None, Parameter(help=(
                 "sacrebleu's tokenizer for BLEU; none for text that is tokenized. [default: by the references' script]"
             ))] = None,
             worst: Annotated[int, Parameter(help="Show this many of the worst translations.")] = 5,
             device: Device = "auto", threads: Threads = None, json: Json = False) -> int:
    """Score a model on sentence pairs: BLEU, chrF (with sacrebleu's signatures) and exact matches."""
    check_search(beam, length_penalty)
    use_threads(threads)
    from microtfm import examination
    from microtfm.place import beside_data, computing, line, note

    with computing(device) as place:
        first = partial(note if json else line, beside_data(device, place))
        answer = examination.examine(run, src, tgt, beam=beam, length_penalty=length_penalty, lowercase=lowercase,
                                     tokenise=tokenize, worst=max(worst, 0), place=place, begin=first)
    show(answer, examination.as_text, json)
    return 0


def score(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /, *,
          src: Annotated[Path, Parameter(help="Source text, or a TSV of source and translation.")],
          tgt: Annotated[Path | None, Parameter(help="Translations to score, line by line.")] = None,
          tokens: Annotated[bool, Parameter(negative=(), help="Show each token's log-probability too.")] = False,
          device: DataDevice = None, threads: Threads = None, json: Json = False) -> int:
    """How probable a model finds given translations (forced decoding): natural logarithms, of each token and their sum.
    """
    use_threads(threads)
    from microtfm import examination
    from microtfm.place import beside_data, computing, note

    with computing(device or "auto") as place:
        answer = examination.probe(run, src, tgt, place, partial(note, beside_data(device, place)))
    show(answer, lambda answer: examination.probed(answer, tokens), json)
    return 0
