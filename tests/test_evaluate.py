"""Scores against worked values and sacrebleu itself, and languages told by their script."""

from __future__ import annotations

import importlib.util

import pytest
import sacrebleu

from microtfm import evaluate
from microtfm.errors import UserError

SAID = ["the cat sat on the mat", "He eats an apple .", "a dog runs"]
MEANT = ["the cat sat on the mat", "he is eating an apple .", "two dogs run"]


def test_equals_sacrebleu() -> None:
    scores = evaluate.score(SAID, MEANT)
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(SAID, [MEANT], force=True).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(SAID, [MEANT]).score)
    assert scores.exact_match == pytest.approx(1 / 3)
    assert "tok:13a" in scores.bleu_signature and "case:mixed" in scores.bleu_signature
    assert "version:" in scores.chrf_signature and scores.sentences == 3
    assert scores.as_dict()["bleu"] == scores.bleu


def test_perfect_is_a_hundred() -> None:
    scores = evaluate.score(MEANT, MEANT)
    assert (round(scores.bleu, 6), round(scores.chrf, 6), scores.exact_match) == (100, 100, 1)


def test_lower_case() -> None:
    assert evaluate.score(["HELLO THERE MY FRIEND"], ["hello there my friend"]).exact_match == 0
    scores = evaluate.score(["HELLO THERE MY FRIEND"], ["hello there my friend"], lowercase=True)
    assert round(scores.bleu) == 100 and scores.exact_match == 1 and "case:lc" in scores.bleu_signature


def test_several_references_of_differing_number() -> None:
    several = [["no", "the cat sat on the mat"], ["He eats an apple ."], ["a dog runs", "x", "y"]]
    scores = evaluate.score(SAID, several)
    assert round(scores.bleu) == 100 and scores.exact_match == 1


@pytest.mark.parametrize("text, code", [
    ("我昨天买了三本书。", "zh"), ("我有iPhone和Mac", "zh"), ("猫が好きです", "ja"), ("カタカナ", "ja"),
    ("나는 고양이를 좋아한다", "ko"), ("I like cats", ""), ("Ich heiße Jürgen", ""), ("", ""), ("123 ?!", ""),
    ("The word 猫 means cat", ""),
])
def test_language(text: str, code: str) -> None:
    assert evaluate.language([text]) == code


def test_tokenisation() -> None:
    assert evaluate.tokenisation(["我买书。"]) == "zh"
    assert evaluate.tokenisation(["I buy books."]) == "13a"
    assert evaluate.tokenisation(["猫が好き"]) == ("ja-mecab" if importlib.util.find_spec("MeCab") else "char")
    scores = evaluate.score(["我昨天买了三本书。"], ["我昨天买了三本书。"])
    assert round(scores.bleu) == 100 and "tok:zh" in scores.bleu_signature
    assert "tok:char" in evaluate.score(["abc"], ["abd"], tokenise="char").bleu_signature
    with pytest.raises(UserError, match=r"no tokenizer 'moses'; it has .*13a.*none"):
        evaluate.score(["abc"], ["abd"], tokenise="moses")
    if not importlib.util.find_spec("mecab_ko"):
        with pytest.raises(UserError, match=r"ko-mecab cannot be used here: .*install"):
            evaluate.check_tokeniser("ko-mecab")


def test_exact_match_heeds_form_not_bytes() -> None:
    assert evaluate.exact_match(["cafe\u0301  noir "], ["café noir"]) == 1


def test_worst() -> None:
    worst = evaluate.worst(SAID, MEANT, 2)
    assert [s.index for s in worst] == [2, 1]
    assert worst[0].chrf <= worst[1].chrf
    assert (worst[0].translation, worst[0].reference) == (SAID[2], MEANT[2])


@pytest.mark.parametrize("said, meant, says", [
    (["a"], ["a", "b"], "1 translations but 2 references"),
    ([], [], "no sentences"),
    (["a", "b"], [["a"], []], "Sentence 2 has no reference"),
])
def test_refuses(said: list[str], meant: list[str], says: str) -> None:
    for function in (evaluate.score, evaluate.exact_match, evaluate.worst):
        with pytest.raises(UserError, match=says):
            function(said, meant)
