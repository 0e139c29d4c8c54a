"""The toy corpus: one translation a sentence, right English, nothing unseen held out."""

from __future__ import annotations

import hashlib
import itertools
import re

import pytest

from microtfm import toy
from microtfm.toy import grammar, lexicon
from microtfm.toy.speaker import Speaker

TRAINING, HELD_OUT = toy.corpus()
ALL = [*TRAINING, *HELD_OUT]


def english_words(text: str) -> list[str]:
    return re.findall(r"'?\w+|[.?]", text)


def test_sizes_and_distinctness() -> None:
    assert (len(TRAINING), len(HELD_OUT)) == (12_000, 500)
    assert len({zh for zh, _ in ALL}) == len(ALL)


def test_vocabulary_is_wide_and_sentences_short() -> None:
    assert len({char for zh, _ in TRAINING for char in zh}) > 300
    assert len({word for _, en in TRAINING for word in english_words(en)}) > 450
    nouns = [noun.zh for noun in lexicon.nouns() if any(noun.zh in zh for zh, _ in TRAINING)]
    verbs = [v.zh for table in (lexicon.VERBS, lexicon.STATIVES, lexicon.ACTIVITIES) for v in lexicon.verbs(table)]
    assert len(nouns) + len(set(verbs)) > 100 and len(nouns) == len(lexicon.nouns())
    assert max(len(zh) for zh, _ in ALL) <= 14
    assert max(len(english_words(en)) for _, en in ALL) <= 14


def test_held_out_sentences_put_seen_words_together_anew() -> None:
    sources, seen = {zh for zh, _ in TRAINING}, set().union(*(grammar.words(pair) for pair in TRAINING))
    for pair in HELD_OUT:
        assert pair.zh not in sources
        assert grammar.words(pair) <= seen


def test_seeds() -> None:
    assert toy.corpus(300, 50, 7) == toy.corpus(300, 50, 7)
    assert toy.corpus(300, 50, 7) != toy.corpus(300, 50, 8)
    text = "\n".join("\t".join(pair) for pair in ALL)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e3bf583eaf699960"        # the same on every machine


@pytest.mark.parametrize("seed", range(3))
def test_every_chinese_sentence_has_one_translation(seed: int) -> None:
    speaker = Speaker(seed)
    said: dict[str, str] = {}
    for _ in range(15_000):
        zh, en = speaker.pick(grammar.WEIGHTED)(speaker)
        assert said.setdefault(zh, en) == en


def test_the_space_is_large() -> None:
    known = {zh for zh, _ in ALL}
    fresh = sum(pair.zh not in known for pair, _ in itertools.islice(grammar.stream(99), 4000))
    assert fresh > 3000


def test_form() -> None:
    for zh, en in ALL:
        assert re.fullmatch(r"[\u4e00-\u9fff]+[。？]", zh), zh
        assert re.fullmatch(r"[A-Z][A-Za-z']*( [A-Za-z']+)+[.?]", en), en
        assert (zh[-1] == "？") == (en[-1] == "?"), (zh, en)


def test_articles() -> None:
    for _, en in ALL:
        assert not re.search(r"\ba [aeiou]", en), en
        assert not re.search(r"\ban [^aeiou]", en), en


def test_agreement() -> None:
    plain = {v.plain.split()[0] for table in (lexicon.VERBS, lexicon.STATIVES, lexicon.ACTIVITIES)
             for v in lexicon.verbs(table)} | {"go"}
    thirds = {lexicon.third_person(verb) for verb in plain}
    pasts = {v.past.split()[0] for table in (lexicon.VERBS, lexicon.STATIVES, lexicon.ACTIVITIES)
             for v in lexicon.verbs(table)} | {"went"}
    finite = (thirds | pasts) - plain - {"watches"}
    for _, en in ALL:
        words = english_words(en)
        for subject, verb in itertools.pairwise(words):
            if subject in ("He", "She"):
                assert verb not in (plain - pasts) | {"am", "are", "do", "want"}, en
            if subject in ("I", "They", "We", "You") and words[0] == subject:
                assert verb not in thirds | {"is", "does", "wants"}, en
        assert "I are" not in en and "I is" not in en
        if words[0] in ("Did", "Do", "Does", "Will", "Can"):
            assert not finite & set(en.partition(" that ")[0].partition(" who ")[0].split()), en
        assert not re.search(rf"\b(did|do|does|will|should|must|can) not ({'|'.join(finite)})\b", en), en


def test_numbers_take_the_plural() -> None:
    plurals = {noun.many.split()[0] for noun in lexicon.nouns()}
    adjectives = {word for row in lexicon.rows(lexicon.ADJECTIVES) for word in row[2].split()}
    numbers = {en for _, en in lexicon.pairs(lexicon.NUMBERS)}
    for _, en in ALL:
        words = english_words(en)
        for i, word in enumerate(words[:-1]):
            if word in numbers:
                follower = words[i + 1] if words[i + 1] not in adjectives else words[i + 2]
                assert follower in plurals | {"days", "years"}, en


@pytest.mark.parametrize("plain, third", [
    ("have", "has"), ("go", "goes"), ("watch", "watches"), ("wash", "washes"), ("study", "studies"), ("buy", "buys"),
])
def test_third_person(plain: str, third: str) -> None:
    assert lexicon.third_person(plain) == third


def test_irregular_pasts_are_used() -> None:
    text = " ".join(en for _, en in ALL)
    for past in ("bought", "ate", "drank", "wrote", "went", "swam", "drew", "ran", "sang", "rode", "made", "slept"):
        assert f" {past} " in text or f" {past}." in text, past
    for wrong in ("buyed", "eated", "writed", "childs", "mans", "mouses", "sheeps", "tomatos", "knifes"):
        assert wrong not in text


CONSTRUCTIONS = {
    "measure word": ("三本", "three "), "question": ("吗？", "?"), "what": ("什么", "hat "), "who": ("谁", "ho "),
    "where": ("哪里", "here "), "negation": ("不", "not"), "past negation": ("没", "did not"),
    "past": ("昨天", "yesterday"),
    "future": ("明天会", "will "), "now": ("正在", "ing"), "place": ("在公园", "in the park"),
    "relative clause": ("喜欢的", " that "), "subject relative": ("的女孩", " who is "), "possessive": ("我的", "y "),
    "comparison": ("比", " than "), "how many": ("几", "ow many"),
    "company": ("一起", "with"), "why": ("为什么", "hy "),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_constructions_are_there(name: str) -> None:
    zh, en = CONSTRUCTIONS[name]
    found = [pair for pair in TRAINING if zh in pair.zh]
    assert len(found) >= 3
    assert any(en in pair.en for pair in found)


def test_word_orders_differ() -> None:
    pairs = [(zh, en) for zh, en in ALL if "昨天" in zh and "yesterday" in en]
    assert all(zh.index("昨天") < len(zh) / 1.5 for zh, _ in pairs)
    final = [en for _, en in pairs if en.endswith(("yesterday.", "yesterday?"))]
    assert len(final) > len(pairs) / 3
