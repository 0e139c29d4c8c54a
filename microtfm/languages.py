"""Which languages a run translates between, as far as its text and its files' names tell."""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from microtfm import data, evaluate
from microtfm.errors import UserError
from microtfm.run_folder import RunFolder

NAMES = {"zh": "Chinese", "en": "English", "de": "German", "fr": "French", "ja": "Japanese", "ko": "Korean",
         "es": "Spanish", "it": "Italian", "pt": "Portuguese", "nl": "Dutch", "ru": "Russian", "ar": "Arabic",
         "pl": "Polish", "cs": "Czech", "tr": "Turkish", "vi": "Vietnamese", "und": "unknown"}
UNKNOWN = "und"
CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
MARKS = {                                # frequent words of languages that share a script
    "en": "the is a i you he to of and my", "de": "der die das ist ich und nicht ein zu sie",
    "fr": "le la les est je de et un une il", "es": "el la los es yo de y un una que",
    "it": "il la è io di e un una che non", "pt": "o a os é eu de e um uma que", "nl": "de het een is ik en niet van"}
LOOKED_AT = 500                          # sentences


def of_run(folder: Path, source: str | None, target: str | None) -> tuple[str, str]:
    """The codes of a run's languages: those that are given, else what its validation text looks like, else "und".

    Raises UserError for a code that is none.
    """
    for flag, code in (("--source", source), ("--target", target)):
        if code is not None and not CODE.fullmatch(code):
            raise UserError(f"{flag} {code}: a language is written as a code such as en, zh or pt-BR.")
    if source is not None and target is not None:
        return source, target
    pairs = _texts(folder)
    return source or guess([a for a, _ in pairs]), target or guess([b for _, b in pairs])


def guess(texts: Sequence[str]) -> str:
    """The code of the language of some sentences, or "und"."""
    return shares(texts)[0][0]


def shares(texts: Sequence[str]) -> list[tuple[str, float]]:
    """The languages that some sentences may be in, and how much speaks for each, 0 to 1: the likeliest first.

    The script decides where it can, otherwise frequent words of a few languages; "und" where too few are there.
    """
    code = evaluate.language(texts) if texts else ""
    if code:
        return [(code, 1.0)]
    words = [word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())]
    counts = {code: sum(word in marks.split() for word in words) for code, marks in MARKS.items()}
    found = sorted((code for code in counts if counts[code] > len(words) / 50), key=lambda code: -counts[code])
    total = sum(counts[code] for code in found)
    return [(code, counts[code] / total) for code in found] or [(UNKNOWN, 0.0)]


def _texts(folder: Path) -> list[tuple[str, str]]:
    """Some of a run's validation pairs; none for an exported model, or where the file has gone."""
    if folder.is_file():
        return []
    run = RunFolder.open(folder)
    paths = [(run.held_out, None)] if run.settings.valid_src is None else [(run.settings.valid_src,
                                                                            run.settings.valid_tgt)]
    try:
        return data.read_parallel(*paths[0]).pairs[:LOOKED_AT]
    except UserError:
        return []
