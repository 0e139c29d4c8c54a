"""What is wrong with translations as a whole, in words: empty, all alike, copied, looping, too short or too long."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from microtfm.tokens import IS_WIDE, normalise

FEWEST = 10                              # translations from which anything can be said
LOOPS = 4                                # times that something stands in a row in a loop
LONGEST_LOOP = 6                         # tokens of what is repeated


@dataclass(frozen=True)
class Finding:
    """kind: empty, alike, copied, looping, short or long. text: what was seen, and what it usually comes from."""

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
    length = None if any(each is not None and each.kind in ("empty", "looping") for each in found) else _length(
        said, wanted)
    return [each for each in [*found, length] if each is not None]


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
    return None if share < max(0.2, 2 * usual) or len(set(asked)) < len(asked) / 2 else Finding("alike", (
        f"{share:.0%} of {len(said):,} translations are the same, \"{_short(text)}\": the model does not heed its "
        f"source. That is usual in the first validations; later it comes from a learning rate that is too high or a "
        f"warm-up that is too short (--train.lr, --train.warmup), from sources and targets that do not belong "
        f"together (microtfm data check), or from too little training."))


def _copied(asked: list[str], said: list[str], wanted: list[str]) -> Finding | None:
    same = [a == b and a != c for a, b, c in zip(asked, said, wanted, strict=True)]
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
    for size in range(1, LONGEST_LOOP + 1):
        run = 0
        for i in range(size, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - size] else 0
            if run >= size * (LOOPS - 1):
                return True
    return re.search(r"(.{2,12}?)\1{5,}", text) is not None


def _more(said: list[str], wanted: list[str], is_so: Callable[[str], bool]) -> float:
    """The share of translations that are so, less that of the references."""
    return (sum(map(is_so, said)) - sum(map(is_so, wanted))) / len(said)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
