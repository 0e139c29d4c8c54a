"""Which languages a run translates between, as far as its text and its files' names tell."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from microtfm import data, evaluate, scripts
from microtfm.errors import UserError
from microtfm.run_folder import RunFolder

NAMES = {"zh": "Chinese", "en": "English", "de": "German", "fr": "French", "ja": "Japanese", "ko": "Korean",
         "es": "Spanish", "it": "Italian", "pt": "Portuguese", "nl": "Dutch", "ru": "Russian", "ar": "Arabic",
         "pl": "Polish", "cs": "Czech", "tr": "Turkish", "vi": "Vietnamese", "und": "unknown"}
UNKNOWN = "und"
CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
MARKS = {code: frozenset(words.split()) for code, words in {         # frequent words of languages of one script
    "en": "the is a i you he to of and my", "de": "der die das ist ich und nicht ein zu sie",
    "fr": "le la les est je de et un une il", "es": "el la los es yo de y un una que",
    "it": "il la è io di e un una che non", "pt": "o a os é eu de e um uma que",
    "nl": "de het een is ik en niet van"}.items()}
LOOKED_AT = 500                          # sentences
OF_SCRIPT = {"Han": "zh", "Kana": "ja", "Hangul": "ko"}
KANA = 0.1                               # for each Chinese character, from where it is Japanese
FREQUENT, AHEAD = 0.05, 1.5              # frequent words among all, and beside the next language's, where it is clear
TELLING, STRAY = 0.02, 0.005             # words of one language and not of another: at least there, at most here
FEWEST = 100                             # words, or Chinese characters and kana, from which they tell anything


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
    words = _words(texts)
    counts = {code: sum(word in marks for word in words) for code, marks in MARKS.items()}
    found = sorted((code for code in counts if counts[code] > len(words) / 50), key=lambda code: -counts[code])
    total = sum(counts[code] for code in found)
    return [(code, counts[code] / total) for code in found] or [(UNKNOWN, 0.0)]


def looks(texts: Sequence[str]) -> str:
    """What some sentences look like, in words: a language, or else the letters that most of them are written in."""
    found = sum(map(scripts.counts, texts), Counter[str]())
    if not found:
        return "no language"
    script = found.most_common(1)[0][0]
    if script == "Han" and found["Kana"] > KANA * found["Han"]:
        script = "Kana"
    code = OF_SCRIPT.get(script) or (_clear(texts) if script == "Latin" else None)
    return NAMES[code] if code else f"{script} letters"


def another(texts: Sequence[str], known: Sequence[str]) -> bool:
    """Whether some sentences are surely in another language than others are: most of them in a script that those do
    not have, with kana or without, or in different ones of the languages whose frequent words are known. Doubt is no.
    """
    own = scripts.own(known)
    lines = [line for line in texts if scripts.counts(line)]
    if not own or not lines:
        return False
    if 2 * sum(scripts.foreign(line, own) is not None for line in lines) > len(lines):
        return True
    if own <= {"Han", "Kana"}:
        enough = sum(scripts.counts(line).total() for line in lines) >= FEWEST
        return enough and {looks(lines), looks(known)} == {NAMES["zh"], NAMES["ja"]}
    if own != {"Latin"}:
        return False
    one, other = _clear(texts), _clear(known)
    return one is not None and other is not None and one != other and (
        _told(texts, one, other) > TELLING and _told(known, one, other) < STRAY)


def _clear(texts: Sequence[str]) -> str | None:
    """The language of sentences in Latin letters, where their frequent words leave no doubt."""
    words = _words(texts)
    if len(words) < FEWEST:
        return None
    (most, code), (second, _) = sorted(((sum(word in marks for word in words), code)
                                        for code, marks in MARKS.items()), reverse=True)[:2]
    return code if most > FREQUENT * len(words) and most > AHEAD * second else None


def _told(texts: Sequence[str], one: str, other: str) -> float:
    """The share of the words that are frequent in one language and not in another; single letters are in too many."""
    marks = {word for word in MARKS[one] if len(word) > 1} - MARKS[other]
    words = _words(texts)
    return sum(word in marks for word in words) / max(len(words), 1)


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())]


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
