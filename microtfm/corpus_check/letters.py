"""Lines of text as arrays of code points: whose script their letters are, and where their words begin."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 20_000                           # lines that are looked at together
NEWLINE = 10
RANGES = {                               # scripts and their blocks of Unicode
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x24F), (0x300, 0x36F), (0x1E00, 0x1EFF)],
    "Greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)], "Cyrillic": [(0x400, 0x52F)], "Armenian": [(0x530, 0x58F)],
    "Hebrew": [(0x5D0, 0x5EA)], "Arabic": [(0x620, 0x64A), (0x671, 0x6D3), (0x750, 0x77F)],
    "Devanagari": [(0x900, 0x963)], "Bengali": [(0x980, 0x9E3)], "Gurmukhi": [(0xA00, 0xA74)],
    "Gujarati": [(0xA80, 0xAE3)], "Tamil": [(0xB80, 0xBDF)], "Telugu": [(0xC00, 0xC63)], "Kannada": [(0xC80, 0xCE3)],
    "Malayalam": [(0xD00, 0xD63)], "Thai": [(0xE01, 0xE4E)], "Lao": [(0xE80, 0xECD)], "Burmese": [(0x1000, 0x103F)],
    "Georgian": [(0x10A0, 0x10FF)], "Ethiopic": [(0x1200, 0x137F)], "Khmer": [(0x1780, 0x17D3)],
    "Hangul": [(0x1100, 0x11FF), (0xAC00, 0xD7A3)], "Kana": [(0x3041, 0x3096), (0x30A1, 0x30FA), (0x31F0, 0x31FF)],
    "Han": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)],
}
SCRIPTS = ["", *RANGES]                  # index: script; 0: no letter
WIDE = [SCRIPTS.index(name) for name in ("Han", "Kana", "Thai", "Lao", "Burmese", "Khmer")]      # words without spaces


IS_WIDE = np.isin(np.arange(len(SCRIPTS)), WIDE)
BITS = 17
BINS = 1 << BITS
POWERS = np.multiply.accumulate(np.full(32, 0x9E3779B97F4A7C15, np.uint64))     # weights of a word's letters, by place


def _table() -> NDArray[np.uint8]:
    table = np.zeros(0x110000, np.uint8)
    for index, name in enumerate(SCRIPTS[1:], 1):
        for low, high in RANGES[name]:
            table[low:high + 1] = index
    return table


SCRIPT_OF = _table()


@dataclass(frozen=True)
class Block:
    """Some consecutive lines, lower-cased. Every line ends with a line feed."""

    first: int                           # index of the first line
    points: NDArray[np.uint32]           # code points of all lines
    line: NDArray[np.int64]              # of each code point, counted from `first`
    script: NDArray[np.uint8]            # of each code point
    count: int                           # lines

    @property
    def digit(self) -> NDArray[np.bool_]:
        """Which code points are digits."""
        return ((self.points >= 0x30) & (self.points <= 0x39)) | ((self.points >= 0xFF10) & (self.points <= 0xFF19))

    def per_line(self, what: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many code points of each line are so."""
        return np.bincount(self.line[what], minlength=self.count)

    def words(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """A hash of each word, and its line. Where a script sets no spaces, each of its letters is a word."""
        inside = (self.script > 0) | self.digit
        wide = IS_WIDE[self.script]
        begins = inside & (wide | ~_before(inside) | _before(wide))
        starts = np.flatnonzero(begins)
        at = np.arange(len(self.points))
        place = at - np.maximum.accumulate(np.where(begins, at, 0))
        part = (self.points.astype(np.uint64) + np.uint64(1)) * POWERS[np.minimum(place, len(POWERS) - 1)]
        sums = np.add.reduceat(np.where(inside, part, np.uint64(0)), starts) if len(starts) else part[:0]
        return sums, self.line[starts]

    def trigrams(self) -> NDArray[np.int64]:
        """The bin, below BINS, of each code point with the two before it in its line; what is no letter is a space."""
        letters = np.where((self.script > 0) | (self.points == NEWLINE), self.points, np.uint32(32))
        one, two = np.roll(letters, 1), np.roll(letters, 2)
        two[one == NEWLINE] = NEWLINE
        mixed = letters * np.uint32(0x9E3779B1) ^ one * np.uint32(0x85EBCA77) ^ two * np.uint32(0xC2B2AE3D)
        return (mixed >> np.uint32(32 - BITS)).astype(np.int64)


class Side:
    """The lines of one side, block by block, as often as they are asked for: never all at once as arrays."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __iter__(self) -> Iterator[Block]:
        for first in range(0, len(self.lines), BLOCK):
            some = self.lines[first:first + BLOCK]
            text = "\n".join(some).lower() + "\n"
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            ends = points == NEWLINE
            yield Block(first, points, np.cumsum(ends) - ends, SCRIPT_OF[points], len(some))


@dataclass(frozen=True)
class Measured:
    """What is counted of a side, line by line and on the whole."""

    letters: NDArray[np.int64]           # and digits, of each line
    words: NDArray[np.int64]             # of each line
    digits: NDArray[np.int64]            # of each line
    scripts: dict[str, float]            # share of the letters, the largest first

    def until(self, line: int) -> Measured:
        """The same of the lines before `line`."""
        return Measured(self.letters[:line], self.words[:line], self.digits[:line], self.scripts)


def measured(side: Side) -> Measured:
    """Count letters, words and digits."""
    found: list[tuple[NDArray[np.int64], ...]] = [(np.zeros(0, np.int64),) * 3]
    counts = np.zeros(len(SCRIPTS), np.int64)
    for block in side:
        words = np.bincount(block.words()[1], minlength=block.count)
        found.append((block.per_line((block.script > 0) | block.digit), words, block.per_line(block.digit)))
        counts += np.bincount(block.script, minlength=len(SCRIPTS))
    counts[0] = 0
    order = np.argsort(-counts, kind="stable").tolist()
    letters, words, digits = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Measured(letters, words, digits, {SCRIPTS[i]: float(counts[i] / counts.sum()) for i in order if counts[i]})


def _before(what: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.concatenate([[False], what[:-1]])

