"""Byte-pair encoding with some merges left out (Provilkov et al. 2020, "BPE-dropout").

sentencepiece samples such cuts, too, but since version 0.2.2 other ones in every process, whatever its seed.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf

import numpy as np

DRAWN = 1 << 15                          # decisions drawn at a time
PRECISION = 53                           # bits of a decision's random number
SPACE = "▁"


class Coins:
    """Decisions, each yes with the same probability: a stream that is a function of its seed."""

    def __init__(self, seed: int, probability: float) -> None:
        self._bits = np.random.Philox(key=seed)
        self._threshold = np.uint64(round(probability * 2**PRECISION))
        self._drawn, self._at = 0, 0
        self._yes: Iterator[int] = iter(())
        self._next: float = inf if not probability else -1
        self._advance()

    def _advance(self) -> None:
        """Look for the next yes."""
        while self._next != inf:
            self._next = next(self._yes, -1)
            if self._next >= 0:
                return
            numbers = self._bits.random_raw(DRAWN) >> np.uint64(64 - PRECISION)
            self._yes = iter((np.flatnonzero(numbers < self._threshold) + self._drawn).tolist())
            self._drawn += DRAWN

    def none_of(self, count: int) -> bool:
        """Whether the next decisions are all no; if so, they are taken, else none is."""
        if self._next - self._at < count:
            return False
        self._at += count
        return True

    def take(self) -> bool:
        """The next decision."""
        yes = self._at == self._next
        self._at += 1
        if yes:
            self._advance()
        return yes


class Merges:
    """The merges of a subword model: of two neighbours that make a piece together, those of the highest score first,
    then the leftmost."""

    def __init__(self, pieces: Mapping[str, int], scores: Sequence[float], spelt: Sequence[int]) -> None:
        """pieces: the id of each; scores: by id; spelt: the ids of the 256 bytes."""
        self._ids, self._spelt = pieces, spelt
        self._ranks = {piece: -scores[i] for piece, i in pieces.items() if len(piece) > 1}
        across = any(SPACE in piece[1:] for piece in pieces)
        self._word = re.compile(".+" if across else f"{SPACE}?[^{SPACE}]*", re.DOTALL)
        self._whole: dict[str, tuple[list[int], int]] = {}       # the usual cut of a word, and how many merges made it

    def sample(self, texts: Iterable[str], dropout: float, seed: int) -> list[list[int]]:
        """The ids of normalised texts, of whose merges each is left out with probability `dropout`."""
        coins = Coins(seed, dropout)
        return [[i for word in self._words(text) for i in self._cut(word, coins)] for text in texts]

    def _words(self, text: str) -> list[str]:
        return [word for word in self._word.findall(SPACE + text.replace(" ", SPACE)) if word] if text else []

    def _cut(self, word: str, coins: Coins) -> list[int]:
        usual = self._whole.get(word)
        if usual is None:
            symbols = self._merged(word, lambda: False)
            usual = self._whole[word] = self._spelling(symbols), len(word) - len(symbols)
        return usual[0] if coins.none_of(usual[1]) else self._spelling(self._merged(word, coins.take))

    def _merged(self, word: str, left_out: Callable[[], bool]) -> list[str]:
        symbols, rank = list(word), self._ranks.get
        ranks = [rank(a + b, inf) for a, b in pairwise(symbols)]
        while ranks and (best := min(ranks)) != inf:
            i = ranks.index(best)
            if left_out():
                ranks[i] = inf
                continue
            symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]
            del ranks[i]
            if i:
                ranks[i - 1] = rank(symbols[i - 1] + symbols[i], inf)
            if i < len(ranks):
                ranks[i] = rank(symbols[i] + symbols[i + 1], inf)
        return symbols

    def _spelling(self, symbols: list[str]) -> list[int]:
        ids: list[int] = []
        for symbol in symbols:
            if symbol in self._ids:
                ids.append(self._ids[symbol])
            else:
                ids += [self._spelt[byte] for byte in symbol.encode()]
        return ids
