"""Translate text with a trained model: the one path for the command, files, evaluation and training's validation."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

import engine
from microtfm import decode, export, forced, foreign
from microtfm.architecture import Model
from microtfm.data import pad_sources
from microtfm.errors import UserError
from microtfm.forced import Choice, Scored
from microtfm.foreign import Sides
from microtfm.notices import Notices
from microtfm.run_folder import RunFolder
from microtfm.sentences import ends, joined, pieces
from microtfm.settings import WIDEST
from microtfm.tokens import BOS, Tokenizer, normalise

BATCH_TOKENS = 2048                      # rows × longest source, so that a batch stays in the processor's cache
Found = TypeVar("Found")
LONGEST = 1000                           # source tokens of a piece at most, so that memory stays bounded


@dataclass(frozen=True)
class Candidate:
    """One of several translations of a line.

    text: the translation. score: its natural log-probability / length^A, by which a search compares, A the length
    penalty and length the number of tokens with <eos>; the larger, the better. Of a line that was cut, the sum over
    its pieces.
    """

    text: str
    score: float


class Translator:
    """A trained model and its tokenizers: text in, text out, the same whatever else is translated with it.

        from microtfm import Translator
        translator = Translator.load("runs/demo")
        translator.translate(["我喜欢猫。"])                # ['I like cats.']
        translator.candidates(["我喜欢猫。"], n=3)          # several translations of each line, with scores
        translator.score(["我喜欢猫。"], ["I like cats."])  # how probable the model finds a given translation
        translator.alternatives("我喜欢猫。")               # what else stood to choose at each token
        translator.attention("我喜欢猫。")                  # where each head looked

    `beam` and `length_penalty` are what is used where a call does not say; `load` takes the run's settings. `notices`
    holds what there is to say about the last call. One thread at a time; `microtfm.waiting` shows how to queue for it.
    `on_token` is called before each token of a search, and what it raises ends the call. `cut`, `translate_pieces` and
    `together` do what `translate` and `candidates` do in steps, for who would do something else in between.
    """

    def __init__(self, model: Model, source: Tokenizer, target: Tokenizer, max_length: int = LONGEST, beam: int = 1,
                 length_penalty: float = 1.0, piece_length: int | None = None) -> None:
        """`piece_length`: source tokens above which a line is cut where its sentences end, and translated in pieces
        [max_length]. `max_length`: above which a sentence is cut, too."""
        self.model, self.source, self.target, self.max_length = model, source, target, min(max_length, LONGEST)
        self.piece_length = self.max_length if piece_length is None else min(piece_length, self.max_length)
        self.beam, self.length_penalty = beam, length_penalty
        self.notices: list[str] = []     # what there is to say about the last call of `translate`
        self.run: RunFolder | None = None                 # whose text tells in what script sources are, if known
        self.on_token: Callable[[], None] = lambda: None

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | None = None) -> Self:
        """The best model of a run folder, or the model in a file that `microtfm export` wrote, on a device: "cpu",
        "cuda", "auto", or None, where `default_device` says.

        Raises UserError for what is neither, or is damaged, and DeviceError.
        """
        with engine.default_device(device) if device is not None else nullcontext():
            run = None if Path(folder).is_file() else RunFolder.open(Path(folder))
            if run is None:
                model, source, target, settings = export.load(Path(folder))
            else:
                model, (source, target), settings = run.load_model(), run.tokenizers(), run.settings
        found = cls(model, source, target, settings.tokens.max_length, settings.beam, settings.length_penalty,
                    settings.tokens.piece_length)
        found.run = run
        return found

    def translate(self, lines: Sequence[str], beam: int | None = None, length_penalty: float | None = None,
                  cache: bool = True) -> list[str]:
        """The translation of each line; a line without text stays empty.

        beam: hypotheses kept side by side, 1 = greedy. length_penalty: see `decode.beam`. Unset: the translator's own.
        The result for a line does not depend on the other lines.
        """
        out = [""] * len(_checked(lines))
        for index, text in self.each(lines, beam, length_penalty, cache):
            out[index] = text
        return out

    def each(self, lines: Sequence[str], beam: int | None = None, length_penalty: float | None = None,
             cache: bool = True) -> Iterator[tuple[int, str]]:
        """(index, translation) of every line that has text, batch by batch, short sentences first.

        A line of more than `piece_length` tokens is cut at the ends of sentences, and its pieces are translated apart;
        `notices` counts such lines. No translation contains a line end.
        """
        width, penalty = self.search(beam, length_penalty)
        for i, parts in self._each(self._begun(lines), lambda source: self._best(source, width, penalty, cache)):
            yield i, joined([self._text(ids) for ids in parts])

    def candidates(self, lines: Sequence[str], n: int = 5, beam: int | None = None,
                   length_penalty: float | None = None) -> list[list[Candidate]]:
        """At most n different translations of each line; a line without text has one, empty.

        The first is what `translate` gives; then the best others of a search as wide as `beam`, and at least n. The
        k-th translation of a line that was cut is made of the k-th of each of its pieces.
        """
        width, penalty = self.search(beam, length_penalty)
        if n < 1:
            raise UserError(f"n = {n} translations of a line are wanted; it must be 1 or more.")

        out = [[Candidate("", 0.0)] for _ in _checked(lines)]
        for i, parts in self._each(self._begun(lines), lambda source: self._several(source, n, width, penalty)):
            found: dict[str, Candidate] = {}             # of equal texts, the first
            for choice in zip(*parts, strict=False):
                text = joined([self._text(ids) for _, ids in choice])
                found.setdefault(text, Candidate(text, sum(score for score, _ in choice)))
            out[i] = list(found.values())[:n]
        return out

    def cut(self, lines: Sequence[str]) -> list[list[decode.Ids]]:
        """For each line the source ids of the pieces in which it is translated; without text it has none."""
        return [self._pieces(normalise(line)) for line in _checked(lines)]

    def _begun(self, lines: Sequence[str]) -> list[list[decode.Ids]]:
        cut = self.cut(lines)
        self.notices = self.noticed(lines, cut).texts()
        return cut

    def translate_pieces(self, pieces: Sequence[decode.Ids], n: int = 1) -> list[list[str]]:
        """Translations of each piece that `cut` made, the best first: one, or all that a search for n finds.

        The result for a piece does not depend on the other pieces.
        """
        width, penalty = self.search(None, None)

        def search(source: np.ndarray) -> list[list[decode.Ids]]:
            if n == 1:
                return [[ids] for ids in self._best(source, width, penalty)]
            return [[ids for _, ids in found] for found in self._several(source, n, width, penalty)]

        out: list[list[str]] = [[] for _ in pieces]
        for i, (found,) in self._each([[piece] for piece in pieces], search):
            out[i] = [self._text(ids) for ids in found]
        return out

    @staticmethod
    def together(parts: Sequence[Sequence[str]], n: int = 1) -> list[str]:
        """At most n different translations of a line, from those of its pieces by `translate_pieces`."""
        found = dict.fromkeys(joined(choice) for choice in zip(*parts, strict=False))
        return list(found)[:n] or [""]

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[Scored]:
        """How probable the model finds given translations (forced decoding); see `forced.Scored`."""
        return forced.score(self.model, self.source, self.target, _checked(sources), _checked(targets))

    def alternatives(self, line: str, n: int = 5, beam: int | None = None,
                     length_penalty: float | None = None) -> list[Choice]:
        """For each token of a line's translation, how probable it was and the n most probable tokens in its place.

        The pieces of a line that was cut follow one another, each with its <eos>; a line without text has no token.
        """
        width, penalty = self.search(beam, length_penalty)
        found: list[Choice] = []
        with self._evaluating():
            for piece in self._pieces(normalise(line)):
                source = pad_sources([piece])
                ids = self._best(source, width, penalty)[0]
                found += forced.choices(self.model, self.target, source, ids, n)
        return found

    def _best(self, source: np.ndarray, width: int, penalty: float, cache: bool = True) -> list[decode.Ids]:
        if width == 1:
            return decode.greedy(self.model, source, cache=cache, on_token=self.on_token)
        return decode.beam(self.model, source, width, penalty, cache=cache, on_token=self.on_token)

    def _several(self, source: np.ndarray, n: int, width: int, penalty: float) -> list[
            list[tuple[float, decode.Ids]]]:
        """Of each row, the best of a search of this width and then others, n or more where there are as many."""
        found = decode.n_best(self.model, source, width, penalty, on_token=self.on_token)
        if width >= n:
            return found
        wide = decode.n_best(self.model, source, n, penalty, on_token=self.on_token)
        return [[own[0], *(each for each in others if each[1] != own[0][1])]
                for own, others in zip(found, wide, strict=True)]

    def search(self, beam: int | None, length_penalty: float | None) -> tuple[int, float]:
        """The width and the length penalty of a search that says so, or does not."""
        width = self.beam if beam is None else beam
        if not 1 <= width <= WIDEST:
            raise UserError(f"beam = {width:,} must be 1 to {WIDEST:,}.")
        return width, self.length_penalty if length_penalty is None else length_penalty

    def _each(self, cut: Sequence[list[decode.Ids]], search: Callable[[np.ndarray], list[Found]]) -> Iterator[
            tuple[int, list[Found]]]:
        """Of every line that has pieces, its index and what the search finds of each of them."""
        units = {(i, n): ids for i, parts in enumerate(cut) for n, ids in enumerate(parts)}
        found: list[dict[int, Found]] = [{} for _ in cut]
        with self._evaluating():
            for group in _batches(units):
                answers = search(pad_sources([units[unit] for unit in group]))
                for (i, n), answer in zip(group, answers, strict=True):
                    found[i][n] = answer
                    if len(found[i]) == len(cut[i]):
                        parts, found[i] = found[i], {}
                        yield i, [answer for _, answer in sorted(parts.items(), key=lambda item: item[0])]

    def _text(self, ids: decode.Ids) -> str:
        return normalise(self.target.decode(ids))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    def _pieces(self, text: str) -> list[list[int]]:
        """The ids of a line, in pieces that are short enough; a line without text has none."""
        ids = self.source.encode(text)
        if len(ids) <= self.piece_length or (len(ids) <= self.max_length and not ends(text)):
            return [ids] if ids else []
        parts = pieces(text, self.max_length, lambda part: len(self.source.encode(part)), self.piece_length)
        return [part for part in map(self.source.encode, parts) if part]

    def attention(self, line: str, beam: int | None = None, length_penalty: float | None = None) -> tuple[
            np.ndarray, list[str], list[str]]:
        """Cross-attention of a sentence and its translation: weights (layers, H, T, S), and both sides' pieces.

        Row t shows where the model looked while it wrote target piece t. Both end with <eos>. Raises UserError for a
        line that is translated in pieces.
        """
        width, penalty = self.search(beam, length_penalty)
        with self._evaluating():
            source = pad_sources([self.sentence(line)])                                            # (1, S)
            out = self._best(source, width, penalty)[0]
            weights = self.model.attention(source, np.array([[BOS, *out]]))                     # (layers, H, T, S)
        return weights, self.source.pieces(source[0]), [*self.target.pieces(out), "<eos>"]

    def sentence(self, line: str) -> list[int]:
        """The ids of a line. Raises UserError for one that is translated in pieces."""
        parts = self._pieces(normalise(line))
        if len(parts) > 1:
            raise UserError(f"This line has {self._reason()}, and is translated in {len(parts)} pieces; a picture or "
                            f"attention is that of one sentence. Give one.")
        return parts[0] if parts else []

    def in_pieces(self, lines: Sequence[str]) -> int:
        """How many of the lines are translated in pieces."""
        return sum(len(self._pieces(normalise(line))) > 1 for line in lines)

    def noticed(self, lines: Sequence[str], cut: Sequence[Sequence[decode.Ids]], counted: str = "lines") -> Notices:
        """What there is to say about lines, or what they are `counted` as, that `cut` cut so; more may be added."""
        found = Notices(self._reason(), lambda: self._learnt, counted)
        found.add(lines, cut)
        return found

    @cached_property
    def _learnt(self) -> Sides | None:
        """Looked up when first needed: loading stays fast."""
        return foreign.learnt(self.run) if self.run is not None else None

    def _reason(self) -> str:
        more = f"more tokens than the {self.piece_length or self.max_length} of a sentence in training"
        return more if self.piece_length else f"several sentences, where in training a line had one, or {more}"


def _checked(lines: Sequence[str]) -> Sequence[str]:
    """The lines, if they are a sequence of texts; a single text would be taken for one line a character."""
    if isinstance(lines, str):
        raise UserError("A list of lines is needed, and a text was given: put it into brackets.")
    wrong = next((i for i, line in enumerate(lines) if not isinstance(line, str)), None)
    if wrong is not None:
        raise UserError(f"Lines are texts; number {wrong} is a {type(lines[wrong]).__name__}.")
    return lines


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
