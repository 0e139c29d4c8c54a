"""The check of a corpus as one answer: counts, lengths, what repeats, what looks wrong, what overlaps."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtfm import data
from microtfm.corpus_check import Suspect, alignment, belonging, drift, language
from microtfm.corpus_check.letters import Measured, Side, measured
from microtfm.errors import UserError
from microtfm.files import PathLike
from microtfm.tokens import normalise

FILES = tuple[PathLike, PathLike | None]
NO_LETTER = re.compile(r"[\W_]+")


def check(train: FILES, others: Mapping[str, FILES]) -> dict[str, Any]:
    """What there is to say about training text, and about its overlap with `others` by name, as plain values.

    Files are source and target of equally many lines, or one TSV and None. `problems` says why the text could not be
    trained on, or that hardly any of its lines translate each other; then no single pair is called misaligned.
    `unjudged` says what could not be looked at, and why; suspects are for a person to look at. Raises UserError where a
    file cannot be read at all.
    """
    left, right = _read(train, "a second file")
    count = min(len(left), len(right))
    sides = Side(left[:count]), Side(right[:count])
    plain = [normalise(a) for a in left[:count]], [normalise(b) for b in right[:count]]
    empty = {"source": [i for i, (a, b) in enumerate(zip(*plain, strict=True), 1) if b and not a],
             "target": [i for i, (a, b) in enumerate(zip(*plain, strict=True), 1) if a and not b],
             "both": [i for i, (a, b) in enumerate(zip(*plain, strict=True), 1) if not (a or b)]}
    full = measured(Side(left)), measured(Side(right))
    found = full[0].until(count), full[1].until(count)
    drifts = drift.drifts(full[0].letters, full[1].letters)
    names = str(train[0]), str(train[1] or train[0])
    problems = [_unequal(names, left, right, full, drifts)] if len(left) != len(right) else []
    nothing = count == sum(map(len, empty.values()))
    if nothing and (count or not problems):
        problems.append("There is nothing to learn from: no line has text on both sides.")
    apart, unjudged = _together(names, sides, found, drifts)
    problems += apart
    misaligned, no_words = ([], "") if apart else alignment.suspects(sides, found, drifts)
    if no_words and not _mostly_off(sides, drifts):
        unjudged.append(f"single pairs by their words: {no_words}")
    answer: dict[str, Any] = {
        "source": _side(names[0], left, full[0]), "target": _side(names[1], right, full[1]),
        "pairs": count, "empty": {name: _found(lines) for name, lines in empty.items()},
        "ratio": _ratio(found[0].letters, found[1].letters), "repeated": _repeated(*plain),
        "wrong_language": [_plain(each) for each in language.suspects(sides, (found[0].scripts, found[1].scripts))],
        "drifts": [{"first": each.first, "last": each.last, "shift": each.shift, "why": str(each)} for each in drifts],
        "misaligned": [_plain(each) for each in misaligned],
        "unjudged": [] if nothing else unjudged,
        "overlap": {name: _overlap(name, plain, files) for name, files in others.items()},
        "problems": problems,
    }
    return answer


def _read(files: FILES, other: str) -> tuple[list[str], list[str]]:
    """Both sides line by line; where the target is missing, `other` says how to give it."""
    source, target = files
    if target is None:
        columns = data.columns(source, data.read_lines(source), other)
        return [a for a, _ in columns], [b for _, b in columns]
    return data.read_lines(source), data.read_lines(target)


def _unequal(names: tuple[str, str], left: Sequence[str], right: Sequence[str], full: tuple[Measured, Measured],
             drifts: Sequence[drift.Drift]) -> str:
    """What training would refuse, and the place, if the lengths or an empty line give it away."""
    if drifts:
        place = f"By their lengths they drift apart: {drifts[0].cause}."
    elif _fits_to_the_end(full):
        longer = int(len(right) > len(left))
        place = (f"By their lengths they fit to the end of the shorter: near its end, or after line "
                 f"{min(len(left), len(right)):,}, {names[longer]} has lines that the other lacks.")
    else:
        place = data.empty_place(names[0], left, names[1], right) or (
            "Neither an empty line nor the lengths of the lines give the place away.")
    return f"{data.unequal(names[0], left, names[1], right)} {place}"


def _fits_to_the_end(full: tuple[Measured, Measured]) -> bool:
    """Whether the last lines that both files have fit each other."""
    count = min(len(each.letters) for each in full)
    if count < belonging.FEWEST:
        return False
    x, y = (drift.relative(each.letters[:count])[-drift.FEWEST:] for each in full)
    return belonging.correlation(x, y) > belonging.chance(len(x))


def _mostly_off(sides: tuple[Side, Side], drifts: Sequence[drift.Drift]) -> bool:
    return 2 * sum(each.last - each.first + 1 for each in drifts) >= len(sides[0].lines)


def _together(names: tuple[str, str], sides: tuple[Side, Side], found: tuple[Measured, Measured],
              drifts: Sequence[drift.Drift]) -> tuple[list[str], list[str]]:
    """A problem if the files do not belong together line by line, and what of it could not be judged. Where most lines
    are in stretches that drift, that has been said already."""
    if _mostly_off(sides, drifts):
        return [], []
    judged = belonging.judge(sides, found, alignment.LEXICON)
    if judged.together is None:
        return [], [f"whether the files belong together line by line: {judged.why}"]
    what = f"{names[0]} and {names[1]}" if names[0] != names[1] else f"The two sides of {names[0]}"
    return ([] if judged.together else [f"{what} do not belong together line by line: {judged.why}"]), []


def _side(name: str, lines: Sequence[str], found: Measured) -> dict[str, Any]:
    characters = np.fromiter(map(len, lines), np.int64, len(lines))
    return {"file": name, "lines": len(lines), "characters": _lengths(characters),
            "words": _lengths(found.words),
            "scripts": {name: round(share, 4) for name, share in found.scripts.items()}}


def _lengths(values: NDArray[np.int64]) -> dict[str, Any]:
    if not len(values):
        return {"total": 0}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"total": int(values.sum()), "mean": round(float(values.mean()), 1), "p5": int(low), "median": int(middle),
            "p95": int(high), "longest": int(values.max()), "longest_line": int(values.argmax()) + 1}


def _ratio(a: NDArray[np.int64], b: NDArray[np.int64]) -> dict[str, float] | None:
    """Letters of the target for each of the source, over pairs that have both."""
    both = (a > 0) & (b > 0)
    if not both.any():
        return None
    low, middle, high = np.quantile(b[both] / a[both], [0.01, 0.5, 0.99])
    return {"p1": round(float(low), 3), "median": round(float(middle), 3), "p99": round(float(high), 3)}


def _repeated(left: Sequence[str], right: Sequence[str]) -> dict[str, Any]:
    """Pairs and sides that stand more than once: the later lines of each."""
    kinds = {"pairs": [f"{a}\t{b}" if a and b else "" for a, b in zip(left, right, strict=True)],
             "sources": [a if b else "" for a, b in zip(left, right, strict=True)],
             "targets": [b if a else "" for a, b in zip(left, right, strict=True)]}
    found = {}
    for name, texts in kinds.items():
        first = dict(zip(reversed(texts), range(len(texts) - 1, -1, -1), strict=True))
        found[name] = _found([i + 1 for i, text in enumerate(texts) if text and first[text] != i])
    copies = [number for number, (a, b) in enumerate(zip(left, right, strict=True), 1) if a and a == b]
    return {**found, "copies": _found(copies)}


def _overlap(name: str, train: tuple[Sequence[str], Sequence[str]], files: FILES) -> dict[str, Any]:
    """Lines of other text that stand in the training text, word for word or but for case, marks and spaces."""
    left, right = _read(files, f"--{name}-tgt")
    if files[1] is not None and len(left) != len(right):
        place = data.empty_place(files[0], left, files[1], right)
        raise UserError(f"{data.unequal(files[0], left, files[1], right)} {place}".rstrip())
    own = [normalise(a) for a in left], [normalise(b) for b in right]
    sources, targets = (set(own[i]).intersection(train[i]) - {""} for i in (0, 1))
    pairs = {(a, b) for a, b in zip(*train, strict=True) if a in sources and b in targets}
    keys = {_key(text) for text in own[0]} - {""}
    near = keys.intersection(map(_key, train[0]))
    return {"file": str(files[0]), "pairs": len(own[0]),
            "same_pair": _found([i for i, pair in enumerate(zip(*own, strict=True), 1) if pair in pairs]),
            "same_source": _found([i for i, a in enumerate(own[0], 1) if a in sources]),
            "same_target": _found([i for i, b in enumerate(own[1], 1) if b in targets]),
            "nearly_same_source": _found([i for i, a in enumerate(own[0], 1) if a not in sources and _key(a) in near])}


def _key(text: str) -> str:
    """A text without case, marks and spaces."""
    return NO_LETTER.sub("", text.casefold())


def _found(lines: list[int]) -> dict[str, Any]:
    return {"count": len(lines), "lines": lines}


def _plain(suspect: Suspect) -> dict[str, Any]:
    return {"line": suspect.line, "side": suspect.side, "why": suspect.why}


def as_text(answer: dict[str, Any], show: int) -> str:
    """The same for a person: everything counted, the first or the worst `show` lines named."""
    lines = []
    for name in ("source", "target"):
        side = answer[name]
        scripts = ", ".join(f"{script} {share:.0%}" for script, share in list(side["scripts"].items())[:3])
        lines.append(f"{name:9} {side['file']}: {_number(side['lines'], 'line')}, {scripts or 'no letters'}")
        for unit in ("characters", "words"):
            found = side[unit]
            if found["total"]:
                lines.append(f"          {found['total']:,} {unit}; a line: median {found['median']:,}, 5 % to 95 % "
                             f"{found['p5']:,} to {found['p95']:,}, longest {found['longest']:,} (line "
                             f"{found['longest_line']:,})")
    if answer["ratio"]:
        ratio = answer["ratio"]
        lines.append(f"ratio     target letters for each source letter: median {ratio['median']:.2f}, 1 % to 99 % "
                     f"{ratio['p1']:.2f} to {ratio['p99']:.2f}")
    empty = answer["empty"]
    for name, what in (("source", "on the source side alone"), ("target", "on the target side alone"),
                       ("both", "on both sides")):
        if empty[name]["count"]:
            lines.append(f"empty     {_counted(empty[name], f'line empty {what}', show)}; training drops them")
    words = {"pairs": "pair that repeats an earlier one", "sources": "source that stood before",
             "targets": "target that stood before", "copies": "pair with the same text on both sides"}
    for name, what in words.items():
        if answer["repeated"][name]["count"]:
            lines.append(f"repeated  {_counted(answer['repeated'][name], what, show)}")
    lines += _suspects("language", "line", answer["wrong_language"], show)
    lines += _drifts(answer["drifts"], show)
    lines += _suspects("alignment", "pair", answer["misaligned"], show)
    lines += [f"unjudged  {text}" for text in answer["unjudged"]]
    for name, found in answer["overlap"].items():
        lines.append(f"overlap   {name}: {found['file']}, {_number(found['pairs'], 'pair')}")
        for key, what in (("same_pair", "pair"), ("same_source", "source"), ("same_target", "target"),
                          ("nearly_same_source", "source, but for case, marks and spaces,")):
            if found[key]["count"]:
                lines.append(f"          {_counted(found[key], f'{what} that is in the training text', show)}")
        if not any(found[key]["count"] for key in ("same_pair", "same_source", "same_target", "nearly_same_source")):
            lines.append("          nothing of it is in the training text")
    lines += [f"problem   {text}" for text in answer["problems"]]
    if not answer["problems"]:
        count = answer["pairs"] - sum(each["count"] for each in empty.values())
        lines.append(f"verdict   {_number(count, 'pair')} can be trained on"
                     f"{', but where they drift apart they teach nothing' if answer['drifts'] else ''}")
    return "\n".join(lines)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _counted(found: dict[str, Any], what: str, show: int) -> str:
    count, lines = found["count"], found["lines"]
    named = ", ".join(f"{line:,}" for line in lines[:show]) + (", …" if count > show else "")
    return f"{count:,} × {what}" + (f": line{'s' * (count > 1)} {named}" if show else "")


def _drifts(found: list[dict[str, Any]], show: int) -> list[str]:
    lines = [f"drift     {each['why']}" for each in found[:show]]
    more = f"{len(found) - len(lines):,}{' more' * bool(lines)}"
    return lines if len(found) <= show else [*lines, f"drift     {more} × a stretch of lines that are off (--show, or "
                                                     "--json)"]


def _suspects(name: str, unit: str, found: list[dict[str, Any]], show: int) -> list[str]:
    if not found:
        return []
    head = f"{name:9} {_number(len(found), f'suspicious {unit}')}"
    if not show:
        return [head]
    lines = [f"{head}, the worst first:"]
    for each in found[:show]:
        side = "" if each["side"] == "both" else f" of the {each['side']}"
        lines.append(f"          line {each['line']:,}{side}: {each['why']}")
    return lines if len(found) <= show else [*lines, f"          … and {len(found) - show:,} more (--show, or --json)"]
