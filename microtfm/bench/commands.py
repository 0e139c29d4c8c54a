"""The command line of `microtfm bench`. Everything heavy is imported where it is needed."""
from __future__ import annotations

import json as encoder
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from microtfm.bench.sides import placed
from microtfm.bench.sizes import SIZES, TOY, Name, Size
from microtfm.errors import UserError

app = App(name="bench", help="How fast it is, beside NumPy, PyTorch and JAX, and where the time goes.")
SizeName = Annotated[Name, Parameter(help="Model and batch.")]
Chosen = Annotated[Name | None,
                   Parameter(help="Model and batch. [default: tiny; smaller than nano on a simulated card]")]
Peers = Annotated[list[str] | None, Parameter(name="--peer", negative=(),
                                              help="Run this one too, in turns: torch, torch-compile or jax.")]
Torch = Annotated[list[str] | None, Parameter(name="--peer", negative=(), help="Run this one too, in turns: torch.")]
Threads = Annotated[int | None, Parameter(help="Processor threads of every side. [default: all]")]
Json = Annotated[bool, Parameter(negative=(), help="One JSON object on standard output, all else on standard error.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where all sides compute.")]
Precision = Annotated[Literal["float32", "tf32x3", "tf32", "bf16"],
                      Parameter(help="Of products of matrices, on a card.")]
Save = Annotated[Path | None, Parameter(help="Also write the answer into this folder, with date, card and versions.")]
Seconds = Annotated[float, Parameter(help="Measure for about so long on each side.")]


@app.command
def step(*, size: Chosen = None, peer: Peers = None, threads: Threads = None, seconds: Seconds = 5.0,
         steps: Annotated[int | None, Parameter(help="Measure so many steps on each side instead.")] = None,
         replay: Annotated[bool, Parameter(help="Record our step once and run the recording, or build its graph anew.")]
         = True,
         profile: Annotated[bool, Parameter(negative=(), help="Show where our time goes, op by op.")] = False,
         device: Device = "cpu", precision: Precision = "float32", save: Save = None, json: Json = False) -> int:
    """One training step: forward, loss, backward, clipping, Adam; dropout on.

    A peer runs the same step in a process of its own, in turns with ours. Where `times ours` is 2, it takes twice our
    time: the median of the ratios of turns that followed each other.
    """
    from microtfm.bench import report, results
    from microtfm.bench import step as training

    tell, n = report.teller(), _threads(threads)
    results.check(save)
    with placed(device, precision, tell) as place:
        chosen = _size(size, place)
        answer = place | training.measure(chosen, _unique(peer), n, *_amount(seconds, steps), tell, replay)
        if profile:
            training.add_profile(answer, chosen, n, tell)
    return _show(answer, json, report.of_step, save, "step")


@app.command
def kernels(*, size: Annotated[list[Name] | None, Parameter(
                negative=(), help="Over this model's shapes; may be repeated. [default: tiny and small]")] = None,
            only: Annotated[list[str] | None, Parameter(
                negative=(), help="Only this kernel, or group of kernels; may be repeated.")] = None,
            peer: Torch = None, threads: Threads = None,
            seconds: Annotated[float, Parameter(help="Measure each case for so long on each side.")] = 0.05,
            device: Device = "cpu", precision: Precision = "float32", save: Save = None, json: Json = False) -> int:
    """Each kernel beside NumPy, and beside what arithmetic or memory alone would take on this machine."""
    from microtfm.bench import kernels, report, results

    results.check(save)
    with placed(device, precision, report.teller()) as place:
        toy = "note" in place
        sizes = [SIZES[name] for name in _unique(size) or ([] if toy else ["tiny", "small"])] or [TOY]
        answer = place | kernels.measure(kernels.cases(sizes, _unique(only), toy), _unique(peer), _threads(threads),
                                         _amount(seconds, None)[0], report.teller())
    return _show(answer, json, report.of_kernels, save, "kernels")


@app.command
def decode(*, size: Chosen = None,
           sentences: Annotated[list[int] | None, Parameter(
               negative=(), help="Translate so many at once; may be repeated. [default: 1 and the size's]")] = None,
           length: Annotated[int | None, Parameter(
               help="Tokens of each sentence and of its translation. [default: the size's]")] = None,
           beam: Annotated[int, Parameter(help="Also measure beam search of this width, without a peer.")] = 1,
           peer: Torch = None, threads: Threads = None, seconds: Seconds = 3.0, device: Device = "cpu",
           precision: Precision = "float32", save: Save = None, json: Json = False) -> int:
    """Greedy translation with the key/value cache, every sentence to its full length."""
    from microtfm.bench import decoding, report, results

    for flag, number in [("length", length), ("beam", beam), *(("sentences", n) for n in sentences or [])]:
        if number is not None and number < 1:
            raise UserError(f"--{flag} {number} must be 1 or more.")
    results.check(save)
    with placed(device, precision, report.teller()) as place:
        chosen = _size(size, place)
        chosen = chosen.changed(length=length or chosen.length)
        answer = place | decoding.measure(chosen, sentences or [1, chosen.batch], beam, _unique(peer),
                                          _threads(threads), _amount(seconds, None)[0], report.teller())
    return _show(answer, json, report.of_decode, save, "decode")


@app.command
def scaling(*, size: Annotated[Name, Parameter(help="The model and batch to start from.")] = "toy",
            threads: Threads = None,
            seconds: Annotated[float, Parameter(help="Measure each point for about so long.")] = 1.0,
            json: Json = False) -> int:
    """How the time of a step grows with length, batch, depth and vocabulary, beside how its matrix products grow."""
    from microtfm.bench import report, scaling

    answer = scaling.measure(SIZES[size], _threads(threads), _amount(seconds, None)[0], report.teller())
    return _show(answer, json, report.of_scaling)


def _size(name: Name | None, place: dict[str, str]) -> Size:
    """The size of this name, or what is measured where none is named."""
    return SIZES[name] if name else TOY if "note" in place else SIZES["tiny"]


def _amount(seconds: float, steps: int | None) -> tuple[float, int | None]:
    if not 0 <= seconds < 1e6:
        raise UserError(f"--seconds {seconds} must be 0 or more.")
    if steps is not None and steps < 1:
        raise UserError(f"--steps {steps} must be 1 or more.")
    return seconds, steps


def _unique(names: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(names or []))


def _threads(threads: int | None) -> int:
    from microtfm.threads import default_threads

    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads} must be 1 or more.")
    return threads or default_threads()


def _show(answer: dict[str, Any], as_json: bool, tables: Callable[[dict[str, Any]], list[Any]],
          save: Path | None = None, what: str = "") -> int:
    from microtfm.bench import report, results

    if as_json:
        print(encoder.dumps(answer, ensure_ascii=False, indent=2))
    else:
        console = report.console()
        for table in [*report.of_place(answer), *tables(answer)]:
            console.print(table)
    if save is not None:
        results.write(save, what, answer)
    return 0
