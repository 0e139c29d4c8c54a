"""Subwords with merges left out: the same in every process, sentencepiece's own where none is."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtfm import tokens
from microtfm.bpe import Coins, Merges

LEARNT = ["▁l", "▁lo", "▁low", "er", "▁lower", "es", "est"]
PIECES = {piece: i for i, piece in enumerate([*"▁lowerst", *LEARNT])}
MERGES = Merges(PIECES, [0.0] * 8 + [-float(i) for i in range(len(LEARNT))], range(100, 356))
TEXT = ["lower lowest slower", "", "low é"]


def cut(dropout: float, seed: int) -> list[list[str]]:
    names = {i: piece for piece, i in PIECES.items()}
    return [[names.get(i, f"<{i - 100:02X}>") for i in ids] for ids in MERGES.sample(TEXT, dropout, seed)]


def test_merges_are_made_in_their_order_and_what_no_piece_spells_is_spelt_in_bytes() -> None:
    assert cut(0.0, 0) == [["▁lower", "▁low", "est", "▁", "s", "l", "o", "w", "er"], [], ["▁low", "▁", "<C3>", "<A9>"]]
    assert cut(1.0, 0)[0][:7] == ["▁", "l", "o", "w", "e", "r", "▁"]


def test_a_seed_gives_the_same_cuts_in_every_process() -> None:
    first, nothing, last = cut(0.4, 5)
    assert " ".join(first) == "▁lo w er ▁ l o w est ▁ s l o w er"
    assert (nothing, last) == ([], ["▁l", "o", "w", "▁", "<C3>", "<A9>"])


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.7, 1.0])
def test_decisions_are_the_same_however_they_are_taken(probability: float) -> None:
    one_by_one, in_groups = Coins(3, probability), Coins(3, probability)
    taken = [one_by_one.take() for _ in range(100_000)]
    assert abs(sum(taken) / len(taken) - probability) < 0.01
    at = 0
    for count in [1, 2, 3, 0, 7] * 6_000:
        if in_groups.none_of(count):
            assert not any(taken[at:at + count])
            at += count
        else:
            assert any(taken[at:at + count])
            assert in_groups.take() == taken[at]
            at += 1


LINES = ["the lower the better", "newer and newest, wider and widest", "低 lower 低 der niedrigste"] * 5
SUBWORDS = tokens.train("subword", LINES, 330)[0]


@given(st.lists(st.text(alphabet="lowernst d低é🙂 <0x41>▁", max_size=30), max_size=5))
def test_with_every_merge_made_it_is_sentencepiece(lines: list[str]) -> None:
    assert isinstance(SUBWORDS, tokens.SubwordTokenizer)
    assert SUBWORDS.sample(lines, 0.0, 1) == [SUBWORDS.encode(line) for line in lines]
    assert [SUBWORDS.decode(ids) for ids in SUBWORDS.sample(lines, 0.5, 1)] == list(map(tokens.normalise, lines))
