"""Files that are whole and signed, and say what no run has written: one clear error, before anything is changed."""
from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import corpus, settings

import engine
from microtfm import Translator, checkpoint, cli, curves, export, train
from microtfm.errors import UserError
from microtfm.train import resume


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda metrics, picture: False)
        train.train(settings(out), corpus=corpus())
    export.export(out, out.parent / "model.safetensors")
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def rewritten(path: Path, *keys: str, value: Any) -> None:
    """Sign the file anew after one of its facts was changed."""
    found = checkpoint.load(path)
    place = found.facts
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    checkpoint.save(path, found.arrays, {name: fact for name, fact in found.facts.items() if fact is not None})


COUNTS = ("step", "epoch", "index", "validated", "waited", "loss_tokens")


@pytest.mark.parametrize(("group", "name", "value"), [
    *(("progress", name, value) for name in COUNTS for value in ("60", None, [1], -1, 1.5, True, 1e300)),
    *(("progress", "loss_sum", value) for value in ("1", None, True)),
    *(("progress", "best", value) for value in ([1], 5, {"a": 1}, {"bleu": "x", "valid_loss": 1.0, "step": 1})),
    ("progress", "lowest", "x"), ("progress", "unknown", 1), ("progress", "index", 10**12),
    *(("random", name, value) for name in ("seed", "drawn") for value in (-1, 2**80, 1.5, "1", None)),
])
def test_counters_that_no_run_has_written(run: Path, group: str, name: str, value: Any) -> None:
    state, before = run / "last" / "state.safetensors", engine.random.get_state()
    rewritten(state, group, name, value=value)
    weights = (run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"is not the state of a training run|is damaged"):
        resume(run, changes={"steps": 20})
    assert (run / "model.safetensors").read_bytes() == weights
    if (group, name) != ("progress", "index"):
        assert engine.random.get_state() == before


@pytest.mark.parametrize("line", ['{"step": "x"}', '{"step": null, "seconds": 1}', '{"step": 1, "seconds": null}',
                                  "[" * 100_000, "nothing"])
def test_metrics_that_are_no_numbers(run: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    for command in (["info", str(run)], ["resume", str(run), "--train.steps", "20"]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert f"{path}, line 1: " in said and said.count("\n") == 1


@pytest.mark.parametrize(("keys", "value", "says"), [
    (("model", "layers"), 10**9, "at most 1,000"),
    (("model", "layers"), 999, "too few for a model of 999 layers"),
    (("model", "d_model"), 10**9, "does not fit"),
    (("model", "ffn"), 10**12, "does not fit"),
    (("search", "beam"), 10**9, "at most 1,000"),
])
def test_a_small_file_takes_no_large_memory(trained: Path, tmp_path: Path, keys: tuple[str, ...], value: Any,
                                            says: str) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(trained.parent / "model.safetensors", path)
    rewritten(path, *keys, value=value)
    with pytest.raises(UserError, match=says):
        Translator.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_translated_with(run: Path, value: float) -> None:
    path = run / "model.safetensors"
    found = checkpoint.load(path)
    name = sorted(found.arrays)[0]
    found.arrays[name] = found.arrays[name].copy()
    found.arrays[name].flat[0] = value
    checkpoint.save(path, found.arrays, found.facts)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        Translator.load(run)


def test_the_command_speaks_into_any_stream(run: Path) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["info", str(run), "--json"]) == 0
    assert json.loads(said.getvalue())
