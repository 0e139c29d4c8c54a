"""What must hold for the Transformer whatever its weights."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import engine
from engine import Tensor
from engine.kernels.cpu import jit_disabled
from microtfm.attention import MultiHeadAttention
from microtfm.errors import UserError
from microtfm.layers import Dropout, Embedding, LayerNorm, Linear, PositionalEncoding, sinusoids
from microtfm.loss import translation_loss
from microtfm.module import Module
from microtfm.session import NEVER, Cached, _idle
from microtfm.settings import ModelSettings
from microtfm.transformer import PAD, EncoderLayer, FeedForward, Transformer

same_bits = pytest.mark.skipif(jit_disabled(), reason="without kernels NumPy's matrix product rounds by batch size")
SMALL = ModelSettings(d_model=32, heads=4, layers=2, ffn=64, dropout=0.1, tie="none")


def made(settings: ModelSettings = SMALL, source: int = 40, target: int = 50, seed: int = 0) -> Transformer:
    engine.seed(seed)
    return Transformer(settings, source, target)


def batch(b: int = 3, s: int = 7, t: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(4, 40, (b, s)), rng.integers(4, 50, (b, t))


# --- leaks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_future_target_tokens_never_change_earlier_logits(norm: Any) -> None:
    model = made(ModelSettings(d_model=32, heads=4, layers=2, ffn=64, norm=norm, tie="none")).eval()
    source, target = batch()
    with engine.no_grad():
        before = model(source, target).numpy()
        for cut in range(1, 9):
            changed = target.copy()
            changed[:, cut:] = (changed[:, cut:] - 4 + 13) % 46 + 4
            after = model(source, changed).numpy()
            assert (after[:, :cut] == before[:, :cut]).all()
            assert (after[:, cut] != before[:, cut]).any()


@same_bits
def test_what_is_under_padding_changes_nothing() -> None:
    """Padding behind a sentence, however much, changes no bit of its logits; nor does what stands in the batch beside
    it."""
    model = made().eval()
    source, target = batch(1)
    with engine.no_grad():
        alone = model(source, target).numpy()
        for more in (1, 2, 9, 30):
            padded = np.concatenate([source, np.full((1, more), PAD)], axis=1)
            assert (model(padded, target).numpy() == alone).all()
            others = np.concatenate([padded, batch(4, 7 + more, seed=1)[0]])
            targets = np.concatenate([np.concatenate([target, np.full((1, 2), PAD)], axis=1),
                                      batch(4, 11, 11, seed=2)[1]])
            assert (model(others, targets).numpy()[:1, :9] == alone).all()


@same_bits
def test_padding_changes_no_gradient() -> None:
    """More padding, and rows of nothing else, change no bit of the loss and of any gradient."""
    model = made().eval()
    source, target = batch(2)

    def gradients(source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        model.zero_grad()
        loss = translation_loss(model(source, target[:, :-1]), Tensor(target[:, 1:]), 0.1)
        loss.backward()
        return {"loss": loss.numpy(), **{name: p.grad.numpy() for name, p in model.named_parameters()
                                         if p.grad is not None}}

    plain = gradients(source, target)
    for rows in (0, 3):
        padded = gradients(np.pad(source, ((0, rows), (0, 3))), np.pad(target, ((0, rows), (0, 4))))
        assert plain.keys() == padded.keys()
        for name, g in plain.items():
            np.testing.assert_array_equal(padded[name], g, err_msg=name)


# --- what walk-throughs get wrong -----------------------------------------------------------------
def test_layer_norm_is_over_the_features_of_one_position() -> None:
    norm = LayerNorm(16)
    x = np.random.default_rng(0).normal(3, 5, (4, 6, 16)).astype(np.float32)
    y = norm(Tensor(x)).numpy()
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-4)
    other = x.copy()
    other[0, 0] *= 100
    changed = norm(Tensor(other)).numpy() != y
    changed[0, 0] = False
    assert not changed.any(), "one position's numbers reached another's"


def test_a_translation_may_be_longer_or_shorter_than_its_source() -> None:
    model = made().eval()
    for s, t in ((2, 30), (30, 2), (1, 1)):
        source, target = batch(2, s, t)
        assert model(source, target).shape == (2, t, 50)


@same_bits
def test_the_feed_forward_acts_on_each_position_alone() -> None:
    """A convolution of width 1: permuting, cutting or changing other positions changes no bit of this one."""
    engine.seed(1)
    ff = FeedForward(32, 64)
    x = np.random.default_rng(0).normal(size=(2, 9, 32)).astype(np.float32)
    y = ff(Tensor(x)).numpy()
    for i in range(9):
        assert (ff(Tensor(x[:, i:i + 1])).numpy() == y[:, i:i + 1]).all()
    order = np.random.default_rng(1).permutation(9)
    assert (ff(Tensor(x[:, order])).numpy() == y[:, order]).all()


def test_without_positions_the_encoder_is_equivariant_to_permuting_its_input() -> None:
    model = made().eval()
    x = np.random.default_rng(0).normal(size=(2, 9, 32)).astype(np.float32)
    order = np.random.default_rng(1).permutation(9)
    y = model.encoder(Tensor(x), None).numpy()
    np.testing.assert_allclose(model.encoder(Tensor(x[:, order]), None).numpy(), y[:, order], atol=2e-5)
    ids = batch(1, 9)[0]
    with engine.no_grad():
        moved = model.encode(ids[:, order]).numpy()
        assert np.abs(moved - model.encode(ids).numpy()[:, order]).max() > 1e-2, "with positions, order matters"


def test_positions_are_the_papers() -> None:
    table = sinusoids(50, 8)
    for pos in (0, 1, 7, 49):
        for i in range(4):
            angle = pos / 10000 ** (2 * i / 8)
            assert table[pos, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[pos, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
    assert (sinusoids(3, 8, start=5) == table[5:8]).all()
    assert sinusoids(4, 5).shape == (4, 5)


def test_embeddings_are_scaled_by_the_root_of_d() -> None:
    e = Embedding(10, 16)
    np.testing.assert_allclose(e(Tensor([3])).numpy()[0], e.weight.numpy()[3] * 4, rtol=1e-6)


def test_attention_is_one_head_beside_another() -> None:
    """H heads of K features equal H separate attentions over slices of the projections."""
    engine.seed(2)
    attention = MultiHeadAttention(12, 3)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32))
    q, k, v = (f(x).numpy().astype(np.float64) for f in (attention.query, attention.key, attention.value))
    parts = []
    for h in range(3):
        cut = slice(4 * h, 4 * h + 4)
        scores = q[..., cut] @ k[..., cut].swapaxes(1, 2) / 2
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        parts.append(weights @ v[..., cut])
    expected = np.concatenate(parts, -1) @ attention.output.weight.numpy() + attention.output.bias.numpy()
    np.testing.assert_allclose(attention(x).numpy(), expected, atol=1e-5)
    memory = attention.project(x)
    np.testing.assert_array_equal(attention.attend(x, memory).numpy(), attention(x).numpy())


# --- decoding one token at a time -----------------------------------------------------------------
@same_bits
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_cache_changes_no_bit(norm: Any) -> None:
    """Log-probabilities token by token are those of the whole sentence: over rows that are taken up in another order
    and twice, more rows than before, fewer, and more tokens than the first session has room for."""
    model = made(ModelSettings(d_model=32, heads=4, layers=2, ffn=64, norm=norm, tie="output")).eval()
    source, target = batch(4, t=40)
    source[1, 4:] = PAD
    orders = {4: [3, 0, 0, 1], 9: [1, 0, 2, 3, 3, 1], 15: [0], 20: [0, 0]}
    with engine.no_grad():
        whole, cached = engine.log_softmax(model(source, target)).numpy(), Cached(model, source)
        for i in range(target.shape[1]):
            assert cached.length == i
            assert (cached(target[:, i], choose=False) == whole[:, i]).all()
            if i in orders:
                cached.select(np.array(orders[i]))
                target, whole = target[orders[i]], whole[orders[i]]
        cached.close()


@same_bits
def test_a_session_is_used_again_and_forgets() -> None:
    model = made().eval()
    with engine.no_grad():
        for seed in range(3):
            source, target = batch(3, seed=seed)
            cached = Cached(model, source[:, :5])
            for i in range(9):
                found = cached(target[:, i], choose=True)
                logits = model(source[:, :5], target[:, :i + 1]).numpy()[:, -1]
                logits[:, NEVER] = -np.inf
                assert (found == logits.argmax(axis=1)).all()
            cached.close()
        assert len(_idle(model)) == 1


def test_attention_rows_sum_to_one_and_avoid_padding() -> None:
    model = made().eval()
    source, target = batch(1)
    source[0, 5:] = PAD
    weights = model.attention(source, target)
    assert weights.shape == (2, 4, 9, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights[..., 5:] == 0).all()


# --- settings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("tie", "matrices"), [("none", 3), ("output", 2), ("all", 1)])
def test_tied_weights_are_one_parameter(tie: Any, matrices: int) -> None:
    model = made(ModelSettings(d_model=32, heads=4, layers=1, ffn=64, tie=tie), 50, 50)
    big = [name for name, p in model.named_parameters() if p.size == 50 * 32]
    assert len(big) == matrices
    rest = sum(p.size for _, p in model.named_parameters() if p.size != 50 * 32)
    assert model.count() == rest + matrices * 50 * 32


def test_tying_all_needs_one_vocabulary() -> None:
    with pytest.raises(UserError, match=r"40 entries.*50"):
        made(ModelSettings(d_model=32, heads=4, tie="all"))


def test_dropout_is_in_training_only_and_follows_the_seed() -> None:
    model = made()
    source, target = batch()
    engine.seed(5)
    first = model(source, target).numpy()
    engine.seed(5)
    assert (model(source, target).numpy() == first).all()
    assert (model(source, target).numpy() != first).any()
    model.eval()
    assert (model(source, target).numpy() == model(source, target).numpy()).all()
    x = Tensor(np.ones((100, 100), np.float32))
    y = Dropout(0.3)(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 0.02


def test_xavier_initialisation() -> None:
    engine.seed(0)
    layer = Linear(300, 500)
    limit = math.sqrt(6 / 800)
    w = layer.weight.numpy()
    assert np.abs(w).max() <= limit
    assert np.abs(w).max() > 0.99 * limit
    assert w.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert (layer.bias.numpy() == 0).all()


def test_scopes_name_the_modules() -> None:
    model = made()
    source, target = batch()
    logits = model(source, target)
    scopes = {node.scope for node in engine.autograd.order([logits.node]) if node.op}
    if jit_disabled():                                   # a definition opens a scope of its own inside the module's
        scopes |= {s[:-1] for s in scopes}
    assert ("transformer", "encoder", "layers.1", "self_attention", "output") in scopes
    assert ("transformer", "decoder", "layers.0", "cross_attention") in scopes


# --- modules --------------------------------------------------------------------------------------
def test_state_dict_round_trip_and_errors() -> None:
    one, two = made(seed=1), made(seed=2)
    state = one.state_dict()
    two.load_state_dict(state)
    assert all((two.state_dict()[name] == value).all() for name, value in state.items())
    bad = dict(state)
    bad["encoder.layers.7.norm1.bias"] = bad.pop("encoder.layers.0.norm1.bias")
    bad["decoder.layers.0.norm1.bias"] = np.zeros(5, np.float32)
    untouched = made(seed=3)
    before = untouched.state_dict()
    with pytest.raises(UserError) as e:
        untouched.load_state_dict(bad)
    assert "missing: encoder.layers.0.norm1.bias" in str(e.value)
    assert "unexpected: encoder.layers.7.norm1.bias" in str(e.value)
    assert "(5,)" in str(e.value)
    assert "(32,)" in str(e.value)
    assert all((untouched.state_dict()[name] == value).all() for name, value in before.items()), "half loaded"


def test_freezing_by_name() -> None:
    model = made()
    frozen = model.freeze("encoder")
    assert frozen
    assert all(name.startswith("encoder.") for name in frozen)
    source, target = batch()
    translation_loss(model(source, target[:, :-1]), Tensor(target[:, 1:])).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == name.startswith("encoder."), name
    assert len(model.unfreeze("encoder.*")) == len(frozen)
    with pytest.raises(UserError, match=r"no parameter is called 'encodr'"):
        model.freeze("encodr")


def test_modes_reach_every_module() -> None:
    model = made()
    model.eval()
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())


def test_shapes_alone_record_the_model_without_numbers() -> None:
    with engine.shapes_only():
        model = made()
        source, target = (Tensor.placeholder((3, n), np.int64) for n in (7, 9))
        logits = model(source, target)
        assert logits.shape == (3, 9, 50)
        loss = translation_loss(logits, Tensor.placeholder((3, 9), np.int64))
        loss.backward(create_graph=True)
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.shape == p.shape, name
    assert model.count() == made().count()


def test_encoder_layer_is_add_and_norm() -> None:
    """Post-norm is LayerNorm(x + Sublayer(x)), pre-norm x + Sublayer(LayerNorm(x)): checked against both spelt out."""
    for norm in ("post", "pre"):
        engine.seed(4)
        layer: Any = EncoderLayer(ModelSettings(d_model=16, heads=2, ffn=32, norm=norm, dropout=0.0)).eval()
        x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32))
        if norm == "post":
            h = layer.norm1(x + layer.self_attention(x))
            expected = layer.norm2(h + layer.feed_forward(h))
        else:
            n = layer.norm1(x)
            h = x + layer.self_attention(n)
            expected = h + layer.feed_forward(layer.norm2(h))
        assert (layer(x, None).numpy() == expected.numpy()).all()


def test_positional_encoding_grows_with_its_input() -> None:
    p, embedding = PositionalEncoding(8, 0.0), Embedding(3, 8)
    embedding.weight[...] = 0.0
    assert (p(Tensor(np.zeros((1, 40), np.int64)), embedding).numpy()[0] == sinusoids(40, 8)).all()
    assert (p(Tensor([[0]]), embedding, start=99).numpy()[0, 0] == sinusoids(100, 8)[99]).all()


def test_a_module_without_parameters_is_a_module() -> None:
    class Twice(Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2
    assert Twice().count() == 0
    assert Twice()(Tensor([1.0])).item() == 2
