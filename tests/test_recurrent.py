"""The recurrent model: its unit is PyTorch's, and what holds for the Transformer holds for it, to the bit."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, settings

import engine
from engine import Tensor
from engine.kernels.cpu import jit_disabled
from microtfm import decode, train
from microtfm.cli import main
from microtfm.data import pad_sources
from microtfm.loss import translation_loss
from microtfm.recurrent import GRU, Recurrent, unstacked
from microtfm.settings import ModelSettings
from microtfm.tokens import PAD
from microtfm.translator import Translator

same_bits = pytest.mark.skipif(jit_disabled(), reason="without kernels NumPy's matrix product rounds by batch size")
SMALL = ModelSettings(kind="rnn", d_model=16, layers=2, dropout=0.1, tie="none")
V = 14


def made(seed: int = 0) -> Recurrent:
    """An untrained model with weights so large that it has opinions."""
    engine.seed(seed)
    model = Recurrent(SMALL, V, V)
    for _, parameter in model.named_parameters():
        parameter[...] = parameter.numpy() * 3
    model.eval()
    return model


def batch(b: int = 3, s: int = 5, t: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(4, V, (b, s)), rng.integers(4, V, (b, t))


def test_the_unit_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="agreement with torch.nn.GRU is checked where torch is installed")
    engine.seed(0)
    ours, theirs = GRU(5, 4), torch.nn.GRU(5, 4, batch_first=True)
    values = {name: p.numpy() for name, p in ours.named_parameters()}
    zeros = np.zeros(8, np.float32)
    given = {"weight_ih_l0": np.concatenate([values["input_gates.weight"], values["input_new.weight"]], 1).T,
             "weight_hh_l0": np.concatenate([values["state_gates.weight"], values["state_new.weight"]], 1).T,
             "bias_ih_l0": np.concatenate([values["input_gates.bias"] + 0.5, values["input_new.bias"] + 0.5]),
             "bias_hh_l0": np.concatenate([zeros, values["state_new.bias"] - 0.25])}
    ours.input_gates.bias[...] = values["input_gates.bias"] + 0.5
    ours.input_new.bias[...] = values["input_new.bias"] + 0.5
    ours.state_new.bias[...] = values["state_new.bias"] - 0.25
    theirs.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in given.items()})
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(2, 7, 5)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    found = engine.stack(ours(Tensor(x), Tensor(h)), axis=1)
    wanted, _ = theirs(torch.from_numpy(x), torch.from_numpy(h)[None])
    np.testing.assert_allclose(found.numpy(), wanted.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_a_sequence_apart_and_together(length: int) -> None:
    x = Tensor(np.random.default_rng(0).normal(size=(2, length, 3)), requires_grad=True)
    parts = unstacked(x)
    assert (engine.stack(parts, axis=1).numpy() == x.numpy()).all()
    engine.sum(engine.stack([(i + 1) * part for i, part in enumerate(parts)], axis=1)).backward()
    assert x.grad is not None
    assert (x.grad.numpy() == np.arange(1, length + 1)[None, :, None]).all()


@same_bits
def test_what_is_under_padding_changes_nothing() -> None:
    model = made()
    source, target = batch(1)
    with engine.no_grad():
        alone = model(source, target).numpy()
        for more in (1, 2, 9):
            padded = np.concatenate([source, np.full((1, more), PAD)], axis=1)
            assert (model(padded, target).numpy() == alone).all()
            others = np.concatenate([padded, batch(4, 5 + more, seed=1)[0]])
            targets = np.concatenate([np.pad(target, ((0, 0), (0, 2))), batch(4, 8, 8, seed=2)[1]])
            assert (model(others, targets).numpy()[:1, :6] == alone).all()
        changed = target.copy()
        changed[:, 3:] = (changed[:, 3:] - 3) % 10 + 4
        after = model(source, changed).numpy()
        assert (after[:, :3] == alone[:, :3]).all() and (after[:, 3] != alone[:, 3]).any()


@same_bits
def test_padding_changes_no_gradient() -> None:
    model = made()
    source, target = batch(2)

    def gradients(source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        model.zero_grad()
        loss = translation_loss(model(source, target[:, :-1]), Tensor(target[:, 1:]), 0.1)
        loss.backward()
        return {"loss": loss.numpy(), **{name: p.grad.numpy() for name, p in model.named_parameters()
                                         if p.grad is not None}}

    plain = gradients(source, target)
    assert len(plain) == 1 + len(list(model.named_parameters()))
    for rows in (0, 3):
        padded = gradients(np.pad(source, ((0, rows), (0, 3))), np.pad(target, ((0, rows), (0, 4))))
        for name, g in plain.items():
            np.testing.assert_array_equal(padded[name], g, err_msg=name)


@pytest.mark.parametrize("width", [1, 3])
def test_cache_batch_and_order_change_nothing(width: int) -> None:
    model, rng = made(), np.random.default_rng(0)
    rows = [rng.integers(4, V, rng.integers(1, 9)).tolist() for _ in range(7)]

    def search(rows: list[list[int]], cache: bool, **how: int) -> list[list[int]]:
        source = pad_sources(rows, **how)
        return decode.greedy(model, source, cache=cache) if width == 1 else decode.beam(model, source, width,
                                                                                         cache=cache)
    together = search(rows, True)
    assert search(rows, False) == together
    assert [search([row], True)[0] for row in rows] == together
    order = rng.permutation(len(rows))
    shuffled = search([rows[i] for i in order], True, length=16)
    assert [shuffled[list(order).index(i)] for i in range(len(rows))] == together


def test_attention_rows_sum_to_one() -> None:
    source, target = batch(1)
    weights = made().attention(np.pad(source, ((0, 0), (0, 2))), target)
    assert weights.shape == (1, 1, 6, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert (weights[..., 5:] == 0).all()


def test_it_trains_resumes_translates_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rnn(name: str, steps: int) -> Path:
        chosen = settings(tmp_path / name, steps=steps, validate_every=6)
        chosen = replace(chosen, model=ModelSettings(kind="rnn", d_model=16, layers=1, dropout=0.1, tie="output"))
        train.train(chosen, corpus=corpus())
        return tmp_path / name

    through, stopped = rnn("through", 12), rnn("stopped", 6)
    train.resume(stopped, changes={"steps": 12})
    for name in ("last/state.safetensors", "model.safetensors"):
        assert (through / name).read_bytes() == (stopped / name).read_bytes()
    lines = [a for a, _ in corpus()[1]][:5]
    translator = Translator.load(through)
    assert [translator.translate([line], beam=2)[0] for line in lines] == translator.translate(lines, beam=2)
    weights, source, target = translator.attention(lines[0])
    assert weights.shape == (1, 1, len(target), len(source))
    assert main(["info", str(through)]) == 0 and main(["graph", str(through), "--backward"]) == 0
    assert "encoder/forwards.0" in capsys.readouterr().out
    assert main(["graph", str(through), "--backward", "-o", str(tmp_path / "rnn.svg")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(through), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == len(corpus()[1])
