"""`microtfm average` and `export`."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microtfm.commands.options import Json, show


def average(run: Annotated[Path, Parameter(help="Run folder.")], /, *,
            last: Annotated[int | None, Parameter(
                help="Average so many of the last checkpoints. [default: all that the run keeps]")] = None,
            out: Annotated[Path | None, Parameter(name=["--out", "-o"], help=(
                "Run folder to write. [default: RUN-average]"))] = None, json: Json = False) -> int:
    """Average the weights of a run's last checkpoints into a model of its own, which is often a little better.

    microtfm average runs/mine --last 5 -o runs/mine-average
    """
    from microtfm import averaging

    here = run if run.name else run.absolute()
    out = out if out is not None else here.parent / f"{here.name}-average"
    show(averaging.average(run, out, last), averaging.as_text, json)
    return 0


def export(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /, *,
           out: Annotated[Path, Parameter(name=["--out", "-o"], help="File to write, .safetensors.")],
           json: Json = False) -> int:
    """Write the model, its tokenizers and settings as one safetensors file, which translate and serve also take.

    The layout is described by  python -m pydoc microtfm.export
    """
    from microtfm import export as exporting

    show(exporting.export(run, out), exporting.as_text, json)
    return 0
