"""An SVG as an offline page: what is under the pointer is said at once, the picture fits the window."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources


def page(svg: str, title: str, heads: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()) -> str:
    """The page as text. heads and rows: the same as a table, for a screen reader.

    Marks whose `data-c` is the same (one pair of words in every head) light up together, and their tooltips are listed.
    """
    table = ""
    if rows:
        table = "<table><tr>" + "".join(f"<th>{escape(h)}</th>" for h in heads) + "</tr>" + "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows) + "</table>"
    template = resources.files(__package__).joinpath("picture_page.html").read_text(encoding="utf-8")
    return template.replace("__TITLE__", escape(title)).replace("__TABLE__", table).replace("__SVG__", svg)
