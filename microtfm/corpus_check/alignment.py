"""Pairs that are no translations: a side of marks alone, lengths that do not fit, numbers of which none is shared,
words that never go together."""
from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from microtfm.corpus_check import Suspect
from microtfm.corpus_check.drift import Drift
from microtfm.corpus_check.letters import Measured, Side
from microtfm.corpus_check.lexicon import Lexicon
from microtfm.tokens import normalise

DEVIATIONS = 5.0                         # robust standard deviations of the logarithm of the lengths' ratio
NUMBER = re.compile(r"\d+(?:[.,]\d{3})*")
SENTENCE = 2                             # words from which on a side of marks alone does not translate the other
LEXICON = 500                            # pairs from which on words are compared


def suspects(sides: tuple[Side, Side], found_in: tuple[Measured, Measured], off: Sequence[Drift]) -> tuple[
        list[Suspect], str]:
    """Pairs that look misaligned, outside the stretches that are `off` as a whole, the worst first; and why none was
    judged by its words, or ""."""
    lengths = found_in[0].letters, found_in[1].letters
    inside = np.ones(len(lengths[0]), bool)
    for drift in off:
        inside[drift.first - 1:drift.last] = False
    judged = (lengths[0] > 0) & (lengths[1] > 0) & inside
    numbered = judged & (found_in[0].digits >= 2) & (found_in[1].digits >= 2)
    by_words, unjudged = _by_words(sides, judged)
    found = [*_by_marks(sides, found_in, inside), *_by_length(lengths, judged), *_by_numbers(sides, numbered),
             *by_words]
    merged: dict[int, Suspect] = {}
    for each in found:
        before = merged.get(each.line)
        merged[each.line] = each if before is None else Suspect(
            each.line, "both", f"{before.why}; {each.why}", before.weight + each.weight)
    return sorted(merged.values(), key=lambda each: (-each.weight, each.line)), unjudged


def _by_marks(sides: tuple[Side, Side], found_in: tuple[Measured, Measured], inside: NDArray[np.bool_]) -> list[
        Suspect]:
    found = []
    for name, side, own, other in (("source", sides[0], *found_in), ("target", sides[1], *found_in[::-1])):
        sentence = (other.words >= SENTENCE) & (other.letters > other.digits)
        for i in np.flatnonzero(inside & (own.letters == 0) & sentence).tolist():
            line = normalise(side.lines[i])
            if line and not any(map(str.isalnum, line)):          # a letter may be of a script that is not in the table
                why = f"only marks, where the other side has {other.words[i]:,} words"
                found.append(Suspect(i + 1, name, why, 2.0))
    return found


def _by_length(lengths: tuple[NDArray[np.int64], NDArray[np.int64]], judged: NDArray[np.bool_]) -> list[Suspect]:
    logs = np.log((lengths[1] + 3) / (lengths[0] + 3))
    if not judged.any():
        return []
    middle = float(np.median(logs[judged]))
    spread = max(1.4826 * float(np.median(np.abs(logs[judged] - middle))), 0.15)
    far = np.abs(logs - middle) / spread
    usual = np.exp([middle - DEVIATIONS * spread, middle + DEVIATIONS * spread])
    return [Suspect(int(i) + 1, "both", f"{lengths[0][i]:,} and {lengths[1][i]:,} letters, where the target usually "
                    f"has {usual[0]:.2g} to {usual[1]:.2g} times the source's", float(far[i] / DEVIATIONS))
            for i in np.flatnonzero(judged & (far > DEVIATIONS))]


def _by_numbers(sides: tuple[Side, Side], judged: NDArray[np.bool_]) -> list[Suspect]:
    found = []
    for i in np.flatnonzero(judged).tolist():
        left, right = (_numbers(side.lines[i]) for side in sides)
        if left and right and not left & right:
            found.append(Suspect(i + 1, "both", f"no number in common ({', '.join(sorted(left))} and "
                                                     f"{', '.join(sorted(right))})", 0.5))
    return found


def _numbers(line: str) -> set[str]:
    """The numbers of two and more digits."""
    found = {re.sub("[.,]", "", text) for text in NUMBER.findall(line)}
    return {text for text in found if len(text) > 1}


def _by_words(sides: tuple[Side, Side], judged: NDArray[np.bool_]) -> tuple[list[Suspect], str]:
    count = int(judged.sum())
    if count < LEXICON:
        return [], f"which words go together is learnt from {LEXICON} pairs on; pairs that can be compared: {count:,}"
    keep = np.flatnonzero(judged).tolist()
    lexicon = Lexicon(*([side.lines[i] for i in keep] for side in sides))
    if lexicon.threshold <= 0:
        return [], "the pairs differ too little, or their words repeat too seldom, to learn which words go together"
    found = []
    for left, right in zip(*sides, strict=True):
        scores = lexicon.scores(left, right)
        for i in np.flatnonzero(scores <= lexicon.threshold):
            if judged[left.first + i]:
                found.append(Suspect(left.first + int(i) + 1, "both", "words that hardly ever go together",
                                     1 - float(scores[i]) / lexicon.threshold))
    return found, ""
