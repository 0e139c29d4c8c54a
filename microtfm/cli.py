"""The command `microtfm`. Everything heavy is imported where it is needed, so that help comes at once."""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from microtfm.errors import UserError
from microtfm.flags import flags, given, merged
from microtfm.settings import Settings, read_table

STARTED = time.monotonic()
AllFlags: Any = flags("src", "tgt", "valid_src", "valid_tgt", "out", "init", "seed", "device", "threads", "force",
                      "model", "train", "tokens", defaults=Settings())
ResumeFlags: Any = flags("threads", "train")
DEMO: dict[str, Any] = {                 # what the demo sets differently
    "model": {"d_model": 64, "layers": 2, "dropout": 0.0, "tie": "output"},
    "tokens": {"kind": "word", "size": 2000, "joint": False},
    "train": {"steps": 1200, "batch_tokens": 1600, "lr": 0.004, "warmup": 150, "validate_every": 200},
}
DemoFlags: Any = flags("out", "seed", "device", "threads", "force", "model", "train", "tokens",
                       defaults=Settings.from_dict(DEMO),
                       out="Run folder. Unset: the first free one of runs/demo, runs/demo-2, ...")
UNSET = {"all": AllFlags(), "resume": ResumeFlags(), "demo": DemoFlags()}


def _version() -> str:
    try:
        return metadata.version("microtfm")
    except metadata.PackageNotFoundError:
        from microtfm import __version__
        return __version__


app = App(name="microtfm", help="A Transformer you can take apart, and a translator trained from your own text.",
          version=_version, help_format="plaintext")
Json = Annotated[bool, Parameter(negative=(), help="One JSON object on standard output, all else on standard error.")]
Threads = Annotated[int | None, Parameter(help="Processor threads. The result does not depend on it. [default: all]")]
Beam = Annotated[int, Parameter(help="Hypotheses kept side by side; 1 is greedy search.")]
Penalty = Annotated[float, Parameter(help="A: hypotheses compare by log-probability / length^A.")]


@app.command
def demo(*, settings: Annotated[DemoFlags, Parameter(name="*")] = UNSET["demo"], json: Json = False) -> int:
    """See it work: learn to translate Chinese into English on a corpus of its own, in a minute or two.

    Every model, token and train setting can be changed from the line.
    """
    table = merged(DEMO, given(settings))
    chosen = Settings.from_dict(table, "")
    _use_threads(chosen.threads)
    from microtfm import demo as shown
    from microtfm.progress import Report

    report = Report(sys.stderr if json else sys.stdout)
    answer = shown.run(chosen, report, STARTED)
    return _ended(answer, report, json)


@app.command
def train(run_toml: Annotated[Path | None, Parameter(help="Settings file, such as a run's config.toml.")] = None,
          /, *, settings: Annotated[AllFlags, Parameter(name="*")] = UNSET["all"], json: Json = False) -> int:
    """Train a translator from your own text: two files of equally many lines, or one of lines with source, tab, target.

    microtfm train --src my.zh --tgt my.en --out runs/mine
    """
    table = _settings_file(run_toml) if run_toml is not None else {}
    chosen = Settings.from_dict(merged(table, given(settings)), "")
    _use_threads(chosen.threads)
    from microtfm import train as training
    from microtfm.progress import Report

    report = Report(sys.stderr if json else sys.stdout)
    return _trained(training.train(chosen, report, started=STARTED), report, json)


@app.command
def resume(run: Annotated[Path, Parameter(help="Run folder.")], /, *,
           settings: Annotated[ResumeFlags, Parameter(name="*")] = UNSET["resume"], json: Json = False) -> int:
    """Go on with a run that was stopped, exactly as if it had not been. Train settings may be changed, such as its end.

    microtfm resume runs/mine --train.steps 20000
    """
    from microtfm.run_folder import RunFolder

    changes = given(settings)
    before = RunFolder.open(run).settings
    table = merged(before.to_dict(), changes)
    chosen = Settings.from_dict(table, "")
    _use_threads(chosen.threads)
    from microtfm import train as training
    from microtfm.progress import Report

    report = Report(sys.stderr if json else sys.stdout)
    return _trained(training.resume(run, report, STARTED, chosen.train), report, json)


@app.command
def translate(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /,
              *text: Annotated[str, Parameter(help="Sentences. Without any: a file, standard input, or a prompt.")],
              file: Annotated[Path | None, Parameter(help="Translate this file line by line.")] = None,
              beam: Beam = 1, length_penalty: Penalty = 1.0, threads: Threads = None,
              show: Annotated[Literal["attention", "beam"] | None, Parameter(
                  help="Draw how one sentence came about: every head's attention, or the beam as a tree.")] = None,
              out: Annotated[Path | None, Parameter(name=["--out", "-o"], help=(
                  "The picture's file, .svg or .html. [default: in the run folder]"))] = None) -> int:
    """Translate sentences, a file, standard input line by line, or what you type at a prompt."""
    _check_search(beam, length_penalty)
    if text and file is not None:
        raise UserError("Give sentences or --file, not both.")
    _use_threads(threads)
    if show is not None:
        from microtfm import showing

        return showing.show(run, list(text), show, beam, length_penalty, out)
    from microtfm import prompt

    return prompt.translate(run, list(text), file, beam, length_penalty)


@app.command
def evaluate(run: Annotated[Path, Parameter(help="Run folder of a trained model.")], /, *,
             src: Annotated[Path | None, Parameter(
                 help="Text to translate, or a TSV of source and target. Unset: the run's validation text.")] = None,
             tgt: Annotated[Path | None, Parameter(help="Its reference translations, line by line.")] = None,
             beam: Beam = 1, length_penalty: Penalty = 1.0,
             lowercase: Annotated[bool, Parameter(negative=(), help="Ignore case.")] = False,
             worst: Annotated[int, Parameter(help="Show this many of the worst translations.")] = 5,
             threads: Threads = None, json: Json = False) -> int:
    """Score a model on sentence pairs: BLEU, chrF (with sacrebleu's signatures) and exact matches."""
    _check_search(beam, length_penalty)
    _use_threads(threads)
    from microtfm import examination

    answer = examination.examine(run, src, tgt, beam, length_penalty, lowercase, max(worst, 0))
    _print(answer, examination.as_text, json)
    return 0


@app.command
def info(run: Annotated[Path, Parameter(help="Run folder.")], /, *, json: Json = False) -> int:
    """What a run folder holds: settings, parameters by part, vocabulary, steps, scores, versions."""
    from microtfm import inspection

    _print(inspection.inspect(run), inspection.as_text, json)
    return 0


@app.command
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
          threads: Threads = None) -> int:
    """Draw a training step of the model from the running code. Nothing is computed unless --run is given.

    microtfm graph --size base --backward -o base.html
    """
    _use_threads(threads)
    from microtfm import drawing

    return drawing.draw(run, size, backward=backward, depth=depth, open_=open or [], level=level, inside=inside,
                        unfused=unfused, real=real, out=out)


app.command("microtfm.bench.commands:app", name="bench",
            help="How fast it is, beside NumPy, PyTorch and JAX, and where the time goes.")


def _settings_file(path: Path) -> dict[str, Any]:
    table = read_table(path)
    for name in ("format_version", "run"):               # config.toml of a run is a settings file too
        table.pop(name, None)
    Settings.from_dict(table, str(path))
    return table


def _check_search(beam: int, length_penalty: float) -> None:
    if beam < 1:
        raise UserError(f"--beam {beam} must be 1 or more.")
    if not 0 <= length_penalty < 100:
        raise UserError(f"--length-penalty {length_penalty} must be 0 or more, and usually about 1.")


def _use_threads(threads: int | None) -> None:
    """Say how many threads are wanted before the engine, which reads it once, is loaded."""
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads {threads} must be 1 or more.")
    os.environ["NUMBA_NUM_THREADS"] = str(threads)


def _trained(result: Any, report: Any, json: bool) -> int:
    answer = {"folder": str(result.folder), "step": result.step, "reason": result.reason, "signal": result.signal,
              "seconds": round(result.seconds, 1), "best": result.best}
    if result.signal is None and result.best:
        best = result.best
        report.say(f"best    step {best['step']:,}: BLEU {best['bleu']:.1f}  chrF {best['chrf']:.1f}  loss "
                   f"{best['valid_loss']:.3f}  ({best['bleu_signature']})", "bold")
        report.say(f"next    microtfm translate {result.folder}")
    return _ended(answer, report, json)


def _ended(answer: dict[str, Any], report: Any, json: bool) -> int:
    if json:
        _print(answer, lambda answer: "", True)
    if answer["signal"] is None:
        return 0
    report.say(f"Stopped at step {answer['step']:,} and saved. Go on with: microtfm resume {answer['folder']}", "bold")
    return 128 + int(answer["signal"])


def _print(answer: dict[str, Any], as_text: Callable[[dict[str, Any]], str], as_json: bool) -> None:
    print(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else as_text(answer))


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """`microtfm translate ... | head` ends without a complaint."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0; 2 for what a person can put right; 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "encoding", "utf-8").lower().replace("-", "") != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")
    try:
        with _quiet_pipe():
            return int(app(argv, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except CycloptsError as error:
        return _complain(str(error))
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("Stopped at once. What was saved before is whole.")
        return 130
    except MemoryError:
        return _complain("There was not enough memory. Try a smaller --train.batch-tokens, with --train.accumulate to "
                         "make up for it, or shorter sentences: --tokens.max-length.")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}.")
    except Exception as error:
        engine = sys.modules.get("engine")
        if engine is not None and isinstance(error, engine.EngineError):
            return _complain(str(error))
        raise
    return 0


def _complain(text: str) -> int:
    print(f"microtfm: {' '.join(text.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
