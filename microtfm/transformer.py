"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), section by section.

Shapes: B batch, S source length, T target length, D model, H heads, K = D/H, F feed-forward, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.attention import MultiHeadAttention
from microtfm.errors import UserError
from microtfm.layers import Dropout, Embedding, LayerNorm, Linear, PositionalEncoding
from microtfm.module import Module
from microtfm.settings import ModelSettings

PAD = 0                                  # the id under which nothing stands


class FeedForward(Module):
    """max(0, x W₁ + b₁) W₂ + b₂ (§3.3), on each position alone: a convolution of width 1."""

    def __init__(self, d_model: int, ffn: int, dropout: float = 0.0) -> None:
        self.linear1 = Linear(d_model, ffn)
        self.linear2 = Linear(ffn, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.linear1(x).relu()))                                  # (B, T, D)


class Layer(Module):
    """What encoder and decoder layers share: a residual connection and a layer norm around each sublayer (§3.1)."""

    def __init__(self, settings: ModelSettings) -> None:
        self._pre = settings.norm == "pre"

    def around(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: LayerNorm, dropout: Dropout) -> Tensor:
        """Add & Norm. Post-norm, as in the paper: LayerNorm(x + Sublayer(x)). Pre-norm: x + Sublayer(LayerNorm(x))."""
        y = x + dropout(sublayer(norm(x) if self._pre else x))
        return y if self._pre else norm(y)


class EncoderLayer(Layer):
    """Self-attention, then the feed-forward (Figure 1, left)."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__(s)
        self.self_attention = MultiHeadAttention(s.d_model, s.heads, s.inner_dropout)
        self.norm1, self.dropout1 = LayerNorm(s.d_model), Dropout(s.dropout)
        self.feed_forward = FeedForward(s.d_model, s.ffn, s.inner_dropout)
        self.norm2, self.dropout2 = LayerNorm(s.d_model), Dropout(s.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.around(x, lambda x: self.self_attention(x, x, mask), self.norm1, self.dropout1)
        return self.around(x, self.feed_forward, self.norm2, self.dropout2)                        # (B, S, D)


class DecoderLayer(Layer):
    """Masked self-attention, attention to the encoder's output, then the feed-forward (Figure 1, right)."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__(s)
        self.self_attention = MultiHeadAttention(s.d_model, s.heads, s.inner_dropout)
        self.norm1, self.dropout1 = LayerNorm(s.d_model), Dropout(s.dropout)
        self.cross_attention = MultiHeadAttention(s.d_model, s.heads, s.inner_dropout)
        self.norm2, self.dropout2 = LayerNorm(s.d_model), Dropout(s.dropout)
        self.feed_forward = FeedForward(s.d_model, s.ffn, s.inner_dropout)
        self.norm3, self.dropout3 = LayerNorm(s.d_model), Dropout(s.dropout)

    def forward(self, x: Tensor, past: Callable[[Tensor], tuple[Tensor, Tensor]], memory: tuple[Tensor, Tensor],
                mask: Tensor | None, causal: bool = True) -> Tensor:
        """x (B, T, D). `past` gives self-attention's keys and values for its input, `memory` cross-attention's."""
        x = self.around(x, lambda x: self.self_attention.attend(x, *past(x), None, causal), self.norm1, self.dropout1)
        x = self.around(x, lambda x: self.cross_attention.attend(x, *memory, mask), self.norm2, self.dropout2)
        return self.around(x, self.feed_forward, self.norm3, self.dropout3)                        # (B, T, D)


class Encoder(Module):
    """N encoder layers (§3.1)."""

    def __init__(self, s: ModelSettings) -> None:
        self.layers = [EncoderLayer(s) for _ in range(s.layers)]
        self.norm = LayerNorm(s.d_model) if s.ends_with_norm else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x) if self.norm else x                                                    # (B, S, D)


class Decoder(Module):
    """N decoder layers (§3.1)."""

    def __init__(self, s: ModelSettings) -> None:
        self.layers = [DecoderLayer(s) for _ in range(s.layers)]
        self.norm = LayerNorm(s.d_model) if s.ends_with_norm else None

    def forward(self, x: Tensor, memories: list[tuple[Tensor, Tensor]], mask: Tensor | None) -> Tensor:
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, layer.self_attention.project, memory, mask)
        return self.norm(x) if self.norm else x                                                    # (B, T, D)


class Cache:
    """What decoding one token at a time keeps: the source's keys and values, and those of the tokens so far."""

    def __init__(self, memories: list[tuple[Tensor, Tensor]], mask: Tensor) -> None:
        self.memories, self.mask = memories, mask
        self.past: list[tuple[Tensor, Tensor] | None] = [None] * len(memories)

    @property
    def length(self) -> int:
        """How many target tokens it holds."""
        return self.past[0][0].shape[2] if self.past[0] else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append a token's keys and values (B, H, 1, K); returns all so far, (B, H, t, K)."""
        before = self.past[layer]
        if before is not None:
            k, v = engine.concat([before[0], k], axis=2), engine.concat([before[1], v], axis=2)
        self.past[layer] = (k, v)
        return k, v

    def select(self, rows: Any) -> None:
        """Keep these rows of the batch, in this order; a row may be kept several times (beams) or dropped
        (finished)."""
        ids = Tensor(np.asarray(rows, np.int64))
        self.mask = self.mask[ids]
        self.memories = [(k[ids], v[ids]) for k, v in self.memories]
        self.past = [None if kv is None else (kv[0][ids], kv[1][ids]) for kv in self.past]


class Transformer(Module):
    """Figure 1: source ids (B, S) and target ids (B, T) in, logits (B, T, V) out.

    settings.tie: "all" = source embedding, target embedding and output projection are one matrix (§3.4; needs one joint
    vocabulary), "output" = the last two are, "none" = three matrices.
    """

    def __init__(self, settings: ModelSettings, source_size: int, target_size: int) -> None:
        if settings.tie == "all" and source_size != target_size:
            raise UserError(f"tie = 'all' needs one vocabulary for both sides, but the source has {source_size} "
                            f"entries and the target {target_size}. Use tie = 'output', or joint subwords.")
        self.name = "transformer"
        self.settings = settings
        d = settings.d_model
        self.source_embedding = Embedding(source_size, d)
        self.target_embedding = self.source_embedding if settings.tie == "all" else Embedding(target_size, d)
        self.source_positions = PositionalEncoding(d, settings.dropout)
        self.target_positions = PositionalEncoding(d, settings.dropout)
        self.encoder = Encoder(settings)
        self.decoder = Decoder(settings)
        self.projection = Linear(d, target_size, bias=False) if settings.tie == "none" else None

    def forward(self, source: Any, target: Any) -> Tensor:
        """Logits (B, T, V) of every next token. Ids of 0 are padding: nothing attends to them."""
        source, target = _ids(source, "source"), _ids(target, "target")
        return self.decode(target, self.start(source))

    def encode(self, source: Any) -> Tensor:
        """The encoder's output (B, S, D) for source ids (B, S)."""
        source = _ids(source, "source")
        return self.encoder(self.source_positions(self.source_embedding(source)), _mask(source))

    def start(self, source: Any) -> Cache:
        """Encode source ids (B, S), and project the keys and values that the decoder attends to."""
        source = _ids(source, "source")
        memory = self.encode(source)
        memories = []
        for layer in self.decoder.layers:
            with engine.scope("decoder"), engine.scope(layer.name), engine.scope("cross_attention"):
                memories.append(layer.cross_attention.project(memory))
        return Cache(memories, _mask(source))

    def decode(self, target: Any, cache: Cache) -> Tensor:
        """Logits (B, T, V) of whole target sequences at once; the cache's own tokens are neither read nor changed."""
        x = self.target_positions(self.target_embedding(_ids(target, "target")))
        return self.project(self.decoder(x, cache.memories, cache.mask))

    def step(self, ids: Any, cache: Cache) -> Tensor:
        """Logits (B, V) of the token after `ids` (B,), which the cache takes up: the same numbers as `decode`,
        sooner."""
        ids = _ids(np.asarray(ids).reshape(-1, 1), "target")
        x = self.target_positions(self.target_embedding(ids), start=cache.length)                  # (B, 1, D)
        for i, layer in enumerate(self.decoder.layers):
            def past(y: Tensor, i: int = i, layer: Any = layer) -> tuple[Tensor, Tensor]:
                return cache.extend(i, *layer.self_attention.project(y))
            x = layer(x, past, cache.memories[i], cache.mask, causal=False)
        x = self.decoder.norm(x) if self.decoder.norm else x
        return self.project(x)[:, 0]                                                               # (B, V)

    def project(self, x: Tensor) -> Tensor:
        """The final projection (§3.4): D features to V logits, by the target embedding itself where it is tied."""
        with engine.scope("logits"):
            if self.projection is not None:
                return self.projection(x)
            return x @ self.target_embedding.weight.mT                                             # (B, T, V)

    def attention(self, source: Any, target: Any) -> np.ndarray:
        """The cross-attention weights (layers, H, T, S) of one sentence pair, each row summing to 1."""
        layers = [layer.cross_attention for layer in self.decoder.layers]
        for layer in layers:
            layer.seen = []
        try:
            with engine.no_grad():
                self(source, target)
            return np.stack([layer.seen[0][0] for layer in layers if layer.seen])
        finally:
            for layer in layers:
                layer.seen = None


def _ids(ids: Any, name: str) -> Tensor:
    """Token ids (B, T) as a named int64 tensor."""
    if not isinstance(ids, Tensor):
        ids = Tensor(np.asarray(ids, np.int64))
    ids.name = ids.name or name
    return ids


def _mask(source: Tensor) -> Tensor:
    """(B, 1, 1, S): True where a real token stands."""
    mask = source != PAD
    mask = mask.reshape(mask.shape[0], 1, 1, mask.shape[1])
    mask.name = "source mask"
    return mask
