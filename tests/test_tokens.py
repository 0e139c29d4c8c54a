"""Tokenizers: round trips, determinism, silence, and files that are not what they seem."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm import tokens
from microtfm.errors import UserError

LINES = [
    "I don't like cats, but she likes dogs.", "He said: \"Go home!\" (twice)", "我昨天买了三本书。", "她喜欢喝茶吗？",
    "It costs $3.50 - or 1,000 yen.", "well-known: café, naïve, Ærø", "你好, world", "\"A\" and \"B\"",
]
TRAINED = {kind: tokens.train(kind, LINES, 400)[0] for kind in tokens.KINDS}
LITERALS = "<pad> <unk> <bos> <eos> <s> </s> <join> <space> <0x41> ▁"


@pytest.mark.parametrize("kind", tokens.KINDS)
@pytest.mark.parametrize("line", LINES)
def test_round_trip_of_known_text(kind: str, line: str) -> None:
    tokenizer = TRAINED[kind]
    assert tokenizer.decode(tokenizer.encode(line)) == tokens.normalise(line)


@given(st.text())
def test_subwords_round_trip_any_text(text: str) -> None:
    tokenizer = TRAINED["subword"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokens.normalise(text)
    assert all(tokens.EOS < i < len(tokenizer) for i in ids)


@given(st.text("I don't lk\"(),.-我昨天？3é "))
def test_words_round_trip_whatever_the_spacing(text: str) -> None:
    tokenizer = tokens.WordTokenizer(sorted(set(tokens.WordTokenizer.split(text))))
    assert tokenizer.decode(tokenizer.encode(text)) == tokens.normalise(text)


@given(st.text())
def test_characters_round_trip(text: str) -> None:
    tokenizer = tokens.CharTokenizer(sorted(set(tokens.normalise(text))))
    assert tokenizer.decode(tokenizer.encode(text)) == tokens.normalise(text)


@given(st.text())
def test_normalise_settles(text: str) -> None:
    plain = tokens.normalise(text)
    assert tokens.normalise(plain) == plain
    assert unicodedata.is_normalized("NFC", plain)
    plain.encode("utf-8")


def test_what_cannot_be_seen_is_no_text_unless_beside_what_can() -> None:
    for text in ("\u200b", "\ufeff \u2060\u3000\u200d", "\xad", "\ufe0f\u3164", "\U000e0020"):
        assert tokens.normalise(text) == ""
    for text in ("👩\u200d👩", "می\u200cخواهم", "!", "\u0301", "\u200b1"):
        assert tokens.normalise(text) == text


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_no_text_encodes_to_a_special(kind: str) -> None:
    for lines in (LINES, [LITERALS] * 3):
        tokenizer, _ = tokens.train(kind, lines, 400)
        assert not {tokens.PAD, tokens.BOS, tokens.EOS} & set(tokenizer.encode(LITERALS))
    assert tokenizer.decode(tokenizer.encode(LITERALS)) == tokens.normalise(LITERALS)


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_specials_come_first_and_say_nothing(kind: str) -> None:
    tokenizer = TRAINED[kind]
    assert tokenizer.pieces(range(4)) == ["<pad>", "<unk>", "<bos>", "<eos>"]
    ids = tokenizer.encode(LINES[0])
    assert tokenizer.decode([tokens.BOS, *ids, tokens.EOS, tokens.PAD]) == LINES[0]
    assert len(tokenizer.pieces(ids)) == len(ids)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_training_is_deterministic_and_silent(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = (tokens.train(kind, LINES, 400)[0].to_bytes() for _ in range(2))
    assert first == second
    assert capfd.readouterr() == ("", "")


def test_left_out_merges_change_the_cut_and_never_the_text() -> None:
    subwords = TRAINED["subword"]
    assert isinstance(subwords, tokens.SubwordTokenizer)
    text = [*LINES, LITERALS, "", "未见过 \U0001f600"] * 20
    usual = [subwords.encode(line) for line in text]
    drawn = subwords.sample(text, 0.3, 7)
    assert drawn == subwords.sample(text, 0.3, 7)
    assert subwords.sample(text, 0.3, 8) != drawn
    assert subwords.sample(text[:40], 0.3, 7) == drawn[:40]
    assert [subwords.decode(ids) for ids in drawn] == list(map(tokens.normalise, text))
    assert min(min(ids, default=tokens.UNK) for ids in drawn) >= tokens.UNK
    assert sum(map(len, usual)) < sum(map(len, subwords.sample(text, 0.05, 7))) < sum(map(len, drawn))
    assert len({tuple(ids) for ids in drawn[::len(LINES) + 3]}) > 5              # the same line, twenty times
    assert subwords.sample(text, 0.0, 7) == usual


def test_chinese_is_split_by_character_and_english_by_word() -> None:
    assert tokens.WordTokenizer.split("我like猫, don't I？") == ["我", "like", "猫", ",", "don", "'t", "I", "？"]
    assert tokens.WordTokenizer.split("Anna's 3.50") == ["Anna", "'s", "3.50"]


def test_unknown_words_are_unk() -> None:
    tokenizer = TRAINED["word"]
    assert tokenizer.encode("zebra") == [tokens.UNK]
    assert tokenizer.decode([tokens.UNK]) == "<unk>"
    assert tokens.UNK not in TRAINED["subword"].encode("zebra 斑马 🦓")


def test_ordinary_text_needs_no_space_marks() -> None:
    tokenizer = TRAINED["word"]
    marks = {tokens.JOIN, tokens.SPACE}
    assert not marks & set(tokenizer.encode("He said: \"Go home!\" (twice), and she likes dogs."))
    assert marks & set(tokenizer.encode("like , but"))


def test_notices() -> None:
    _, notices = tokens.train("subword", ["a few words"], 4000)
    assert len(notices) == 1 and "too small for 4,000 subwords" in notices[0]
    _, notices = tokens.train("word", ["a b c d e f"], 10)
    assert len(notices) == 1 and "4 most frequent of 6 words" in notices[0]
    many = "".join(map(chr, range(0x4E00, 0x5200)))
    tokenizer, notices = tokens.train("subword", [many], 400)
    assert len(tokenizer) <= 400 and "too many different characters" in notices[0]
    assert tokenizer.decode(tokenizer.encode(many)) == many
    assert tokens.train("char", LINES, 1000)[1] == []


@pytest.mark.parametrize("kind, lines, size, says", [
    ("words", ["a"], 100, "word, char, subword"),
    ("word", [], 100, "every line is empty"),
    ("subword", ["", "  "], 1000, "every line is empty"),
    ("subword", ["a"], 100, "at least"),
    ("char", ["a"], 1, "at least"),
])
def test_training_refuses(kind: str, lines: list[str], size: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        tokens.train(kind, lines, size)


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_files_round_trip(kind: str, tmp_path: Path) -> None:
    tokens.save(TRAINED[kind], tmp_path / "tokens.json")
    assert [p.name for p in tmp_path.iterdir()] == ["tokens.json"]
    again = tokens.load(tmp_path / "tokens.json")
    assert again.kind == kind and again.to_bytes() == TRAINED[kind].to_bytes()
    assert [again.encode(line) for line in LINES] == [TRAINED[kind].encode(line) for line in LINES]


def edited(of: str, **changes: object) -> bytes:
    return json.dumps(json.loads(TRAINED[of].to_bytes()) | changes).encode()


def resealed(kind: object, content: object, of: str = "") -> bytes:
    return edited(of or str(kind), kind=kind, content=content, sha256=tokens._digest(tokens.FORMAT, kind, content))


WORDS = TRAINED["word"].pieces(range(6, len(TRAINED["word"])))
BAD_FILES = {
    "empty": (b"", "not JSON"),
    "cut short": (TRAINED["word"].to_bytes()[:-40], "not JSON"),
    "binary": (b"\x80\x04\x95pickle", "not JSON"),
    "foreign": (b'{"model": 1}', "not a tokenizer of this program"),
    "a list": (b"[1, 2]", "not a tokenizer of this program"),
    "deep": (b"[" * 100_000, "not JSON"),
    "reordered": (edited("word", content={"pieces": WORDS[::-1]}), "sha256"),
    "piece missing": (edited("word", content={"pieces": WORDS[1:]}), "sha256"),
    "no content": (edited("word", content=None), "sha256"),
    "twice": (resealed("word", {"pieces": ["a", "a"]}), "same piece twice"),
    "numbers": (resealed("char", {"pieces": [1, 2]}), "list of strings"),
    "no pieces": (resealed("char", {}), "damaged"),
    "kind": (edited("word", kind="magic"), "sha256"),
    "another kind": (edited("word", kind="char"), "sha256"),
    "another format": (edited("word", format=tokens.FIRST), "sha256"),
    "kind, sealed": (resealed("magic", {}, "word"), "unknown tokenizer kind 'magic'"),
    "kind list": (resealed(["word"], {}, "word"), "unknown tokenizer kind"),
    "a name twice": (TRAINED["word"].to_bytes().replace(b'"kind"', b'"kind": "char",\n "kind"'), "not JSON"),
    "a surrogate": (edited("char", content={"pieces": ["\ud800"]}), "damaged"),
    "no base64": (resealed("subword", {"model": "???"}), "damaged"),
    "no model": (resealed("subword", {"model": "AAAA"}), "not a sentencepiece model"),
    "empty model": (resealed("subword", {"model": ""}), "subword model is empty"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, says = BAD_FILES[name]
    path = tmp_path / "tokens.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as caught:
        tokens.load(path)
    assert str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_never_goes_unseen(at: int, byte: int) -> None:
    data = bytearray(TRAINED["word"].to_bytes())
    data[at % len(data)] = byte
    try:
        again = tokens.from_bytes(bytes(data))
    except UserError:
        return
    assert again.to_bytes() == TRAINED["word"].to_bytes()


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        tokens.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="could not be written"):
        tokens.save(TRAINED["char"], tmp_path / "none" / "tokens.json")
