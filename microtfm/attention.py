"""Multi-head attention (§3.2.2)."""
from __future__ import annotations

import math
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.layers import Linear
from microtfm.module import Module

PACKED = math.sqrt(0.5)                  # Xavier's limit for the three projections taken as one matrix (D, 3D)


class MultiHeadAttention(Module):
    """H attentions side by side, each on its own K = D/H features of the projected queries, keys and values (§3.2.2).

    The query comes from one sequence, keys and values from another: the same one (self-attention) or the encoder's
    output (cross-attention, the paper's "encoder-decoder attention").
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0) -> None:
        self.query, self.key, self.value = (Linear(d_model, d_model, gain=PACKED) for _ in range(3))
        self.output = Linear(d_model, d_model)
        self._heads, self._dropout = heads, dropout
        self.seen: list[np.ndarray] | None = None      # a list here collects the weights of every call

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Self-attention: x (B, T, D) attends to itself; mask (B, 1, 1, T) is True where a key may be attended to."""
        packed = self.project_all(x)
        y = engine.self_attention(packed, mask, heads=self._heads, causal=causal, p=self._p())     # (B, T, D)
        if self.seen is not None:
            d = x.shape[-1]
            self._note(packed[..., :d], packed[..., d:], mask, causal)
        return self.output(y)                                                                      # (B, T, D)

    def project_all(self, x: Tensor) -> Tensor:
        """Queries, keys and values of one sequence side by side, (B, T, 3D)."""
        q, k, v = self.query, self.key, self.value
        packed = engine.linears(x, q.weight, k.weight, v.weight, q.bias, k.bias, v.bias)
        packed.name = "Q, K, V"
        return packed

    def project(self, memory: Tensor) -> Tensor:
        """Keys and values of a sequence side by side, (B, S, 2D)."""
        k, v = self.key, self.value
        packed = engine.linears(memory, k.weight, v.weight, b1=k.bias, b2=v.bias)
        packed.name = "K, V"
        return packed

    def attend(self, x: Tensor, memory: Tensor | Cache, mask: Tensor | None = None) -> Tensor:
        """Cross-attention of x (B, T, D) over the keys and values (B, S, 2D) that `project` made, or over a cache of
        them, where T is 1."""
        with engine.scope(self.name):
            if isinstance(memory, Cache):
                return self.attend_cached(self.query(x), memory, mask)
            q = self.query(x)
            y = engine.cross_attention(q, memory, mask, heads=self._heads, p=self._p())            # (B, T, D)
            if self.seen is not None:
                self._note(q, memory, mask, False)
            return self.output(y)                                                                  # (B, T, D)

    def attend_cached(self, q: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
        """Attention of one projected query a row, (B, 1, D), over cached keys and values: the bits of `attend`."""
        one = self._split(q)                                                                       # (B, H, 1, K)
        y = engine.scaled_dot_product_attention(one, cache.keys, cache.values, mask, p=self._p())       # (B, H, 1, K)
        if self.seen is not None:
            self.seen.append(attention_weights(one, cache.keys, mask))
        return self.output(y.reshape(*q.shape))                                                    # (B, 1, D)

    def cache(self, packed: Tensor, into: Cache, at: Tensor | int = 0) -> None:
        """Write keys and values (B, T, 2D), side by side, into a cache, from position `at` on."""
        d = packed.shape[-1] // 2
        parts = [self._split(packed[..., :d]), self._split(packed[..., d:])]
        engine.update("write", [into.keys, into.values], parts, at=at)

    def _p(self) -> float:
        return self._dropout if self.training else 0.0

    def _note(self, q: Tensor, memory: Tensor, mask: Tensor | None, causal: bool) -> None:
        if self.seen is not None:
            self.seen.append(attention_weights(self._split(q), self._split(memory[..., :q.shape[-1]]), mask, causal))

    def _split(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        return x.reshape(b, t, self._heads, d // self._heads).swapaxes(1, 2)                       # (B, H, T, K)


class Cache:
    """Keys and values of one sequence a row in buffers of fixed size, (B, H, C, K) both, for attention one token at
    a time.

    The CPU's kernel takes a key in each lane. `transposed` keys, which lie in memory with their features before their
    positions, are read as they are; the others, which are sooner written one by one, it turns around at every token.
    """

    def __init__(self, rows: int, heads: int, room: int, features: int, device: str, transposed: bool = False) -> None:
        shape, turned = (rows, heads, room, features), transposed and device == "cpu"
        keys = engine.zeros((rows, heads, features, room) if turned else shape, device=device)
        self.keys, self.values = keys.mT if turned else keys, engine.zeros(shape, device=device)

    def take(self, other: Cache, rows: np.ndarray, length: int) -> None:
        """Go on with these rows of another cache, or of this one, each `length` positions long."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:len(rows), :, :length] = theirs[rows, :, :length]


class Past:
    """The tokens so far, for self-attention one token at a time.

    cache: their keys and values, with room for C tokens. at () int64 is the position of the next one; seen (1, 1, 1, C)
    is True up to it: what lies behind is masked, which changes no bit.
    """

    def __init__(self, cache: Cache, at: Tensor, seen: Tensor) -> None:
        self.cache, self.at, self.seen = cache, at, seen

    def attend(self, attention: MultiHeadAttention, x: Tensor) -> Tensor:
        """The attention of the next token's x (B, 1, D), whose keys and values are taken up in place."""
        d = x.shape[-1]
        packed = attention.project_all(x)                                                          # (B, 1, 3D)
        attention.cache(packed[..., d:], self.cache, self.at)
        return attention.attend_cached(packed[..., :d], self.cache, self.seen)                     # (B, 1, D)


def attention_weights(q: Tensor, k: Tensor, mask: Any = None, causal: bool = False) -> np.ndarray:
    """softmax(q kᵀ / √K), (B, H, T, S): what the attention op computes on its way and does not keep."""
    t, s = q.shape[-2], k.shape[-2]
    if causal:
        past = Tensor(np.tril(np.ones((t, s), bool), s - t), device=q.device)
        mask = past if mask is None else mask & past
    with engine.no_grad():
        return engine.softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask).numpy()
