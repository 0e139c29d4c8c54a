"""`microtfm data check`: a look at text before it is trained on."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from microtfm.commands.options import Json, show
from microtfm.errors import UserError

app = App(name="data", help="Look at parallel text before it is trained on.")


@app.command
def check(src: Annotated[Path, Parameter(help="Source text, one sentence a line; or a TSV of source and target.")],
          tgt: Annotated[Path | None, Parameter(help="Target text, line by line its translation.")] = None, /, *,
          valid_src: Annotated[Path | None, Parameter(help="Validation text, to be looked for in the training text.")]
          = None,
          valid_tgt: Annotated[Path | None, Parameter(help="Its translations.")] = None,
          test_src: Annotated[Path | None, Parameter(help="Test text, to be looked for in the training text.")] = None,
          test_tgt: Annotated[Path | None, Parameter(help="Its translations.")] = None,
          worst: Annotated[int, Parameter(name="--show", help="Name so many lines of each kind; 0: only count.")] = 10,
          json: Json = False) -> int:
    """Count and measure parallel text, and name the lines that look wrong: empty, repeated, in another language,
    misaligned, too long or too short for their other side; and what of test or validation text is in it.

    Exit code 0 if it can be trained on, 2 if not, or if its two sides do not belong together line by line.

    microtfm data check my.zh my.en --test-src test.zh --test-tgt test.en
    """
    if worst < 0:
        raise UserError(f"--show {worst} must be 0 or more.")
    others = {}
    for name, source, target in (("valid", valid_src, valid_tgt), ("test", test_src, test_tgt)):
        if target is not None and source is None:
            raise UserError(f"--{name}-tgt was given without --{name}-src. Give both files, or one TSV as "
                            f"--{name}-src.")
        if source is not None:
            others[name] = (source, target)
    from microtfm.corpus_check import report

    answer = report.check((src, tgt), others)
    show(answer, lambda answer: report.as_text(answer, worst), json)
    return 2 if answer["problems"] else 0
