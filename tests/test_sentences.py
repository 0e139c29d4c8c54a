"""Long text in pieces: where it is cut, that nothing of it is lost, and how its translations are put together."""
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from microtfm.sentences import ends, joined, pieces
from microtfm.tokens import normalise, train

CUT, _ = train("word", ['a b ? ! . , " ( )'], 50)


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(("text", "longest", "found"), [
    ("One two. Three.", 3, ["One two. Three."]),
    ("One two. Three four! Five?", 3, ["One two.", "Three four! Five?"]),
    ('He said "no." Then "go!" she.', 3, ['He said "no."', 'Then "go!" she.']),
    ("One two, three; four five. Six.", 2, ["One two,", "three;", "four five.", "Six."]),
    ("one two three four", 3, ["one two three", "four"]),
    ("It costs 3.50 today. Yes.", 4, ["It costs 3.50 today.", "Yes."]),
])
def test_latin_text_is_cut_at_sentences_then_clauses_then_words(text: str, longest: int, found: list[str]) -> None:
    assert pieces(text, longest, words) == found


@pytest.mark.parametrize(("text", "longest", "found"), [
    ("我喜欢猫。你呢？", 6, ["我喜欢猫。", "你呢？"]),
    ("“我也是。”他说。好！", 6, ["“我也是。”", "他说。好！"]),
    ("我喜欢，你也喜欢。", 5, ["我喜欢，", "你也喜欢。"]),
    ("一二三四五六", 2, ["一", "二三", "四", "五六"]),
    ("一", 0, ["一"]),
])
def test_chinese_text_is_cut_without_spaces(text: str, longest: int, found: list[str]) -> None:
    assert pieces(text, longest, len) == found


def test_a_sentence_longer_than_usual_stays_whole_and_others_are_not_put_to_it() -> None:
    text = "One two. Three four five six. Seven. Eight nine."
    assert pieces(text, 10, words, 3) == ["One two.", "Three four five six.", "Seven. Eight nine."]
    assert pieces(text, 3, words, 5) == pieces(text, 3, words) == ["One two.", "Three four five", "six.",
                                                                   "Seven. Eight nine."]
    assert pieces("a b, c d e f g, h", 6, words, 2) == ["a b,", "c d e f g,", "h"]


@pytest.mark.parametrize(("text", "found"), [
    ("A man eats. A woman sleeps! Who? Me.", ["A man eats.", "A woman sleeps!", "Who?", "Me."]),
    ("Mr. Smith met Dr. J. K. Hall, e.g. Today.", ["Mr. Smith met Dr. J. K. Hall, e.g. Today."]),
    ("“Stop!” he said at 5 p.m. on Monday.", ["“Stop!” he said at 5 p.m. on Monday."]),
    ("all small. no other letters.", ["all small.", "no other letters."]),
    ("« Bonjour. » Il crie « Au feu ! » et part.", ["« Bonjour. »", "Il crie « Au feu ! » et part."]),
    ("« Quelle heure ? » « Dix heures. »", ["« Quelle heure ? »", "« Dix heures. »"]),
    ("Wait . . . What? ...", ["Wait .", ". . What? ..."]), (". . . !", [". . . !"]),
    ("Did he? No. See No. 3 and Fig. 2 of Jan. 5. Gen. Lee saw Mt. Blanc.",
     ["Did he?", "No.", "See No. 3 and Fig. 2 of Jan. 5. Gen. Lee saw Mt. Blanc."]),
    ("我喜欢iPhone。iPad也好。", ["我喜欢iPhone。", "iPad也好。"]),
    ("Im 2. Stock gibt es z. B. Hunde bzw. Katzen. Nr. 3 ist da.",
     ["Im 2. Stock gibt es z. B. Hunde bzw. Katzen.", "Nr. 3 ist da."]),
    ("我喜欢猫。你呢？很好", ["我喜欢猫。", "你呢？", "很好"]), ("One", ["One"]), ("", [""]),
])
def test_a_piece_for_each_sentence(text: str, found: list[str]) -> None:
    assert pieces(text, 100, len, 0) == found
    assert len(ends(text)) == len(found) - 1


def test_a_sentence_that_is_too_long_is_cut_into_full_pieces_where_each_sentence_is_one() -> None:
    assert pieces("a a a a a a a end. B c.", 5, words, 0) == ["a a a a a", "a a end.", "B c."]
    assert pieces("a, b, c, d, e, f, g hh. B c.", 5, words, 0) == ["a, b, c, d, e,", "f, g hh.", "B c."]


@given(st.text("ab .,!?。，”"), st.integers(1, 9), st.integers(0, 9))
def test_only_a_sentence_alone_is_longer_than_usual(text: str, longest: int, usual: int) -> None:
    def letters(part: str) -> int:
        return len("".join(part.split()))

    found = pieces(text, longest, letters, usual)
    assert "".join("".join(found).split()) == "".join(text.split())
    for part in found:
        assert letters(part) <= longest
        assert letters(part) <= usual or pieces(part, longest, letters, usual) == [part.strip()]


@given(st.text("ab .,!?。，”"), st.integers(1, 9))
def test_nothing_is_lost_and_no_piece_is_too_long(text: str, longest: int) -> None:
    found = pieces(text, longest, lambda part: len(part.strip()))
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(part.strip()) <= longest for part in found)


@pytest.mark.parametrize(("parts", "text"), [
    (["a b.", "c"], "a b. c"), (["你好。", "我"], "你好。我"), (["", "a", ""], "a"), ([], ""),
])
def test_pieces_are_joined_as_their_language_is_written(parts: list[str], text: str) -> None:
    assert joined(parts) == text


@given(text=st.lists(st.sampled_from(['" a "', "(a )b ", "? ", "b", ", ", " ."]), max_size=30).map("".join),
       longest=st.integers(2, 12))
@example(text='" a "" a "', longest=5)
def test_pieces_fit_where_their_joins_count_too(text: str, longest: int) -> None:
    """A word tokenizer says by a token of its own that marks stand apart, or words together."""
    text, tokenizer = normalise(text), CUT
    found = pieces(text, longest, lambda part: len(tokenizer.encode(part)))
    assert max((len(tokenizer.encode(part)) for part in found if len(part) > 1), default=0) <= longest
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
