"""Averages of the weights: kept while training, and made of the checkpoints of a run."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, settings

from microtfm import checkpoint, kept, train
from microtfm.cli import main
from microtfm.errors import UserError
from microtfm.train import resume
from microtfm.translator import Translator


def test_an_average_may_begin_and_end_with_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train.train(settings(path, steps=4, average=0), corpus=corpus())
    for average, more in ((8, 8), (0, 12)):
        resume(path, changes={"average": average, "steps": more})
        arrays = checkpoint.load(path / "last/state.safetensors").arrays
        assert any(name.startswith("optimizer.average.") for name in arrays) == bool(average)
        best = checkpoint.load(path / "model.safetensors")
        last = checkpoint.load(path / f"checkpoints/step-{more}.safetensors").arrays
        if best.facts["step"] == more:
            assert any((best.arrays[name] != last[name]).any() for name in last) == bool(average)


def test_the_last_checkpoints_are_kept_and_averaged(tmp_path: Path) -> None:
    for step in range(1, 13):
        weights = {"w": np.full(3, step, np.float32), "b": np.float32([1, step])}
        kept.keep(tmp_path, step, weights, {"of": "run"}, 4)
    assert list(kept.steps(tmp_path)) == [9, 10, 11, 12]
    mean = kept.mean(list(kept.steps(tmp_path).values()))
    assert (mean["w"] == 10.5).all() and mean["b"].tolist() == [1, 10.5] and mean["w"].dtype == np.float32
    kept.forget_after(tmp_path, 10)
    assert list(kept.steps(tmp_path)) == [9, 10]
    kept.keep(tmp_path, 13, {"other": np.zeros(2, np.float32)}, {}, 4)
    with pytest.raises(UserError, match="other is unknown"):
        kept.mean(list(kept.steps(tmp_path).values()))
    kept.keep(tmp_path, 14, {}, {}, 0)
    assert list(kept.steps(tmp_path)) == []


def test_average_makes_a_run_folder_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train.train(settings(run, keep=3), corpus=corpus())
    assert main(["average", str(run), "--last", "2", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == [10, 12]
    ten, twelve = (checkpoint.load(run / f"checkpoints/step-{step}.safetensors").arrays for step in (10, 12))
    found = checkpoint.load(out / "model.safetensors")
    for name, array in found.arrays.items():
        np.testing.assert_allclose(array, (ten[name].astype(np.float64) + twelve[name]) / 2, rtol=1e-6)
    assert len(Translator.load(out).translate(["一二三"])) == 1
    assert main(["evaluate", str(out), "--json"]) == 0 and main(["info", str(out)]) == 0
    assert "made of others" in capsys.readouterr().out
    for argv, said in ((["average", str(run), "-o", str(out)], "already holds a run"),
                       (["average", str(run), "--last", "9"], "3 checkpoints, and 9"),
                       (["resume", str(out)], "nothing to resume")):
        assert main(argv) == 2
        assert said in capsys.readouterr().err
    assert main(["average", str(run)]) == 0
    assert (tmp_path / "run-average/model.safetensors").exists()


@pytest.mark.parametrize("joint", [True, False])
def test_an_exported_model_translates_the_same(tmp_path: Path, joint: bool,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "model.safetensors"
    chosen = settings(run)
    train.train(replace(chosen, beam=2, tokens=replace(chosen.tokens, joint=joint, kind="char")), corpus=corpus())
    assert main(["export", str(run), "-o", str(out)]) == 0
    lines = [a for a, _ in corpus()[1]]
    one, two = Translator.load(run), Translator.load(out)
    lines.append(f"{lines[0]}。{lines[1]}。")
    assert one.translate(lines) == two.translate(lines) and two.beam == 2
    assert one.piece_length == two.piece_length == 0
    assert main(["translate", str(out), lines[0]]) == 0
    for argv, said in ((["export", str(run), "-o", str(out)], "exists"),
                       (["export", str(run), "-o", str(tmp_path / "x.bin")], ".safetensors"),
                       (["translate", str(run / "model.safetensors"), "x"], "part of a run folder")):
        assert main(argv) == 2
        assert said in capsys.readouterr().err
