"""Training: what it writes, when it stops, and that a stopped run goes on as if nothing had happened."""
from __future__ import annotations

import gc
import json
import os
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import corpus, pairs, settings, text_files

import engine
from microtfm import checkpoint, learner, material, metrics, train
from microtfm.errors import UserError
from microtfm.events import Events, Opening, Sample
from microtfm.loss import translation_loss
from microtfm.run_folder import RunFolder, free_folder
from microtfm.settings import ModelSettings, TokenSettings
from microtfm.train import resume
from microtfm.translator import Translator


class Heard(Events):
    """Remembers what it was told, and may do something at a step."""

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.notices: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.samples: list[Sample] = []
        self.run: Opening | None = None
        self.at, self.act = at, act

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def opening(self, opening: Opening) -> None:
        self.run = opening

    def stepped(self, metrics: dict[str, Any]) -> None:
        self.lines.append(metrics)
        if metrics["step"] == self.at:
            self.act()

    def validated(self, metrics: dict[str, Any], samples: list[Sample], best: bool) -> None:
        self.samples = samples


def hit() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are drawn for the run that went through, and for no other: drawing takes longer than such a run."""
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)


def folder_bytes(path: Path) -> dict[str, bytes]:
    """What a run amounts to: its models, state and tokenizers."""
    return {each.name: each.read_bytes() for each in [*path.rglob("*.safetensors"), *path.glob("token*.json")]}


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps that went through."""
    path = tmp_path_factory.mktemp("runs") / "through"
    train.train(settings(path), corpus=corpus())
    return path


def test_the_run_folder_holds_everything(through: Path) -> None:
    names = {path.relative_to(through).as_posix() for path in through.rglob("*") if path.is_file()}
    assert names == {"config.toml", "tokenizer.source.json", "tokenizer.target.json", "model.safetensors",
                     "metrics.jsonl", "last/state.safetensors", "curves.svg", "curves.html", "train.tsv",
                     "valid.tsv", "checkpoints/step-10.safetensors", "checkpoints/step-12.safetensors"}
    run = RunFolder.open(through)
    assert run.settings.train.steps == 12
    assert run.settings.src == (through / "train.tsv").absolute()


def test_metrics_have_the_promised_lines(through: Path) -> None:
    lines = [json.loads(line) for line in (through / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert {"step", "loss", "lr", "tokens_per_s", "seconds"} <= lines[0].keys()
    checks = [line for line in lines if "valid_loss" in line]
    assert [line["step"] for line in checks] == [5, 10, 12]
    assert {"bleu", "chrf", "exact_match", "bleu_signature", "seconds"} <= checks[0].keys()
    assert lines[0]["lr"] == pytest.approx(0.01 * 2 / 10)


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(through: Path, tmp_path: Path) -> None:
    train.train(settings(tmp_path / "again"), corpus=corpus())
    assert folder_bytes(tmp_path / "again") == folder_bytes(through)
    train.train(replace(settings(tmp_path / "other"), seed=2), corpus=corpus())
    assert (tmp_path / "other/model.safetensors").read_bytes() != (through / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [2, 6, 10])
def test_stopped_and_resumed_ends_with_the_same_bytes(through: Path, tmp_path: Path, stop: int) -> None:
    path = tmp_path / "stopped"
    first = train.train(settings(path), Heard(stop, hit), corpus())
    assert (first.reason, first.signal, first.step) == ("stopped", signal.SIGTERM, stop)
    engine.seed(99)                      # the resumed process knows nothing of the first one
    second = resume(path)
    assert (second.reason, second.step) == ("steps", 12)
    assert folder_bytes(path) == folder_bytes(through)
    told = [[{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_s")}
             for line in metrics.read(run / "metrics.jsonl")] for run in (path, through)]
    assert told[0] == told[1]


def test_killed_without_a_word_it_goes_on_from_the_last_checkpoint(through: Path, tmp_path: Path) -> None:
    def die() -> None:
        raise RuntimeError("killed")

    path = tmp_path / "killed"
    with pytest.raises(RuntimeError):
        train.train(settings(path), Heard(6, die), corpus())
    lines = metrics.read(path / "metrics.jsonl")
    assert lines[-1]["step"] == 6
    with open(path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 7, "lo')
    heard = Heard()
    resume(path, heard)
    assert heard.run is not None
    assert heard.run.step == 5           # the best so far is never ahead of the state
    assert folder_bytes(path) == folder_bytes(through)
    steps = [line["step"] for line in metrics.read(path / "metrics.jsonl") if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_signal_during_validation_is_heard_and_nothing_is_lost(through: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    right = train.validate

    def interrupted(*args: Any) -> Any:
        hit()
        return right(*args)

    path = tmp_path / "validating"
    monkeypatch.setattr(train, "validate", interrupted)
    assert train.train(settings(path), None, corpus()).step == 5
    monkeypatch.setattr(train, "validate", right)
    resume(path)
    assert folder_bytes(path) == folder_bytes(through)


def test_the_handlers_are_put_back(through: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train.train(settings(tmp_path / "x", steps=1), Heard(2, hit), corpus())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_more_steps_may_be_asked_for(through: Path, tmp_path: Path) -> None:
    path = tmp_path / "more"
    train.train(settings(path, steps=4), corpus=corpus())
    heard = Heard()
    assert resume(path, heard).step == 4
    assert "has used up its steps" in heard.notices[-1]
    before = RunFolder.open(path).settings
    assert resume(path, changes={"steps": 6}).step == 6
    assert RunFolder.open(path).settings == replace(before, train=replace(before.train, steps=6))
    with pytest.raises(UserError, match="stepps"):
        resume(path, changes={"stepps": 7})


def test_minutes_end_a_run(tmp_path: Path) -> None:
    result = train.train(settings(tmp_path / "x", steps=None, minutes=1e-6), corpus=corpus())
    assert (result.reason, result.step) == ("minutes", 0)


def test_patience_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = train.validate

    def worse(*args: Any) -> Any:
        found = right(*args)
        found.metrics.update(bleu=1.0, valid_loss=3.0)
        return found

    monkeypatch.setattr(train, "validate", worse)
    result = train.train(settings(tmp_path / "x", steps=100, validate_every=1, patience=3), corpus=corpus())
    assert (result.reason, result.step, result.best["step"]) == ("patience", 4, 1)


def test_the_best_model_is_kept_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, scores = train.validate, iter([5.0, 9.0, 2.0])

    def scripted(*args: Any) -> Any:
        found = right(*args)
        found.metrics["bleu"] = next(scores)
        return found

    monkeypatch.setattr(train, "validate", scripted)
    path = tmp_path / "x"
    result = train.train(settings(path), corpus=corpus())
    assert result.best["step"] == 10
    assert checkpoint.load(path / "model.safetensors").facts["step"] == 10


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    """Two batches weighted by their tokens give the gradient of both together."""
    path = tmp_path / "x"
    train.train(settings(path, steps=1), corpus=corpus())
    model = RunFolder.open(path).load_model()
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, 9, (6, 5)), rng.integers(4, 9, (6, 7))
    target[4:, 3:] = 0

    def gradient(*groups: slice) -> list[np.ndarray]:
        model.zero_grad()
        for rows in groups:
            logits = model(source[rows], target[rows])
            translation_loss(logits, engine.Tensor(target[rows]), 0.1, reduction="sum").backward()
        return [parameter.grad.numpy() for parameter in model.parameters() if parameter.grad is not None]

    for whole, parts in zip(gradient(slice(0, 6)), gradient(slice(0, 4), slice(4, 6)), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=2e-4, atol=2e-5)


def test_accumulate_is_a_setting(tmp_path: Path) -> None:
    assert train.train(settings(tmp_path / "x", accumulate=3), corpus=corpus()).step == 12


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimisers_resume_too(tmp_path: Path, optimizer: str) -> None:
    chosen = {"optimizer": optimizer, "weight_decay": 0.01, "steps": 6, "schedule": "constant"}
    train.train(settings(tmp_path / "a", **chosen), corpus=corpus())
    train.train(settings(tmp_path / "b", **chosen), Heard(2, hit), corpus())
    resume(tmp_path / "b")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    with pytest.raises(UserError, match="optimi"):
        resume(tmp_path / "b", changes={"optimizer": "adam", "steps": 9})


def test_it_learns_and_the_loss_falls(tmp_path: Path) -> None:
    heard = Heard()
    train.train(settings(tmp_path / "x", steps=60, validate_every=60, save_every=60), heard, corpus())
    losses = [line["loss"] for line in heard.lines]
    assert losses[-1] < 0.75 * losses[0]
    assert len(heard.samples) == 3


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error, np.errstate(all="ignore"):
        train.train(settings(tmp_path / "x", steps=400, lr=1e30, warmup=1, clip_norm=0.0, optimizer="sgd"),
                    corpus=corpus())
    for word in ("step", "learning rate", "gradient norm", "The checkpoint of step"):
        assert word in str(error.value)
    checkpoint.load(tmp_path / "x/last/state.safetensors")


def test_what_leaves_with_the_held_out_text_is_counted(tmp_path: Path) -> None:
    text = tmp_path / "text.tsv"
    text.write_text("".join(f"{a}\t{b} {i}\n" for i in range(3) for a, b in pairs()[:50]), encoding="utf-8")
    texts = material.read(replace(settings(tmp_path / "run"), src=text))
    assert len(texts.train) == 150 - 3 * 15 and len(texts.valid) == 15
    assert "Held out 15 of 150 pairs for validation (30 more of the same sources left out)" in texts.report[-1]


def test_training_text_is_held_out_of_files(tmp_path: Path) -> None:
    source, target = text_files(tmp_path)
    path, heard = tmp_path / "run", Heard()
    chosen = replace(settings(path, steps=2), src=source, tgt=target, tokens=TokenSettings(kind="char", size=100),
                     model=ModelSettings(d_model=16, heads=2, layers=1, ffn=32))
    train.train(chosen, heard)
    assert any("Held out 21 of 216" in notice for notice in heard.notices)
    held_out = [tuple(line.split("\t")) for line in (path / "held-out.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(held_out) == 21
    assert set(held_out) <= set(pairs())
    assert (path / "tokenizer.json").exists()
    resume(path, changes={"steps": 3})
    source.write_text(source.read_text(encoding="utf-8").replace("六", "一"), encoding="utf-8")
    with pytest.raises(UserError, match="training text"):
        resume(path, changes={"steps": 4})


def test_training_starts_from_another_model(through: Path, tmp_path: Path) -> None:
    path, heard = tmp_path / "next", Heard()
    chosen = replace(settings(path, steps=1, lr=1e-9), init=through, model=ModelSettings(), tokens=TokenSettings())
    train.train(chosen, heard, corpus())
    old, new = (checkpoint.load(each / "model.safetensors").arrays for each in (through, path))
    assert old.keys() == new.keys()
    for name in old:
        np.testing.assert_allclose(new[name], old[name], atol=1e-6)
    assert (path / "tokenizer.source.json").read_bytes() == (through / "tokenizer.source.json").read_bytes()
    assert RunFolder.open(path).settings.model == RunFolder.open(through).settings.model


def test_a_moved_run_goes_on(through: Path, tmp_path: Path) -> None:
    train.train(settings(tmp_path / "here", steps=4), corpus=corpus())
    (tmp_path / "here").rename(tmp_path / "there")
    assert resume(tmp_path / "there", changes={"steps": 5}).step == 5
    assert Translator.load(tmp_path / "there").translate([""]) == [""]


def test_a_run_is_replaced_only_by_force(through: Path, tmp_path: Path) -> None:
    before = folder_bytes(through)
    with pytest.raises(UserError, match="--force"):
        train.train(settings(through), corpus=corpus())
    assert folder_bytes(through) == before
    path = tmp_path / "x"
    train.train(settings(path, steps=2), corpus=corpus())
    (path / "notes.txt").write_text("mine", encoding="utf-8")
    train.train(replace(settings(path, steps=3), force=True), corpus=corpus())
    assert (path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert RunFolder.open(path).settings.train.steps == 3


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(UserError, match="other things"):
            train.train(replace(settings(tmp_path), force=force), corpus=corpus())
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="is a file"):
        train.train(settings(tmp_path / "file"), corpus=corpus())
    with pytest.raises(UserError, match="cannot be made"):
        train.train(settings(tmp_path / "file" / "deeper"), corpus=corpus())


def test_nothing_is_written_when_the_text_is_bad(tmp_path: Path) -> None:
    source, target = text_files(tmp_path)
    with open(target, "a", encoding="utf-8") as file:
        file.write("one line more\n")
    with pytest.raises(UserError, match="lines"):
        train.train(replace(settings(tmp_path / "runs" / "x"), src=source, tgt=target))
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_is_full_from_the_start_holds_nothing_afterwards(tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise UserError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train.state, "save", full)
        with pytest.raises(UserError, match="No space"):
            train.train(settings(tmp_path / "x"), corpus=corpus())
    assert not (tmp_path / "x").exists()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(through: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = train.state.save, []

    def filling(*args: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise UserError("No space left on device")
        right(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train.state, "save", filling)
        with pytest.raises(UserError, match="microtfm resume"):
            train.train(settings(tmp_path / "x"), corpus=corpus())
    resume(tmp_path / "x")
    assert folder_bytes(tmp_path / "x") == folder_bytes(through)


def test_long_sentences_are_left_out_and_said(tmp_path: Path) -> None:
    heard = Heard()
    learn, valid = corpus()
    train.train(settings(tmp_path / "x", steps=1), heard, ([*learn, ("一" * 70, "one")], valid))
    assert any("Left out 1 pair" in notice for notice in heard.notices)


def test_the_first_free_folder(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert free_folder(tmp_path / "run") == tmp_path / "run-3"


def test_no_graph_outlives_its_step(tmp_path: Path) -> None:
    """With the garbage collector off, every loss is gone when the run is."""
    alive: list[weakref.ref[Any]] = []
    right = learner.translation_loss

    def watched(*args: Any, **kwargs: Any) -> Any:
        loss = right(*args, **kwargs)
        alive.append(weakref.ref(loss))
        assert sum(ref() is not None for ref in alive) <= 2
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "translation_loss", watched)
        gc.disable()
        try:
            train.train(settings(tmp_path / "x", steps=8), corpus=corpus())
            assert not [ref for ref in alive if ref() is not None]
        finally:
            gc.enable()
    assert alive, "nothing was watched"
