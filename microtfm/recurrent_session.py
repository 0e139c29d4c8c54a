"""One token at a time for the recurrent model: each layer's state is all that the past is."""
from __future__ import annotations

import numpy as np

import engine
from engine import Replay, Tensor
from microtfm.data import rounded
from microtfm.recurrent import Recurrent
from microtfm.session import barred, rounded_rows
from microtfm.tokens import PAD
from microtfm.transformer import source_mask


class RecurrentCached:
    """A translation under way, for rows that come and go; rows that nobody asked for hold padding."""

    def __init__(self, model: Recurrent, source: np.ndarray) -> None:
        self.model, self.rows = model, len(source)
        self.source = np.full((rounded_rows(len(source)), rounded(source.shape[1])), PAD, np.int64)
        self.source[:len(source), :source.shape[1]] = source
        begin, self._step = _replays(model)
        self.memory, *self.states = (x.numpy() for x in begin(self.source, training=model.training))

    def __call__(self, ids: np.ndarray, choose: bool) -> np.ndarray:
        """The most probable tokens (n,) after `ids` (n,), which are taken up, or all log-probabilities (n, V)."""
        given = np.full(len(self.source), PAD, np.int64)
        given[:self.rows] = ids
        found, *states = self._step(given, self.source, self.memory, *self.states, choose=choose,
                                    training=self.model.training)
        self.states = [state.numpy() for state in states]
        return found.numpy()[:self.rows]

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows, each as often as it stands here."""
        self.rows = len(rows)
        filled = np.zeros(rounded_rows(len(rows)), np.int64)
        filled[:len(rows)] = rows
        self.source, self.memory = self.source[filled], self.memory[filled]
        self.states = [state[filled] for state in self.states]

    def close(self) -> None:
        """Nothing is held."""


def _replays(model: Recurrent) -> tuple[Replay, Replay]:
    """The model's two steps, each recorded once for a set of shapes: reading the source, and writing a token."""
    kept, device = model.kept(), model.device
    if device in kept:
        found: tuple[Replay, Replay] = kept[device]
        return found
    bar = barred(model.target_embedding.weight.shape[0])

    def begin(source: Tensor, *, training: bool) -> tuple[Tensor, ...]:
        return tuple(model.memories(source))

    def step(ids: Tensor, source: Tensor, memory: Tensor, *states: Tensor, choose: bool, training: bool) -> tuple[
            Tensor, ...]:
        logits, after = model.step(ids, memory, states, source_mask(source))
        if choose:
            return (engine.argmax(logits + bar, axis=-1), *after)
        return (engine.log_softmax(logits, axis=-1), *after)

    return kept.setdefault(device, (engine.replay(begin), engine.replay(step)))
