"""Text that is too long for a model: cut into pieces at the ends of sentences, and put together again."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from microtfm.tokens import IS_WIDE

# behind which a full stop ends no sentence: a single letter, a small number, titles, a few words of three languages
ABBREVIATION = re.compile(r"""(?<!\w)(?:[A-Za-z]|\d\d?|Mr|Mrs|Ms|Dr|Prof|St|Mt|Jr|Sr|Gen|Capt|Rev|vs|approx|"""
                          r"""Hr|Fr|bzw|ca|Mio|Mrd|Mme|Mlle|MM|av|env)\.$""")
NUMBERED = re.compile(r"""(?<!\w)(?:Nos?|Nr|Vol|Fig|Art|pp?|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.$""")
FAR = 10                                 # characters that the longest of them and the one before it take
CUTS = (                                 # where to cut, the best places first; each piece keeps the marks at its end
    re.compile(r"""(?<=[.!?…])(?:\s?»|["'”’)\]])*\s+|(?<=[。！？｡])(?![。！？｡…”’」』）])\s*|(?<=[。！？｡…][”’」』）])\s*"""),
    re.compile(r"(?<=[,;:])\s+|(?<=[，；：、—])\s*"),
    re.compile(r"\s+"),
)


def ends(text: str) -> list[int]:
    """Where inside the text a sentence has ended and the next one begins.

    That is behind a mark that ends sentences, but not before a small letter, unless the text has no other, nor behind
    an abbreviation or a number such as German's "2. Stock"; and each has a letter or a digit.
    """
    capitals, found = any(char.isupper() for char in text), []
    last = next((i for i in range(len(text) - 1, -1, -1) if text[i].isalnum()), -1)
    first = _letter(text, 0)             # of the sentence that has begun
    for match in CUTS[0].finditer(text):
        begin, end = match.span()
        if end > last:
            break
        if first < begin and not _goes_on(text, begin, end, capitals):
            found.append(end)
            first = _letter(text, end)
    return found


def _letter(text: str, start: int) -> int:
    return next((i for i in range(start, len(text)) if text[i].isalnum()), len(text))


def _goes_on(text: str, begin: int, end: int, capitals: bool) -> bool:
    """Whether the sentence that a mark before `begin` may have ended goes on at `end`."""
    before = text[max(0, begin - FAR):begin]
    if before[-1:] not in ".!?…":        # a Chinese one
        return False
    small, digit = capitals and text[end].islower(), text[end].isdigit()
    return small or bool(ABBREVIATION.search(before)) or (digit and bool(NUMBERED.search(before)))


def pieces(text: str, longest: int, length: Callable[[str], int], usual: int | None = None) -> list[str]:
    """The text in pieces of at most `usual` by the measure of `length`, each filled as far as it goes; a sentence that
    is longer by itself stays whole up to `longest` [usual].

    usual = 0: a piece for each sentence. The text is cut at the ends of sentences; inside a sentence that is too long
    by itself, behind commas and their kin; then between words; and what has no such place, in halves. A single
    character is never cut.
    """
    usual = longest if usual is None else min(longest, usual)
    found = [text] if length(text) <= usual else _pieces(text, usual, longest, length, 0)
    return [part for piece in found for part in _fitting(piece, longest, length)]


def _fitting(piece: str, longest: int, length: Callable[[str], int]) -> list[str]:
    """The piece, or smaller ones where its parts, put together, are longer than they were one by one."""
    if len(piece) < 2 or length(piece) <= longest:
        return [piece]
    middle = len(piece) // 2
    places = [match.end() for match in CUTS[-1].finditer(piece)] or [middle]
    cut = min(places, key=lambda place: abs(place - middle))
    halves = (piece[:cut].strip(), piece[cut:].strip())
    return [part for half in halves if half for part in _fitting(half, longest, length)]


def _pieces(text: str, usual: int, longest: int, length: Callable[[str], int], level: int) -> list[str]:
    if len(text) < 2:
        return [text]
    parts = _cut(text, level)
    sizes, gap = [length(part) for part in parts], length("a a") - 2 * length("a")         # what a space counts
    found: list[str] = []
    room = 0                             # of the last piece, for more
    end = 0
    for part, part_size in zip(parts, sizes, strict=True):
        begin = text.index(part, end)
        cost = part_size + gap * (begin - end)
        if found and cost <= room:
            found[-1] += text[end:begin] + part
            room -= cost
        else:
            small = part_size <= longest
            found += [part] if small else _pieces(part, usual or longest, longest, length,
                                                      min(level + 1, len(CUTS)))
            room = usual - part_size if small else 0
        end = begin + len(part)
    return found


def _cut(text: str, level: int) -> list[str]:
    if level == len(CUTS):
        return [text[:len(text) // 2], text[len(text) // 2:]]
    found = ends(text) if level == 0 else [match.end() for match in CUTS[level].finditer(text)]
    parts = (text[begin:end].strip() for begin, end in zip([0, *found], [*found, len(text)], strict=True))
    return [part for part in parts if part]


def joined(parts: Sequence[str]) -> str:
    """Translated pieces as one text: a space between them, but beside Chinese characters and their marks."""
    text = ""
    for part in filter(None, parts):
        close = not text or bool(IS_WIDE.match(text[-1]) or IS_WIDE.match(part))
        text += part if close else f" {part}"
    return text
