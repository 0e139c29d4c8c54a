"""Given the same weights, logits and every gradient are those of PyTorch's own nn.Transformer."""
from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import engine
from engine import Tensor
from microtfm.layers import sinusoids
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings
from microtfm.transformer import PAD, Transformer

torch = pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")

SOURCE, TARGET = 23, 29
LINEARS = {"query": 0, "key": 1, "value": 2}


def peer_name(name: str) -> tuple[str, int | None]:
    """Our parameter's name as nn.Transformer has it, and which third of the packed projection it is."""
    stack, _, i, part, *rest = name.split(".")
    attention = {"self_attention": "self_attn", "cross_attention": "multihead_attn"}
    head = f"{stack}.layers.{i}."
    if part in attention:
        which, kind = rest
        if which == "output":
            return f"{head}{attention[part]}.out_proj.{kind}", None
        return f"{head}{attention[part]}.in_proj_{kind}", LINEARS[which]
    return head + ".".join(p for p in (part, *rest) if p != "feed_forward"), None


def peer(model: Transformer, s: ModelSettings) -> tuple[Any, dict[str, Any]]:
    """nn.Transformer with our weights, and its embedding and projection matrices."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):       # about its own inference path
        t = torch.nn.Transformer(s.d_model, s.heads, s.layers, s.layers, s.ffn, dropout=0.0, batch_first=True,
                                 norm_first=s.norm == "pre")
    if not s.ends_with_norm:
        t.encoder.norm = t.decoder.norm = None
    outer = {}
    with torch.no_grad():
        named = dict(t.named_parameters())
        for name, value in model.state_dict().items():
            array = torch.from_numpy(value.T.copy() if value.ndim == 2 and "embedding" not in name else value.copy())
            if not name.startswith(("encoder.layers", "decoder.layers")):
                if name.startswith(("encoder.norm", "decoder.norm")):
                    named[name].copy_(array)
                else:
                    outer[name] = array.requires_grad_()
                continue
            other, third = peer_name(name)
            d = s.d_model
            (named[other] if third is None else named[other][third * d:(third + 1) * d]).copy_(array)
    return t, outer


def peer_gradient(t: Any, outer: dict[str, Any], name: str, d: int) -> np.ndarray:
    if name in outer:
        g = outer[name].grad
        return g.numpy().T if "projection" in name else g.numpy()
    named = dict(t.named_parameters())
    if not name.startswith(("encoder.layers", "decoder.layers")):
        return named[name].grad.numpy()
    other, third = peer_name(name)
    g = named[other].grad if third is None else named[other].grad[third * d:(third + 1) * d]
    return g.numpy().T if g.ndim == 2 else g.numpy()


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("tie", ["none", "output", "all"])
def test_logits_and_gradients_are_pytorchs(norm: Any, final_norm: bool, tie: Any) -> None:
    engine.seed(3)
    s = ModelSettings(d_model=32, heads=4, layers=2, ffn=48, dropout=0.0, norm=norm, final_norm=final_norm, tie=tie)
    model = Transformer(s, TARGET if tie == "all" else SOURCE, TARGET)
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():            # weights of 1 and biases of 0 would hide swapped ones
        p[...] = p.numpy() + rng.normal(0, 0.1, p.shape)
    source, target = rng.integers(4, SOURCE, (3, 7)), rng.integers(4, TARGET, (3, 9))
    source[1, 5:], source[2, 3:], target[2, 6:] = PAD, PAD, PAD

    logits = model(source, target[:, :-1])
    translation_loss(logits, Tensor(target[:, 1:]), label_smoothing=0.1).backward()

    t, outer = peer(model, s)
    weight = outer["source_embedding.weight" if tie == "all" else "target_embedding.weight"]
    x = outer["source_embedding.weight"][torch.from_numpy(source)] * math.sqrt(s.d_model)
    x = x + torch.from_numpy(sinusoids(7, s.d_model))
    y = weight[torch.from_numpy(target[:, :-1])] * math.sqrt(s.d_model) + torch.from_numpy(sinusoids(8, s.d_model))
    padding = torch.from_numpy(source == PAD)
    out = t(x, y, tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(8), tgt_is_causal=True,
            src_key_padding_mask=torch.zeros(padding.shape).masked_fill(padding, -torch.inf),
            memory_key_padding_mask=torch.zeros(padding.shape).masked_fill(padding, -torch.inf))
    theirs = out @ (outer["projection.weight"].T if tie == "none" else weight.T)
    loss = torch.nn.functional.cross_entropy(theirs.reshape(-1, TARGET), torch.from_numpy(target[:, 1:]).reshape(-1),
                                             ignore_index=PAD, label_smoothing=0.1)
    loss.backward()

    real = target[:, :-1] != PAD
    np.testing.assert_allclose(logits.numpy()[real], theirs.detach().numpy()[real], atol=1e-4, rtol=1e-4)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        np.testing.assert_allclose(p.grad.numpy(), peer_gradient(t, outer, name, s.d_model), atol=1e-4, rtol=1e-4,
                                   err_msg=name)
