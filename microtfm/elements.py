"""Which HTML elements are open, where end tags may be left out (HTML Living Standard, 13.1.2.4 and 13.2.6).

Formatting elements that a block's end tag has ended are not opened again behind it, as they are in a browser.
"""
from __future__ import annotations

from collections import defaultdict

VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
FORMATTING = ("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
_BLOCKS = [
    "address", "article", "aside", "blockquote", "center", "details", "dialog", "dir", "div", "dl", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "main",
    "menu", "nav", "ol", "p", "pre", "search", "section", "table", "ul",
]
_ENDS = {                  # element that may lack its end tag: tags whose beginning ends it
    "p": [*_BLOCKS, "li", "dd", "dt", "tr", "td", "th", "tbody", "tfoot"],
    "li": ["li"],
    "dd": ["dd", "dt"], "dt": ["dd", "dt"],
    "rp": ["rp", "rt"], "rt": ["rp", "rt"],
    "option": ["option", "optgroup", "hr"], "optgroup": ["optgroup", "hr"],
    "td": ["td", "th", "tr", "tbody", "tfoot"], "th": ["td", "th", "tr", "tbody", "tfoot"],
    "tr": ["tr", "tbody", "tfoot"],
    "thead": ["thead", "tbody", "tfoot"], "tbody": ["tbody", "tfoot"], "tfoot": ["tbody", "tfoot"],
    "caption": ["caption", "colgroup", "tr", "thead", "tbody", "tfoot"],
    "colgroup": ["colgroup", "tr", "thead", "tbody", "tfoot"],
}


class Elements:
    """The open elements, the outermost first. One of them may be marked, until it ends."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._places: dict[str, list[int]] = defaultdict(list)       # of each name, the outermost first
        self._marked: int | None = None

    @property
    def marked(self) -> bool:
        """Whether the marked element is open."""
        return self._marked is not None

    def has(self, name: str) -> bool:
        """Whether an element of this name is open."""
        return bool(self._places[name])

    def begin(self, name: str, mark: bool) -> None:
        """A tag begins an element, which is marked if `mark` and nothing is yet; it may end elements before it."""
        self._close(self._ended_by(name))
        if name in VOID:
            return
        if mark and self._marked is None:
            self._marked = len(self._open)
        self._places[name].append(len(self._open))
        self._open.append(name)

    def end(self, name: str) -> None:
        """A tag ends the innermost element of its name and all inside it; without one it says nothing.

        Formatting elements do not end what they cross (13.2.6.4.7, the adoption agency).
        """
        if not self._places[name]:
            return
        place = self._places[name][-1]
        if not (name in FORMATTING and self._marked is not None and place < self._marked):
            self._close(place)

    def _ended_by(self, name: str) -> int:
        """Where the elements begin that this name's beginning ends."""
        first = place = len(self._open)
        while place and (ends := _ENDS.get(self._open[place - 1])) is not None:
            place -= 1
            if name in ends:
                first = place
        return first

    def _close(self, place: int) -> None:
        while len(self._open) > place:
            self._places[self._open.pop()].pop()
        if self._marked is not None and self._marked >= place:
            self._marked = None
