"""Pairs that are no translations: lengths that do not fit, numbers of which none is shared, words that never go
together; and stretches where all lines are one or two lines off."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtfm.corpus_check import Suspect
from microtfm.corpus_check.letters import Measured, Side
from microtfm.corpus_check.lexicon import Lexicon

DEVIATIONS = 5.0                         # robust standard deviations of the logarithm of the lengths' ratio
NUMBER = re.compile(r"\d+(?:[.,]\d{3})*")
WINDOW = 100                             # lines over which lengths are correlated
SHIFTS = (-3, -2, -1, 1, 2, 3)           # lines that one side may be off
BETTER = 0.45                            # by so much a shift must correlate better to be believed
LEXICON = 500                            # pairs from which on words are compared


@dataclass(frozen=True)
class Drift:
    """A stretch of source lines, first and last counted from 1, that fit target lines `shift` further down."""

    first: int
    last: int
    shift: int

    def __str__(self) -> str:
        side = "target" if self.shift > 0 else "source"
        lines = "a line" if abs(self.shift) == 1 else f"{abs(self.shift)} lines"
        return (f"lines {self.first:,} to {self.last:,} fit better {abs(self.shift)} line{'s' * (abs(self.shift) > 1)} "
                f"{'further down' if self.shift > 0 else 'further up'} in the target: near line {self.first:,} the "
                f"{side} has {lines} too many, or the other file too few")


def drifts(left: NDArray[np.int64], right: NDArray[np.int64]) -> list[Drift]:
    """Where lines are off, by their lengths: the lengths of translations rise and fall together."""
    count = min(len(left), len(right))
    if count < WINDOW or not (left.any() and right.any()):
        return []
    x, y = (_standardised(side) for side in (left[:count], right[:count]))
    gains = {shift: _products(x, y, shift) - x * y for shift in SHIFTS}
    windows = {shift: _sums(gain) / WINDOW for shift, gain in gains.items()}             # of windows that begin there
    best = np.stack([windows[shift] for shift in SHIFTS])
    chosen = np.where(best.max(0) > BETTER, np.array(SHIFTS)[best.argmax(0)], 0)
    found: list[Drift] = []
    begin = 0
    for end in [*(np.flatnonzero(np.diff(chosen)) + 1).tolist(), len(chosen)]:
        shift = int(chosen[begin])
        if shift:
            first = begin - WINDOW + int(np.argmin(_total(gains[shift], begin - WINDOW, begin + WINDOW)))
            last = end - WINDOW + int(np.argmax(_total(gains[shift], end - WINDOW, end + WINDOW)))
            if found and found[-1].shift == shift and first - found[-1].last < WINDOW:
                first = found.pop().first - 1
            found.append(Drift(max(first, 0) + 1, min(last, count), shift))
        begin = end
    return [each for each in found if each.last - each.first >= WINDOW // 2]


def _standardised(lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    values = np.log1p(lengths)
    return np.clip((values - values.mean()) / max(float(values.std()), 1e-9), -3, 3)


def _products(x: NDArray[np.float64], y: NDArray[np.float64], shift: int) -> NDArray[np.float64]:
    out = np.zeros(len(x))
    if shift > 0:
        out[:-shift] = x[:-shift] * y[shift:]
    else:
        out[-shift:] = x[-shift:] * y[:shift]
    return out


def _total(gain: NDArray[np.float64], low: int, high: int) -> NDArray[np.float64]:
    """The sums of gain[low:i] for each i from low to high; there is no gain outside the file."""
    inside = np.arange(low, high)
    values = np.where((inside >= 0) & (inside < len(gain)), gain[np.clip(inside, 0, len(gain) - 1)], 0.0)
    return np.concatenate([[0.0], np.cumsum(values)])


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[WINDOW:] - total[:-WINDOW]


def suspects(sides: tuple[Side, Side], found_in: tuple[Measured, Measured], off: Sequence[Drift]) -> list[Suspect]:
    """Pairs that look misaligned, outside the stretches that are `off` as a whole."""
    lengths = found_in[0].letters, found_in[1].letters
    aside = np.zeros(len(lengths[0]), bool)
    for drift in off:
        aside[drift.first - 1:drift.last] = True
    judged = (lengths[0] > 0) & (lengths[1] > 0) & ~aside
    numbered = judged & (found_in[0].digits >= 2) & (found_in[1].digits >= 2)
    found = [*_by_length(lengths, judged), *_by_numbers(sides, numbered), *_by_words(sides, judged)]
    merged: dict[int, Suspect] = {}
    for each in found:
        before = merged.get(each.line)
        merged[each.line] = each if before is None else Suspect(
            each.line, "both", f"{before.why}; {each.why}", before.weight + each.weight)
    return sorted(merged.values(), key=lambda each: (-each.weight, each.line))


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


def _by_words(sides: tuple[Side, Side], judged: NDArray[np.bool_]) -> list[Suspect]:
    if judged.sum() < LEXICON:
        return []
    keep = np.flatnonzero(judged).tolist()
    lexicon = Lexicon(*([side.lines[i] for i in keep] for side in sides))
    found = []
    for left, right in zip(*sides, strict=True):
        scores = lexicon.scores(left, right)
        for i in np.flatnonzero(scores <= lexicon.threshold):
            if judged[left.first + i]:
                found.append(Suspect(left.first + int(i) + 1, "both", "words that hardly ever go together",
                                     1 - float(scores[i]) / max(lexicon.threshold, 1e-9)))
    return found
