"""HTML to translate: what is text, what stays, and that nothing is lost."""
from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm.markup import Markup

PIECES = ["<p>", "</p>", "<br>", "<b title='a > b'>", "</b>", "Hello there", "  ", "\n", "&amp;", "&nbsp;", "&lt;b&gt;",
          "1.5", "<", "<!-- not this -->", "<script>", "</script>", "<p translate=no>", "<img alt='x'/>",
          "<!DOCTYPE html>", "é", "&", "<![CDATA[", "]]>"]


@pytest.mark.parametrize(("page", "texts"), [
    ("Hello", ["Hello"]),
    ("<p>Hello <b>big</b>\n world &amp; all</p>", ["Hello", "big", "world & all"]),
    ("<p>one\n  line&nbsp;here</p>", ["one line here"]),
    ("<style>p {}</style><script>if (a < b) f('<p>x</p>')</script>yes", ["yes"]),
    ("<p translate=no>a <b>b</b><br><p>c</p></p>yes", ["yes"]),
    ("<code>a <code>b</code> c</code>yes", ["yes"]),
    ("<!-- a --><!DOCTYPE html>yes <img translate='no'> and yes", ["yes", "and yes"]),
    ("12 &mdash; 3.5", []),
    ("<p>yes</p><![x]>and yes", ["yes", "and yes"]),
    ("", []),
])
def test_what_is_text(page: str, texts: list[str]) -> None:
    assert Markup(page).texts == texts


def test_translations_are_put_in_place_and_escaped() -> None:
    page = Markup("<p id=1> Hello <b>you</b>!</p><!-- x -->")
    assert page.filled(["a < b", "&"]) == "<p id=1> a &lt; b <b>&amp;</b>!</p><!-- x -->"
    with pytest.raises(ValueError, match="1 translations for 2 pieces"):
        page.filled(["one"])


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_the_same_texts_give_the_same_page(pieces: list[str]) -> None:
    source = "".join(pieces)
    page = Markup(source)
    same = page.filled(page.texts)
    assert " ".join(html.unescape(same).split()) == " ".join(html.unescape(source).split())
