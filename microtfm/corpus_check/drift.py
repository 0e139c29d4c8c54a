"""Stretches where all lines are one or some lines off, found by their lengths.

The lengths of translations rise and fall together. For every source line and every shift, how much likelier the
lengths of the two lines are in a translation than in two lines put together at random; the likeliest course of the
shift through the file is found by the Viterbi algorithm (Viterbi 1967, "Error bounds for convolutional codes"), at a
price for every change. So stretches never overlap, and chance cannot pay for one. (Lengths alone align sentences in
Gale & Church 1993, "A program for aligning sentences in bilingual corpora".)
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 100                             # lines of a file in which drift is looked for
AROUND = 50                              # lines before and after whose mean length is taken off a line's
NEAR = 10                                # lines that one side may be off wherever it begins
FAR = 4                                  # larger shifts that are looked at, where the whole file speaks for them
SURE = 8.0                               # standard errors from which on the whole file speaks for a shift
CORRELATION = 0.7                        # of the lengths of translations, cautiously: 0.75 to 0.9 is usual
EVEN = 0.1                               # standard deviation of log lengths up to which all lines are as long
PRICE = 15.0                             # nats that a change of the shift must gain
WIDELY = 3.0                             # standard errors by which more lines of a stretch must fit than not
IN_PLACE = 0.3                           # of what speaks for a shift, for none: lines are right as they stand
UNRELATED = -1                           # index of the state in which lines fit at no shift


@dataclass(frozen=True)
class Drift:
    """A stretch of source lines, first and last counted from 1, that fit target lines `shift` further down."""

    first: int
    last: int
    shift: int
    before: int = 0                      # the shift of the lines before

    @property
    def cause(self) -> str:
        """What happened where it begins."""
        step = self.shift - self.before
        if abs(step) > NEAR:
            return f"near line {self.first:,} many lines of one file are missing, or blocks of lines change places"
        side, lines = "target" if step > 0 else "source", "a line" if abs(step) == 1 else f"{abs(step):,} lines"
        return f"near line {self.first:,} the {side} has {lines} too many, or the other file too few"

    def __str__(self) -> str:
        lines = "1 line" if abs(self.shift) == 1 else f"{abs(self.shift):,} lines"
        way = "down" if self.shift > 0 else "up"
        return f"lines {self.first:,} to {self.last:,} fit better {lines} further {way} in the target: {self.cause}"


def drifts(left: NDArray[np.int64], right: NDArray[np.int64]) -> list[Drift]:
    """Where lines are off, in order, by the letters of each line of the two files, (N,) and (M,) int64."""
    if min(len(left), len(right)) < FEWEST:
        return []
    x, y = relative(left), relative(right)
    _count_once(left, right, x, y)
    if not (x.any() and y.any()):
        return []
    shifts = [0, *(shift for shift in range(-NEAR, NEAR + 1) if shift), *_far(x, y)]
    course = _course(np.stack([*(_likelier(x, y, shift) for shift in shifts), np.zeros(len(x), np.float32)], axis=1))
    course[course == len(shifts)] = UNRELATED
    found: list[Drift] = []
    begin = before = 0
    for end in [*(np.flatnonzero(np.diff(course)) + 1).tolist(), len(course)]:
        if course[begin] != UNRELATED:
            shift = shifts[course[begin]]
            if shift and found and found[-1].shift == shift == before:
                found[-1] = Drift(found[-1].first, end, shift, found[-1].before)
            elif shift:
                found.append(Drift(begin + 1, end, shift, before))
            before = shift
        begin = end
    return [each for each in found if _widely(x, y, each)]


def _count_once(left: NDArray[np.int64], right: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64]
                ) -> None:
    """Take away what lines say whose lengths are those of the lines before: pairs that are repeated are no evidence."""
    count = min(len(left), len(right))
    same = (left[1:count] == left[:count - 1]) & (right[1:count] == right[:count - 1])
    x[1:count][same] = y[1:count][same] = 0.0


def _widely(x: NDArray[np.float64], y: NDArray[np.float64], drift: Drift) -> bool:
    """Whether a stretch fits in most of its lines, not in a run of odd ones on either side, and does not fit as it
    stands, as text does that is repeated, or stands on both sides."""
    shifted, needed = _agreement(x, y, drift, drift.shift)
    return shifted > needed and _agreement(x, y, drift, 0)[0] < IN_PLACE * shifted


def _agreement(x: NDArray[np.float64], y: NDArray[np.float64], drift: Drift, shift: int) -> tuple[float, float]:
    """How many more lines of a stretch fit than not at a shift, and more than how many are no chance: by the sign test
    against the medians (quadrant correlation, Blomqvist 1950, "On a measure of dependence between two random
    variables")."""
    begin, end = max(drift.first - 1, -shift), min(drift.last, len(y) - shift)
    if begin >= end:
        return 0.0, 0.0
    a, b = x[begin:end], y[begin + shift:end + shift]
    signs = np.sign((a - np.median(a)) * (b - np.median(b)))
    return float(signs.sum()), WIDELY * float(np.sqrt(np.abs(signs).sum()))


def relative(lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logarithms of lengths less their mean over the lines around, in standard deviations, at most 3: (N,). 0 for
    lines without letters; all 0 where all lines are about as long as those around."""
    filled = lengths > 0
    logs = np.log(np.where(filled, lengths + 1, 1))
    at = np.arange(len(logs))
    low, high = np.maximum(at - AROUND, 0), np.minimum(at + AROUND + 1, len(logs))
    sums, counts = ((total := np.concatenate([[0.0], np.cumsum(each)]))[high] - total[low] for each in (logs, filled))
    values = np.where(filled, logs - sums / np.maximum(counts, 1), 0.0)
    spread = float(values[filled].std()) if filled.any() else 0.0
    return np.clip(values / spread, -3, 3) if spread > EVEN else np.zeros(len(values))


def _far(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Large shifts that fit so many lines that it shows over the whole file: by the correlation at every shift."""
    size = 1 << (len(x) + len(y)).bit_length()
    sums = np.fft.irfft(np.conj(np.fft.rfft(x, size)) * np.fft.rfft(y, size), size)
    shifts = np.arange(size)
    shifts[size - len(x):] -= size
    deviations = sums / np.sqrt(min(len(x), len(y)))
    best = [int(i) for i in np.argsort(-deviations)[:FAR + 2 * NEAR + 1] if deviations[i] > SURE]
    return [int(shifts[i]) for i in best if abs(shifts[i]) > NEAR][:FAR]


def _likelier(x: NDArray[np.float64], y: NDArray[np.float64], shift: int) -> NDArray[np.float32]:
    """The logarithm of how much likelier each x is beside the y that is `shift` further down than beside any: (N,)
    float32 nats, of two normal variables of CORRELATION; 0 where there is no such y."""
    begin, end = max(0, -shift), min(len(x), len(y) - shift)
    out = np.zeros(len(x), np.float32)
    if end > begin:
        a, b, r = x[begin:end], y[begin + shift:end + shift], CORRELATION
        out[begin:end] = (2 * r * a * b - r * r * (a * a + b * b)) / (2 * (1 - r * r)) - np.log1p(-r * r) / 2
    return out


def _course(gains: NDArray[np.float32]) -> NDArray[np.int64]:
    """The state of each line, (N,), whose gains less the price of changes are the most; it begins in the first state
    or the last, or pays. gains: (N, states)."""
    count, states = gains.shape
    came = np.empty((count, states), np.int8)
    stay = np.arange(states, dtype=np.int8)
    total = np.full(states, -PRICE)
    total[0] = total[-1] = 0.0
    for i in range(count):
        best = int(total.argmax())
        changed = total[best] - PRICE
        came[i] = np.where(total >= changed, stay, best)
        total = np.maximum(total, changed) + gains[i]
    out = np.empty(count, np.int64)
    state = int(total.argmax())
    for i in range(count - 1, -1, -1):
        out[i] = state
        state = int(came[i, state])
    return out
