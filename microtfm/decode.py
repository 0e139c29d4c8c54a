"""From the model's probabilities to a translation: greedy and beam search.

The tokens of a sentence are a function of the model and that sentence alone: the same with the key/value cache on or
off, in any batch and in any order.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import engine
from engine import Tensor
from microtfm.architecture import Model
from microtfm.recurrent import Recurrent
from microtfm.recurrent_session import RecurrentCached
from microtfm.session import NEVER, Cached, barred
from microtfm.tokens import BOS, EOS, PAD
from microtfm.transformer import source_mask

Ids = list[int]


def limits(source: np.ndarray, max_length: int | None = None) -> np.ndarray:
    """The longest translation of each row of source ids (B, S): twice its tokens and 20 more, or `max_length`."""
    if max_length is not None:
        return np.full(len(source), max_length)
    return 2 * (source != PAD).sum(axis=1) + 20                                                    # (B,)


class _Whole:
    """The model on whole prefixes, anew for each token: slow and plain, what the cached way is tested against."""

    def __init__(self, model: Model, source: np.ndarray) -> None:
        ids = Tensor(source, name="source", device=model.device)
        self.model, self.mask = model, source_mask(ids)
        self.memories = model.memories(ids)
        self.prefix = np.empty((len(source), 0), np.int64)                                         # (B, t)

    def __call__(self, ids: np.ndarray, choose: bool) -> np.ndarray:
        """The most probable tokens (B,) after `ids` (B,), or all log-probabilities (B, V)."""
        self.prefix = np.concatenate([self.prefix, ids[:, None]], axis=1)
        logits = self.model.decode(self.prefix, self.memories, self.mask)[:, -1]                   # (B, V)
        if choose:
            return engine.argmax(logits + barred(logits.shape[-1]), axis=-1).numpy()
        return engine.log_softmax(logits, axis=-1).numpy()

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows, each as often as it stands here."""
        ids = Tensor(rows, device=self.mask.device)
        self.memories, self.mask = [memory[ids] for memory in self.memories], self.mask[ids]
        self.prefix = self.prefix[rows]

    def close(self) -> None:
        """Nothing is held."""


def _steps(model: Model, source: np.ndarray, cache: bool) -> Any:
    """A translation under way: call it for the next token, `select` its rows, `close` it."""
    if not cache:
        return _Whole(model, source)
    return RecurrentCached(model, source) if isinstance(model, Recurrent) else Cached(model, source)


@contextmanager
def _under_way(model: Model, source: np.ndarray, cache: bool) -> Iterator[Any]:
    """The same on the model's device, without a record, closed at the end."""
    with (engine.default_device(model.device), engine.no_grad(),
          closing(_steps(model, source, cache)) as steps):
        yield steps


def _nothing() -> None:
    """To be done before each token of a search."""


def greedy(model: Model, source: np.ndarray, max_length: int | None = None, cache: bool = True,
           on_token: Callable[[], None] = _nothing) -> list[Ids]:
    """The most probable token after each token, up to <eos>: one list of ids a row of `source` (B, S).

    <bos> and <eos> are left out. `source` has <eos> at the end of each row, then padding (`data.pad_sources`).
    `on_token` is called before each token of the batch; what it raises ends the search.
    """
    limit = limits(source, max_length)
    out = np.empty((len(source), limit.max(initial=0)), np.int64)
    lengths = np.zeros(len(source), np.int64)             # tokens found of each sentence
    rows = np.arange(len(source))                         # row of the batch -> row of the source
    ids = np.full(len(source), BOS)
    with _under_way(model, source, cache) as steps:
        for t in range(out.shape[1]):
            on_token()
            ids = steps(ids, choose=True)
            goes_on = ids != EOS
            out[rows, t] = ids
            lengths[rows] += goes_on
            alive = np.flatnonzero(goes_on & (t + 1 < limit[rows]))
            if len(alive) < len(rows):
                rows, ids = rows[alive], ids[alive]
                if not len(rows):
                    break
                steps.select(alive)
    return [ids[:n] for ids, n in zip(out.tolist(), lengths.tolist(), strict=True)]


@dataclass
class _Search:
    """The beam of one sentence."""

    beam: int
    length_penalty: float
    limit: int
    live: list[tuple[float, Ids]] = field(default_factory=lambda: [(0.0, [])])
    finished: list[tuple[float, Ids]] = field(default_factory=list)

    def advance(self, scores: np.ndarray) -> np.ndarray:
        """Take up the next log-probabilities, (live, V). Returns which live rows the new live hypotheses come from.

        Of the 2k best continuations, those that end are finished if they are among the k best; the first k that do
        not end stay live. The search is over when no live hypothesis, ended now, would beat the k finished ones.
        """
        totals = np.array([score for score, _ in self.live])[:, None] + scores                     # (live, V)
        flat = totals.reshape(-1)
        wanted = min(2 * self.beam, len(flat))
        worst = np.partition(flat, len(flat) - wanted)[len(flat) - wanted]
        best = np.flatnonzero(flat >= worst)              # equals are taken in order, so that none depends on a sort
        best = best[np.argsort(-flat[best], kind="stable")][:wanted]
        live: list[tuple[float, Ids]] = []
        parents: list[int] = []
        for rank, i in enumerate(best):
            row, token = divmod(int(i), scores.shape[1])
            total, ids = float(flat[i]), self.live[row][1]
            if total == -np.inf:
                break
            if token == EOS:
                if rank < self.beam:
                    self.finished.append((self._value(total, len(ids) + 1), ids))
            elif len(live) < self.beam:
                live.append((total, [*ids, token]))
                parents.append(row)
        self.live = live
        self.finished = sorted(self.finished, key=lambda hypothesis: -hypothesis[0])[:self.beam]
        return np.array([] if self._over() else parents, np.int64)

    def _value(self, total: float, length: int) -> float:
        return total / length ** self.length_penalty

    def _over(self) -> bool:
        if not self.live or len(self.live[0][1]) >= self.limit:
            return True
        if len(self.finished) < self.beam:
            return False
        return self._value(self.live[0][0], len(self.live[0][1])) <= self.finished[-1][0]

    def ranked(self) -> list[tuple[float, Ids]]:
        """The hypotheses that are left and their values, the highest first; one cut off at the limit counts as it
        stands."""
        cut = [(self._value(total, len(ids)), ids) for total, ids in self.live if len(ids) >= self.limit]
        found = sorted([*self.finished, *cut], key=lambda hypothesis: -hypothesis[0])[:self.beam]
        return found or [(-np.inf, [])]  # where the model gave no number


def beam(model: Model, source: np.ndarray, beam: int = 4, length_penalty: float = 1.0,
         max_length: int | None = None, cache: bool = True, watch: Callable[[_Search], None] | None = None,
         on_token: Callable[[], None] = _nothing) -> list[Ids]:
    """Beam search: the hypothesis with the highest log-probability / length^length_penalty, length with <eos>.

    One list of ids a row of `source` (B, S). A penalty of 0 compares plain probabilities and so prefers short
    translations, 1 compares averages over tokens. (Wu et al. 2016, §7, divide by ((5 + length) / 6)^A; this simpler
    form is that of Marian and Hugging Face.) A beam of 1 is greedy search. `watch` is called after each token of each
    sentence with its search, whose `live` and `finished` hold (score, ids). `on_token`: see `greedy`.
    """
    found = n_best(model, source, beam, length_penalty, max_length, cache, watch, on_token)
    return [several[0][1] for several in found]


def n_best(model: Model, source: np.ndarray, beam: int = 4, length_penalty: float = 1.0, max_length: int | None = None,
           cache: bool = True, watch: Callable[[_Search], None] | None = None,
           on_token: Callable[[], None] = _nothing) -> list[list[tuple[float, Ids]]]:
    """Beam search as in `beam`: for each row at most `beam` hypotheses (log-probability / length^length_penalty, ids),
    the best first."""
    with _under_way(model, source, cache) as steps:
        limit = limits(source, max_length)
        searches = [_Search(beam, length_penalty, int(n)) for n in limit]
        going = list(searches)                            # each owns the next len(live) rows of the batch
        ids = np.full(len(source), BOS)
        while going:
            on_token()
            scores = steps(ids, choose=False)                                                      # (n, V)
            scores[:, NEVER] = -np.inf
            rows, tokens, still, begin = [], [], [], 0
            for search in going:
                end = begin + len(search.live)
                parents = search.advance(scores[begin:end])
                if watch is not None:
                    watch(search)
                if len(parents):
                    still.append(search)
                    rows += list(begin + parents)
                    tokens += [hypothesis[-1] for _, hypothesis in search.live]
                begin = end
            going, ids = still, np.array(tokens, np.int64)
            if going:
                steps.select(np.array(rows, np.int64))
    return [search.ranked() for search in searches]
