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

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight                                                                       # (…, outputs)
        return y if self.bias is None else y + self.bias


class Embedding(Module):
    """A learned vector for each id, times √D (§3.4), so that its scale is that of the positions added to it."""

    def __init__(self, size: int, d_model: int) -> None:
        self.weight = parameter(engine.random.normal((size, d_model), std=d_model ** -0.5))
        self._scale = math.sqrt(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        return engine.embedding(self.weight, ids) * self._scale                                   # (B, T, D)


class LayerNorm(Module):
    """Normalises over the D features of one position, then scales and shifts (Ba, Kiros & Hinton 2016)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        self.weight = parameter(engine.ones((d_model,)))
        self.bias = parameter(engine.zeros((d_model,)))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return engine.layer_norm(x, self.weight, self.bias, eps=self._eps)


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
    """Adds the sinusoids of §3.5, then dropout (§5.4). Any length: the table grows with its input."""

    def __init__(self, d_model: int, dropout: float) -> None:
        self.dropout = Dropout(dropout)
        self._d_model = d_model
        self._table = sinusoids(0, d_model)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        end = start + x.shape[1]
        if end > len(self._table):
            self._table = sinusoids(max(end, 2 * len(self._table)), self._d_model)
        return self.dropout(x + Tensor(self._table[start:end], name="positions"))                  # (B, T, D)
