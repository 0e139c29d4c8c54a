"""The examples that train: each runs, in short by default and whole with EXAMPLES=whole, where its asserts count."""
from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
WHOLE = os.environ.get("EXAMPLES") == "whole"
ALWAYS_WHOLE = ["residual_gradients", "layer_and_batch_norm", "read_export"]
TRAINED = ["reorder", "rnn_by_length", "norms_and_warmup", "without_mask", "heads"]


@pytest.mark.parametrize("name", [*ALWAYS_WHOLE, *TRAINED])
def test_it_shows_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    picture = [str(tmp_path / "picture.svg")] if name in ("reorder", "rnn_by_length") else []
    short = ["--short"] if name in TRAINED and not WHOLE else []
    monkeypatch.setattr(sys, "argv", [name, *picture, *short])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out
    for path in picture:
        assert "<svg" in Path(path).read_text(encoding="utf-8")
