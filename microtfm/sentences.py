"""Text that is too long for a model: cut into pieces at the ends of sentences, and put together again."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from microtfm.tokens import IS_WIDE

# behind which a full stop ends no sentence: a single letter, a small number, titles, a few words of three languages
ABBREVIATION = re.compile(r"""(?<!\w)(?:[A-Za-z]|\d\d?|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Nos?|Vol|vs|etc|approx|"""
                          r"""Nr|Hr|Fr|bzw|ca|usw|Mme|Mlle|MM|av|env)\.$""")
FAR = 10                                 # characters that the longest of them and the one before it take
CUTS = (                                 # where to cut, the best places first; each piece keeps the marks at its end
    re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|(?<=[。！？｡])(?![。！？｡…”’」』）])\s*|(?<=[。！？｡…][”’」』）])\s*"""),
    re.compile(r"(?<=[,;:])\s+|(?<=[，；：、—])\s*"),
    re.compile(r"\s+"),
)


def ends(text: str) -> list[int]:
    """Where inside the text a sentence has ended and the next one begins.

    That is behind a mark that ends sentences, but not before a small letter, unless the text has no other, nor behind
    an abbreviation or a number such as German's "2. Stock".
    """
    capitals, found = any(char.isupper() for char in text), []
    for match in CUTS[0].finditer(text):
        begin, end = match.span()
        small = capitals and text[end:end + 1].islower()
        if end < len(text) and not small and not ABBREVIATION.search(text[max(0, begin - FAR):begin]):
            found.append(end)
    return found


def pieces(text: str, longest: int, length: Callable[[str], int], usual: int | None = None) -> list[str]:
    """The text in pieces of at most `usual` by the measure of `length`, each filled as far as it goes; a sentence that
    is longer by itself stays whole up to `longest` [usual].

    usual = 0: a piece for each sentence. The text is cut at the ends of sentences; inside a sentence that is too long
    by itself, behind commas and their kin; then between words; and what has no such place, in halves. A single
    character is never cut.
    """
    usual = longest if usual is None else min(longest, usual)
    return [text] if length(text) <= usual else _pieces(text, usual, longest, length, 0)


def _pieces(text: str, usual: int, longest: int, length: Callable[[str], int], level: int) -> list[str]:
    if len(text) < 2:
        return [text]
    parts = _cut(text, level)
    sizes = [length(part) for part in parts]
    found: list[str] = []
    room = 0                             # of the last piece, for more
    end = 0
    for part, part_size in zip(parts, sizes, strict=True):
        begin = text.index(part, end)
        if found and part_size <= room:
            found[-1] += text[end:begin] + part
            room -= part_size
        else:
            small = part_size <= longest
            found += [part] if small else _pieces(part, usual, longest, length, min(level + 1, len(CUTS)))
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
