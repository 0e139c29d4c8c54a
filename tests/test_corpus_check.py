"""`microtfm data check`: what it counts, and the faults that it finds and does not find in the toy corpus."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microtfm import toy
from microtfm.cli import main
from microtfm.corpus_check import report
from microtfm.corpus_check.letters import BLOCK, Side, measured
from microtfm.errors import UserError

PAIRS = [(a, b) for a, b in toy.corpus(seed=0)[0]][:2000]


def check(folder: Path, left: list[str], right: list[str], **others: list[tuple[str, str]]) -> dict[str, Any]:
    files = folder / "a.zh", folder / "a.en"
    for path, lines in zip(files, (left, right), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    named = {}
    for name, pairs in others.items():
        (folder / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
        named[name] = (folder / f"{name}.tsv", None)
    return report.check(files, named)


def sides(count: int = 2000) -> tuple[list[str], list[str]]:
    return [a for a, _ in PAIRS[:count]], [b for _, b in PAIRS[:count]]


def test_clean_text_has_few_suspects_and_no_problem(tmp_path: Path) -> None:
    answer = check(tmp_path, *sides())
    assert answer["problems"] == answer["wrong_language"] == answer["drifts"] == answer["unjudged"] == []
    assert len(answer["misaligned"]) <= 10
    assert answer["pairs"] == answer["source"]["lines"] == answer["target"]["lines"] == 2000
    assert next(iter(answer["source"]["scripts"])) == "Han" and next(iter(answer["target"]["scripts"])) == "Latin"
    assert answer["source"]["characters"]["total"] == sum(len(a) for a, _ in PAIRS)
    assert answer["ratio"]["p1"] < answer["ratio"]["median"] < answer["ratio"]["p99"]


def test_planted_faults_are_found_at_their_lines(tmp_path: Path) -> None:
    left, right = sides()
    left[9] = ""
    left[19] = right[19] = " \u3000"
    right[29] = ""
    left[39], right[39] = left[38], right[38]
    right[49] = left[49]
    right[59] = "Кошка сидит на столе и смотрит в окно."
    right[69] = right[68] + " " + " ".join(right[100:110])
    left[79], right[79] = left[79] + "1984", right[79] + " 2024"
    left[89], right[99] = "……", "\u200b \u2060"
    answer = check(tmp_path, left, right)
    assert answer["empty"] == {"source": {"count": 1, "lines": [10]}, "target": {"count": 2, "lines": [30, 100]},
                               "both": {"count": 1, "lines": [20]}}
    assert 40 in answer["repeated"]["pairs"]["lines"] and answer["repeated"]["copies"]["lines"] == [50]
    assert {(each["line"], each["side"], each["why"]) for each in answer["wrong_language"]} == {
        (50, "target", "mostly Han letters"), (60, "target", "mostly Cyrillic letters")}
    why = {each["line"]: each["why"] for each in answer["misaligned"]}
    assert "letters, where the target usually has" in why[70]
    assert "no number in common (1984 and 2024)" in why[80]
    assert "only marks, where the other side has" in why[90] and 100 not in why


def test_pairs_put_together_wrongly_are_suspected_by_their_words(tmp_path: Path) -> None:
    left, right = sides()
    wrong = np.random.default_rng(0).choice(2000, 40, replace=False).tolist()
    swapped = list(right)
    for here, there in zip(wrong, [*wrong[1:], wrong[0]], strict=True):
        swapped[here] = right[there]
    found = {each["line"] - 1 for each in check(tmp_path, left, swapped)["misaligned"]}
    assert len(found & set(wrong)) >= 20
    assert len(found - set(wrong)) <= 20


def test_languages_of_one_script_are_told_apart_by_their_letters(tmp_path: Path) -> None:
    """Pseudo-languages: the same words backwards."""
    _, right = sides()
    other = [" ".join(word[::-1] for word in line.lower().split()) for line in right]
    long = [i for i, line in enumerate(right) if len(line) > 25][:20]
    planted = list(other)
    for i in long:
        planted[i] = right[i]
    found = {each["line"] - 1 for each in check(tmp_path, right, planted)["wrong_language"] if each["side"] == "target"}
    assert len(found & set(long)) >= 15
    assert len(found - set(long)) <= 5


def test_overlap_with_other_text(tmp_path: Path) -> None:
    left, right = sides(100)
    test = [(left[0], right[0]), (left[1], "Another."), ("猫猫猫", right[2]), (f"{left[3][:2]} {left[3][2:-1]}", "N"),
            ("狗狗", "Dogs.")]
    found = check(tmp_path, left, right, test=test)["overlap"]["test"]
    assert {name: found[name]["lines"] for name in found if name not in ("file", "pairs")} == {
        "same_pair": [1], "same_source": [1, 2], "same_target": [1, 3], "nearly_same_source": [4]}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = sides(600)
    check(tmp_path, left, right, test=PAIRS[:3])
    files = [str(tmp_path / "a.zh"), str(tmp_path / "a.en")]
    assert main(["data", "check", *files, "--test-src", str(tmp_path / "test.tsv")]) == 0
    out = capsys.readouterr().out
    assert "600 lines, Han" in out and "3 × pair that is in the training text: lines 1, 2, 3" in out
    assert out.endswith("600 pairs can be trained on\n")
    assert main(["data", "check", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 600
    assert main(["data", "check", *files, "--show", "0", "--test-src", str(tmp_path / "test.tsv")]) == 0
    out = capsys.readouterr().out
    assert "3 × pair that is in the training text\n" in out and "the worst first" not in out
    assert main(["data", "check", *files, "--show", "-3"]) == 2
    assert "--show -3 must be 0 or more" in capsys.readouterr().err
    assert main(["data", "check", files[0]]) == 2
    assert "a.zh has no tab in any line" in (said := capsys.readouterr().err) and "as a second file" in said
    assert main(["data", "check", *files, "--test-src", files[0]]) == 2
    assert "as --test-tgt" in capsys.readouterr().err
    check(tmp_path, left, right[:-1])
    assert main(["data", "check", *files]) == 2
    assert "problem   " in capsys.readouterr().out
    (tmp_path / "a.en").write_bytes(b"caf\xe9\n")
    assert main(["data", "check", *files]) == 2
    assert "a.en, line 1: byte 0xE9" in capsys.readouterr().err
    assert main(["data", "check", *files, "--test-tgt", "x"]) == 2
    assert "--test-src" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\n", "\n\n", " \n", "!\n?\n"])
def test_text_without_letters(tmp_path: Path, text: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    answer = report.check((tmp_path / "a", tmp_path / "b"), {})
    assert bool(answer["problems"]) == (not text.strip())
    assert answer["unjudged"] == [] or text.strip()
    assert "no letters" in report.as_text(answer, 3)


def test_a_table_with_a_wrong_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\nc\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.tsv, line 2: 1 column"):
        report.check((tmp_path / "x.tsv", None), {})


def test_lines_are_measured_across_blocks() -> None:
    lines = ["ab c1", "", "猫狗 x", "１２ İstanbul"] * (BLOCK // 3)
    found = measured(Side(lines))
    assert found.letters.tolist()[:4] == [4, 0, 3, 11] and found.words.tolist()[:4] == [2, 0, 3, 2]
    assert len(found.letters) == len(lines) and found.letters.tolist()[-4:] == found.letters.tolist()[:4]
