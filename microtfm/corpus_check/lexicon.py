"""Which words go together in a corpus, so that pairs whose words never do can be told.

Two words go together by the correlation of their standing in the two sentences of a pair. A pair's score is the mean
over its words of the best partner on the other side; what score is suspicious is learnt from pairs put together at
random. (The measure is in the line of φ², Gale & Church 1991, "Identifying word correspondences in parallel texts".)
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from microtfm.corpus_check.letters import Block, Side
from microtfm.data import shuffled

WORDS = 4096                             # most frequent words of a side that are looked at
RAREST = 12                              # of a sentence's words, those that say most
SAMPLE = 100_000                         # pairs that the lexicon is learnt from
FEWEST = 3                               # words on either side of a pair that is judged
AT_RANDOM = 0.75                         # share of random pairs that score below the threshold

Ids = NDArray[np.int64]                  # (N, RAREST) word ids, −1 where there is none


class Vocabulary:
    """The most frequent words of one side."""

    def __init__(self, side: Side) -> None:
        hashes, counts = np.unique(np.concatenate([block.words()[0] for block in side]), return_counts=True)
        known = np.argsort(-counts, kind="stable")[:WORDS]
        known = known[counts[known] > 1]
        order = np.argsort(hashes[known], kind="stable")
        self.hashes, self.ranks = hashes[known][order], order          # ranks: 0 is the most frequent

    def ids(self, block: Block) -> Ids:
        """The rarest known words of each line."""
        out = np.full((block.count, RAREST), -1, np.int64)
        if not len(self.hashes):
            return out
        hashes, line = block.words()
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        known = self.hashes[at] == hashes
        key = np.sort(line[known] * WORDS + (WORDS - 1 - self.ranks[at[known]]))         # in each line the rarest first
        key = key[np.diff(key, prepend=-1) > 0]
        line, word = key // WORDS, WORDS - 1 - key % WORDS
        place = np.arange(len(line)) - np.searchsorted(line, np.arange(block.count))[line]
        few = place < RAREST
        out[line[few], place[few]] = word[few]
        return out


class Lexicon:
    """What was learnt from a sample of a corpus."""

    def __init__(self, left: Sequence[str], right: Sequence[str]) -> None:
        step = max(1, -(-len(left) // SAMPLE))
        sides = [Side(side[::step]) for side in (left, right)]
        self.vocabularies = [Vocabulary(side) for side in sides]
        ids = [np.concatenate([vocabulary.ids(block) for block in side])
               for vocabulary, side in zip(self.vocabularies, sides, strict=True)]
        self.strength = _strength(*ids)
        other = shuffled(len(ids[1]), 0)
        pairs = zip(*(side.lines for side in sides), other.tolist(), strict=True)
        untrue = [a != sides[0].lines[i] and b != sides[1].lines[i] for a, b, i in pairs]   # texts may repeat
        random = self.compare(ids[0], ids[1][other])[np.array(untrue, bool)]
        judged = random[~np.isnan(random)]
        self.threshold = float(np.quantile(judged, AT_RANDOM)) if len(judged) >= 100 else -1.0

    def scores(self, left: Block, right: Block) -> NDArray[np.float64]:
        """How well the words of each pair go together, (N,); NaN where there are too few to say."""
        return self.compare(self.vocabularies[0].ids(left), self.vocabularies[1].ids(right))

    def compare(self, left: Ids, right: Ids) -> NDArray[np.float64]:
        """The same of ids of the two vocabularies, (N, RAREST) each."""
        out = np.empty(len(left))
        for some in _slices(len(left)):
            x, y = left[some], right[some]
            both = (x >= 0)[:, :, None] & (y >= 0)[:, None, :]
            found = np.where(both, self.strength[x[:, :, None], y[:, None, :]], 0)       # (n, RAREST, RAREST)
            many, also = (x >= 0).sum(1), (y >= 0).sum(1)
            mean = (found.max(2).sum(1) / np.maximum(many, 1) + found.max(1).sum(1) / np.maximum(also, 1)) / 2
            out[some] = np.where((many >= FEWEST) & (also >= FEWEST), mean, np.nan)
        return out


def _strength(left: Ids, right: Ids) -> NDArray[np.float32]:
    """The correlation of two words over all pairs but one, so that no pair speaks for itself: (words, words)."""
    a, b = (np.bincount(side[side >= 0], minlength=1).astype(np.float32) for side in (left, right))
    together = np.zeros(len(a) * len(b), np.float32)
    for some in _slices(len(left)):
        x, y = left[some][:, :, None], right[some][:, None, :]
        together += np.bincount((x * len(b) + y)[(x >= 0) & (y >= 0)], minlength=len(together))
    found = together.reshape(len(a), len(b))
    found -= 1 + np.outer(a, b / np.float32(max(len(left), 1)))
    np.maximum(found, 0, out=found)
    found /= np.sqrt(np.maximum(a, 1))[:, None]
    found /= np.sqrt(np.maximum(b, 1))
    return found


def _slices(count: int, size: int = 20_000) -> Iterator[slice]:
    return (slice(at, at + size) for at in range(0, count, size))
