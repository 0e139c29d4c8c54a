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
from microtfm.cli import main
from microtfm.diagnosis import diagnose, loops
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
