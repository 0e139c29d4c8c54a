"""PyTorch's side of `bench decode`: nn.Transformer's own weights with a key/value cache, written for speed.

Queries, keys and values come from one product; the cache is allocated once and filled in place.
"""
from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from microtfm.bench.decoding_timing import Decoding, Ids
from microtfm.bench.peer_torch import TorchTransformer, device, use_threads
from microtfm.tokens import BOS, EOS, PAD

NEVER = torch.tensor([PAD, BOS])         # ids that no translation contains


class Greedy:
    """The most probable token after each token."""

    def __init__(self, model: TorchTransformer, heads: int) -> None:
        self.model, self.heads = model, heads
        self.layers: list[Any] = list(model.transformer.decoder.layers)
        self.positions: Any = model.positions                                                      # (T, D)

    @torch.inference_mode()
    def __call__(self, source: torch.Tensor, length: int) -> Ids:
        """At most `length` tokens for each row of source ids (B, S), cut off before <eos>."""
        model = self.model
        memory = model.transformer.encoder(model.embed(source, model.source_embedding))             # (B, S, D)
        crossed = [self._split(functional.linear(memory, *_third(layer.multihead_attn, 1, 3)), 2)
                   for layer in self.layers]
        b, d = len(source), memory.shape[-1]
        cache = [torch.empty(2, b, self.heads, length, d // self.heads) for _ in self.layers]
        out = torch.full((b, length), EOS)
        ids, ended = torch.full((b,), BOS), torch.zeros(b, dtype=torch.bool)
        for t in range(length):
            logits = self._step(ids, t, cache, crossed)
            ids = logits.index_fill_(1, NEVER.to(logits.device), -torch.inf).argmax(-1).masked_fill(ended, EOS)
            out[:, t] = ids
            ended |= ids == EOS
            if bool(ended.all()):
                break
        return [row[:row.index(EOS)] if EOS in row else row for row in out.tolist()]

    def _step(self, ids: torch.Tensor, t: int, cache: list[torch.Tensor], crossed: list[Any]) -> torch.Tensor:
        """Logits (B, V) of the token after token number t."""
        model = self.model
        x = model.target_embedding(ids)[:, None] * model.scale + self.positions[t]                 # (B, 1, D)
        for layer, kept, (k, v) in zip(self.layers, cache, crossed, strict=True):
            own = layer.self_attn
            q, kept[0, :, :, t:t + 1], kept[1, :, :, t:t + 1] = self._split(
                functional.linear(x, own.in_proj_weight, own.in_proj_bias), 3)
            x = layer.norm1(x + self._attend(own, q, kept[0, :, :, :t + 1], kept[1, :, :, :t + 1]))
            other = layer.multihead_attn
            q = self._split(functional.linear(x, *_third(other, 0, 1)), 1)[0]
            x = layer.norm2(x + self._attend(other, q, k, v))
            x = layer.norm3(x + layer.linear2(torch.relu(layer.linear1(x))))
        return model.projection(model.transformer.decoder.norm(x))[:, 0]

    def _attend(self, attention: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = functional.scaled_dot_product_attention(q, k, v)                                        # (B, H, 1, K)
        return attention.out_proj(y.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor, parts: int) -> Any:
        """(B, T, parts · D) as `parts` tensors (B, H, T, K)."""
        b, t, _ = x.shape
        return x.view(b, t, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _third(attention: Any, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection of queries (0), keys (1) and values (2), from `first` to before `end`."""
    d = attention.embed_dim
    return attention.in_proj_weight[first * d:end * d], attention.in_proj_bias[first * d:end * d]


class TorchDecoding(Decoding):
    """Greedy search alone."""

    def build(self) -> None:
        use_threads()
        torch.manual_seed(0)
        self.place = device()
        torch.set_default_device(self.place)
        self.model = TorchTransformer(self.size).to(self.place).eval()
        with torch.no_grad():
            self.model.projection.weight[EOS] = 0.0
        self.greedy = Greedy(self.model, self.size.heads)

    def translate(self) -> Ids:
        return self.greedy(torch.from_numpy(self.source).to(self.place), self.size.length)
