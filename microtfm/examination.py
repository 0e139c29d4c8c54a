"""`microtfm evaluate` and `score`: how good a model's translations are, and how good it finds others."""
from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from microtfm import data, foreign
from microtfm import evaluate as scoring
from microtfm.data import Corpus
from microtfm.diagnosis import diagnose
from microtfm.errors import UserError
from microtfm.files import PathLike
from microtfm.foreign import Sides
from microtfm.run_folder import RunFolder
from microtfm.translator import Translator


def examine(folder: PathLike, src: PathLike | None = None, tgt: PathLike | None = None, *, beam: int | None = None,
            length_penalty: float | None = None, lowercase: bool = False, tokenise: str | None = None, worst: int = 5,
            place: str | None = None, begin: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Scores, signatures, speed, notices and the worst sentences, as plain values.

    src, tgt: a text and its references, or one TSV file; unset: the run's validation text. lowercase, tokenise: see
    `evaluate.score`. place: what the answer says of the device; unset: its name. begin: called when text and model are
    there. Raises UserError for what is no run or no text, and for an unknown tokeniser.
    """
    if src is None and tgt is not None:
        raise UserError("--tgt was given without --src. Give both files, or one TSV file as --src.")
    if tokenise is not None:
        scoring.check_tokeniser(tokenise)
    run = RunFolder.open(folder)
    corpus, name = _text(run, src, tgt)
    translator = Translator.load(folder)
    begin()
    translator.run = None                # the diagnosis says more of a foreign text than a notice
    sources, references = [a for a, _ in corpus.pairs], [b for _, b in corpus.pairs]
    began = time.monotonic()
    beam, length_penalty = translator.search(beam, length_penalty)
    translations = translator.translate(sources, beam, length_penalty)
    seconds = time.monotonic() - began
    scores = scoring.score(translations, references, lowercase=lowercase, tokenise=tokenise)
    return {
        "folder": str(folder), "text": name, "device": place or translator.model.device, **scores.as_dict(),
        "beam": beam, "length_penalty": length_penalty,
        "sentences_per_s": round(len(sources) / max(seconds, 1e-9), 2),
        "notices": [*corpus.report, *translator.notices],
        "diagnosis": _diagnosis(run, corpus, translations),
        "worst": [{"source": sources[each.index], "translation": each.translation, "reference": each.reference,
                   "chrf": round(each.chrf, 1)} for each in scoring.worst(translations, references, worst)],
    }


def _diagnosis(run: RunFolder, corpus: Corpus, translations: list[str]) -> list[str]:
    """What stands out in the translations; of text in other languages than the run's nothing but that."""
    known = foreign.learnt(run)
    odd = foreign.differences(known, Sides.of(corpus.pairs), "this text") if known is not None else None
    if odd is not None:
        return [odd]
    sources, references = ([pair[side] for pair in corpus.pairs] for side in (0, 1))
    return [finding.text for finding in diagnose(sources, translations, references)]


def _text(run: RunFolder, src: PathLike | None, tgt: PathLike | None) -> tuple[Corpus, str]:
    if src is not None:
        return data.read_parallel(src, tgt, purpose="evaluate"), str(src)
    if run.settings.valid_src is not None:
        corpus = data.read_parallel(run.settings.valid_src, run.settings.valid_tgt, purpose="evaluate",
                                    other="--valid-tgt")
        return corpus, str(run.settings.valid_src)
    return data.read_parallel(run.held_out, purpose="evaluate"), str(run.held_out)


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
    lines += [f"look    {text}" for text in answer["diagnosis"]]
    if answer["worst"]:
        lines.append("worst")
    for each in answer["worst"]:
        lines += [f"  {each['chrf']:5.1f}  {each['source']}", f"     said  {each['translation']}",
                  f"   wanted  {each['reference']}"]
    return "\n".join(lines)


def probe(folder: PathLike, src: PathLike, tgt: PathLike | None = None, place: str | None = None,
          begin: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Log-probabilities of given translations, line by line, and of all of them. place, begin: see `examine`."""
    corpus = data.read_parallel(src, tgt, purpose="score")
    sources, targets = [a for a, _ in corpus.pairs], [b for _, b in corpus.pairs]
    translator = Translator.load(folder)
    begin()
    scores, whole = translator.score(sources, targets), translator.in_pieces(sources)
    notices = [] if not whole else [f"{whole:,} of {len(sources):,} sources would be translated in pieces, cut where "
                                    f"sentences end; they are scored whole, which such a model finds improbable."]
    total, count = sum(each.log_probability for each in scores), sum(len(each.tokens) for each in scores)
    return {
        "folder": str(folder), "text": str(src), "device": place or translator.model.device,
        "sentences": len(scores), "tokens": count,
        "log_probability": total, "perplexity": math.exp(min(-total / count, 700)),
        "notices": [*corpus.report, *notices],
        "scores": [{"line": number, "source": a, "target": b, "log_probability": each.log_probability,
                    "tokens": [{"token": token, "log_probability": p}
                               for token, p in zip(each.tokens, each.log_probabilities, strict=True)]}
                   for number, a, b, each in zip(corpus.numbers, sources, targets, scores, strict=True)],
    }


def probed(answer: dict[str, Any], tokens: bool) -> str:
    """The same for a person: a line each with its number, the sum, the mean over tokens, and the translation."""
    lines = [f"note    {notice}" for notice in answer["notices"]]
    for each in answer["scores"]:
        total = each["log_probability"]
        lines.append(f"{each['line']:5} {total:9.3f}  {total / len(each['tokens']):7.3f}  {each['target']}")
        if tokens:
            lines.append("    " + "  ".join(f"{one['token']} {one['log_probability']:.3f}" for one in each["tokens"]))
    lines.append(f"all     {answer['sentences']:,} sentences, {answer['tokens']:,} tokens: log-probability "
                 f"{answer['log_probability']:.3f}, perplexity {answer['perplexity']:.3f}")
    return "\n".join(lines)
