"""What is wrong with translations as a whole, in words: empty, all alike, copied, looping, too short or too long."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from microtfm.tokens import IS_WIDE, normalise

FEWEST = 10                              # translations from which anything can be said
LOOPS = 4                                # times that something stands in a row in a loop
LONGEST_LOOP = 20                        # tokens of what is repeated
FEW = 0.25                               # different translations, beside different sources and references
CUT = 0.9                                # letters of a source that a copy has at least, from its beginning


@dataclass(frozen=True)
class Finding:
    """kind: empty, alike, copied, looping, short or long; of a run, diverged. text: what was seen, and what it usually
    comes from."""

    kind: str
    text: str


def diagnose(sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> list[Finding]:
    """What stands out in the translations of many sentences, where their references are not the same way."""
    kept = [(normalise(a).lower(), normalise(b).lower(), normalise(c).lower())
            for a, b, c in zip(sources, translations, references, strict=True) if a.strip()]
    if len(kept) < FEWEST:
        return []
    asked, said, wanted = (list(column) for column in zip(*kept, strict=True))
    found = [check(asked, said, wanted) for check in (_empty, _alike, _copied, _looping)]
    wrong = [each for each in found if each is not None]
    length = _length(said, wanted) if not wrong else None       # of what is wrong otherwise it tells nothing more
    return [*wrong, *([length] if length is not None else [])]


def _empty(asked: list[str], said: list[str], wanted: list[str]) -> Finding | None:
    share = _more(said, wanted, lambda text: not text)
    return None if share < 0.05 else Finding("empty", (
        f"{share:.0%} of {len(said):,} translations are empty: the model ends them at once. That is usual in the first "
        f"validations; later it comes from empty or misaligned lines in the training text (microtfm data check), or "
        f"from a beam search with --length-penalty 0."))


def _alike(asked: list[str], said: list[str], wanted: list[str]) -> Finding | None:
    (text, count), = Counter(filter(None, said)).most_common(1) or [("", 0)]
    share = count / len(said)
    usual = max(Counter(wanted).values()) / len(wanted)
    same = share >= max(0.2, 2 * usual) and len(set(asked)) >= len(asked) / 2
    few = _variety(said) < FEW * min(_variety(asked), _variety(wanted))
    if not same and not few:
        return None
    seen = (f"{share:.0%} of {len(said):,} translations are the same, \"{_short(text)}\"" if same else
            f"{len(said):,} translations are only {len(set(filter(None, said))):,} different ones, such as "
            f"\"{_short(text)}\"")
    return Finding("alike", (
        f"{seen}: the model does not heed its source. That is usual in the first validations; later it comes from a "
        f"learning rate that is too high or a warm-up that is too short (--train.lr, --train.warmup), from sources and "
        f"targets that do not belong together (microtfm data check), or from too little training."))


def _copied(asked: list[str], said: list[str], wanted: list[str]) -> Finding | None:
    same = [_is_copy(b, a) and not _is_copy(c, a) for a, b, c in zip(asked, said, wanted, strict=True)]
    share = sum(same) / len(same)
    return None if share < 0.1 else Finding("copied", (
        f"{share:.0%} of {len(said):,} translations are their source, copied: usually the training text has lines that "
        f"are the same on both sides, or source and target files were given the same (microtfm data check)."))


def _looping(asked: list[str], said: list[str], wanted: list[str]) -> Finding | None:
    share = _more(said, wanted, loops)
    shown = next((text for text in said if loops(text)), "")
    return None if share < 0.05 else Finding("looping", (
        f"{share:.0%} of {len(said):,} translations go round in a loop, as in \"{_short(shown)}\": usual while a model "
        f"has seen little; later it comes from sentences longer than those of the training text, from too little "
        f"training, or from a model that is too small for its text. A beam search loops less: --beam 5."))


def _length(said: list[str], wanted: list[str]) -> Finding | None:
    ratio = sum(map(len, said)) / max(sum(map(len, wanted)), 1)
    if 0.6 <= ratio <= 1.5:
        return None
    short = ratio < 0.6
    return Finding("short" if short else "long", (
        f"The translations are {ratio:.2f} times as long as their references: "
        + ("usually too little training, a --length-penalty that is too small for the beam, or training pairs whose "
           "target is cut." if short else "usually too little training, or a --length-penalty that is too large.")))


def loops(text: str) -> bool:
    """Whether the text says the same few words, or characters where it has no spaces, again and again in a row."""
    tokens = [token for word in text.split() for token in (list(word) if IS_WIDE.match(word) else [word])]
    for size in range(1, min(LONGEST_LOOP, len(tokens) // LOOPS) + 1):
        run = 0
        for i in range(size, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - size] else 0
            if run >= size * (LOOPS - 1):
                return True
    return re.search(r"(.{2,12}?)\1{5,}", text) is not None


def _is_copy(text: str, source: str) -> bool:
    """Whether a text is the source but for punctuation, spaces and a few letters, or one, that are missing at its end.

    A source without letters is copied by the very same only.
    """
    own, given = ("".join(filter(str.isalnum, each)) for each in (text, source))
    if not given:
        return text == source
    return given.startswith(own) and len(own) >= min(CUT * len(given), len(given) - 1) and len(own) > len(given) / 2


def _variety(texts: list[str]) -> float:
    """The share of the texts that are different, the empty ones aside; 1 of too few."""
    full = list(filter(None, texts))
    return len(set(full)) / len(full) if len(full) >= FEWEST else 1.0


def _more(said: list[str], wanted: list[str], is_so: Callable[[str], bool]) -> float:
    """The share of translations that are so, less that of the references."""
    return (sum(map(is_so, said)) - sum(map(is_so, wanted))) / len(said)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
