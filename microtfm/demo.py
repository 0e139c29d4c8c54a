"""The demo: a translator from Chinese to English, trained on the package's own corpus in a minute or two."""
from __future__ import annotations

import contextlib
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from microtfm.progress import Report
from microtfm.run_folder import RunFolder, check_free, free_folder
from microtfm.settings import Settings

if TYPE_CHECKING:
    from microtfm.data import TextPair
    from microtfm.train import Result

FOLDER = Path("runs/demo")
VALID = 200                              # of the held-out sentences, those that choose the best model
RELATIVE = re.compile(r"\bthe \w+ that \w+")


def run(settings: Settings, report: Report, started: float) -> dict[str, object]:
    """Train, show, score, draw. Returns what there is to say, for --json."""
    from microtfm import toy
    from microtfm.place import choose, say_where
    from microtfm.train import train

    out = settings.out if settings.out is not None else free_folder(FOLDER)
    check_free(out, settings.force)
    settings = replace(settings, out=out)
    pairs, unseen = ([(a, b) for a, b in part] for part in toy.corpus(seed=settings.seed))
    valid, exam = unseen[:VALID], unseen[VALID:]
    say_where(settings.device, choose(settings.device)[1], report.placed)
    report.say("microtfm demo: a Transformer learns to translate Chinese into English, here and from nothing.", "bold")
    report.say(f"text    a small grammar wrote {len(pairs):,} sentence pairs to learn from, {len(valid)} to choose the "
               f"best model by, and {len(exam)} that nothing looks at before the exam:")
    for source, target in pairs[:3]:
        report.say(f"          {source}  =  {target}")
    return conclude(train(settings, report, (pairs, valid), started), exam, report, started)


def unseen(run: RunFolder) -> list[TextPair]:
    """The exam of a run that was begun by the demo; none of one that only has its settings."""
    from microtfm import toy
    from microtfm.data import read_parallel

    if run.settings.recipe != "demo" or run.settings.valid_src != run.path.absolute() / "valid.tsv":
        return []
    pairs = [(a, b) for a, b in toy.corpus(seed=run.settings.seed)[1]]
    return pairs[VALID:] if read_parallel(run.settings.valid_src).pairs == pairs[:VALID] else []


def conclude(result: Result, exam: list[TextPair], report: Report, started: float) -> dict[str, object]:
    """The exam of a demo that was not stopped. Returns what there is to say, for --json."""
    answer: dict[str, object] = {"folder": str(result.folder), "step": result.step, "reason": result.reason,
                                 "signal": result.signal}
    if result.signal is None and result.best:
        answer |= _exam(result, exam, report, started)
    return {**answer, "seconds": round(time.monotonic() - started, 1)}


def _exam(result: Result, exam: list[TextPair], report: Report, started: float) -> dict[str, object]:
    """Translate the unseen sentences with the best model; score them, draw one, and say what to do next."""
    from microtfm import atomic, evaluate, metrics
    from microtfm.attention_map import attention_svg
    from microtfm.metrics import Metrics
    from microtfm.translator import Translator

    folder, translator = RunFolder.open(result.folder), Translator.load(result.folder)
    atomic.write(folder.path / "exam.tsv", ["".join(f"{a}\t{b}\n" for a, b in exam).encode()])
    scores = evaluate.score(translator.translate([a for a, _ in exam]), [b for _, b in exam]).as_dict()
    if not any("best_step" in line and line["step"] == result.step for line in metrics.read(folder.metrics)):
        with contextlib.closing(Metrics(folder.metrics)) as file:
            file.write(step=result.step, best_step=result.best["step"], **scores,
                       seconds=round(time.monotonic() - started, 2))
    picture = folder.path / "attention.svg"
    sentence = _crossing(exam)
    attention_svg(*translator.attention(sentence), picture)
    report.say(f"exam    {scores['exact_match']:.1%} of {len(exam)} unseen sentences exactly right, "
               f"BLEU {scores['bleu']:.1f}", "bold")
    curves = f"{folder.curves} (learning curves), " if folder.curves.exists() else ""
    report.say(f"wrote   {curves}{picture} (where it looked while translating {sentence})")
    report.say(f'next    microtfm translate {folder.path} "{exam[0][0]}"')
    report.say("        microtfm train --src YOUR.zh --tgt YOUR.en --out runs/mine")
    return {**scores, "curves": str(folder.curves), "attention": str(picture)}


def _crossing(pairs: list[TextPair]) -> str:
    """A sentence with a relative clause, which stands before its noun in Chinese and behind it in English."""
    marked = [a for a, b in pairs if RELATIVE.search(b) and len(a) <= 16]
    return (marked or [a for a, _ in pairs])[0]
