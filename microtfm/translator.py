"""Translate text with a trained model: the one path for the command, files, evaluation and training's validation."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from microtfm import decode
from microtfm.data import pad_sources
from microtfm.run_folder import RunFolder
from microtfm.tokens import BOS, Tokenizer, normalise
from microtfm.transformer import Transformer

BATCH_TOKENS = 2048                      # rows × longest source, so that a batch stays in the processor's cache
LONGEST = 1000                           # source tokens; what is longer is cut, so that memory stays bounded


class Translator:
    """A model and its tokenizers. `Translator.load("runs/demo").translate(["我喜欢猫。"])`"""

    def __init__(self, model: Transformer, source: Tokenizer, target: Tokenizer, max_length: int = LONGEST) -> None:
        """`max_length`: source tokens of the longest sentence in training; longer ones are counted in `notices`."""
        self.model, self.source, self.target, self.max_length = model, source, target, max_length
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
        """(index, translation) of every line that has text, batch by batch, short sentences first."""
        encoded = {i: self.source.encode(line) for i, line in enumerate(lines) if normalise(line)}
        self._notice(encoded)
        was_training = self.model.training
        self.model.eval()
        try:
            for group in _batches({i: ids[:LONGEST] for i, ids in encoded.items() if ids}):
                source = pad_sources([encoded[i][:LONGEST] for i in group])
                if beam == 1:
                    found = decode.greedy(self.model, source, cache=cache)
                else:
                    found = decode.beam(self.model, source, beam, length_penalty, cache=cache)
                yield from ((i, self.target.decode(ids)) for i, ids in zip(group, found, strict=True))
        finally:
            self.model.train(was_training)

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

    def _notice(self, encoded: dict[int, list[int]]) -> None:
        long = sum(len(ids) > self.max_length for ids in encoded.values())
        cut = sum(len(ids) > LONGEST for ids in encoded.values())
        self.notices = []
        if long:
            self.notices.append(f"{long:,} of {len(encoded):,} sentences are longer than the {self.max_length} tokens "
                                f"that the model met in training: expect little of their translations.")
        if cut:
            self.notices.append(f"{cut:,} sentences were cut after {LONGEST:,} tokens.")


def _batches(encoded: dict[int, list[int]]) -> Iterator[list[int]]:
    """Indices by length, in groups of at most BATCH_TOKENS padded tokens."""
    order = sorted(encoded, key=lambda i: (len(encoded[i]), i))
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * (len(encoded[i]) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
