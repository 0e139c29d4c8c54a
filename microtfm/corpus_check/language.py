"""Lines in the wrong language: another script than their file's, or letters that go together as in no line around them.

Letters are judged by the file itself: how often each triple of letters stands in its other lines, and in the other
file. No list of languages is needed, so every pair of languages can be checked.
"""
from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from microtfm.corpus_check import Suspect
from microtfm.corpus_check.letters import BINS, SCRIPTS, Side

COMMON = 0.05                            # share of a file's letters from which a script is one of its own
FEWEST = 12                              # letters of a line that is judged by its letters
NATS = 0.4                               # a letter: so much better in the other file's language is suspicious
DEVIATIONS = 6.0                         # robust standard deviations below the file's other lines
PRIOR = 0.1                              # added to every count


def suspects(sides: tuple[Side, Side], scripts: tuple[dict[str, float], dict[str, float]]) -> list[Suspect]:
    """Lines of either side whose language looks wrong. scripts: the share of each in a side's letters."""
    own = [{SCRIPTS.index(name) for name, share in found.items() if share >= COMMON} for found in scripts]
    same_script = bool(own[0] & own[1])
    counts = [_counts(side) for side in sides]
    found = []
    for i, name in enumerate(("source", "target")):
        odd, likeness, letters = _measured(sides[i], own[i], counts[i], counts[1 - i])
        for line, share in odd.items():
            found.append(Suspect(line + 1, name, f"mostly {share[0]} letters", 10 + share[1]))
        enough = letters >= FEWEST
        if same_script:
            for line in np.flatnonzero(enough & (likeness[:, 0] - likeness[:, 1] < -NATS)).tolist():
                found.append(Suspect(line + 1, name, "reads like the other file's language",
                                     float(likeness[line, 1] - likeness[line, 0])))
        known = {each.line for each in found if each.side == name}
        for line, deviations in _outliers(likeness[:, 0], letters, enough):
            if line + 1 not in known:
                found.append(Suspect(line + 1, name, "letters as in no other line of its file", deviations / 10))
    return sorted(found, key=lambda each: (-each.weight, each.line))


def _counts(side: Side) -> NDArray[np.int64]:
    counts = np.zeros(BINS, np.int64)
    for block in side:
        counts += np.bincount(block.trigrams()[block.script > 0], minlength=BINS)
    return counts


def _measured(side: Side, own: set[int], mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> tuple[
        dict[int, tuple[str, float]], NDArray[np.float64], NDArray[np.int64]]:
    """Lines of foreign script with its name and share; each line's mean log-probability a letter under its own and the
    other file's triples, (N, 2); its letters, (N,)."""
    without = np.log(np.maximum(mine - 1, 0) + PRIOR) - np.log(mine.sum() + PRIOR * BINS)    # the line itself left out
    other = np.log(theirs + PRIOR) - np.log(theirs.sum() + PRIOR * BINS)
    foreign_scripts = ~np.isin(np.arange(len(SCRIPTS)), [0, *own])
    odd: dict[int, tuple[str, float]] = {}
    likeness, letters = [np.zeros((0, 2))], [np.zeros(0, np.int64)]
    for block in side:
        is_letter = block.script > 0
        count = block.per_line(is_letter)
        foreign = block.per_line(foreign_scripts[block.script])
        for line in np.flatnonzero((count >= 2) & (2 * foreign > count)).tolist():
            inside = block.script[np.searchsorted(block.line, line):np.searchsorted(block.line, line + 1)]
            most = np.bincount(inside[foreign_scripts[inside]]).argmax()
            odd[block.first + line] = SCRIPTS[most], float(foreign[line] / count[line])
        bins = block.trigrams()[is_letter]
        sums = [np.bincount(block.line[is_letter], table[bins], block.count) for table in (without, other)]
        likeness.append(np.stack(sums, axis=1) / np.maximum(count, 1)[:, None])
        letters.append(count)
    return odd, np.concatenate(likeness), np.concatenate(letters)


def _outliers(likeness: NDArray[np.float64], letters: NDArray[np.int64], enough: NDArray[np.bool_]) -> list[
        tuple[int, float]]:
    """Lines far below the others of about their length, and how far: short lines scatter more."""
    found = []
    steps = [FEWEST, 24, 48, 96, int(letters.max(initial=0)) + 1]
    for low, high in pairwise(steps):
        lines = np.flatnonzero(enough & (letters >= low) & (letters < high))
        if len(lines) < 50:
            continue
        values = likeness[lines]
        middle = np.median(values)
        spread = max(1.4826 * float(np.median(np.abs(values - middle))), 0.1)
        far = (middle - values) / spread
        found += [(int(lines[i]), float(far[i])) for i in np.flatnonzero(far > DEVIATIONS)]
    return found
