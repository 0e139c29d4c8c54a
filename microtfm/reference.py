"""What a run should look like: curves of earlier runs of a recipe, as a band, and where a run lies in it.

A reference is a small JSON file, microtfm/references/RECIPE.json:

    recipe, text     which recipe, and on which text
    settings         of model, train and tokens, as far as they decide what is learnt
    runs             how many runs, with different seeds, it was made from
    curves           for valid_loss, bleu and loss (`metrics.training_loss`): step, low, high

It is made from run folders:  python -m microtfm.reference RUN RUN RUN --text "what it was trained on" -o FILE
"""
from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from microtfm import metrics
from microtfm.causes import COPIED, EARLY, NOTHING, cause
from microtfm.divergence import diverged
from microtfm.errors import UserError
from microtfm.run_folder import LEAVE, RunFolder
from microtfm.settings import Settings, TrainSettings

EARLY_MARGIN = 0.5                       # of a training loss alone, which other words and vocabularies begin with
MARGIN = {"bleu": 2.0, "valid_loss": 0.05, "loss": 0.05}           # around the band, besides a half of its width
WORDS = {"bleu": "BLEU", "valid_loss": "validation loss", "loss": "training loss"}


@dataclass(frozen=True)
class Place:
    """Where a number lies. side: -1 below the band, 0 in it, 1 above."""

    name: str
    value: float
    low: float
    high: float

    @property
    def side(self) -> int:
        rounding = 1e-9 * abs(self.high)                 # sacrebleu's perfect score is 100.00000000000004
        return -1 if self.value < self.low else int(self.value > self.high + rounding)

    @property
    def word(self) -> str:
        """The side as the table of causes has it."""
        if self.name == "bleu" and self.value < NOTHING * self.low:
            return "none"
        return ("low", "right", "high")[self.side + 1]

    def __str__(self) -> str:
        return f"{WORDS[self.name]} {self.value:.4g}, expected {self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Reference:
    """The curves of a recipe."""

    recipe: str
    text: str
    settings: dict[str, Any]
    runs: int
    curves: dict[str, dict[str, list[float]]]

    def place(self, name: str, step: int, value: float, margin: float | None = None) -> Place | None:
        """Where a value at a step lies, or None where the reference does not reach. margin: around the band, if not
        the usual one."""
        curve = self.curves[name]
        if not curve["step"] or not curve["step"][0] <= step <= curve["step"][-1]:
            return None
        low, high = (float(np.interp(step, curve["step"], curve[side])) for side in ("low", "high"))
        margin = (high - low) / 2 + (MARGIN[name] if margin is None else margin)
        low, high = low - margin, high + margin
        return Place(name, value, max(low, 0.0), min(high, 100.0)) if name == "bleu" else Place(name, value, low, high)

    @property
    def reach(self) -> int:
        """The last step of which anything is known."""
        return max(int(curve["step"][-1]) for curve in self.curves.values() if curve["step"])

    def verdict(self, settings: Settings, lines: Sequence[dict[str, Any]], copied: bool = False) -> (
            tuple[bool, str] | None):
        """Whether the run so far looks as it should, and the words for it; None where that cannot be said.

        lines: of metrics.jsonl, up to a validation. copied: whether its translations are copies of their sources.
        """
        last = next((line for line in reversed(lines) if "valid_loss" in line), None)
        if last is None:
            return None
        loss = metrics.training_loss(lines, last["step"])
        now = {"bleu": last["bleu"], "valid_loss": last["valid_loss"], "loss": loss}
        places = [self.place(name, last["step"], value) for name, value in now.items() if value is not None]
        found = [place for place in places if place is not None]
        if not found:
            return None
        if not any(place.side for place in found):
            telling = [place for place in found if place.low > 0]        # a BLEU that may be 0 says nothing yet
            return True, f"looks right: {(telling or found)[0]}"
        wrong = "; ".join(str(place) for place in found if place.side)
        said = COPIED if copied else self._cause(settings, lines, {place.name: place.word for place in found})
        return False, f"unusual: {wrong}. {said}".rstrip()

    def is_last_chance(self, train: TrainSettings, step: int) -> bool:
        """Whether no validation comes as far as the reference reaches, and no more of its lines after this step."""
        first = min(train.validate_every, train.last_step or train.validate_every)
        ends = self.curves["loss"]["step"][-1:]
        return first > self.reach and any(step <= end < step + train.log_every for end in ends)

    def early(self, settings: Settings, lines: Sequence[dict[str, Any]]) -> tuple[bool, str] | None:
        """The same by the training loss alone, for a run that is not validated yet."""
        step = lines[-1]["step"]
        value = metrics.training_loss(lines, step)
        place = self.place("loss", step, value, EARLY_MARGIN) if value is not None else None
        if place is None:
            return None
        if not place.side:
            return True, f"looks right so far: {place}"
        said = self._changed(settings) or EARLY[place.word].format(text=self.text)
        return False, f"unusual so far: {place}. {said}"

    def _cause(self, settings: Settings, lines: Sequence[dict[str, Any]], sides: dict[str, str]) -> str:
        if diverged(lines) is not None:
            return "The run has diverged, its losses were lower before: usually the learning rate is too high."
        known = sides.keys() == WORDS.keys()
        return self._changed(settings) or (
            cause(sides["loss"], sides["valid_loss"], sides["bleu"]).format(text=self.text) if known else "")

    def _changed(self, settings: Settings) -> str:
        """The settings that are not the reference's, in words; "" where none is."""
        found = deciding(settings)
        if (settings.train.last_step or 0) - settings.train.cooldown >= self.reach:
            found["train.cooldown"] = self.settings["train.cooldown"]    # it begins where nothing is known
        changed = ", ".join(differences(self.settings, found))
        return changed and (f"This run has other settings than the reference ({changed}), which may be all there is to "
                            f"it.")


def of(settings: Settings) -> Reference | None:
    """The reference of the settings' recipe, if there is one."""
    if settings.recipe is None or settings.init is not None:
        return None
    path = resources.files("microtfm").joinpath("references", f"{settings.recipe}.json")
    if not path.is_file():
        return None
    table = json.loads(path.read_text(encoding="utf-8"))
    table["settings"] = deciding(Settings()) | table["settings"]         # one that is younger had its default
    return Reference(**table)


def deciding(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is learnt, and how fast, by their dotted names."""
    table = settings.to_dict()
    return {f"{group}.{name}": value for group in ("model", "train", "tokens") for name, value in table[group].items()
            if name not in (*LEAVE, "piece_length")}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In words, the settings that differ."""
    return [f"{name} = {found.get(name)} instead of {wanted.get(name)}"
            for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]


def make(folders: Sequence[Path], text: str) -> Reference:
    """A reference from runs of one recipe with different seeds. UserError where they are not of one kind."""
    runs = [RunFolder.open(folder) for folder in folders]
    kinds = [(run.settings.recipe, deciding(run.settings)) for run in runs]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0] or kind[0] is None:
            changed = ", ".join(differences(kinds[0][1], kind[1])) or f"recipe = {kind[0]}"
            raise UserError(f"{folder} is no run of the same recipe as {folders[0]}: {changed}.")
    lines = [metrics.read(run.metrics) for run in runs]
    curves = {name: _band([_points(each, name) for each in lines]) for name in WORDS}
    return Reference(str(kinds[0][0]), text, kinds[0][1], len(runs), curves)


def _points(lines: list[dict[str, Any]], name: str) -> dict[int, float]:
    """A run's values by step, at its validations."""
    checks = [line for line in lines if "valid_loss" in line]
    values = {line["step"]: metrics.training_loss(lines, line["step"]) if name == "loss" else line[name]
              for line in checks}
    return {step: value for step, value in values.items() if value is not None}


def _band(runs: list[dict[int, float]]) -> dict[str, list[float]]:
    steps = sorted(set.intersection(*map(set, runs)))
    return {"step": [float(step) for step in steps],
            "low": [round(min(run[step] for run in runs), 4) for step in steps],
            "high": [round(max(run[step] for run in runs), 4) for step in steps]}


def write(folders: list[Path], text: str, out: Path) -> None:
    """Make a reference and write it."""
    table = vars(make(folders, text))
    out.write_text(json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m microtfm.reference", description="Make a reference from run folders.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--text", required=True, help="what the runs were trained on, in words")
    parser.add_argument("-o", "--out", required=True, type=Path)
    given = parser.parse_args()
    try:
        write(given.runs, given.text, given.out)
    except UserError as error:
        sys.exit(f"microtfm: {error}")
