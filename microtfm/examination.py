"""`microtfm evaluate`: a model's scores on sentence pairs, and its worst translations."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from microtfm import data
from microtfm import evaluate as scoring
from microtfm.data import Corpus
from microtfm.errors import UserError
from microtfm.run_folder import RunFolder
from microtfm.translator import Translator


def examine(folder: Path, src: Path | None, tgt: Path | None, beam: int, length_penalty: float, lowercase: bool,
            worst: int) -> dict[str, Any]:
    """Scores, signatures, speed, notices and the worst sentences, as plain values."""
    if src is None and tgt is not None:
        raise UserError("--tgt was given without --src. Give both files, or one TSV file as --src.")
    corpus, name = _text(RunFolder.open(folder), src, tgt)
    translator = Translator.load(folder)
    sources, references = [a for a, _ in corpus.pairs], [b for _, b in corpus.pairs]
    began = time.monotonic()
    translations = translator.translate(sources, beam, length_penalty)
    seconds = time.monotonic() - began
    scores = scoring.score(translations, references, lowercase=lowercase)
    return {
        "folder": str(folder), "text": name, **scores.as_dict(), "beam": beam, "length_penalty": length_penalty,
        "sentences_per_s": round(len(sources) / max(seconds, 1e-9), 2),
        "notices": [*corpus.report, *translator.notices],
        "worst": [{"source": sources[each.index], "translation": each.translation, "reference": each.reference,
                   "chrf": round(each.chrf, 1)} for each in scoring.worst(translations, references, worst)],
    }


def _text(run: RunFolder, src: Path | None, tgt: Path | None) -> tuple[Corpus, str]:
    if src is not None:
        return data.read_parallel(src, tgt), str(src)
    if run.settings.valid_src is not None:
        return data.read_parallel(run.settings.valid_src, run.settings.valid_tgt), str(run.settings.valid_src)
    return data.read_parallel(run.held_out), str(run.held_out)


def as_text(answer: dict[str, Any]) -> str:
    """The same for a person."""
    search = "greedy" if answer["beam"] == 1 else f"beam {answer['beam']}, length penalty {answer['length_penalty']:g}"
    lines = [f"note    {notice}" for notice in answer["notices"]]
    lines += [
        f"text    {answer['text']}: {answer['sentences']:,} sentences, {search}, "
        f"{answer['sentences_per_s']:,.1f} sentences/s",
        f"BLEU    {answer['bleu']:.2f}   {answer['bleu_signature']}",
        f"chrF    {answer['chrf']:.2f}   {answer['chrf_signature']}",
        f"exact   {answer['exact_match']:.1%}",
    ]
    if answer["worst"]:
        lines.append("worst")
    for each in answer["worst"]:
        lines += [f"  {each['chrf']:5.1f}  {each['source']}", f"     said  {each['translation']}",
                  f"   wanted  {each['reference']}"]
    return "\n".join(lines)
