"""What a run learns from: sentence pairs as text and as ids, the tokenizers between them, and the order of batches."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from microtfm import data, foreign, sentences, tokens
from microtfm.data import Batch, Ids, TextPair
from microtfm.errors import UserError
from microtfm.foreign import Sides
from microtfm.settings import Settings
from microtfm.tokens import SubwordTokenizer, Tokenizer

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
    train: list[tuple[Ids, Ids]]
    valid: list[tuple[Ids, Ids]]
    sentences: list[TextPair]            # validation sentences to translate for the scores, a seeded sample
    lengths: np.ndarray                  # (N, 2): source and target tokens of each training pair
    digest: str                          # of the training ids: resuming needs the very same
    report: list[str]

    def order(self, settings: Settings, epoch: int, index: int) -> Iterator[tuple[int, int, Batch]]:
        """Training batches without end, from batch `index` of `epoch` on: (epoch, index of the next, batch)."""
        while True:
            pairs = self.pass_over(settings, epoch)
            groups = data.batches(data.lengths(pairs), settings.train.batch_tokens, settings.seed, epoch)
            if index > len(groups):
                raise UserError(f"The state to go on from is damaged: it says that {index:,} batches of pass {epoch:,} "
                                f"are done, and there are {len(groups):,}.")
            for i in range(index, len(groups)):
                yield epoch, i + 1, data.batch(pairs, groups[i])
            epoch, index = epoch + 1, 0

    @cached_property
    def texts(self) -> tuple[list[str], list[str]]:
        """The sentences of the training pairs, source and target, as their ids say them."""
        return [self.source.decode(a) for a, _ in self.train], [self.target.decode(b) for _, b in self.train]

    def pass_over(self, settings: Settings, epoch: int) -> list[tuple[Ids, Ids]]:
        """The training pairs of an epoch, cut into subwords anew where tokens.dropout is not 0.

        A pair that would be too long so keeps its usual cut.
        """
        dropout, longest = settings.tokens.dropout, _longest(settings)
        if not dropout:
            return self.train
        sides = (_sampled(tokenizer, texts, dropout, settings.seed, epoch, side)
                 for side, (tokenizer, texts) in enumerate(zip((self.source, self.target), self.texts, strict=True)))
        return [new if max(map(len, new)) <= longest else usual
                for new, usual in zip(zip(*sides, strict=True), self.train, strict=True)]

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
        valid = data.read_parallel(settings.valid_src, settings.valid_tgt, purpose="validate on", other="--valid-tgt")
        odd = foreign.differences(Sides.of(corpus.pairs), Sides.of(valid.pairs), "the validation text")
        return Texts(corpus.pairs, valid.pairs, False, [*corpus.report, *valid.report, *filter(None, [odd])])
    count = min(HELD_OUT, max(1, len(corpus) // 10))
    train, valid_pairs = data.hold_out(corpus.pairs, count, settings.seed)
    besides = len(corpus) - len(train) - len(valid_pairs)
    others = f" ({besides:,} more of the same sources left out)" if besides else ""
    return Texts(train, valid_pairs, True, [
        *corpus.report, f"Held out {len(valid_pairs):,} of {len(corpus):,} pairs for validation{others}; none of their "
                        f"source sentences stays in training."])


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
    longest = _longest(settings)
    train, said = data.encode(texts.train, source, target, longest)
    valid, also = data.encode(texts.valid, source, target, longest)
    chosen = sorted(data.shuffled(len(texts.valid), settings.seed)[:settings.train.validate_sentences].tolist())
    digest = hashlib.sha256()
    for a, b in train:
        digest.update(np.array([len(a), *a, *b], "<i4").tobytes())
    return Material(source, target, train, valid, [texts.valid[i] for i in chosen], data.lengths(train),
                    digest.hexdigest(), [*texts.report, *said, *(f"Validation: {line}" for line in also)])


def piece_length(texts: Texts, material: Material) -> int:
    """The source tokens above which a line should be cut where its sentences end: 0 where a line of the training text
    is one sentence (in 99 of 100), else what all but one in a thousand have at most."""
    some = texts.train[::max(1, len(texts.train) // 10_000)]
    if sum(1 for source, _ in some if sentences.ends(source)) < 0.01 * len(some):
        return 0
    return int(np.quantile([len(source) for source, _ in material.train], 0.999, method="higher"))


def _longest(settings: Settings) -> int:
    """Tokens of the longest sentence that is learnt from; <bos> or <eos> joins them in a batch."""
    return min(settings.tokens.max_length, settings.train.batch_tokens - 1)


def _sampled(tokenizer: Tokenizer, texts: list[str], dropout: float, *key: int) -> list[Ids]:
    """The ids of texts with some merges left out: a function of the arguments."""
    if not isinstance(tokenizer, SubwordTokenizer):
        raise UserError(f"tokens.dropout = {dropout} leaves out merges of subwords, but the run's tokenizer is of kind "
                        f"{tokenizer.kind}. Train a new run with --tokens.dropout 0.")
    return tokenizer.sample(texts, dropout, int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
