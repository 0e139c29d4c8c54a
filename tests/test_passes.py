"""Passes over a text that is cut into subwords anew each time: a function of seed and epoch, within the limits."""
from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import corpus, settings

import engine
from microtfm import material, train
from microtfm.events import Events
from microtfm.material import Texts
from microtfm.run_folder import RunFolder
from microtfm.settings import Settings, TokenSettings
from microtfm.tokens import normalise
from microtfm.train import resume

WRITTEN = ["model.safetensors", "last/state.safetensors", "tokenizer.json"]


class StopAt(Events):
    """Sends the signal to stop at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, metrics: dict[str, Any]) -> None:
        if metrics["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing curves takes longer than such a run."""
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)


def subwords(out: Path, **chosen: float) -> Settings:
    """Settings of a run whose text is cut anew in every pass."""
    return replace(settings(out, batch_tokens=120), tokens=TokenSettings(size=290, **chosen))  # type: ignore[arg-type]


def test_a_text_that_is_cut_anew_in_every_pass_resumes_too(tmp_path: Path) -> None:
    train.train(subwords(tmp_path / "a", dropout=0.2), corpus=corpus())
    assert train.train(subwords(tmp_path / "b", dropout=0.2), StopAt(6), corpus()).reason == "stopped"
    engine.seed(99)
    resume(tmp_path / "b")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in WRITTEN)
    train.train(subwords(tmp_path / "c"), corpus=corpus())
    codes = [RunFolder.open(tmp_path / name).code for name in "abc"]
    assert codes[0] == codes[1] != codes[2]


def test_each_pass_has_cuts_of_its_own_within_the_limit(tmp_path: Path) -> None:
    chosen = subwords(tmp_path, dropout=0.5, max_length=13)
    texts = Texts(*corpus())
    text = material.prepare(texts, chosen, *material.tokenizers(texts, chosen)[:2])
    first, second = text.pass_over(chosen, 0), text.pass_over(chosen, 1)
    assert first == text.pass_over(chosen, 0) != second
    assert max(max(map(len, pair)) for pair in first) <= 13
    longer = text.pass_over(replace(chosen, tokens=replace(chosen.tokens, max_length=100)), 0)
    assert max(max(map(len, pair)) for pair in longer) > 13
    for cut in (first, second, longer):
        said = [(text.source.decode(a), text.target.decode(b)) for a, b in cut]
        assert said == [(normalise(a), normalise(b)) for a, b in texts.train]
    plain = replace(chosen, tokens=replace(chosen.tokens, dropout=0.0))
    assert text.pass_over(plain, 0) is text.train
    epoch, _, batch = next(text.order(chosen, 1, 0))
    rows = {tuple(row[row > 0][:-1]) for row in batch.source}
    assert epoch == 1
    assert rows <= {tuple(a) for a, _ in second}
