"""What a run learns from: sentence pairs as text and as ids, the tokenizers between them, and the order of batches."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from microtfm import data, tokens
from microtfm.data import Batch, TextPair
from microtfm.errors import UserError
from microtfm.settings import Settings
from microtfm.tokens import Tokenizer

HELD_OUT = 1000                          # sentences set aside for validation, at most a tenth of the text


@dataclass
class Texts:
    """Sentence pairs to train on and to validate with."""

    train: list[TextPair]
    valid: list[TextPair]
    held_out: bool = False               # the validation text was a part of the training text
    report: list[str] = field(default_factory=list)


@dataclass
class Material:
    """The same in ids, ready for batching."""

    source: Tokenizer
    target: Tokenizer
    train: list[tuple[list[int], list[int]]]
    valid: list[tuple[list[int], list[int]]]
    sentences: list[TextPair]            # validation sentences to translate for the scores, a seeded sample
    lengths: np.ndarray                  # (N, 2): source and target tokens of each training pair
    digest: str                          # of the training ids: resuming needs the very same
    report: list[str]

    def order(self, settings: Settings, epoch: int, index: int) -> Iterator[tuple[int, int, Batch]]:
        """Training batches without end, from batch `index` of `epoch` on: (epoch, index of the next, batch)."""
        while True:
            groups = data.batches(self.lengths, settings.train.batch_tokens, settings.seed, epoch)
            for i in range(index, len(groups)):
                yield epoch, i + 1, data.batch(self.train, groups[i])
            epoch, index = epoch + 1, 0

    def valid_batches(self, settings: Settings) -> Iterator[Batch]:
        """The validation pairs, each once."""
        sizes = data.lengths(self.valid)
        budget = max(settings.train.batch_tokens, int(sizes.max()))
        for group in data.batches(sizes, budget, 0, 0):
            yield data.batch(self.valid, group)


def read(settings: Settings) -> Texts:
    """The texts that the settings name; without validation text, a seeded part of the training text is held out."""
    if settings.src is None:
        raise UserError("There is nothing to train on: give --src and --tgt, two files of equally many lines, or --src "
                        "alone, a file of lines with source, tab, target. To see it work without text: microtfm demo.")
    corpus = data.read_parallel(settings.src, settings.tgt)
    if settings.valid_src is not None:
        valid = data.read_parallel(settings.valid_src, settings.valid_tgt)
        return Texts(corpus.pairs, valid.pairs, False, [*corpus.report, *valid.report])
    count = min(HELD_OUT, max(1, len(corpus) // 10))
    train, valid_pairs = data.hold_out(corpus.pairs, count, settings.seed)
    return Texts(train, valid_pairs, True, [
        *corpus.report, f"Held out {len(valid_pairs):,} of {len(corpus):,} pairs for validation; none of their source "
                        f"sentences stays in training."])


def tokenizers(texts: Texts, settings: Settings) -> tuple[Tokenizer, Tokenizer, list[str]]:
    """Tokenizers learnt from the training text: source, target (the same one if joint), and notices."""
    kind, size = settings.tokens.kind, settings.tokens.size
    left, right = [a for a, _ in texts.train], [b for _, b in texts.train]
    if settings.tokens.joint:
        one, notices = tokens.train(kind, [*left, *right], size)
        return one, one, notices
    source, said = tokens.train(kind, left, size)
    target, also = tokens.train(kind, right, size)
    return source, target, [*said, *also]


def prepare(texts: Texts, settings: Settings, source: Tokenizer, target: Tokenizer) -> Material:
    """Encode the texts. Sentences over the length limit are left out of training and loss, and said."""
    longest = min(settings.tokens.max_length, settings.train.batch_tokens - 1)
    train, said = data.encode(texts.train, source, target, longest)
    valid, also = data.encode(texts.valid, source, target, longest)
    chosen = sorted(data.shuffled(len(texts.valid), settings.seed)[:settings.train.validate_sentences].tolist())
    digest = hashlib.sha256()
    for a, b in train:
        digest.update(np.array([len(a), *a, *b], "<i4").tobytes())
    return Material(source, target, train, valid, [texts.valid[i] for i in chosen], data.lengths(train),
                    digest.hexdigest(), [*texts.report, *said, *(f"Validation: {line}" for line in also)])
