"""Run folders of earlier format versions: they load, translate as they did, and can be gone on with."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from microtfm.run_folder import VERSION, RunFolder
from microtfm.train import resume
from microtfm.translator import Translator

OLD = Path(__file__).parent / "old_runs"
RUNS = sorted(path.name for path in OLD.iterdir() if path.is_dir())


def test_there_is_one_of_each_version() -> None:
    assert [f"format-{n}" for n in range(1, VERSION + 1)] == RUNS


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_translates_as_it_did(name: str) -> None:
    pairs = [line.split("\t") for line in (OLD / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
    assert Translator.load(OLD / name).translate([a for a, _ in pairs]) == [b for _, b in pairs]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_goes_on(name: str, tmp_path: Path) -> None:
    shutil.copytree(OLD / name, tmp_path / "run")
    assert resume(tmp_path / "run").step == 300
    assert Translator.load(tmp_path / "run").translate([""]) == [""]


@pytest.mark.parametrize("name", RUNS)
def test_a_setting_that_is_younger_than_the_run_is_not_taken_from_the_recipe(name: str, tmp_path: Path) -> None:
    shutil.copytree(OLD / name, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    table = config.read_text(encoding="utf-8").replace("seed =", 'recipe = "tiny"\nseed =')
    config.write_text(table.replace("patience = 0\n", ""), encoding="utf-8")
    settings = RunFolder.open(tmp_path / "run").settings
    assert (settings.recipe, settings.tokens.dropout, settings.train.patience) == ("tiny", 0.0, 0)
