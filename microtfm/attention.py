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

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """x (B, T, D) attends to memory (B, S, D); mask (B, 1, 1, S) is True where a key may be attended to."""
        return self.attend(x, *self.project(memory), mask, causal)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of a sequence, each (B, H, S, K)."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The attention of x (B, T, D) over keys and values that `project` made."""
        q = self._split(self.query(x))                                                             # (B, H, T, K)
        p = self._dropout if self.training else 0.0
        y = engine.scaled_dot_product_attention(q, k, v, mask, causal=causal, p=p)                 # (B, H, T, K)
        if self.seen is not None:
            self.seen.append(attention_weights(q, k, mask, causal))
        b, _, t, _ = y.shape
        return self.output(y.swapaxes(1, 2).reshape(b, t, -1))                                     # (B, T, D)

    def _split(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        return x.reshape(b, t, self._heads, d // self._heads).swapaxes(1, 2)                       # (B, H, T, K)


def attention_weights(q: Tensor, k: Tensor, mask: Any = None, causal: bool = False) -> np.ndarray:
    """softmax(q kᵀ / √K), (B, H, T, S): what the attention op computes on its way and does not keep."""
    t, s = q.shape[-2], k.shape[-2]
    if causal:
        past = Tensor(np.tril(np.ones((t, s), bool), s - t))
        mask = past if mask is None else mask & past
    with engine.no_grad():
        return engine.softmax(q @ k.mT / math.sqrt(q.shape[-1]), mask).numpy()
