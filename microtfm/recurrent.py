"""A recurrent encoder-decoder with attention: what the Transformer took the place of, to be compared with it.

Gated recurrent units (Cho et al. 2014), a bidirectional encoder whose backward states begin the decoder's (Bahdanau,
Cho & Bengio 2015), and one global attention over the encoder's output behind the decoder (Luong, Pham & Manning 2015).
Shapes: B batch, S source length, T target length, D model, V vocabulary.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm import axes
from microtfm.attention import MultiHeadAttention
from microtfm.errors import UserError
from microtfm.layers import Dropout, Embedding, Linear
from microtfm.module import Module
from microtfm.settings import ModelSettings
from microtfm.transformer import as_ids, source_mask


class GRU(Module):
    """A gated recurrent unit, in the form whose reset gate acts on the projected state.

    r, z = σ(x W + h U), n = tanh(x Wₙ + bₙ + r ⊙ (h Uₙ + cₙ)), h' = n + z ⊙ (h − n)
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        self.input_gates, self.input_new = Linear(inputs, 2 * hidden), Linear(inputs, hidden)
        self.state_gates, self.state_new = Linear(hidden, 2 * hidden, bias=False), Linear(hidden, hidden)
        self.hidden = hidden

    def forward(self, x: Tensor, state: Tensor, mask: Sequence[Tensor] | None = None,
                backward: bool = False) -> list[Tensor]:
        """The state (B, hidden) after each of the inputs (B, T, inputs), in the inputs' order.

        state (B, hidden): the one before. backward: read from the end. mask: T times (B, 1), True where an input
        stands; elsewhere the state stays as it is.
        """
        gates, new = unstacked(self.input_gates(x)), unstacked(self.input_new(x))
        order = range(len(gates))
        states: list[Any] = [None] * len(gates)
        for t in reversed(order) if backward else order:
            with engine.scope(f"steps.{t}"):
                after = self.step(gates[t], new[t], state)
                state = after if mask is None else engine.where(mask[t], after, state)
            states[t] = state
        return states

    def step(self, gates: Tensor, new: Tensor, state: Tensor) -> Tensor:
        """The state (B, hidden) after one more input, given as its projections (B, 2 hidden) and (B, hidden)."""
        opened = engine.sigmoid(gates + self.state_gates(state))
        reset, update = opened[:, :self.hidden], opened[:, self.hidden:]
        candidate = engine.tanh(new + reset * self.state_new(state))
        return candidate + update * (state - candidate)                                            # (B, hidden)


class RecurrentEncoder(Module):
    """N bidirectional layers: D/2 features of what was read from the left, D/2 of what was read from the right."""

    def __init__(self, s: ModelSettings) -> None:
        self.forwards = [GRU(s.d_model, s.d_model // 2) for _ in range(s.layers)]
        self.backwards = [GRU(s.d_model, s.d_model // 2) for _ in range(s.layers)]
        self.dropout = Dropout(s.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, S, D) and mask (B, S); the output (B, S, D), and each layer's last state from the right (B, D/2)."""
        begin = engine.zeros((x.shape[0], self.forwards[0].hidden), device=x.device)
        masks = [mask[:, t:t + 1] for t in range(x.shape[1])]                                      # S times (B, 1)
        ends = []
        for left, right in zip(self.forwards, self.backwards, strict=True):
            ahead, back = left(x, begin), right(x, begin, masks, backward=True)
            ends.append(back[0])
            ahead, back = (engine.stack(states, axis=1) for states in (ahead, back))               # (B, S, D/2)
            ahead.axes = back.axes = ("B", "S", None)
            x = self.dropout(engine.concat([ahead, back], axis=-1))
        return x, ends                                                                             # (B, S, D)


class RecurrentDecoder(Module):
    """N layers from left to right, then attention: h̃ = tanh([c; h] W), c what h attends to in the encoder's output."""

    def __init__(self, s: ModelSettings) -> None:
        d = s.d_model
        self.begin = [Linear(d // 2, d) for _ in range(s.layers)]
        self.layers = [GRU(d, d) for _ in range(s.layers)]
        self.attention = MultiHeadAttention(d, 1)
        self.combine = Linear(2 * d, d)
        self.dropout = Dropout(s.dropout)

    def forward(self, x: Tensor, memory: Tensor, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """x (B, T, D), keys and values (B, S, 2D), the state (B, D) of each layer before it; (B, T, D)."""
        return self.advance(x, memory, states, mask)[0]

    def advance(self, x: Tensor, memory: Tensor, states: Sequence[Tensor], mask: Tensor) -> tuple[
            Tensor, list[Tensor]]:
        """The same, and the state of each layer after x."""
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            seen = layer(x, state)
            after.append(seen[-1])
            x = engine.stack(seen, axis=1)                                                         # (B, T, D)
            x.axes = ("B", "T", "D")
            x = self.dropout(x)
        found = self.attention.attend(x, memory, mask)
        return self.dropout(engine.tanh(self.combine(engine.concat([found, x], axis=-1)))), after  # (B, T, D)


class Recurrent(Module):
    """Source ids (B, S) and target ids (B, T) in, logits (B, T, V) out, as `Transformer`; `settings.tie` is as there.

    Of the settings, heads, ffn, norm, final_norm and inner_dropout have no meaning here.
    """

    def __init__(self, settings: ModelSettings, source_size: int, target_size: int) -> None:
        if settings.tie == "all" and source_size != target_size:
            raise UserError(f"tie = 'all' needs one vocabulary for both sides, but the source has {source_size} "
                            f"entries and the target {target_size}. Use tie = 'output', or joint subwords.")
        self.name = "recurrent"
        self.settings = settings
        d = settings.d_model
        self.source_embedding = Embedding(source_size, d)
        self.target_embedding = self.source_embedding if settings.tie == "all" else Embedding(target_size, d)
        self.dropout = Dropout(settings.dropout)
        self.encoder = RecurrentEncoder(settings)
        self.decoder = RecurrentDecoder(settings)
        self.projection = Linear(d, target_size, bias=False) if settings.tie == "none" else None
        axes.declare(self, 1)

    def forward(self, source: Any, target: Any) -> Tensor:
        """Logits (B, T, V) of every next token. Ids of 0 are padding: nothing attends to them."""
        source = as_ids(source, "source", self.device)
        return self.decode(target, self.memories(source), source_mask(source))

    def memories(self, source: Any) -> list[Tensor]:
        """What decoding needs of source ids (B, S): keys and values (B, S, 2D), and each layer's first state (B, D)."""
        source = as_ids(source, "source", self.device)
        mask = source_mask(source)[:, 0, 0]                                                        # (B, S)
        memory, ends = self.encoder(self.dropout(self.source_embedding(source)), mask)
        with engine.scope(self.decoder.name):
            states = [engine.tanh(begin(end)) for begin, end in zip(self.decoder.begin, ends, strict=True)]
            with engine.scope("attention"):
                return [self.decoder.attention.project(memory), *states]

    def decode(self, target: Any, memories: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Logits (B, T, V) of whole target sequences (B, T) at once, from what `memories` made."""
        x = self.dropout(self.target_embedding(as_ids(target, "target", self.device)))
        return self.project(self.decoder(x, memories[0], memories[1:], mask))

    def step(self, ids: Tensor, memory: Tensor, states: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, V) of the token after `ids` (B,), and the states after it: the numbers of `decode`, sooner."""
        x = self.dropout(self.target_embedding(ids.reshape(-1, 1)))                                # (B, 1, D)
        x, after = self.decoder.advance(x, memory, states, mask)
        return self.project(x)[:, 0], after                                                        # (B, V)

    def project(self, x: Tensor) -> Tensor:
        """D features to V logits, by the target embedding itself where it is tied."""
        with engine.scope("logits"):
            if self.projection is not None:
                return self.projection(x)
            return x @ self.target_embedding.weight.mT                                             # (B, T, V)

    def attention(self, source: Any, target: Any) -> np.ndarray:
        """The attention weights (1, 1, T, S) of one sentence pair, each row summing to 1."""
        layer = self.decoder.attention
        layer.seen = []
        try:
            with engine.no_grad():
                self(source, target)
            return np.stack([layer.seen[0][0]])
        finally:
            layer.seen = None


def unstacked(x: Tensor) -> list[Tensor]:
    """x (B, T, …) as T tensors (B, …), by halves: each piece's gradient is then filled up with zeros to twice its size,
    and again, log₂ T times, instead of at once to T times its size."""
    t = x.shape[1]
    if t == 1:
        return [x[:, 0]]
    return unstacked(x[:, :t // 2]) + unstacked(x[:, t // 2:])
