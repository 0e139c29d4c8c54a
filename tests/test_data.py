"""Corpora: what is read, what is refused and in which words, and the order of the data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm import data, tokens
from microtfm.errors import UserError


def files(folder: Path, source: bytes, target: bytes) -> tuple[Path, Path]:
    (folder / "a.zh").write_bytes(source)
    (folder / "a.en").write_bytes(target)
    return folder / "a.zh", folder / "a.en"


READ = {
    "plain": (b"a\nb\n", b"x\ny\n", [("a", "x"), ("b", "y")]),
    "no final newline": (b"a\nb", b"x\ny\n", [("a", "x"), ("b", "y")]),
    "CRLF": (b"a\r\nb\r\n", b"x\ny\n", [("a", "x"), ("b", "y")]),
    "byte order mark": (b"\xef\xbb\xbfa\n", b"x\n", [("a", "x")]),
    "U+2028, U+0085, VT, FF inside": ("a\u2028b\u0085c\vd\fe\n".encode(), b"x\n", [("a b c d e", "x")]),
    "carriage return inside": (b"a\rb\nc\n", b"x\ny\n", [("a b", "x"), ("c", "y")]),
    "NFD": ("cafe\u0301\n".encode(), b"x\n", [("café", "x")]),
    "tabs": (b"a\tb\n", b"x\n", [("a b", "x")]),
    "emoji, right to left": ("👩‍👩‍👧 שלום\n".encode(), b"x\n", [("👩‍👩‍👧 שלום", "x")]),
    "literals": (b"<pad> <bos>\n", b"x\n", [("<pad> <bos>", "x")]),
    "a long line": (b"ab " * 400_000 + b"\n", b"x\n", [("ab " * 399_999 + "ab", "x")]),
}


@pytest.mark.parametrize("name", READ)
def test_reads(name: str, tmp_path: Path) -> None:
    source, target, pairs = READ[name]
    assert data.read_parallel(*files(tmp_path, source, target)).pairs == pairs


REFUSED = {
    "one line short": (b"a\nb\nc\n", b"x\ny\n", r"a.zh has 3 lines and .*a.en has 2\..*No empty line"),
    "drift": (b"a\n\nb\nc\n", b"x\ny\nz\n", r"4 lines .* 3\. .*line 2, which is empty in .*a.zh"),
    "Latin-1": (b"a\ncaf\xe9 noir\n", b"x\ny\n", "a.zh, line 2: byte 0xE9 at position 4 is not valid UTF-8"),
    "cut off": (b"a\n\xe7\x8c", b"x\ny\n", "a.zh, line 2: byte 0xE7"),
    "overlong": (b"\xc0\xaf\n", b"x\n", "a.zh, line 1: byte 0xC0"),
    "surrogate": (b"\xed\xa0\x80\n", b"x\n", "a.zh, line 1: byte 0xED"),
    "NUL": (b"a\nb\0c\n", b"x\ny\n", "a.zh, line 2: a NUL byte"),
    "UTF-16": ("a\n".encode("utf-16"), b"x\n", "a.zh is UTF-16"),
    "gzip": (b"\x1f\x8b\x08\0\n", b"x\n", "a.zh is a gzip file"),
    "lone CR": (b"a\rb\rc", b"x\ny\nz\n", "a.zh ends its lines with a lone carriage return"),
    "empty files": (b"", b"", "nothing to learn from"),
    "one empty file": (b"", b"x\n", "a.zh has 0 lines and .*a.en has 1.*a.zh is empty: give the file"),
    "other empty file": (b"x\n", b"", "a.zh has 1 line and .*a.en is empty: give the file"),
    "zero width only": ("\u200b\n\ufeff\u2060 \u200d\n".encode(), b"x\ny\n", "nothing to learn from"),
    "white space only": (b" \n\t\n", b"x\ny\n", "nothing to learn from"),
    "many empty lines": (b"\n" * 300_000, b"\n" * 300_000, "nothing to learn from"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, tmp_path: Path) -> None:
    source, target, says = REFUSED[name]
    with pytest.raises(UserError, match=says) as caught:
        data.read_parallel(*files(tmp_path, source, target))
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"a\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, says in (("none", "does not exist"), (".", "is a folder"), ("pipe", "not a plain file"),
                       ("loop", "cannot be read")):
        with pytest.raises(UserError, match=says):
            data.read_parallel(tmp_path / name, good)
        with pytest.raises(UserError, match=says):
            data.read_parallel(good, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"a\n", b"x\n")
    source.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        data.read_parallel(source, target)


def test_tab_separated(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("猫\tcat\n\n狗\tdog\r\n".encode())
    corpus = data.read_parallel(path)
    assert corpus.pairs == [("猫", "cat"), ("狗", "dog")] and "line 2" in corpus.report[0]
    for text, says in ((b"a\tb\nc\n", "line 2: 1 column where"), (b"a\tb\tc\n", "line 1: 3 columns where")):
        path.write_bytes(text)
        with pytest.raises(UserError, match=f"a.tsv, {says}"):
            data.read_parallel(path)


def test_one_side_alone_is_told_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.zh"
    path.write_text("猫\n狗\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.zh has no tab in any line.* as --tgt, or one TSV file"):
        data.read_parallel(path)
    with pytest.raises(UserError, match="as --valid-tgt"):
        data.read_parallel(path, other="--valid-tgt")


def test_what_there_is_nothing_to_do_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to score in .*a\.zh and .*a\.en: no line has text on both sides"):
        data.read_parallel(*files(tmp_path, b"a\n\n", b"\nx\n"), purpose="score")
    with pytest.raises(UserError, match=r"nothing to score .*: there is no line"):
        data.read_parallel(*files(tmp_path, b"", b""), purpose="score")


def test_report(tmp_path: Path) -> None:
    source = b"a\n\nc\n\n\n\n\n\na\nsame\n"
    target = b"x\ny\n\n1\n2\n3\n4\n5\nx\nsame\n"
    corpus = data.read_parallel(*files(tmp_path, source, target))
    assert len(corpus) == 3
    dropped, repeated, copied = corpus.report
    assert "Dropped 7 pairs" in dropped and "lines 2, 3, 4, 5, 6, ..." in dropped
    assert "1 pair of 3" in repeated and "1 pair of 3" in copied


def test_hold_out_shares_no_source() -> None:
    pairs = [(f"s{i % 70}", f"t{i}") for i in range(100)]
    training, held_out = data.hold_out(pairs, 20, seed=3)
    assert len(held_out) == 20
    assert not {a for a, _ in training} & {a for a, _ in held_out}
    assert set(training) | set(held_out) <= set(pairs)
    assert (training, held_out) == data.hold_out(pairs, 20, seed=3)
    assert held_out != data.hold_out(pairs, 20, seed=4)[1]
    with pytest.raises(UserError, match="only 70 different source"):
        data.hold_out(pairs, 70, seed=0)


def test_long_sentences_are_counted_and_said() -> None:
    tokenizer, _ = tokens.train("char", ["abc"], 10)
    pairs = [("a", "b"), ("a" * 11, "b"), ("a", "b" * 30)]
    encoded, report = data.encode(pairs, tokenizer, tokenizer, longest=10)
    assert len(encoded) == 1
    assert "Left out 2 pairs of 3 with more than 10 tokens" in report[0] and "longest has 30" in report[0]
    assert data.encode(pairs, tokenizer, tokenizer)[1] == []
    with pytest.raises(UserError, match="No sentence pair is short enough"):
        data.encode(pairs[1:], tokenizer, tokenizer, longest=10)


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60).map(
    lambda rows: np.array(rows, dtype=np.int64).reshape(-1, 2))


@given(SIZES, st.integers(40, 300), st.integers(0, 2**40), st.integers(0, 5))
def test_batches_partition_the_data_within_the_budget(sizes: np.ndarray, budget: int, seed: int, epoch: int) -> None:
    found = data.batches(sizes, budget, seed, epoch)
    assert sorted(i for rows in found for i in rows) == list(range(len(sizes)))
    assert all(len(rows) == 1 or len(rows) * data.rounded(int(sizes[rows].max())) <= budget for rows in found)
    np.random.random()
    again = data.batches(sizes.copy(), budget, seed, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_order_changes_with_seed_and_epoch_but_never_by_itself() -> None:
    sizes = np.random.default_rng(0).integers(3, 20, (500, 2))
    orders = {tuple(np.concatenate(data.batches(sizes, 200, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert data.shuffled(8, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]       # the same on every machine and NumPy


def test_a_sentence_over_the_budget() -> None:
    with pytest.raises(UserError, match=r"70 tokens does not fit into a batch of 64"):
        data.batches(np.array([[3, 3], [70, 2]]), 64, 0, 0)


def test_little_padding() -> None:
    sizes = np.random.default_rng(0).integers(3, 30, (2000, 1)).repeat(2, axis=1)
    padded = sum(len(rows) * data.rounded(int(sizes[rows].max())) for rows in data.batches(sizes, 500, 0, 0))
    assert sizes[:, 0].sum() / padded > 0.9


def test_batch() -> None:
    encoded = [([10, 11], [20]), ([12], [21, 22, 23])]
    made = data.batch(encoded, [1, 0])
    assert made.source.tolist() == [[12, 3, 0, 0], [10, 11, 3, 0]]
    assert made.target_in.tolist() == [[2, 21, 22, 23], [2, 20, 0, 0]]
    assert made.target_out.tolist() == [[21, 22, 23, 3], [20, 3, 0, 0]]
    assert (made.tokens, made.source_tokens, made.source.dtype) == (6, 5, np.int64)
    assert data.lengths(encoded).tolist() == [[3, 2], [2, 4]]
    assert data.pad([[1, 2, 3], []], 9, length=4).tolist() == [[1, 2, 3, 9], [9, 9, 9, 9]]
    assert data.pad([]).shape == (0, 0)


def test_batches_come_in_few_lengths() -> None:
    ladder = [data.rounded(n) for n in range(1, 257)]
    assert all(n <= up <= max(n + 1, 1.25 * n) for n, up in zip(range(1, 257), ladder, strict=True))
    assert len(set(ladder)) <= 24 and ladder == sorted(ladder) and all(data.rounded(n) == n for n in ladder)
