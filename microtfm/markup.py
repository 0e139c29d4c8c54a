"""HTML: the text between its tags, to be translated piece by piece, and the document put together again.

Tags, comments, scripts, styles and what stands in an element with translate="no" (HTML Living Standard, 3.2.6.2) stay
letter by letter as they are; so does white space around a piece.
"""
from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise

UNTOUCHED = ("script", "style", "code", "kbd", "samp", "textarea")       # elements whose text is no prose
VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")


class Markup:
    """A document; `texts` are its pieces of text, in order, with each run of white space one space."""

    def __init__(self, source: str) -> None:
        reader = _Reader(source)
        self._parts = [(part, prose and any(map(str.isalpha, html.unescape(part)))) for part, prose in reader.parts()]
        self.texts = [" ".join(html.unescape(part).split()) for part, prose in self._parts if prose]

    def filled(self, translations: Sequence[str]) -> str:
        """The document with its pieces translated; ValueError unless there is a translation for each."""
        if len(translations) != len(self.texts):
            raise ValueError(f"There are {len(translations):,} translations for {len(self.texts):,} pieces of text.")
        rest = iter(translations)
        return "".join(_framed(part, next(rest)) if prose else part for part, prose in self._parts)


def _framed(part: str, text: str) -> str:
    """A translation between the white space of its source."""
    plain = html.unescape(part)
    body = plain.strip()
    before, after = plain[:plain.index(body)], plain[plain.index(body) + len(body):]
    return before + html.escape(text, quote=False) + after


class _Reader(HTMLParser):
    """Notes where in a source each piece of text and each tag begins."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self._source, self._found = source, list[tuple[int, bool]]()
        self._lines = [0]                # where each line begins
        for line in source.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)
        self._within: list[str] = []     # an element that is left alone, and those of the same name inside it
        self.feed(source)
        self.close()

    def parts(self) -> Iterator[tuple[str, bool]]:
        """The source in parts, and whether each is prose."""
        marks = [(0, False), *self._found, (len(self._source), False)]
        for (start, prose), (stop, _) in pairwise(marks):
            if start < stop:
                yield self._source[start:stop], prose

    def _note(self, prose: bool) -> None:
        line, column = self.getpos()
        self._found.append((self._lines[line - 1] + column, prose and not self._within))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag begins, and with it perhaps an element that is left alone."""
        self._note(False)
        left_alone = tag in UNTOUCHED or (dict(attrs).get("translate") or "").lower() == "no"
        if tag not in VOID and (tag in self._within or (left_alone and not self._within)):
            self._within.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag without content."""
        self._note(False)

    def handle_endtag(self, tag: str) -> None:
        """A tag ends."""
        self._note(False)
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data: str) -> None:
        """Text."""
        self._note(True)

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """What begins like a marked section and is none is a comment (HTML Living Standard, 13.2.5.42)."""
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:
            return self.parse_bogus_comment(i)

    def handle_comment(self, data: str) -> None:
        """A comment."""
        self._note(False)

    def handle_decl(self, decl: str) -> None:
        """A declaration, such as that of the document's type."""
        self._note(False)

    def unknown_decl(self, data: str) -> None:
        """A declaration such as CDATA."""
        self._note(False)

    def handle_pi(self, data: str) -> None:
        """A processing instruction."""
        self._note(False)
