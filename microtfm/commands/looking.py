"""`microtfm info` and `graph`: what a run holds, and what a training step does."""
from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from microtfm.commands.options import DataDevice, Json, Threads, show, use_threads
from microtfm.errors import UserError


def info(run: Annotated[Path, Parameter(help="Run folder.")], /, *, json: Json = False) -> int:
    """What a run folder holds: settings, parameters by part, vocabulary, steps, scores, versions."""
    from microtfm import inspection

    show(inspection.inspect(run), inspection.as_text, json)
    return 0


def graph(run: Annotated[Path | None, Parameter(help="Run folder.")] = None, /, *,
          size: Annotated[str | None, Parameter(help="Instead of a run: nano, toy, tiny, small or base.")] = None,
          backward: Annotated[bool, Parameter(negative=(), help="The backward pass beside the forward pass.")] = False,
          depth: Annotated[int | None, Parameter(help="Levels of modules to open. [default: 2 in a picture]")] = None,
          open: Annotated[list[str] | None, Parameter(
              help="Path of a module to open besides, such as encoder/layers.0.", negative=())] = None,
          inside: Annotated[str | None, Parameter(help="Path of one module to draw alone.")] = None,
          level: Annotated[Literal["module", "op"] | None, Parameter(
              help="module: keep closed what holds no further module; op: show every op.")] = None,
          unfused: Annotated[bool, Parameter(negative=(), help="Fused ops as the ops that they mean.")] = False,
          real: Annotated[bool, Parameter(name="--run", negative=(), help=(
              "Compute one step, and show values, gradients, time."))] = False,
          out: Annotated[Path | None, Parameter(name=["--out", "-o"], help=(
              "File: .svg .html .dot .json .txt, or .png and .pdf (Graphviz). Unset: a table."))] = None,
          memory: Annotated[bool, Parameter(negative=(), help=(
              "Instead of boxes: which tensor lives from when to when, and live bytes (.svg or .txt)."))] = False,
          diff: Annotated[str | None, Parameter(
              help="Another run folder or size: draw what differs, in structure and, with --run, in values.")] = None,
          device: DataDevice = None, threads: Threads = None) -> int:
    """Draw a training step of the model from the running code. Nothing is computed unless --run is given.

    microtfm graph --size base --backward -o base.html
    """
    if device is not None and not real:
        raise UserError(f"--device {device} says where --run computes, and nothing is computed without it.")
    use_threads(threads)
    from microtfm import drawing
    from microtfm.place import beside_data, computing, note

    with computing(device or "auto") if real else nullcontext("") as place:
        note(beside_data(device, place))
        return drawing.draw(run, size, backward=backward, depth=depth, open_=open or [], level=level, inside=inside,
                            unfused=unfused, real=real, out=out, memory=memory, diff=diff)
