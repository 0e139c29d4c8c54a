"""The first few of each long trial; `python tests/trial_….py` runs them all."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus

import engine
from microtfm import material as materials
from microtfm.settings import Settings
from microtfm.transformer import Transformer

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("trial", "counts", "says"), [
    ("mutations", ["150"], "all"), ("kills", ["4", "60"], "4 kills"), ("memory", ["200"], "from"),
])
def test_the_first_of(trial: str, counts: list[str], says: str) -> None:
    """In a process of its own, which has no threads when it forks."""
    found = subprocess.run([sys.executable, str(HERE / f"trial_{trial}.py"), *counts], capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    if trial != "memory":                # so short a run still meets new shapes
        assert found.returncode == 0, found.stdout + found.stderr
    assert says in found.stdout, found.stdout + found.stderr


def test_both_sides_of_the_trial_beside_pytorch_learn_the_same() -> None:
    """Dropout off: the losses of several updates, and the weights that are validated."""
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    from itertools import islice

    from trial_torch import Ours, Torch
    settings = Settings.from_recipe("tiny", model={"d_model": 16, "layers": 1, "ffn": 24, "dropout": 0.0},
                                    tokens={"kind": "word", "size": 100}, train={"batch_tokens": 60, "average": 3})
    train, valid = corpus()
    texts = materials.Texts(train, valid)
    source, target, _ = materials.tokenizers(texts, settings)
    batches = materials.prepare(texts, settings, source, target).order(settings, 0, 0)
    engine.seed(0)
    model = Transformer(settings.model, len(source), len(target)).train()
    sides = Torch(model, settings), Ours(model, settings)
    for _ in range(5):
        portion = [batch for _, _, batch in islice(batches, 2)]
        tokens = sum(batch.tokens for batch in portion)
        theirs, ours = (side.update(portion, 1e-3, tokens) for side in sides)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    theirs, ours = (side.weights() for side in sides)
    assert theirs.keys() == ours.keys()
    for name, weights in ours.items():
        np.testing.assert_allclose(theirs[name], weights, atol=2e-3, err_msg=name)
