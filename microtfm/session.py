"""One token at a time: the decoder on buffers of fixed size, its step recorded once and replayed.

Rows, source length and room for tokens come in few sizes, each with a session of its own that is used again. Rows that
nobody asked for hold padding; neither they nor the room that is still free change a bit of the others.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.attention import Cache, Past
from microtfm.data import rounded
from microtfm.tokens import BOS, PAD
from microtfm.transformer import Transformer, source_mask

NEVER = [PAD, BOS]                       # ids that no translation contains
ROOM = 16                                # tokens of the shortest session
SESSIONS = 16                            # kept for a model while nobody uses them


def rounded_rows(count: int) -> int:
    """The rows of the session that serves `count`: 1, 2, 3, 4, 6, 8, 12, 16, 24, …"""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 and power > 2 else power


class Session:
    """Buffers for B rows, S source tokens and C target tokens, and the two replayed steps that work on them."""

    def __init__(self, model: Transformer, rows: int, source: int, room: int) -> None:
        self.model, self.rows, self.source, self.room, self.device = model, rows, source, room, model.device
        heads, layers = model.settings.heads, model.decoder.layers
        features = model.settings.d_model // heads
        self.memories = [Cache(rows, heads, source, features, model.device, transposed=True) for _ in layers]
        self.caches = [Cache(rows, heads, room, features, model.device) for _ in layers]
        self.ids = np.full((rows, source), PAD, np.int64)                                          # (B, S)
        self.barred = barred(model.target_embedding.weight.shape[0])
        self._begin, self._step = engine.replay(self._project), engine.replay(self._decode)

    def begin(self, source: np.ndarray) -> None:
        """Encode source ids (n, at most S)."""
        self.ids[:] = PAD
        self.ids[:len(source), :source.shape[1]] = source
        self._begin(self.ids, training=self.model.training)

    def next(self, ids: np.ndarray, length: int, choose: bool) -> np.ndarray:
        """The most probable tokens (B,) after `ids` (B,), which stand behind `length` others, or all log-probabilities
        (B, V)."""
        positions = self.model.target_positions.rows(length, length + 1)                           # (1, D)
        seen = np.arange(self.room)[None, None, None] <= length                                    # (1, 1, 1, C)
        return self._step(ids, positions, length, seen, self.ids, choose=choose, training=self.model.training).numpy()

    def take(self, other: Session, rows: np.ndarray, length: int) -> None:
        """Go on with these rows of another session, or of this one, that hold `length` tokens."""
        n, width = len(rows), other.source
        chosen = other.ids[rows]
        self.ids[:] = PAD
        self.ids[:n, :width] = chosen
        for mine, theirs in zip(self.memories, other.memories, strict=True):
            mine.take(theirs, rows, width)
        for mine, theirs in zip(self.caches, other.caches, strict=True):
            mine.take(theirs, rows, length)

    def _project(self, source: Tensor, *, training: bool) -> None:
        decoder = self.model.decoder
        packed = decoder.project(self.model.encode(source))
        for layer, memory, cache in zip(decoder.layers, packed, self.memories, strict=True):
            layer.cross_attention.cache(memory, cache)

    def _decode(self, ids: Tensor, positions: Tensor, at: Tensor, seen: Tensor, source: Tensor, *, choose: bool,
                training: bool) -> Tensor:
        past = [Past(cache, at, seen) for cache in self.caches]
        given = self.barred if choose else None
        logits = self.model.step(ids, positions, self.memories, source_mask(source), past, given)  # (B, V)
        return engine.argmax(logits, axis=-1) if choose else engine.log_softmax(logits, axis=-1)


def barred(size: int) -> Tensor:
    """What is added to the logits of so many ids, that none be chosen that may not stand in a translation: (V,)."""
    bias = np.zeros(size, np.float32)
    bias[NEVER] = -np.inf
    return Tensor(bias, name="barred")


class Cached:
    """A translation under way, for rows that come and go: moves from session to session as they fit."""

    def __init__(self, model: Transformer, source: np.ndarray) -> None:
        self.model, self.length = model, 0
        self.session = _borrow(model, rounded_rows(len(source)), rounded(source.shape[1]), ROOM)
        self.session.begin(source)
        self.rows = np.arange(len(source))               # the session's row of each of ours

    def __call__(self, ids: np.ndarray, choose: bool) -> np.ndarray:
        """The most probable tokens (n,) after `ids` (n,), which are taken up, or all log-probabilities (n, V)."""
        if self.length == self.session.room:
            self._move(len(ids), 2 * self.session.room)
        given = np.full(self.session.rows, PAD, np.int64)
        given[self.rows] = ids
        found = self.session.next(given, self.length, choose)[self.rows]
        self.length += 1
        return found

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows, each as often as it stands here."""
        self.rows = self.rows[rows]
        if len(rows) > self.session.rows or 2 * rounded_rows(len(rows)) <= self.session.rows:
            self._move(len(rows), self.session.room)
        elif len(np.unique(self.rows)) < len(rows):      # a row may go on as several: each needs memory of its own
            self.session.take(self.session, self.rows, self.length)
            self.rows = np.arange(len(rows))

    def _move(self, count: int, room: int) -> None:
        new = _borrow(self.model, rounded_rows(count), self.session.source, room)
        new.take(self.session, self.rows, self.length)
        self.close()
        self.session, self.rows = new, np.arange(count)

    def close(self) -> None:
        """Leave the session to others."""
        _return(self.session)


def _borrow(model: Transformer, rows: int, source: int, room: int) -> Session:
    """A session of this size that nobody uses."""
    waiting = _idle(model).get((model.device, rows, source, room))
    try:
        return waiting.pop() if waiting else Session(model, rows, source, room)
    except IndexError:                   # another thread took the last one
        return Session(model, rows, source, room)


def _return(session: Session) -> None:
    if session.device != session.model.device:           # the model has moved meanwhile
        return
    idle, size = _idle(session.model), (session.device, session.rows, session.source, session.room)
    idle.setdefault(size, []).append(session)
    idle.move_to_end(size)
    while len(idle) > SESSIONS:
        idle.popitem(last=False)


def _idle(model: Transformer) -> OrderedDict[tuple[str, int, int, int], list[Any]]:
    """The model's sessions that wait, by device and size, the last used at the end."""
    found: OrderedDict[tuple[str, int, int, int], list[Any]] = model.kept().setdefault("sessions", OrderedDict())
    return found
