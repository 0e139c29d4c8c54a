"""What `microtfm data check` says of files that do not fit line by line: shifted, shuffled, reversed, too short."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_corpus_check import check, sides

from microtfm.cli import main
from microtfm.corpus_check import drift, report
from microtfm.corpus_check.letters import Side
from microtfm.corpus_check.lexicon import Lexicon


def shuffled(lines: list[str], seed: int = 0) -> list[str]:
    return [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))]


def lengths(count: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of sentences and of their translations, that correlate by 0.8."""
    a, b = np.random.default_rng(seed).normal(size=(2, count))
    return np.exp(3 + 0.35 * a).astype(np.int64), np.exp(3 + 0.35 * (0.8 * a + 0.6 * b)).astype(np.int64)


@pytest.mark.parametrize("at", [300, 1200])
def test_lines_that_drift_apart_are_found_where_they_begin_to(tmp_path: Path, at: int) -> None:
    left, right = sides()
    answer = check(tmp_path, left, right[:at] + right[at + 1:])
    (found,) = answer["drifts"]
    assert abs(found["first"] - at) <= 15 and found["last"] >= 1950 and found["shift"] == -1
    (problem,) = answer["problems"]
    assert "2,000 lines" in problem and "1,999" in problem
    assert f"drift apart: near line {found['first']:,} the source has a line too many" in problem
    assert "data check" not in problem
    answer = check(tmp_path, left, [*right[:at], "One more.", *right[at:1700], *right[1701:]])
    (found,) = answer["drifts"]
    assert abs(found["first"] - at) <= 15 and abs(found["last"] - 1700) <= 15 and found["shift"] == 1
    assert answer["problems"] == []


def test_each_drift_says_what_happened_where_it_begins() -> None:
    left, right = lengths()
    first, second, third = drift.drifts(left, np.delete(right, [500, 1000, 1001, 2000]))
    assert [each.shift for each in (first, second, third)] == [-1, -3, -4]
    assert first.last == second.first - 1 and second.last == third.first - 1 and third.last == 3000
    assert "source has a line too many" in str(third) and "source has 2 lines too many" in str(second)
    assert "3 lines further up" in str(second)


def test_a_large_shift_is_found_where_most_of_the_file_has_it() -> None:
    left, right = lengths()
    (found,) = drift.drifts(left, right[40:])
    assert found.shift == -40 and found.first <= 50 and found.last == 3000


def test_no_drift_where_all_lines_are_as_long() -> None:
    same = np.full(500, 7)
    assert drift.drifts(same, same) == []
    ordered = np.sort(np.random.default_rng(0).integers(1, 90, 500))
    assert drift.drifts(ordered, 2 * ordered) == []
    assert drift.drifts(lengths(99)[0], lengths(99)[0]) == []


def test_text_that_stands_on_both_sides_or_is_repeated_is_no_drift() -> None:
    left, right = lengths()
    assert drift.drifts(np.concatenate([left, right]), np.concatenate([right, left])) == []
    for times in (3, 10):
        for seed in range(5):
            once = lengths(300, seed)
            assert drift.drifts(*(np.repeat(side, times) for side in once)) == []


def test_where_blocks_change_places_no_lines_are_too_many() -> None:
    left, right = lengths()
    found = drift.drifts(left, np.concatenate([right[:1000], right[2000:], right[1000:2000]]))
    assert {each.shift for each in found} == {1000, -1000}
    assert all("blocks of lines change places" in each.cause for each in found)


@pytest.mark.parametrize("seed", range(20))
def test_a_stretch_that_has_no_lines_beside_it_is_none(seed: int) -> None:
    """A shift may point before the beginning of the other side, or behind its end."""
    random = np.random.default_rng(seed)
    left, right = lengths(400, seed)
    block, at = random.integers(11, 99), random.integers(0, 300)
    drift.drifts(np.insert(left, at, left[:block]), np.insert(right, random.integers(0, 300), right[-block:]))
    beyond = drift.Drift(1, 20, -50)
    assert not drift._widely(drift.relative(left), drift.relative(right), beyond)


def test_a_side_that_was_sorted_by_length_does_not_belong_to_the_other(tmp_path: Path) -> None:
    left, right = sides()
    (problem,) = check(tmp_path, left, sorted(right, key=len))["problems"]
    assert "do not belong together" in problem and "sorted" in problem


def test_chance_is_no_drift() -> None:
    """Nor is a file whose long and short lines take turns, as in Multi30k, nor a few odd lines on either side."""
    for seed in range(5):
        left, right = lengths(seed=seed)
        assert drift.drifts(left, right[np.random.default_rng(seed).permutation(3000)]) == []
    turns = 1 + 0.5 * (np.arange(3000) % 2)
    for seed in range(5):
        left, right = ((side * turns).astype(np.int64) for side in lengths(seed=seed))
        assert drift.drifts(left, right[::-1]) == []
    for odd in (0, 1):
        left, right = lengths(400)
        left[100:120] = right[200:220] = odd
        assert drift.drifts(left, right) == []


def test_a_target_in_reverse_order_is_one_problem_and_no_drift(tmp_path: Path) -> None:
    left, right = sides()
    answer = check(tmp_path, left, right[::-1])
    (problem,) = answer["problems"]
    assert "do not belong together line by line" in problem and "One is in reverse order" in problem
    assert answer["drifts"] == answer["misaligned"] == []


@pytest.mark.parametrize("count", [100, 400, 2000])
def test_shuffled_targets_are_one_problem(tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = sides(count)
    answer = check(tmp_path, left, shuffled(right))
    (problem,) = answer["problems"]
    assert "do not belong together line by line" in problem and "sorted or shuffled" in problem
    assert answer["drifts"] == answer["misaligned"] == []
    assert main(["data", "check", str(tmp_path / "a.zh"), str(tmp_path / "a.en")]) == 2
    assert "can be trained on" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [50, 100, 400])
def test_translations_belong_together(tmp_path: Path, count: int) -> None:
    left, right = sides()
    for at in range(0, 2000 - count + 1, 200):
        assert check(tmp_path, left[at:at + count], right[at:at + count])["problems"] == []


def test_words_speak_for_files_whose_lengths_do_not(tmp_path: Path) -> None:
    """Padding makes lengths random: the words of the corpus, or those that stand on both sides, show the pairs."""
    left, right = sides()
    some = np.random.default_rng(0).integers(0, 60, 2000)
    padded = [line + " la" * n for line, n in zip(right, some, strict=True)]
    assert check(tmp_path, left, padded)["problems"] == []
    assert len(check(tmp_path, left, shuffled(padded))["problems"]) == 1
    names = [f"{line} Name{i}" for i, line in enumerate(right[:200])]
    assert check(tmp_path, names, [f"{line} Name{i}" for i, line in enumerate(padded[200:400])])["problems"] == []


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    left, right = sides(400)
    answer = check(tmp_path, left, right)
    (said,) = answer["unjudged"]
    assert "learnt from 500 pairs on" in said and f"unjudged  {said}" in report.as_text(answer, 3)
    assert "letters on both sides: 30, and 50 are needed" in check(tmp_path, left[:30], right[:30])["unjudged"][0]
    assert check(tmp_path, left, [*right[1:], right[0]])["unjudged"] == []       # it drifts, which says enough
    assert "as long" in check(tmp_path, ["a b c d"] * 600, ["e f g h"] * 600)["unjudged"][0]
    words = [line.split()[0] for line in right]
    assert "fewer than 3 words" in check(tmp_path, words, words[::-1])["unjudged"][0]


def test_one_sentence_over_and_over_is_not_suspected(tmp_path: Path) -> None:
    lines = ["我喜欢猫。"] * 1500
    lines[400] = lines[1200] = "我喜欢猫。他喜欢狗。"
    assert check(tmp_path, lines, lines)["misaligned"] == []
    left, right = sides(200)
    often = check(tmp_path, left + left[:1] * 1800, right + right[:1] * 1800)["misaligned"]
    assert len([each for each in often if each["line"] > 200]) == 0


def test_a_random_pair_that_is_a_true_one_sets_no_threshold() -> None:
    lines = ["one two three", "four five six"] * 500
    assert Lexicon(lines, lines).threshold < Lexicon(lines, lines).scores(next(iter(Side(lines))),
                                                                          next(iter(Side(lines)))).min()


def test_letters_of_an_unknown_script_are_no_marks(tmp_path: Path) -> None:
    left, _ = sides(100)
    assert check(tmp_path, left, ["මම බළලුන්ට කැමතියි."] * 100)["misaligned"] == []
    assert len(check(tmp_path, left, ["— !"] * 100)["misaligned"]) == 100


def test_at_most_so_many_drifts_are_named(tmp_path: Path) -> None:
    left, right = sides()
    answer = check(tmp_path, left, [*right[:400], *right[401:900], *right[901:1400], *right[1401:]])
    assert len(answer["drifts"]) == 3
    assert [report.as_text(answer, show).count("drift     lines") for show in (0, 2, 10)] == [0, 2, 3]
    assert "drift     1 more × a stretch" in report.as_text(answer, 2)
    assert "drift     3 × a stretch" in report.as_text(answer, 0)


def test_the_place_of_unequal_files(tmp_path: Path) -> None:
    left, right = sides(600)
    (problem,) = check(tmp_path, left, right[:-7])["problems"]
    assert "fit to the end of the shorter: near its end, or after line 593" in problem and "a.zh has lines" in problem
    (problem,) = check(tmp_path, left[:40], ["", *right[1:39]])["problems"]
    assert "may drift apart at line 1, which is empty in" in problem
    (problem,) = check(tmp_path, left[:40], right[:39])["problems"]
    assert "Neither an empty line nor the lengths" in problem
    (problem,) = check(tmp_path, [], right)["problems"]
    assert "a.zh is empty: give the file" in problem
