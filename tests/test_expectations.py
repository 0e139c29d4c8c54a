"""What a run is told of itself: translations that are wrong as a whole, and where it lies among earlier runs."""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import corpus, settings

from microtfm import metrics, reference, train
from microtfm.causes import COPIED, TABLE, cause
from microtfm.cli import main
from microtfm.diagnosis import diagnose, loops
from microtfm.divergence import diverged
from microtfm.errors import UserError
from microtfm.events import Events
from microtfm.recipes import RECIPES
from microtfm.reference import Reference, make
from microtfm.settings import Settings

SOURCES = [f"源 {i}" for i in range(40)]
WANTED = [f"the {i}. sentence is about {i * i} cats" for i in range(40)]


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)

    def judged(self, right: bool, text: str) -> None:
        self.said.append(f"{right}: {text}")


@pytest.mark.parametrize(("change", "kinds"), [
    (lambda i, a, b: b, []),
    (lambda i, a, b: "" if i % 3 == 0 else b, ["empty"]),
    (lambda i, a, b: "" if i == 0 else b, []),
    (lambda i, a, b: "i like cats ." if i % 2 else b, ["alike"]),
    (lambda i, a, b: a if i % 4 == 0 else b, ["copied"]),
    (lambda i, a, b: b + " of the" * 9 if i % 5 == 0 else b, ["looping"]),
    (lambda i, a, b: f"{b} {chr(0x4E00 + i) * 9}" if i % 5 == 0 else b, ["looping"]),
    (lambda i, a, b: b[:7], ["short"]),
    (lambda i, a, b: f"{b} and then {b[::-1]}", ["long"]),
    (lambda i, a, b: "", ["empty"]),
])
def test_translations_that_are_wrong_as_a_whole(change: Callable[[int, str, str], str], kinds: list[str]) -> None:
    said = [change(i, a, b) for i, (a, b) in enumerate(zip(SOURCES, WANTED, strict=True))]
    found = diagnose(SOURCES, said, WANTED)
    assert [each.kind for each in found] == kinds
    assert all("usual" in each.text for each in found)


def test_what_the_references_are_like_too_is_no_fault() -> None:
    assert diagnose(SOURCES, ["ok"] * 40, ["ok"] * 40) == []
    assert diagnose(WANTED, WANTED, WANTED) == []
    assert diagnose(SOURCES, ["no " * 20] * 40, ["no " * 20] * 40) == []
    assert diagnose(SOURCES[:5], [""] * 5, WANTED[:5]) == []


@pytest.mark.parametrize(("change", "kinds"), [
    (lambda i, a, b: f"{a} .".replace("源", "源,"), ["copied"]),
    (lambda i, a, b: a[:-1], ["copied"]),
    (lambda i, a, b: a[:4], ["short"]),
    (lambda i, a, b: a + b, []),
    (lambda i, a, b: f"{b} " + "a man in a red shirt walks " * 4, ["looping"]),
    (lambda i, a, b: f"{b} " + "a man in a big red shirt walks " * 6, ["looping"]),
    (lambda i, a, b: f"output {i % 6} is here and is long enough", ["alike"]),
    (lambda i, a, b: b.replace(f"{i}.", f"{i % 13}.").replace(str(i * i), "many"), []),
    (lambda i, a, b: "" if i < 30 else "output", ["empty", "alike"]),
])
def test_copies_loops_and_collapses_that_are_not_exact(change: Callable[[int, str, str], str],
                                                       kinds: list[str]) -> None:
    sources = [f"源 {i} 这是一句很长的话" for i in range(40)]
    said = [change(i, a, b) for i, (a, b) in enumerate(zip(sources, WANTED, strict=True))]
    assert [each.kind for each in diagnose(sources, said, WANTED)] == kinds


def test_few_different_translations_are_right_where_sources_or_references_are_few() -> None:
    few = [f"output {i % 6} is here" for i in range(40)]
    assert diagnose(SOURCES, few, few) == []
    assert "alike" not in [each.kind for each in diagnose([f"源 {i % 6}" for i in range(40)], few, WANTED)]


def test_what_is_almost_the_source_in_its_reference_too_is_no_copy() -> None:
    names = [f"Herr Müller Nummer {i}" for i in range(40)]
    assert diagnose(names, names, [f"{name}!" for name in names]) == []
    assert diagnose([f"? {'!' * i}" for i in range(40)], WANTED, WANTED) == []


@pytest.mark.parametrize(("text", "does"), [
    ("the the the the", True), ("the the the", False), ("a b a b a b a b", True), ("a b c a b c a b", False),
    ("猫猫猫猫", True), ("我喜欢我喜欢我喜欢我喜欢", True), ("我喜欢猫", False), ("hahahahahahahaha", True),
    ("", False), ("very very good", False), ("1000000", False)])
def test_loops(text: str, does: bool) -> None:
    assert loops(text) == does


def curve(folder: Path, recipe: str, shift: float, **changes: Any) -> Path:
    """A run folder with nothing but settings and metrics."""
    folder.mkdir()
    chosen = Settings.from_dict({"recipe": recipe, "out": str(folder), **changes})
    from microtfm.run_folder import RunFolder
    RunFolder(folder, chosen, "code").write_config()
    rows = []
    for step in range(10, 1001, 10):
        rows.append({"step": step, "loss": 5 - step / 250 + shift})
        if step % 200 == 0:
            rows.append({"step": step, "valid_loss": 5 - step / 300 + shift, "bleu": step / 20 - 5 * shift})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_run_is_told_where_it_lies(tmp_path: Path) -> None:
    found = make([curve(tmp_path / str(i), "tiny", shift) for i, shift in enumerate((0.0, 0.1, -0.1))], "some text")
    assert (found.recipe, found.runs, found.curves["bleu"]["step"]) == ("tiny", 3, [200.0, 400.0, 600.0, 800.0, 1000.0])
    own = Settings(recipe="tiny")

    def told(shift: float, own: Settings = own, until: int = 700) -> tuple[bool, str] | None:
        folder = curve(tmp_path / f"run{shift}{until}{own.train.lr}", "tiny", shift)
        lines = [line for line in metrics.read(folder / "metrics.jsonl") if line["step"] <= until]
        return found.verdict(own, lines)

    right = told(0.05)
    assert right is not None and right[0] and right[1].startswith("looks right: BLEU")
    worse = told(1.0)
    assert worse is not None and not worse[0] and "It learns less than on some text" in worse[1]
    assert "training loss" in worse[1] and "expected" in worse[1]
    better = told(-1.0)
    assert better is not None and not better[0] and "better than on some text" in better[1]
    other = told(1.0, Settings.from_recipe("tiny", train={"lr": 0.5}))
    assert other is not None and "train.lr = 0.5 instead of 0.005" in other[1]
    cooled = told(1.1, Settings.from_recipe("tiny", train={"cooldown": 7500}))
    assert cooled is not None and "train.cooldown = 7500 instead of 0" in cooled[1]
    later = told(1.2, Settings.from_recipe("tiny", train={"cooldown": 2000}))      # from step 6,000 on
    assert later is not None and "It learns less" in later[1]
    assert told(0.0, until=100) is None
    with pytest.raises(UserError, match=r"train.lr = 1.0 instead of 0.005"):
        make([tmp_path / "0", curve(tmp_path / "other", "tiny", 0.0, train={"lr": 1.0})], "x")


def test_a_perfect_score_is_not_better_than_perfect() -> None:
    assert reference.Place("bleu", 100.00000000000004, 96.5, 100.0).side == 0
    assert reference.Place("bleu", 100.1, 96.5, 100.0).side == 1


def test_while_bleu_may_be_zero_the_loss_tells_more() -> None:
    settings = Settings(recipe="base")
    shipped = reference.of(settings)
    assert shipped is not None
    place = shipped.place("bleu", 30, 0.0)
    assert place is not None and (place.low, place.side) == (0.0, 0)
    said = shipped.verdict(settings, [{"step": 30, "loss": 10.45, "valid_loss": 9.42, "bleu": 0.0}])
    assert said is not None and said[0] and said[1].startswith("looks right: validation loss 9.42, expected 9.37")


def test_the_references_that_ship_belong_to_their_recipes() -> None:
    found = reference.of(Settings(recipe="demo"))
    assert found is not None and found.runs >= 3
    for name in RECIPES:
        shipped = reference.of(Settings(recipe=name))  # type: ignore[arg-type]
        assert shipped is not None and shipped.recipe == name
        assert reference.differences(shipped.settings, reference.deciding(Settings(recipe=shipped.recipe))) == []
        assert all(low <= high for curve in shipped.curves.values()
                   for low, high in zip(curve["low"], curve["high"], strict=True))
    assert reference.of(Settings()) is None
    assert reference.of(Settings(recipe="demo", init=Path("runs/other"))) is None


def test_training_and_evaluation_say_what_stands_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    band = {"step": [1.0, 50.0], "low": [99.0, 99.0], "high": [100.0, 100.0]}
    shipped = Reference("demo", "its text", {}, 3, dict.fromkeys(("bleu", "valid_loss", "loss"), band))
    monkeypatch.setattr(train.reference, "of", lambda settings: shipped)
    heard = Heard()
    train.train(replace(settings(tmp_path / "run", steps=10, lr=1e-5)), heard, corpus())
    assert any(line.startswith("False: unusual: BLEU") for line in heard.said)
    assert sum("are the same" in line or "in a loop" in line or "times as long" in line for line in heard.said) >= 1
    short = {"step": [1.0, 4.0], "low": [0.0, 0.0], "high": [100.0, 100.0]}
    brief = Reference("demo", "its text", {}, 3, dict.fromkeys(("bleu", "valid_loss", "loss"), short))
    monkeypatch.setattr(train.reference, "of", lambda settings: brief)
    heard = Heard()
    train.train(replace(settings(tmp_path / "past", steps=15, lr=1e-5)), heard, corpus())
    assert sum("The reference of the recipe demo ends at step 4" in line for line in heard.said) == 1
    assert sum("are the same" in line for line in heard.said) <= 1       # told once, though it lasts
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "look    " in capsys.readouterr().out


SIDES = {"low": 0.5, "right": 1.0, "high": 3.0}
SCORES = {"none": 1.0, "low": 30.0, "right": 50.0, "high": 90.0}
BAND = Reference("demo", "some text", reference.deciding(Settings(recipe="demo")), 3, {
    name: {"step": [1.0, 50.0], "low": [value, value], "high": [value, value]}
    for name, value in (("loss", 1.0), ("valid_loss", 1.0), ("bleu", 50.0))})


@pytest.mark.parametrize(("loss", "valid_loss", "bleu", "words"), [
    ("low", "high", "none", "so that copying is learnt"),
    ("right", "high", "none", "validation files that are swapped"),
    ("low", "high", "low", "learnt by heart"), ("right", "high", "low", "learnt by heart"),
    ("right", "high", "right", "learnt by heart"), ("low", "high", "high", "learnt by heart"),
    ("high", "high", "low", "It learns less than on some text"), ("high", "high", "none", "misaligned lines"),
    ("high", "high", "right", "the same in more ways"), ("high", "right", "low", "in it alone"),
    ("high", "low", "high", "easier validation sentences"),
    ("right", "right", "low", "the translations are not"), ("low", "right", "none", "references that say it otherwise"),
    ("low", "low", "right", "the same text on both sides"), ("right", "low", "high", "better than on some text"),
    ("right", "right", "high", "test sentences in the training text"),
])
def test_the_cause_follows_from_the_sides(loss: str, valid_loss: str, bleu: str, words: str) -> None:
    lines = [{"step": 10, "loss": SIDES[loss]}, {"step": 10, "valid_loss": SIDES[valid_loss], "bleu": SCORES[bleu]}]
    said = BAND.verdict(Settings(recipe="demo"), lines)
    assert said is not None and not said[0] and words in said[1]
    copied = BAND.verdict(Settings(recipe="demo"), lines, copied=True)
    assert copied is not None and copied[1].endswith(COPIED) and copied[1].split(". ")[0] == said[1].split(". ")[0]


def test_all_sides_have_one_cause_and_no_row_is_idle() -> None:
    found = {cause(loss, valid_loss, bleu) for loss in SIDES for valid_loss in SIDES for bleu in SCORES}
    assert found == {row.cause for row in TABLE}


def diverging(losses: list[float], checks: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Lines of a run whose validations follow one another evenly."""
    each = len(losses) // len(checks)
    lines: list[dict[str, Any]] = []
    for i, loss in enumerate(losses, 1):
        lines.append({"step": i, "loss": loss})
        if i % each == 0:
            lines.append({"step": i, "valid_loss": checks[i // each - 1][0], "bleu": checks[i // each - 1][1]})
    return lines


@pytest.mark.parametrize(("losses", "checks", "words"), [
    ([5.0] * 10 + [2.7] * 20 + [3.7] * 10, [(4.1, 9.0), (6.8, 0.0)], "from 2.7 to 3.7, the validation loss from 4.1"),
    ([5.0] * 10 + [4.5] * 10 + [5.3] * 20, [(5.6, 0.0), (5.2, 0.0)], "from 4.5 to 5.3"),
    ([5.0] * 10 + [2.7] * 20 + [1.7] * 10, [(4.1, 9.0), (6.8, 3.0)], None),          # learnt by heart
    ([5.0] * 10 + [2.7] * 20 + [3.7] * 10, [(4.1, 9.0), (4.9, 9.5)], None),          # other smoothing from there on
    ([5.0] * 10 + [2.7] * 20 + [2.8] * 10, [(4.1, 0.2), (4.2, 0.0)], None),          # noise
    ([2.7] * 5 + [3.7] * 5, [(6.8, 0.0)], None), ([3.0], [(3.0, 1.0)], None),        # too little to say
])
def test_a_run_that_diverges(losses: list[float], checks: list[tuple[float, float]], words: str | None) -> None:
    lines = diverging(losses, checks)
    found = diverged(lines)
    assert found is None if words is None else found is not None and words in found
    verdict = BAND.verdict(Settings.from_recipe("demo", train={"lr": 0.1}), lines)
    assert verdict is not None and ("has diverged" in verdict[1]) == (words is not None)
    assert diverged([line for line in lines if "loss" in line]) is None


def test_a_run_that_is_validated_too_late_is_told_once_by_its_training_loss() -> None:
    shipped = reference.of(Settings.from_recipe("base"))
    assert shipped is not None
    base = Settings.from_recipe("base").train
    assert [step for step in range(10, 2001, 10) if shipped.is_last_chance(base, step)] == [50]
    assert not any(shipped.is_last_chance(replace(base, steps=59), step) for step in range(10, 60, 10))
    assert not any(shipped.is_last_chance(replace(base, validate_every=50), step) for step in range(10, 60, 10))
    for name in ("demo", "tiny", "small"):
        known, usual = reference.of(Settings.from_recipe(name)), Settings.from_recipe(name).train
        assert known is not None and not any(known.is_last_chance(usual, step) for step in range(10, 4001, 10))

    def told(loss: float, **changes: Any) -> tuple[bool, str]:
        lines = [{"step": step, "loss": loss} for step in range(10, 51, 10)]
        found = shipped.early(Settings.from_recipe("base", train=changes), lines)
        assert found is not None
        return found

    assert told(9.97) == (True, "looks right so far: training loss 9.97, expected 9.47 to 10.47")
    assert told(9.6)[0]                  # what a text's own words and vocabulary do to the first updates is nothing odd
    assert not told(10.5)[0] and "It learns more slowly than on Tatoeba" in told(10.5)[1]
    assert not told(9.0)[0] and "It learns faster than on Tatoeba" in told(9.0)[1]
    assert "train.lr = 1.0 instead of 0.0007" in told(9.0, lr=1.0)[1]
    assert shipped.early(Settings.from_recipe("base"), [{"step": 70, "loss": 9.0}]) is None


def test_training_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    band = {"step": [1.0, 7.0], "low": [0.0, 0.0], "high": [100.0, 100.0]}
    brief = Reference("demo", "its text", {}, 3, dict.fromkeys(("bleu", "valid_loss", "loss"), band))
    monkeypatch.setattr(train.reference, "of", lambda settings: brief)
    for every, times in ((10, 1), (5, 0)):
        heard = Heard()
        train.train(settings(tmp_path / f"every{every}", steps=10, validate_every=every), heard, corpus())
        assert sum("looks right so far: training loss" in line for line in heard.said) == times


def test_training_names_the_learning_rate_first_where_it_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    monkeypatch.setattr(train, "diverged", lambda lines: "The training loss has risen from 2 to 4")
    heard = Heard()
    train.train(settings(tmp_path / "run", steps=10, lr=1e-5), heard, corpus())
    said = [line for line in heard.said if "risen" in line]
    assert len(said) == 1 and "the learning rate is too high" in said[0] and "--train.lr 3.3e-06" in said[0]
    assert not any("length-penalty" in line or "are the same" in line for line in heard.said)
