"""Text in another language than a run learnt from: said where it is sure, and only there."""
from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from tiny import pairs, settings

from microtfm import foreign, languages, material, scripts, toy, train
from microtfm.cli import main
from microtfm.events import Events
from microtfm.export import export
from microtfm.foreign import Sides
from microtfm.run_folder import RunFolder
from microtfm.settings import Settings
from microtfm.translator import Translator

TOY = [(a, b) for a, b in toy.corpus(seed=3)[0][:300]]
CHINESE, ENGLISH = [a for a, _ in TOY], [b for _, b in TOY]
FRENCH = ["Le chat est sur la table et il dort.", "Je suis dans un jardin et la fleur est belle.",
          "Il y a de la neige sur le toit de la maison.", "Une femme lit le journal et les enfants jouent."] * 10
GERMAN = ["Die Katze ist nicht auf dem Tisch und sie schläft.", "Ich sehe ein Haus und der Garten ist zu klein.",
          "Das ist ein Hund und sie ist nicht da.", "Der Mann und die Frau gehen zu dem See."] * 10
RUSSIAN = ["Кошка спит на столе.", "Я люблю читать книги."] * 20
JAPANESE = ["猫はテーブルの上で寝ています。", "私は本を読むのが好きです。"] * 20
KNOWN = Sides(CHINESE, ENGLISH)


@pytest.mark.parametrize(("line", "most"), [
    ("我喜欢猫。", {"Han": 4}), ("I like cats.", {"Latin": 3}), ("我喜欢Microsoft的Office。", {"Han": 4}),
    ("12345, 3.14!", {}), ("https://example.com/a/b x@y.org", {}), ("나는 고양이를 좋아한다", {"Hangul": 3}),
    ("猫が好き", {"Han": 2, "Kana": 2}), ("don't «stop»", {"Latin": 2}), ("", {})])
def test_what_a_line_has_of_each_script(line: str, most: dict[str, int]) -> None:
    assert scripts.counts(line) == most


def test_a_text_has_the_scripts_that_lead_in_a_hundredth_of_its_lines() -> None:
    assert scripts.own(CHINESE) == {"Han"} and scripts.own([]) == frozenset()
    assert scripts.own([*CHINESE, "OK"]) == {"Han"}
    assert scripts.own([*CHINESE, *ENGLISH[:4]]) == {"Han", "Latin"}


@pytest.mark.parametrize(("texts", "language"), [
    (CHINESE, "Chinese"), (ENGLISH, "English"), (FRENCH, "French"), (GERMAN, "German"), (JAPANESE, "Japanese"),
    (RUSSIAN, "Cyrillic letters"), (["I like cats."], "Latin letters"), (["123"], "no language")])
def test_what_text_looks_like(texts: list[str], language: str) -> None:
    assert languages.looks(texts) == language


LANGUAGES = [CHINESE, ENGLISH, FRENCH, GERMAN, JAPANESE, RUSSIAN]


@pytest.mark.parametrize("one", range(6))
@pytest.mark.parametrize("other", range(6))
def test_languages_are_told_apart(one: int, other: int) -> None:
    assert languages.another(LANGUAGES[one], LANGUAGES[other]) == (one != other)


def test_japanese_may_be_in_chinese_characters_alone() -> None:
    assert scripts.own(JAPANESE) == {"Han", "Kana"}
    assert foreign.note(["東京都知事選挙"], Sides(JAPANESE, ENGLISH)) is None
    assert not languages.another(["東京都知事選挙"] * 5, JAPANESE)


def test_doubt_is_no_other_language() -> None:
    assert not languages.another(ENGLISH, [*CHINESE, *ENGLISH[:9]])
    assert not languages.another(FRENCH[:4], ENGLISH)                    # too few words
    assert not languages.another(["Tere, kuidas läheb täna"] * 50, ENGLISH)
    assert not languages.another(GERMAN, [*ENGLISH, *GERMAN])
    assert not languages.another(["1 2 3"] * 30, CHINESE)
    assert not languages.another([*ENGLISH[:10], *CHINESE[:20]], CHINESE)


@pytest.mark.parametrize(("lines", "told"), [
    (["I like cats."], True), (["I like cats.", "我喜欢猫。"], False),
    (["I like cats.", "He sees the dog.", "猫"], True), (["我喜欢iPhone和Microsoft的Windows。"], False),
    (["12345", "3.14"], False), (["OK"], False), (["New York City"], False),
    (["Tom Hanks and Meg Ryan"], False), (["hello"], False), (["https://example.com/what/is/this"], False),
    (["Кошка спит на столе."], True), ([*CHINESE[:5], "He is here now with us."], False), ([""], False), ([], False)])
def test_lines_in_a_script_that_the_run_does_not_know(lines: list[str], told: bool) -> None:
    assert (foreign.note(lines, KNOWN) is not None) == told


def test_what_is_said_of_them() -> None:
    said = foreign.note(["I like cats."], KNOWN)
    assert said is not None and said.startswith("This is in Latin letters, and the run learnt to translate from Ch")
    said = foreign.note(["我喜欢猫。"], Sides(ENGLISH, CHINESE))
    assert said is not None and said.startswith("This is in Chinese characters, and the run learnt to translate fr")
    mixed = Sides([*CHINESE, *ENGLISH], [*ENGLISH, *CHINESE])
    for lines in (["I like cats."], ["我喜欢猫。"]):
        assert foreign.note(lines, mixed) is None and foreign.note(lines, None) is None
        assert foreign.note(lines, Sides(CHINESE[:5], ENGLISH[:5])) is None


@pytest.mark.parametrize(("source", "target", "ends"), [
    (CHINESE, ENGLISH, None), (ENGLISH, CHINESE, "the two sides seem to be swapped."),
    (ENGLISH, ENGLISH, "other files seem to be meant, or other columns."),
    (FRENCH, ENGLISH, "other files seem to be meant, or other columns."), (CHINESE[:1], ENGLISH[:1], None)])
def test_how_two_texts_differ(source: list[str], target: list[str], ends: str | None) -> None:
    said = foreign.differences(KNOWN, Sides(source, target), "this text")
    assert said is None if ends is None else said is not None and said.endswith(ends)
    if ends is not None and source is ENGLISH:
        assert said is not None and said.startswith("The sources of this text look like English, those of the training")


def written(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_swapped_validation_files_are_noticed(tmp_path: Path) -> None:
    zh, en = written(tmp_path, "t.zh", CHINESE), written(tmp_path, "t.en", ENGLISH)
    vzh, ven = written(tmp_path, "v.zh", CHINESE[:30]), written(tmp_path, "v.en", ENGLISH[:30])
    right = material.read(Settings(src=zh, tgt=en, valid_src=vzh, valid_tgt=ven))
    swapped = material.read(Settings(src=zh, tgt=en, valid_src=ven, valid_tgt=vzh))
    assert not any("look like" in line for line in right.report)
    assert sum("The sources of the validation text look like English" in line for line in swapped.report) == 1


def test_a_long_file_is_looked_at_from_all_over_it(tmp_path: Path) -> None:
    half = list(islice((line for _ in range(100) for line in CHINESE), 20_000))
    src = written(tmp_path, "m.zh", [*half, *ENGLISH * 60])
    tgt = written(tmp_path, "m.en", [*ENGLISH * 60, *half])
    known = foreign.learnt(RunFolder(tmp_path, Settings(src=src, tgt=tgt), "x"))
    assert known is not None and known.scripts == {"Han", "Latin"} and len(known.source) <= foreign.LINES
    assert set(known.source) <= {*CHINESE, *ENGLISH}                     # no line was cut
    gone = RunFolder(tmp_path, Settings(src=tmp_path / "gone", tgt=tgt), "x")
    assert foreign.learnt(gone) is None
    written(tmp_path, "held-out.tsv", [f"{a}\t{b}" for a, b in TOY])
    assert foreign.learnt(gone) == KNOWN
    assert foreign.learnt(RunFolder(tmp_path, Settings(src=src, tgt=tgt, init=tmp_path), "x")) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    src = written(folder, "a.zh", [a for a, _ in pairs()])
    tgt = written(folder, "a.en", [b for _, b in pairs()])
    train.train(replace(settings(folder / "run", steps=10), src=src, tgt=tgt), Events())
    return folder / "run"


def test_translations_of_the_other_side_come_with_a_notice(run: Path, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(run), "one two three four"]) == 0
    assert capsys.readouterr().err.startswith("note: This is in Latin letters")
    assert main(["translate", str(run), "one two three four", "--json"]) == 0
    assert "Latin letters" in json.loads(capsys.readouterr().out)["notices"][0]
    assert main(["translate", str(run), "一二三", "one"]) == 0
    assert capsys.readouterr().err == ""
    translator = Translator.load(run)
    translator.translate(["one two three four"])
    assert len(translator.notices) == 1 and "Latin letters" in translator.notices[0]
    translator.translate(["一二三"])
    assert translator.notices == []
    export(run, tmp_path / "m.safetensors")
    assert main(["translate", str(tmp_path / "m.safetensors"), "one two three four"]) == 0
    assert capsys.readouterr().err == ""


def test_evaluation_says_that_sides_are_swapped_and_nothing_else(run: Path, tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    zh = written(tmp_path, "x.zh", [a for a, _ in pairs()[:30]])
    en = written(tmp_path, "x.en", [b for _, b in pairs()[:30]])
    assert main(["evaluate", str(run), "--src", str(en), "--tgt", str(zh), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["diagnosis"]) == 1 and answer["notices"] == []
    assert answer["diagnosis"][0].startswith("The sources of this text look like")
    assert answer["diagnosis"][0].endswith("swapped.")
    assert main(["evaluate", str(run), "--src", str(zh), "--tgt", str(en), "--json"]) == 0
    assert not any("look like" in text for text in json.loads(capsys.readouterr().out)["diagnosis"])
