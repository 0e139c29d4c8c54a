"""One update of a model: the same bits replayed or not, and nothing changed where the loss is not finite."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import engine
from engine.check import gradcheck
from engine.kernels.cpu import jit_disabled
from microtfm.data import Batch
from microtfm.learner import Learner
from microtfm.loss import disagreement
from microtfm.optim import SGD, Adam, AdamW
from microtfm.settings import ModelSettings, TrainSettings
from microtfm.transformer import Transformer

OPTIMISERS: dict[str, Any] = {"adam": Adam, "adamw": lambda named, lr: AdamW(named, lr, weight_decay=0.1),
                              "sgd": lambda named, lr: SGD(named, lr, 0.9)}


def learner(replay: bool, dropout: float = 0.1, kind: str = "adam", **train: Any) -> Learner:
    engine.seed(3)
    model = Transformer(ModelSettings(d_model=32, heads=4, layers=2, ffn=64, dropout=dropout, tie="output"), 40, 50)
    return Learner(model, OPTIMISERS[kind](model.named_parameters(), 1e-2), TrainSettings(**train), replay)


def batch(rows: int, length: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    source, target = rng.integers(4, 40, (rows, length)), rng.integers(4, 50, (rows, length + 1))
    source[0, length // 2:] = target[0, length // 2 + 1:] = 0
    return Batch(source, target[:, :-1].copy(), target[:, 1:].copy(), int((target[:, 1:] != 0).sum()), source.size)


def weights(learner: Learner) -> dict[str, np.ndarray]:
    return learner.model.state_dict() | {f"kept.{k}": v for k, v in learner.optimiser.state_dict().items()}


@pytest.mark.parametrize(("kind", "several", "consistency"), [
    *((kind, several, 0.0) for kind in OPTIMISERS for several in (1, 3)), ("adam", 2, 5.0)])
def test_replay_changes_no_bit(kind: str, several: int, consistency: float) -> None:
    found = []
    for replay in (False, True):
        learn = learner(replay, kind=kind, clip_norm=0.5, consistency=consistency)
        said = []
        for step in range(6):
            batches = [batch(5, 6 + 2 * ((step + i) % 2), 10 * step + i) for i in range(several)]
            said.append(learn(batches, 0.01 / (step + 1), sum(b.tokens for b in batches)))
        found.append((said, weights(learn), engine.random.get_state()))
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2]
    for name, value in found[0][1].items():
        np.testing.assert_array_equal(value, found[1][1][name], err_msg=name)


def test_several_small_batches_learn_what_one_large_one_would() -> None:
    together, apart = (learner(True, dropout=0.0, kind="sgd") for _ in range(2))      # Adam makes much of roundings
    small = [batch(4, 8, seed) for seed in range(3)]
    arrays = [np.concatenate([getattr(b, name) for b in small]) for name in ("source", "target_in", "target_out")]
    large = Batch(*arrays, sum(b.tokens for b in small), sum(b.source_tokens for b in small))
    for _ in range(3):
        one, other = together([large], 0.01, large.tokens), apart(small, 0.01, large.tokens)
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for name, value in weights(together).items():
        np.testing.assert_allclose(weights(apart)[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


def test_two_predictions_are_drawn_together() -> None:
    arrays = batch(4, 8, 0)
    plain, certain = learner(False, dropout=0.0), learner(False, dropout=0.0, consistency=5.0)
    given, twice = ([engine.Tensor(x) for x in learn.arrays(arrays)] for learn in (plain, certain))
    assert certain.backward(*twice).item() == pytest.approx(plain.backward(*given).item(), rel=1e-6)
    for one, other in zip(plain.parameters, certain.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        np.testing.assert_allclose(other.grad.numpy(), one.grad.numpy(), rtol=1e-4, atol=1e-4)

    def apart(learn: Learner) -> float:
        """How far two predictions under dropout are from each other after thirty updates."""
        for _ in range(30):
            learn([arrays], 0.01, arrays.tokens)
        return float(disagreement(learn.model(twice[0], twice[1]), twice[2]).item())

    assert 0 < apart(learner(True, dropout=0.3, consistency=5.0)) < 0.5 * apart(learner(True, dropout=0.3))


def test_disagreement_is_the_mean_of_both_divergences() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 4, 9))
    target = np.array([[4, 5, 6, 7], [4, 5, 0, 0], [4, 0, 0, 0]] * 2)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    p, q = log_p[:3], log_p[3:]
    wanted = ((np.exp(p) * (p - q) + np.exp(q) * (q - p)).sum(-1) / 2)[target[:3] > 0].sum()
    assert disagreement(engine.Tensor(logits), engine.Tensor(target)).item() == pytest.approx(wanted, rel=1e-12)
    same = engine.Tensor(np.concatenate([logits[:3]] * 2))
    assert disagreement(same, engine.Tensor(target)).item() == 0
    gradcheck(lambda x: disagreement(x, engine.Tensor(target)), [engine.Tensor(logits)])


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("several", [1, 2])
def test_a_breakdown_changes_nothing(replay: bool, several: int) -> None:
    learn = learner(replay)
    learn([batch(4, 6, 0)] * several, 0.01, 20)
    learn.model.decoder.layers[1].norm3.weight[0] = np.nan
    before = weights(learn)
    loss, norm = learn([batch(4, 6, 1)] * several, 0.01, 20)
    assert not (np.isfinite(loss) and np.isfinite(norm))
    for name, value in weights(learn).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded with NUMBA_DISABLE_JIT=1")
def test_a_shape_is_recorded_once() -> None:
    learn: Any = learner(True)
    for step in range(4):
        for length in (6, 8):
            learn([batch(5, length, step)], 0.01, 30)
    assert len(learn._learn.plans()) == 2
