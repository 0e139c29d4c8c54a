"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), section by section.

Shapes: B batch, S source length, T target length, D model, H heads, K = D/H, F feed-forward, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm import axes
from microtfm.attention import Cache, MultiHeadAttention, Past
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
        p = self.dropout.p if self.training else 0.0
        return self.linear2(self.linear1(x, activation="relu", p=p))                               # (B, T, D)


class Layer(Module):
    """What encoder and decoder layers share: a residual connection and a layer norm around each sublayer (§3.1)."""

    def __init__(self, settings: ModelSettings) -> None:
        self._pre = settings.norm == "pre"

    def around(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: LayerNorm, dropout: Dropout) -> Tensor:
        """Add & Norm. Post-norm, as in the paper: LayerNorm(x + Sublayer(x)). Pre-norm: x + Sublayer(LayerNorm(x))."""
        if self._pre:
            return x + dropout(sublayer(norm(x)))
        return norm.of_sum(x, sublayer(x), dropout.p if self.training else 0.0)


class EncoderLayer(Layer):
    """Self-attention, then the feed-forward (Figure 1, left)."""

    def __init__(self, s: ModelSettings) -> None:
        super().__init__(s)
        self.self_attention = MultiHeadAttention(s.d_model, s.heads, s.inner_dropout)
        self.norm1, self.dropout1 = LayerNorm(s.d_model), Dropout(s.dropout)
        self.feed_forward = FeedForward(s.d_model, s.ffn, s.inner_dropout)
        self.norm2, self.dropout2 = LayerNorm(s.d_model), Dropout(s.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.around(x, lambda x: self.self_attention(x, mask), self.norm1, self.dropout1)
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

    def forward(self, x: Tensor, memory: Tensor | Cache, mask: Tensor | None, past: Past | None = None) -> Tensor:
        """x (B, T, D) and the source's keys and values (B, S, 2D); with a past, x is the one token after it, and these
        may be cached."""
        own = self.self_attention
        x = self.around(x, lambda x: own(x, causal=True) if past is None else past.attend(own, x),
                        self.norm1, self.dropout1)
        x = self.around(x, lambda x: self.cross_attention.attend(x, memory, mask), self.norm2, self.dropout2)
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

    def forward(self, x: Tensor, memories: Sequence[Tensor | Cache], mask: Tensor | None,
                past: Sequence[Past] | None = None) -> Tensor:
        """x (B, T, D), and for each layer the source's keys and values (B, S, 2D) and those of the tokens before x."""
        befores: Sequence[Past | None] = past or [None] * len(self.layers)
        for layer, memory, before in zip(self.layers, memories, befores, strict=True):
            x = layer(x, memory, mask, before)
        return self.norm(x) if self.norm else x                                                    # (B, T, D)

    def project(self, memory: Tensor) -> list[Tensor]:
        """What each layer's cross-attention attends to: keys and values (B, S, 2D) of the encoder's output."""
        projected = []
        with engine.scope(self.name):
            for layer in self.layers:
                with engine.scope(layer.name), engine.scope("cross_attention"):
                    projected.append(layer.cross_attention.project(memory))
        return projected


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
        axes.declare(self, settings.heads)

    def forward(self, source: Any, target: Any) -> Tensor:
        """Logits (B, T, V) of every next token. Ids of 0 are padding: nothing attends to them."""
        source, target = as_ids(source, "source", self.device), as_ids(target, "target", self.device)
        mask = source_mask(source)
        return self.decode(target, self.decoder.project(self._encode(source, mask)), mask)

    def memories(self, source: Any) -> list[Tensor]:
        """What decoding needs of source ids (B, S): each layer's keys and values (B, S, 2D) of the encoder's output."""
        return self.decoder.project(self.encode(source))

    def encode(self, source: Any) -> Tensor:
        """The encoder's output (B, S, D) for source ids (B, S)."""
        source = as_ids(source, "source", self.device)
        return self._encode(source, source_mask(source))

    def _encode(self, source: Tensor, mask: Tensor | None) -> Tensor:
        memory = self.encoder(self.source_positions(source, self.source_embedding), mask)          # (B, S, D)
        memory.name = "memory"
        return memory

    def decode(self, target: Any, memories: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Logits (B, T, V) of whole target sequences (B, T) at once, from what `decoder.project` made."""
        x = self.target_positions(as_ids(target, "target", self.device), self.target_embedding)
        return self.project(self.decoder(x, memories, mask))

    def step(self, ids: Any, positions: Tensor, memories: Sequence[Tensor | Cache], mask: Tensor | None,
             past: Sequence[Past], bias: Tensor | None = None) -> Tensor:
        """Logits (B, V) of the token after `ids` (B,), whose keys and values join the past: the same numbers as
        `decode`, sooner. positions: the row (1, D) of the positional encoding where the ids stand."""
        x = self.target_positions.added(ids.reshape(-1, 1), self.target_embedding, positions)      # (B, 1, D)
        return self.project(self.decoder(x, memories, mask, past), bias)[:, 0]                     # (B, V)

    def project(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The final projection (§3.4): D features to V logits, by the target embedding itself where it is tied.

        bias (V,): added to the logits, as a search does that bars some ids."""
        with engine.scope("logits"):
            if bias is not None:
                tied = self.target_embedding.weight.mT
                return engine.linear(x, tied if self.projection is None else self.projection.weight, bias)
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


def as_ids(ids: Any, name: str, device: str) -> Tensor:
    """Token ids (B, T) as a named int64 tensor on a device."""
    if not isinstance(ids, Tensor):
        ids = Tensor(np.asarray(ids, np.int64), device=device)
    ids.name = ids.name or name
    ids.axes = ids.axes or (axes.IDS[name] if ids.ndim == 2 else None)
    return ids


def source_mask(source: Tensor) -> Tensor:
    """(B, 1, 1, S): True where a real token stands."""
    mask = source != PAD
    mask = mask.reshape(mask.shape[0], 1, 1, mask.shape[1])
    mask.name = "source mask"
    return mask
