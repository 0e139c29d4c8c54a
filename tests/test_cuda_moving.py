"""Models that go from device to device: what was recorded on the one is recorded anew on the other, and nothing of the
one is kept."""
from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import Tensor, default_device
from engine.kernels.cpu import jit_disabled
from microtfm import Translator, train
from microtfm.learner import Learner
from microtfm.module import Module, parameter
from microtfm.optim import SGD
from microtfm.settings import ModelSettings, TrainSettings
from microtfm.transformer import Transformer
from tests.test_learner import batch
from tests.tiny import corpus, pairs, settings

pytest.importorskip("greenlet")
recorded = pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
WAYS = pytest.mark.parametrize(("here", "there"), [("cpu", "cuda"), ("cuda", "cpu")])


# --- translating ----------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["transformer", "rnn"])
def folder(request: Any, tmp_path_factory: Any) -> Path:
    asked = settings(tmp_path_factory.mktemp("moving") / "run", steps=4, validate_every=4, save_every=2)
    model = replace(asked.model, kind=request.param)
    return train.train(replace(asked, model=model, device="cpu"), corpus=corpus()).folder


@WAYS
def test_a_model_that_has_translated_translates_elsewhere(folder: Path, here: str, there: str) -> None:
    lines = [a for a, _ in pairs()[:3]]
    translator = Translator.load(folder, device=here)
    before = [translator.translate(lines, beam=beam) for beam in (1, 3)]
    held = everything_in(translator.model.kept())
    assert held
    for device in (there, here, there):
        translator.model.to(device)
        assert not translator.model.kept()
        assert [translator.translate(lines, beam=beam) for beam in (1, 3)] == before
    gc.collect()
    assert not [kept for kept in held if kept() is not None]


def everything_in(kept: dict[Any, Any]) -> list[weakref.ref[Any]]:
    """What a model keeps for translating: sessions by their size, or a pair of replayed steps."""
    values = [v for value in kept.values() for v in (value.values() if isinstance(value, dict) else [value])]
    return [weakref.ref(thing) for many in values for thing in many]


# --- training -------------------------------------------------------------------------------------
@WAYS
@pytest.mark.parametrize(("replay", "several"), [(True, 1), (True, 2), (False, 1)])
def test_training_goes_on_elsewhere(here: str, there: str, replay: bool, several: int) -> None:
    """A learner whose model moves takes its optimiser along, and learns what one that stays does."""
    found = []
    for moves in ((here,) * 3, (here, there, here)):
        engine.seed(3)
        model = Transformer(ModelSettings(d_model=16, heads=2, layers=1, ffn=32, dropout=0.0, tie="output"), 40, 50)
        model.to(here)
        learn = Learner(model, SGD(model.named_parameters(), 1e-3, 0.9, average=4), TrainSettings(), replay)
        losses = []
        for i, device in enumerate(moves):
            model.to(device)
            for step in range(3):
                batches = [batch(3, 6, 10 * i + 2 * step + k) for k in range(several)]
                losses.append(learn(batches, 1e-3, sum(b.tokens for b in batches)))
            assert {t.device for tensors in learn.optimiser.kept.values() for t in tensors} == {device}
        found.append((losses, model.state_dict(), learn.optimiser.state_dict()))
    (losses, stayed, slots), (others, moved, their_slots) = found
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    for name, value in (stayed | slots).items():
        np.testing.assert_allclose((moved | their_slots)[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


# --- replay by hand -------------------------------------------------------------------------------
class Line(Module):
    """y = a x, and a learns."""

    def __init__(self) -> None:
        self.a = parameter(Tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x


@recorded
@WAYS
def test_a_replayed_step_follows_its_module(here: str, there: str) -> None:
    line, others = Line().to(here), Line().to(here)
    step, other = engine.replay(lambda x: line(x)), engine.replay(lambda x: others(x))
    x = np.array([1.0, 10.0, 100.0], np.float32)
    expected = [1.0, 20.0, 300.0]

    def thrice(device: str) -> None:
        with default_device(device):
            for _ in range(3):
                y = step(x)
                assert (y.device, y.tolist()) == (device, expected)

    with default_device(here):
        other(x)
    kept = other.plans()
    thrice(here)
    for device in (there, here):
        line.to(device)
        line.a[0] = line.a[0].item() + 1.0               # what stayed where it was is not looked at any longer
        expected[0] += 1.0
        thrice(device)
        assert [plan.device for plan in step.plans()] == [device] and list(step._memory) == [device]
    line.to(here)                                        # where it is
    (plan,) = step.plans()
    thrice(here)
    assert step.plans() == [plan]
    with default_device(here):
        other(x)
    assert other.plans() == kept                         # of a module that has not moved


@recorded
@WAYS
def test_a_replayed_update_follows_its_tensors(here: str, there: str) -> None:
    """Also those that only an in-place rule sees."""
    line, total = Line().to(here), Tensor(np.zeros(3, np.float32), device=here)
    ones = Tensor(np.ones(3, np.float32), device=here)

    def add(x: Tensor) -> Tensor:
        line.a.grad = None
        engine.sum(line(x)).backward()
        engine.update("accumulate", [total], [line.a.grad])
        norm = engine.global_norm([ones, line.a.grad])
        line.a.grad = None
        return norm

    step = engine.replay(add)
    for i, device in enumerate((here, there, here)):
        engine.place([line.a, total, ones], device)
        with default_device(device):
            for _ in range(3):
                assert float(step(np.full(3, 2.0, np.float32)).item()) == pytest.approx(15.0 ** 0.5)
        assert total.device == device and total.tolist() == [6.0 * (i + 1)] * 3
