"""Translate text with a trained model: the one path for the command, files, evaluation and training's validation."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from microtfm import decode
from microtfm.architecture import Model
from microtfm.data import pad_sources
from microtfm.run_folder import RunFolder
from microtfm.sentences import joined, pieces
from microtfm.tokens import BOS, Tokenizer, normalise

BATCH_TOKENS = 2048                      # rows × longest source, so that a batch stays in the processor's cache
LONGEST = 1000                           # source tokens of a piece at most, so that memory stays bounded


class Translator:
    """A model and its tokenizers. `Translator.load("runs/demo").translate(["我喜欢猫。"])`"""

    def __init__(self, model: Model, source: Tokenizer, target: Tokenizer, max_length: int = LONGEST) -> None:
        """`max_length`: source tokens of the longest sentence in training; longer lines are translated in pieces."""
        self.model, self.source, self.target, self.max_length = model, source, target, min(max_length, LONGEST)
        self.notices: list[str] = []     # what there is to say about the last call of `translate`

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The best model of a run folder. Raises UserError for a folder that is not one, or is damaged."""
        run = RunFolder.open(Path(folder))
        source, target = run.tokenizers()
        return cls(run.load_model(), source, target, run.settings.tokens.max_length)

    def translate(self, lines: Sequence[str], beam: int = 1, length_penalty: float = 1.0,
                  cache: bool = True) -> list[str]:
        """The translation of each line; a line without text stays empty.

        beam: hypotheses kept side by side, 1 = greedy. length_penalty: see `decode.beam`. The result for a line does
        not depend on the other lines.
        """
        out = [""] * len(lines)
        for index, text in self.each(lines, beam, length_penalty, cache):
            out[index] = text
        return out

    def each(self, lines: Sequence[str], beam: int = 1, length_penalty: float = 1.0,
             cache: bool = True) -> Iterator[tuple[int, str]]:
        """(index, translation) of every line that has text, batch by batch, short sentences first.

        A line of more than `max_length` tokens is cut at the ends of sentences, and its pieces are translated apart;
        `notices` counts such lines. No translation contains a line end.
        """
        cut = {i: self._pieces(normalise(line)) for i, line in enumerate(lines)}
        self._notice(cut)
        units = {(i, n): ids for i, parts in cut.items() for n, ids in enumerate(parts)}
        found: dict[int, dict[int, str]] = {i: {} for i in cut}
        was_training = self.model.training
        self.model.eval()
        try:
            for group in _batches(units):
                source = pad_sources([units[unit] for unit in group])
                if beam == 1:
                    ids = decode.greedy(self.model, source, cache=cache)
                else:
                    ids = decode.beam(self.model, source, beam, length_penalty, cache=cache)
                for (i, n), out in zip(group, ids, strict=True):
                    found[i][n] = normalise(self.target.decode(out))
                    if len(found[i]) == len(cut[i]):
                        yield i, joined([text for _, text in sorted(found.pop(i).items())])
        finally:
            self.model.train(was_training)

    def _pieces(self, text: str) -> list[list[int]]:
        """The ids of a line, in pieces that are short enough; a line without text has none."""
        ids = self.source.encode(text)
        if len(ids) <= self.max_length:
            return [ids] if ids else []
        parts = pieces(text, self.max_length, lambda part: len(self.source.encode(part)))
        return [part[:LONGEST] for part in map(self.source.encode, parts) if part]

    def attention(self, line: str) -> tuple[np.ndarray, list[str], list[str]]:
        """Cross-attention of a sentence and its greedy translation: weights (layers, H, T, S), and both sides' pieces.

        Row t shows where the model looked while it wrote target piece t. Both end with <eos>.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            source = pad_sources([self.source.encode(line)[:LONGEST]])                             # (1, S)
            out = decode.greedy(self.model, source)[0]
            weights = self.model.attention(source, np.array([[BOS, *out]]))                     # (layers, H, T, S)
        finally:
            self.model.train(was_training)
        return weights, self.source.pieces(source[0]), [*self.target.pieces(out), "<eos>"]

    def _notice(self, cut: dict[int, list[list[int]]]) -> None:
        long = [i + 1 for i, parts in cut.items() if len(parts) > 1]
        lines = f"line{'s' * (len(long) > 1)} {', '.join(map(str, long[:5]))}{', …' if len(long) > 5 else ''}"
        self.notices = [] if not long else [
            f"{len(long):,} of {len(cut):,} lines ({lines}) had more tokens than the {self.max_length} of a sentence "
            f"in training: each was translated in pieces, cut at the ends of sentences where there are any."]


Unit = tuple[int, int]                   # line and piece


def _batches(encoded: dict[Unit, list[int]]) -> Iterator[list[Unit]]:
    """Pieces by length, in groups of at most BATCH_TOKENS padded tokens."""
    order = sorted(encoded, key=lambda unit: (len(encoded[unit]), unit))
    group: list[Unit] = []
    for unit in order:
        if group and (len(group) + 1) * (len(encoded[unit]) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(unit)
    if group:
        yield group
