"""HTML: the text between its tags, to be translated piece by piece, and the document put together again.

Tags, comments, scripts, styles and what stands in an element with translate="no" (HTML Living Standard, 3.2.6.2) stay
letter by letter as they are; so does white space around a piece. An end tag that may be left out is not waited for, as
in a browser. In <pre> each line is a piece, and line ends stay. A tag or comment that never ends, such as one with an
open quote, reaches to the end of the document, as in a browser.
"""
from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

from microtfm.elements import Elements

UNTOUCHED = ("script", "style", "code", "kbd", "samp", "textarea")       # elements whose text is no prose
LINE_END = re.compile(r"(\r\n?|\n|&#0*1[03];|&#[xX]0*[aAdD];|&NewLine;)")
UNFINISHED = re.compile(r"<[a-zA-Z/!?]")


class Markup:
    """A document; `texts` are its pieces of text, in order, with each run of white space one space."""

    counted = "pieces of text between tags"              # what `texts` are

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


@dataclass(frozen=True)
class _Mark:
    """Where in a source a piece of text, a tag or a comment begins."""

    start: int
    prose: bool
    preformatted: bool


class _Reader(HTMLParser):
    """Notes where in a source each piece of text and each tag begins."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self._source, self._found = source, list[_Mark]()
        self._lines = [0]                # where each line begins
        for line in source.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)
        self._elements = Elements()      # a marked one is left alone
        self.feed(source)
        if UNFINISHED.match(self.rawdata):
            self._note(False)
        else:
            self.close()

    def parts(self) -> Iterator[tuple[str, bool]]:
        """The source in parts, and whether each is prose."""
        stops = [mark.start for mark in self._found[1:]] + [len(self._source)]
        yield self._source[:self._found[0].start if self._found else None], False
        for mark, stop in zip(self._found, stops, strict=False):
            part = self._source[mark.start:stop]
            for piece in LINE_END.split(part) if mark.preformatted else [part]:
                yield piece, mark.prose

    def _note(self, prose: bool) -> None:
        """What begins here. Text may come in several portions, and is one piece."""
        line, column = self.getpos()
        mark = _Mark(self._lines[line - 1] + column, prose and not self._elements.marked,
                     prose and self._elements.has("pre"))
        if not (mark.prose and self._found and self._found[-1].prose):
            self._found.append(mark)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag begins, and with it perhaps an element that is left alone."""
        self._note(False)
        left_alone = tag in UNTOUCHED or (dict(attrs).get("translate") or "").lower() == "no"
        self._elements.begin(tag, left_alone)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag with a slash at its end, which says nothing in HTML."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """A tag ends."""
        self._note(False)
        self._elements.end(tag)

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
