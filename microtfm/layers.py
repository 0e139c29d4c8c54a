"""The plain layers: linear, embedding, layer norm, dropout, positional encoding."""
from __future__ import annotations

import math

import numpy as np

import engine
from engine import Tensor
from microtfm.module import Module, parameter


class Linear(Module):
    """y = x W + b, W (inputs, outputs) initialised uniformly after Glorot & Bengio 2010 ("Xavier"), times a gain."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, gain: float = 1.0) -> None:
        limit = gain * math.sqrt(6 / (inputs + outputs))
        self.weight = parameter(engine.random.uniform((inputs, outputs), -limit, limit))
        self.bias = parameter(engine.zeros((outputs,))) if bias else None

    def forward(self, x: Tensor, activation: str = "none", p: float = 0.0) -> Tensor:
        """(…, inputs) → (…, outputs); then relu where `activation` says so, then dropout with probability p."""
        if self.bias is None and activation == "none" and not p:
            return x @ self.weight                                                                # (…, outputs)
        key = engine.random.next_key() if p else None
        return engine.linear(x, self.weight, self.bias, key, activation=activation, p=p)          # (…, outputs)


class Embedding(Module):
    """A learned vector for each id, times √D (§3.4), so that its scale is that of the positions added to it."""

    def __init__(self, size: int, d_model: int) -> None:
        self.weight = parameter(engine.random.normal((size, d_model), std=d_model ** -0.5))
        self.scale = math.sqrt(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        return engine.embedding(self.weight, ids) * self.scale                                    # (B, T, D)


class LayerNorm(Module):
    """Normalises over the D features of one position, then scales and shifts (Ba, Kiros & Hinton 2016)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        self.weight = parameter(engine.ones((d_model,)))
        self.bias = parameter(engine.zeros((d_model,)))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return engine.layer_norm(x, self.weight, self.bias, eps=self._eps)

    def of_sum(self, x: Tensor, y: Tensor, p: float) -> Tensor:
        """Add & Norm: the norm of x + dropout(y), with probability p."""
        with engine.scope(self.name):
            key = engine.random.next_key() if p else None
            return engine.add_norm(x, y, key, self.weight, self.bias, p=p, eps=self._eps)


class Dropout(Module):
    """While training, zeroes a fraction p of its input and scales the rest by 1/(1 − p); otherwise the identity
    (§5.4)."""

    def __init__(self, p: float) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return engine.dropout(x, p=self.p) if self.training and self.p else x


def sinusoids(length: int, d_model: int, start: int = 0) -> np.ndarray:
    """The positional encoding of §3.5, (length, d_model): PE[pos, 2i] = sin(pos / 10000^(2i/D)), PE[pos, 2i+1] =
    cos(…)."""
    position = np.arange(start, start + length, dtype=np.float64)[:, None]
    pair = np.arange(0, d_model, 2, dtype=np.float64)
    angle = position / 10000 ** (pair / d_model)                                                   # (length, ⌈D/2⌉)
    table = np.zeros((length, d_model), np.float32)
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : d_model // 2]
    return table


class PositionalEncoding(Module):
    """Adds the sinusoids of §3.5 to embeddings, then dropout (§5.4). Any length: the table grows with its input."""

    def __init__(self, d_model: int, dropout: float) -> None:
        self.p = dropout
        self._d_model = d_model
        self._table = sinusoids(0, d_model)

    def forward(self, ids: Tensor, embedding: Embedding, start: int = 0) -> Tensor:
        """The vectors of ids (B, T) that stand at positions start, start + 1, …"""
        rows = self.rows(start, start + ids.shape[1])
        positions = Tensor(rows, name="positions", device=embedding.weight.device)                 # (T, D)
        return self.added(ids, embedding, positions)

    def added(self, ids: Tensor, embedding: Embedding, positions: Tensor) -> Tensor:
        """The same for rows of the table that are given."""
        p = self.p if self.training else 0.0
        key = engine.random.next_key() if p else None
        return engine.embed(embedding.weight, ids, positions, key, scale=embedding.scale, p=p)     # (B, T, D)

    def rows(self, start: int, end: int) -> np.ndarray:
        """Rows start .. end - 1 of the table, (end - start, D)."""
        if end > len(self._table):
            self._table = sinusoids(max(end, 2 * len(self._table)), self._d_model)
        return self._table[start:end]
