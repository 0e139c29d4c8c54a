"""Forced decoding: what probability the model gives to text that is given, token by token."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import engine
from microtfm.architecture import Model
from microtfm.data import pad, pad_sources
from microtfm.errors import UserError
from microtfm.tokens import BOS, EOS, PAD, Tokenizer, normalise

BATCH_TOKENS = 2048                      # padded tokens of a side computed at once


@dataclass(frozen=True)
class Scored:
    """A given translation: the log-probability of each of its tokens, <eos> with them, given the source and those
    before it; and their sum."""

    tokens: list[str]
    log_probabilities: list[float]
    log_probability: float


@dataclass(frozen=True)
class Choice:
    """A token of a translation, its probability, and the tokens that were most probable in its place."""

    token: str
    probability: float
    others: list[tuple[str, float]]


def score(model: Model, source: Tokenizer, target: Tokenizer, sources: Sequence[str],
          targets: Sequence[str]) -> list[Scored]:
    """The scores of target texts as translations of source texts, which do not depend on each other.

    Raises UserError where the numbers of texts differ.
    """
    if len(sources) != len(targets):
        raise UserError(f"There are {len(sources):,} source texts and {len(targets):,} translations to score: every "
                        f"text needs one.")
    pairs = [(source.encode(normalise(a)), target.encode(normalise(b))) for a, b in zip(sources, targets, strict=True)]
    found: dict[int, Scored] = {}
    for group in _batches(pairs):
        rows = log_probabilities(model, pad_sources([pairs[i][0] for i in group]), [pairs[i][1] for i in group])
        for i, table in zip(group, rows, strict=True):
            ids = [*pairs[i][1], EOS]
            values = [float(table[t, token]) for t, token in enumerate(ids)]
            found[i] = Scored([*target.pieces(ids[:-1]), "<eos>"], values, float(np.sum(values)))
    return [found[i] for i in range(len(pairs))]


def choices(model: Model, target: Tokenizer, source: np.ndarray, ids: list[int], n: int) -> list[Choice]:
    """For each token of a translation of source ids (1, S), and its <eos>: what else stood to choose."""
    table = np.exp(log_probabilities(model, source, [ids])[0].astype(np.float64))                  # (T, V)
    found = []
    for row, token in zip(table, [*ids, EOS], strict=True):
        others = [int(i) for i in np.argsort(-row, kind="stable")[:n + 1] if i != token][:n]
        found.append(Choice(_label(target, token), float(row[token]), [(_label(target, i), float(row[i]))
                                                                       for i in others]))
    return found


def log_probabilities(model: Model, source: np.ndarray, targets: list[list[int]]) -> list[np.ndarray]:
    """Of source ids (B, S) and target ids, for each row the log-probabilities (T + 1, V) of its tokens and <eos>."""
    was_training = model.training
    model.eval()
    try:
        with engine.no_grad():
            logits = model(source, pad([[BOS, *row] for row in targets], PAD))                     # (B, T, V)
            table = engine.log_softmax(logits, axis=-1).numpy()
    finally:
        model.train(was_training)
    return [table[i, :len(row) + 1] for i, row in enumerate(targets)]


def _label(target: Tokenizer, token: int) -> str:
    return "<eos>" if token == EOS else target.pieces([token])[0]


def _batches(pairs: list[tuple[list[int], list[int]]]) -> list[list[int]]:
    """Indices of pairs of similar length, in groups of at most BATCH_TOKENS padded tokens a side."""
    size = [max(map(len, pair)) + 1 for pair in pairs]
    groups: list[list[int]] = []
    for i in sorted(range(len(pairs)), key=lambda i: (size[i], i)):
        if not groups or (len(groups[-1]) + 1) * size[i] > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(i)
    return groups
