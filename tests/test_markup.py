"""HTML to translate: what is text, what stays, and that nothing is lost."""
from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm.elements import Elements
from microtfm.markup import Markup

PIECES = ["<p>", "</p>", "<br>", "<b title='a > b'>", "</b>", "Hello there", "  ", "\n", "&amp;", "&nbsp;", "&lt;b&gt;",
          "1.5", "<", "<!-- not this -->", "<script>", "</script>", "<p translate=no>", "<img alt='x'/>",
          "<!DOCTYPE html>", "é", "&", "<![CDATA[", "]]>"]


@pytest.mark.parametrize(("page", "texts"), [
    ("Hello", ["Hello"]),
    ("<p>Hello <b>big</b>\n world &amp; all</p>", ["Hello", "big", "world & all"]),
    ("<p>one\n  line&nbsp;here</p>", ["one line here"]),
    ("<style>p {}</style><script>if (a < b) f('<p>x</p>')</script>yes", ["yes"]),
    ("<script/>var no = 1;</script>yes", ["yes"]), ("<div translate='no'/>no<div/>no</div>no</div>yes", ["yes"]),
    ("<div translate=no>a <b>b</b><br><div>c</div></div>yes", ["yes"]),
    ("<code>a <code>b</code> c</code>yes", ["yes"]),
    ("<!-- a --><!DOCTYPE html>yes <img translate='no'> and yes", ["yes", "and yes"]),
    ("12 &mdash; 3.5", []),
    ("<p>yes</p><![x]>and yes", ["yes", "and yes"]),
    ("", []),
    ("I have 3 < 4 apples", ["I have 3 < 4 apples"]),
    ("a<pre>one  two\n  three\r\n\nfour&#10;five</pre>b\nc", ["a", "one two", "three", "four", "five", "b c"]),
    ("<pre>a<pre>\n</pre>b\nc</pre>d\ne</pre>f\ng", ["a", "b", "c", "d e", "f g"]),
    ("<pre><code>a\nb</code>\nc\nd</pre><textarea>e\nf</textarea>", ["c", "d"]),
])
def test_what_is_text(page: str, texts: list[str]) -> None:
    assert Markup(page).texts == texts


@pytest.mark.parametrize(("page", "texts"), [
    ("<p translate=no>no<p>yes", ["yes"]), ("<p translate=no>no<div>yes</div>and yes", ["yes", "and yes"]),
    ("<ul><li translate=no>no<li>yes</ul>and yes", ["yes", "and yes"]),
    ("<ul><li translate=no>no<ul><li>no<li>no</ul>no</ul>yes", ["yes"]),
    ("<dl><dt translate=no>no<dd>yes</dl>", ["yes"]),
    ("<table><tr><td translate=no><p>no<td>yes<tr><td>and yes</table>", ["yes", "and yes"]),
    ("<table><tr translate=no><td>no<td>no<tr><td>yes</table>", ["yes"]),
    ("<table><td translate=no>no<table><td>no<td>no</table>no<td>yes</table>", ["yes"]),
    ("<div><span translate=no>no</div>yes", ["yes"]), ("<p translate=no>no</div>no</p>yes", ["yes"]),
    ("<b><i translate=no>no</b>no</i>yes", ["yes"]), ("<i translate=no><b>no</i>yes</b>", ["yes"]),
    ("<p translate=no>a <b>b</b><br><p>c</p></p>yes", ["c", "yes"]),
    ("<p><code>no<p>no</code>yes", ["yes"]), ("<p><pre>a\n b</p>\nc</pre>d\ne", ["a", "b", "c", "d e"]),
])
def test_what_is_left_alone_ends_where_a_browser_ends_it(page: str, texts: list[str]) -> None:
    assert Markup(page).texts == texts


@pytest.mark.parametrize("tag", ["p", "li", "tr", "td", "colgroup", "b", "div", "optgroup"])
def test_elements_that_never_end_cost_no_more_each(tag: str) -> None:
    elements = Elements()
    for _ in range(100_000):                             # a minute, if each looked at all before it
        elements.begin(tag, False)
        elements.end("i")
    assert elements.has(tag) and not elements.marked


@pytest.mark.parametrize("rest", ["<a href='x>no</a><p>no</p>", '<a b="c>no', "<b", "<!-- no", "</b", "<![CDATA[ no",
                                  "<?no", "<!DOCTYPE no", "<script>no", "<script>no <b"])
def test_what_never_ends_is_no_text_to_the_end_as_in_a_browser(rest: str) -> None:
    page = Markup(f"yes {rest}")
    assert page.texts == ["yes"] and page.filled(["ja"]) == f"ja {rest}"


def test_a_quote_that_a_later_one_closes_is_one_tag() -> None:
    assert Markup("<a title='b>c <b title='d'>yes</b>").texts == ["yes"]


def test_line_ends_of_preformatted_text_stay() -> None:
    page = Markup("<pre>\na  b\n  c\r\n\nd&#10;e</pre> f\ng <textarea>h\ni</textarea>")
    assert page.filled([text.upper() for text in page.texts]) == (
        "<pre>\nA B\n  C\r\n\nD&#10;E</pre> F G <textarea>h\ni</textarea>")


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
