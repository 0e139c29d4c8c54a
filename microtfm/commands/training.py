"""`microtfm demo`, `train` and `resume`."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microtfm.commands import STARTED
from microtfm.commands.options import Json, Quiet, show, use_threads
from microtfm.files import read_table
from microtfm.flags import flags, given
from microtfm.recipes import expanded, merged
from microtfm.settings import Settings

AllFlags: Any = flags(defaults=Settings())
ResumeFlags: Any = flags("device", "precision", "threads", "train")
DemoFlags: Any = flags("out", "seed", "device", "threads", "force", "model", "train", "tokens",
                       defaults=Settings(recipe="demo"),
                       out="Run folder. Unset: the first free one of runs/demo, runs/demo-2, ...")
UNSET = {"all": AllFlags(), "resume": ResumeFlags(), "demo": DemoFlags()}


def demo(*, settings: Annotated[DemoFlags, Parameter(name="*")] = UNSET["demo"], json: Json = False,
         quiet: Quiet = False) -> int:
    """See it work: learn to translate Chinese into English on a corpus of its own, in a minute or two.

    Every model, token and train setting can be changed from the line.
    """
    chosen = Settings.from_dict({"recipe": "demo", **given(settings)}, "")
    use_threads(chosen.threads)
    from microtfm import demo as shown
    from microtfm.progress import Report

    report = Report(sys.stderr if json else sys.stdout, quiet)
    answer = shown.run(chosen, report, STARTED)
    return _ended(answer, report, json)


def train(run_toml: Annotated[Path | None, Parameter(help="Settings file, such as a run's config.toml.")] = None,
          /, *, settings: Annotated[AllFlags, Parameter(name="*")] = UNSET["all"], json: Json = False,
          quiet: Quiet = False) -> int:
    """Train a translator from your own text: two files of equally many lines, or one of lines with source, tab, target.

    microtfm train --src my.zh --tgt my.en --out runs/mine
    """
    table = _settings_file(run_toml) if run_toml is not None else {}
    chosen = Settings.from_dict(merged(table, expanded(given(settings))), "")
    use_threads(chosen.threads)
    from microtfm import train as training
    from microtfm.progress import Report

    report = Report(sys.stderr if json else sys.stdout, quiet)
    return _trained(training.train(chosen, report, started=STARTED), report, json)


def resume(run: Annotated[Path, Parameter(help="Run folder.")], /, *,
           settings: Annotated[ResumeFlags, Parameter(name="*")] = UNSET["resume"], json: Json = False,
           quiet: Quiet = False) -> int:
    """Go on with a run that was stopped, exactly as if it had not been. Train settings may be changed, such as its end,
    and where it computes: checkpoints know no device.

    microtfm resume runs/mine --train.steps 20000
    """
    from microtfm.run_folder import RunFolder

    changes, found = given(settings), RunFolder.open(run)
    use_threads(Settings.from_dict(merged(found.settings.to_dict(), changes), "").threads)
    from microtfm import demo
    from microtfm import train as training
    from microtfm.progress import Report

    report, exam = Report(sys.stderr if json else sys.stdout, quiet), demo.unseen(found)
    result = training.resume(run, report, STARTED, changes.get("train"), changes.get("device"),
                             changes.get("precision"))
    return _ended(demo.conclude(result, exam, report, STARTED), report, json) if exam else _trained(
        result, report, json)


def _settings_file(path: Path) -> dict[str, Any]:
    table = read_table(path)
    if "run" in table and isinstance(table.get("tokens"), dict):
        table["tokens"].pop("piece_length", None)        # it was measured on that run's text
    for name in ("format_version", "run"):               # config.toml of a run is a settings file too
        table.pop(name, None)
    Settings.from_dict(table, str(path))
    return table


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
        show(answer, lambda answer: "", True)
    if answer["signal"] is None:
        return 0
    report.say(f"Stopped at step {answer['step']:,} and saved. Go on with: microtfm resume {answer['folder']}", "bold")
    return 128 + int(answer["signal"])
