"""Settings: one name everywhere, checked when made, explained when wrong."""
from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from microtfm.errors import UserError
from microtfm.flags import flags, given
from microtfm.recipes import RECIPES, expanded, merged
from microtfm.settings import ModelSettings, Settings, TokenSettings, TrainSettings, names, read_toml
from microtfm.train import Result
from microtfm.translator import Candidate


def test_the_defaults_are_valid_and_survive_the_file(tmp_path: Path) -> None:
    settings = Settings(src=Path("a.zh"), tgt=Path("a.en"), out=Path("runs/x"), seed=3,
                        train=TrainSettings(minutes=20, steps=7), model=ModelSettings(final_norm=True))
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(settings.to_dict()), encoding="utf-8")
    assert read_toml(path) == settings


def test_the_signature_shows_what_a_setting_is_without_a_recipe() -> None:
    shown, plain = inspect.signature(Settings).parameters, Settings()
    for name in ("beam", "length_penalty"):
        assert str(shown[name].default) == f"<{getattr(plain, name)!r}, or the recipe's>"
    for name in ("model", "train", "tokens"):
        assert str(shown[name].default) == f"<{type(getattr(plain, name)).__name__}(), or the recipe's>"
        assert getattr(plain, name) == type(getattr(plain, name))()
    tiny = Settings(recipe="tiny", beam=None, model=None, tokens=TokenSettings())       # type: ignore[arg-type]
    assert tiny.beam == RECIPES["tiny"]["beam"] != plain.beam and tiny.tokens == TokenSettings()
    assert tiny.model.layers == RECIPES["tiny"]["model"]["layers"] != plain.model.layers


@pytest.mark.parametrize("cls", [Result, Candidate, Settings, ModelSettings, TrainSettings, TokenSettings])
def test_the_docstring_explains_every_field(cls: Any) -> None:
    assert [each.name for each in dataclasses.fields(cls) if f"{each.name}: " not in cls.__doc__] == []


def test_hyphens_and_underscores_are_one() -> None:
    assert Settings.from_dict({"train": {"batch-tokens": 99}}).train.batch_tokens == 99


@pytest.mark.parametrize(("steps", "minutes", "last"),
                         [(None, None, 10_000), (None, 5.0, None), (7, 5.0, 7), (7, None, 7)])
def test_training_always_ends(steps: int | None, minutes: float | None, last: int | None) -> None:
    assert TrainSettings(steps=steps, minutes=minutes).last_step == last


@pytest.mark.parametrize(("table", "said"), [
    ({"model": {"d_modle": 64}}, "unknown setting model.d_modle. Did you mean model.d_model?"),
    ({"lr": 0.1}, "unknown setting lr. Did you mean train.lr?"),
    ({"train": {"learning_rat": 0.1}}, "unknown setting train.learning_rat"),
    ({"sed": 1}, "Did you mean seed?"),
    ({"train": {"step": 5}}, "Did you mean train.steps?"),
    ({"model": 3}, "model is a group of settings"),
    ({"model": {"d_model": 100, "heads": 8}}, "d_model 96 or 104, or heads 4, 5, 10"),
    ({"model": {"d_model": 7, "heads": 1}}, "odd"),
    ({"model": {"heads": 0}}, "model.heads = 0 must be 1 or more"),
    ({"model": {"dropout": 1.0}}, "a share"),
    ({"model": {"norm": "both"}}, "post | pre"),
    ({"model": {"layers": 2.5}}, "a whole number"),
    ({"model": {"layers": True}}, "a whole number"),
    ({"train": {"lr": "fast"}}, "a number"),
    ({"train": {"lr": float("nan")}}, "a number"),
    ({"train": {"consistency": 1e300}}, "a number below 3e+38"),
    ({"train": {"lr": 0}}, "more than 0"),
    ({"train": {"minutes": -1}}, "more than 0"),
    ({"train": {"log_every": 11}}, "1 to 10"),
    ({"train": {"schedule": "cosine"}}, "inverse-sqrt | paper | constant"),
    ({"tokens": {"joint": False}}, "--model.tie output"),
    ({"tokens": {"dropout": 1}}, "tokens.dropout = 1.0 is a share"),
    ({"tokens": {"dropout": 0.1, "kind": "word"}, "model": {"tie": "output"}}, "tokens.kind = word has none"),
    ({"train": {"consistency": -1}}, "train.consistency = -1"),
    ({"train": {"consistency": 5}, "model": {"dropout": 0}}, "differ by their dropout"),
    ({"train": {"cooldown": -1}}, "train.cooldown = -1"),
    ({"train": {"cooldown": 60, "steps": 50}}, "train.cooldown = 60 is counted back from train.steps: give as many"),
    ({"train": {"cooldown": 60, "minutes": 2}}, "train.cooldown = 60 is counted back from train.steps: give as many"),
    ({"tgt": "x"}, "without --src"),
    ({"valid_tgt": "x"}, "without --valid-src"),
    ({"threads": 0}, "threads = 0"),
    ({"src": 5}, "a path"),
    ({"recipe": "tinny"}, "demo | tiny | small | base"),
    ({"beam": 0}, "beam = 0"),
    ({"length_penalty": -1}, "length_penalty = -1"),
    ({"train": {"average": -1}}, "train.average = -1"),
])
def test_what_cannot_work_is_refused_in_one_paragraph(table: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        Settings.from_dict(table, "run.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("run.toml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "said"),
                         [(b"lr = = 3", "not valid TOML"), (b"\xff\xfe", "UTF-8"), (None, "does not exist"),
                          (b"a = " + b"[" * 9000, "nested too deeply"), (b"seed = " + b"9" * 9000, "not valid TOML"),
                          (b"#" * 50_000, "50,000 bytes, which is too many"), (b"\0", "not valid TOML")])
def test_a_file_that_is_no_settings_file(tmp_path: Path, text: bytes | None, said: str) -> None:
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError, match=said):
        read_toml(path)


def test_an_integer_serves_where_a_number_is_wanted() -> None:
    assert TrainSettings(lr=1).lr == 1.0
    assert isinstance(TrainSettings(lr=1).lr, float)


def test_settings_without_force_are_what_is_kept() -> None:
    assert "force" not in Settings(force=True).to_dict()
    assert {"src", "model.d_model", "train.clip_norm", "tokens.kind"} <= set(names())


def test_every_setting_is_a_flag_with_a_help_text() -> None:
    made = flags("src", "seed", "model", "train", "tokens")
    values = made()
    assert given(values) == {}
    values.train.lr = 0.5
    values.seed = 4
    assert given(values) == {"seed": 4, "train": {"lr": 0.5}}
    assert set(TokenSettings.__dataclass_fields__) == set(type(values.tokens).__dataclass_fields__)


def test_flags_win_over_the_file() -> None:
    below = {"seed": 1, "train": {"lr": 1.0, "warmup": 5}}
    both = {"seed": 1, "train": {"lr": 2.0, "warmup": 5}, "out": "x"}
    assert merged(below, {"train": {"lr": 2.0}, "out": "x"}) == both


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_a_recipe_lies_below_what_is_given(name: str, tmp_path: Path) -> None:
    whole = Settings(recipe=name)  # type: ignore[arg-type]
    assert whole == Settings.from_dict({"recipe": name}) == Settings.from_recipe(name)  # type: ignore[arg-type]
    assert (whole.beam, whole.model.dropout, whole.model.tie, whole.tokens.joint) == (5, 0.3, "all", True)
    assert whole.train.average > 0 < whole.train.label_smoothing
    assert RECIPES[name]["model"].keys() <= whole.to_dict()["model"].keys()
    given = Settings.from_recipe("tiny", beam=2, model={"dropout": 0.1}, train={"minutes": 9})
    assert (given.beam, given.model.dropout, given.model.layers, given.train.minutes) == (2, 0.1, 4, 9.0)
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(given.to_dict()), encoding="utf-8")
    assert read_toml(path) == given
    path.write_text('recipe = "tiny"\nbeam = 2\n[model]\ndropout = 0.1\n[train]\nminutes = 9\n', encoding="utf-8")
    assert read_toml(path) == given


def test_a_recipe_of_the_line_lies_over_the_file_and_under_the_line() -> None:
    file = Settings(train=TrainSettings(lr=0.5, clip_norm=3.0)).to_dict()
    table = merged(file, expanded({"recipe": "tiny", "train": {"warmup": 7}}))
    train = Settings.from_dict(table).train
    assert (train.lr, train.warmup, train.clip_norm, train.average) == (0.005, 7, 3.0, 500)


def test_settings_import_neither_numpy_nor_the_engine() -> None:
    code = ("import sys, microtfm.settings, microtfm.cli\n"
            "print([m for m in ('numpy', 'numba', 'engine') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
