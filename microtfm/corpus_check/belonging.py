"""Whether two files belong together line by line: their pairs must agree in more than pairs put together at random.

The lengths of translations rise and fall together; where they do not, the pairs get another chance: words and numbers
that stand on both sides, and words that go together throughout the corpus.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtfm.corpus_check.drift import relative
from microtfm.corpus_check.letters import Measured, Side
from microtfm.corpus_check.lexicon import Lexicon
from microtfm.data import shuffled

FEWEST = 50                              # pairs that are judged
WORDS = 3                                # words of a usual line of sentences; single words may be as long as they like
LEAST, DEVIATIONS = 0.1, 2.0             # a correlation of lengths up to that, and so many standard errors, is chance
SAMPLE = 2000                            # pairs whose words are compared as text
LEARNT = 10_000                          # pairs that a lexicon for this question is learnt from and tried on
REVERSED = 0.6                           # correlation with the other side read from its end that tells what is wrong
BETTER = 0.6                             # share of pairs that fit better than at random, from which on words agree
WORD = re.compile(r"[^\W_]{2,}")


@dataclass(frozen=True)
class Judgement:
    """Whether pairs belong together: None where that cannot be told."""

    together: bool | None
    why: str                             # a clause; where they do not, and what to do


def judge(sides: tuple[Side, Side], found: tuple[Measured, Measured], lexicon_from: int) -> Judgement:
    """Whether the lines of two sides, of equally many lines, translate each other by and large.

    lexicon_from: pairs from which on words can be compared by what the corpus teaches of them.
    """
    filled = (found[0].letters > 0) & (found[1].letters > 0)
    count = int(filled.sum())
    if count < FEWEST:
        return Judgement(None, f"pairs with letters on both sides: {count:,}, and {FEWEST} are needed")
    if min(np.median(each.words[filled]) for each in found) < WORDS:
        return Judgement(None, f"most lines of a side have fewer than {WORDS} words")
    x, y = (relative(each.letters[filled]) for each in found)
    even = [not each.any() for each in (x, y)]
    if all(even) or (any(even) and count < lexicon_from):
        return Judgement(None, "the lines of a side are all about as long as those around them")
    lengths = correlation(x, y)
    if lengths > chance(count):
        return Judgement(True, "")
    left, right = ([side.lines[i] for i in np.flatnonzero(filled).tolist()] for side in sides)
    if _share_words(left, right) or (count >= lexicon_from and _words_agree(left, right)):
        return Judgement(True, "")
    if any(even):
        return Judgement(False, "the lines of one side are all about as long as those around them, as if it were "
                                "sorted by length, those of the other are not, nor do their words agree. Look whether "
                                "one of them was sorted.")
    backwards = correlation(x, y[::-1])
    advice = (f"One is in reverse order: read from its end, its lengths fit (correlation {backwards:.2f})."
              if backwards > max(REVERSED, chance(count)) else
              "Look whether both are of the same text, and whether one of them was sorted or shuffled.")
    return Judgement(False, f"the lengths of their lines rise and fall together no more than at random (correlation "
                            f"{round(lengths, 2) + 0.0:.2f}; in translations 0.5 to 0.9), nor do their words agree. "
                            f"{advice}")


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The correlation of two lists of `relative` lengths, (N,) each."""
    return float((x * y).sum() / max(np.sqrt((x * x).sum() * (y * y).sum()), 1e-9))


def chance(count: int) -> float:
    """The most that lengths of so many lines that have nothing to do with each other are likely to correlate."""
    return LEAST + DEVIATIONS / np.sqrt(count)


def _share_words(left: list[str], right: list[str]) -> bool:
    """Whether a pair has more words, names and numbers in common than a pair at random, clearly."""
    step = -(-len(left) // SAMPLE)
    words = [[set(WORD.findall(line.casefold())) for line in side[::step]] for side in (left, right)]
    other = shuffled(len(words[0]), 0)
    own = np.array([len(a & b) for a, b in zip(*words, strict=True)])
    random = np.array([len(a & words[1][i]) for a, i in zip(words[0], other, strict=True)])
    gain = own - random
    return bool(own.mean() > 2 * random.mean() and gain.mean() > 4 * gain.std() / np.sqrt(len(gain)) > 0)


def _words_agree(left: list[str], right: list[str]) -> bool:
    """Whether words that go together in every other pair do so in the rest, too, more than at random."""
    step = -(-len(left) // LEARNT)
    left, right = left[::step], right[::step]
    lexicon = Lexicon(left[::2], right[::2])
    sides = Side(left[1::2]), Side(right[1::2])
    ids = [np.concatenate([vocabulary.ids(block) for block in side])
           for vocabulary, side in zip(lexicon.vocabularies, sides, strict=True)]
    own, random = lexicon.compare(*ids), lexicon.compare(ids[0], ids[1][shuffled(len(ids[1]), 0)])
    judged = ~(np.isnan(own) | np.isnan(random)) & (own != random)
    return bool(judged.sum() >= FEWEST and (own > random)[judged].mean() >= BETTER)
