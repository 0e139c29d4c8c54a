"""Averages of the weights: kept while training, and made of the checkpoints of a run."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, settings

from microtfm import checkpoint, kept, train
from microtfm.errors import UserError
from microtfm.run_folder import RunFolder
from microtfm.train import resume


def test_an_average_may_begin_and_end_with_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train.train(settings(path, steps=4, average=0), corpus=corpus())
    for average, more in ((8, 8), (0, 12)):
        resume(path, changes=replace(RunFolder.open(path).settings.train, average=average, steps=more))
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
