"""Parallel text from files to batches: read, report, hold out, bucket by length, pad.

Files are read as bytes and split at the line feed only, so that U+2028 and its kin inside a line misalign nothing.
The order of the data is a pure function of (seed, epoch): a run can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from microtfm.errors import UserError
from microtfm.files import PathLike, read_bytes
from microtfm.tokens import BOS, EOS, PAD, Tokenizer, normalise

TextPair = tuple[str, str]

SIGNATURES = {
    b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file",
    b"\xfd7zXZ": "an xz file", b"BZh91AY&SY": "a bzip2 file",
}


@dataclass
class Corpus:
    """Pairs of (source, target) sentences, and what there is to say about how they were read."""

    pairs: list[TextPair]
    report: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)               # of each pair's line in its file, from 1

    def __len__(self) -> int:
        return len(self.pairs)


# ---- reading

def read_lines(path: PathLike) -> list[str]:
    """The lines of a UTF-8 file, split at the line feed only, without its byte order mark and carriage returns.

    Raises UserError naming the file and the line for bytes that are not UTF-8 and for NUL.
    """
    data = read_bytes(path)
    if b"\n" not in data and b"\r" in data.rstrip(b"\r"):
        raise UserError(f"{path} ends its lines with a lone carriage return, as old Macintosh files do. "
                        "Convert the line ends to line feeds.")
    lines = split_lines(data, str(path))
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a NUL byte. The file is damaged or not UTF-8 text.")
    return lines


def split_lines(data: bytes, where: str) -> list[str]:
    """Lines of UTF-8 text, split at the line feed only; a byte order mark and carriage returns at line ends go.

    Raises UserError naming `where` and the line for what is not UTF-8.
    """
    for signature, name in SIGNATURES.items():
        if data.startswith(signature):
            raise UserError(f"{where} is {name}, not plain UTF-8 text. Convert it and try again.")
    rows = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not rows[-1]:
        rows.pop()
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(row.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{where}, line {number}: byte 0x{row[error.start]:02X} at position {error.start + 1} "
                            f"is not valid UTF-8 ({error.reason}). Convert the text to UTF-8.") from error
    return lines


def read_parallel(source: PathLike, target: PathLike | None = None, *, purpose: str = "learn from",
                  other: str = "--tgt") -> Corpus:
    """Sentence pairs from two files of equal length, or from one file of `source TAB target` lines.

    Pairs with an empty side are dropped and reported. Raises UserError for unequal files, a line with a wrong number
    of columns, or when no pair is left. For its words: what the pairs are read for, and which setting names the target.
    """
    if target is None:
        pairs, places = columns(source, read_lines(source), other), str(source)
    else:
        left, right = read_lines(source), read_lines(target)
        if len(left) != len(right):
            place = empty_place(source, left, target, right) or (
                f"No empty line gives the place away; the lengths of the lines may: microtfm data check {source} "
                f"{target}")
            raise UserError(f"{unequal(source, left, target, right)} {place}")
        pairs, places = list(zip(left, right, strict=True)), f"{source} and {target}"
    return _checked([(normalise(a), normalise(b)) for a, b in pairs], places, purpose)


def columns(path: PathLike, lines: Sequence[str], other: str = "--tgt") -> list[TextPair]:
    """The two sides of lines of `source TAB target`. UserError for a line with another number of columns, or where no
    line has a tab: then a target file was meant, and `other` says how to give it."""
    if any(map(normalise, lines)) and not any("\t" in line for line in lines):
        raise UserError(f"{path} has no tab in any line, so it is one side of the text only. Give the other side as "
                        f"{other}, or one TSV file alone, whose lines are source, tab, target.")
    pairs = []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if len(cells) != 2 and line.strip():
            raise UserError(f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) != 1)} where two are "
                            "wanted, a source and a target sentence with one tab between them.")
        pairs.append((cells[0], cells[1]) if len(cells) == 2 else ("", ""))
    return pairs


def unequal(source: PathLike, left: Sequence[str], target: PathLike, right: Sequence[str]) -> str:
    """What to say of two files with different numbers of lines, but for the place."""
    return (f"{source} has {_count(len(left), 'line')} and {target} has {len(right):,}. "
            "Line n of one must translate line n of the other.")


def empty_place(source: PathLike, left: Sequence[str], target: PathLike, right: Sequence[str]) -> str:
    """Where two files of different lengths may begin to drift apart by what is empty in one of them; "" if nothing is.
    """
    if not (left and right):
        return f"{target if left else source} is empty: give the file that has the text."
    for number, (a, b) in enumerate(zip(left, right, strict=False), 1):
        if bool(normalise(a)) != bool(normalise(b)):
            empty = target if normalise(a) else source
            return f"They may drift apart at line {number:,}, which is empty in {empty}."
    return ""


def _checked(pairs: list[TextPair], places: str, purpose: str) -> Corpus:
    empty = [number for number, (a, b) in enumerate(pairs, 1) if not (a and b)]
    numbers = [number for number, (a, b) in enumerate(pairs, 1) if a and b]
    kept = [pairs[number - 1] for number in numbers]
    if not kept:
        why = "no line has text on both sides" if pairs else "there is no line"
        raise UserError(f"There is nothing to {purpose} in {places}: {why}.")
    corpus = Corpus(kept, numbers=numbers)
    if empty:
        corpus.report.append(f"Dropped {_count(len(empty), 'pair')} with an empty side in {places}: "
                             f"{_numbers(empty)}.")
    repeated = len(kept) - len(set(kept))
    if repeated:
        corpus.report.append(f"{_count(repeated, 'pair')} of {len(kept):,} in {places} repeat an earlier one; kept.")
    copied = sum(a == b for a, b in kept)
    if copied:
        corpus.report.append(f"{_count(copied, 'pair')} of {len(kept):,} in {places} have the same text on both sides; "
                             "kept.")
    return corpus


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _numbers(lines: Sequence[int], shown: int = 5) -> str:
    more = ", ..." if len(lines) > shown else ""
    return f"line{'' if len(lines) == 1 else 's'} {', '.join(map(str, lines[:shown]))}{more}"


# ---- dividing

def hold_out(pairs: Sequence[TextPair], count: int, seed: int) -> tuple[list[TextPair], list[TextPair]]:
    """Set `count` pairs aside for validation: (training, held out).

    No source sentence stands on both sides: where a held-out source has several translations, one is held out and
    the others leave the training part too. Raises UserError if nothing would be left to train on.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    if count >= len(sources):
        raise UserError(f"Cannot hold out {count:,} sentences: the corpus has only {len(sources):,} different source "
                        "sentences. Give more text, or a validation set of its own.")
    chosen = {sources[i] for i in shuffled(len(sources), seed)[:count]}
    held_out = {source: (source, target) for source, target in reversed(pairs) if source in chosen}
    order = [source for source in sources if source in chosen]
    return [pair for pair in pairs if pair[0] not in chosen], [held_out[source] for source in order]


# ---- batching

Ids = list[int]


def encode(pairs: Sequence[TextPair], source: Tokenizer, target: Tokenizer, longest: int = 200) -> tuple[
    list[tuple[Ids, Ids]], list[str]
]:
    """The ids of all pairs but those with more than `longest` tokens on a side, and a report line if there are any."""
    encoded = [(source.encode(a), target.encode(b)) for a, b in pairs]
    kept = [pair for pair in encoded if max(map(len, pair)) <= longest]
    if len(kept) == len(encoded):
        return kept, []
    over = max(max(map(len, pair)) for pair in encoded)
    report = (f"Left out {_count(len(encoded) - len(kept), 'pair')} of {len(encoded):,} with more than {longest} "
              f"tokens on a side (the longest has {over:,}).")
    if not kept:
        raise UserError(f"No sentence pair is short enough. {report} Raise --tokens.max-length and "
                        f"--train.batch-tokens, of which a sentence may have no more, or split the lines.")
    return kept, [report]


def lengths(encoded: Sequence[tuple[Ids, Ids]]) -> NDArray[np.int64]:
    """Source and target lengths as batches see them, <bos> or <eos> included: (N, 2) int64."""
    return np.array([(len(a) + 1, len(b) + 1) for a, b in encoded], dtype=np.int64).reshape(-1, 2)


def shuffled(n: int, *key: int) -> NDArray[np.int64]:
    """A permutation of range(n) that is a function of the key alone (raw Philox bits, the same in every NumPy)."""
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def rounded(length: int) -> int:
    """The length that a batch is padded to: the next even number up to 16, the next multiple of 4 up to 32, of 8 up to
    64, and so on. So few shapes occur, each of which is recorded once and replayed; padding changes no bit."""
    step = max(2, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def batches(lengths: NDArray[np.int64], batch_tokens: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """One epoch's batches of pair indices, each index exactly once, as a pure function of the arguments.

    `lengths` is (N, 2): source and target tokens of each pair. In every batch rows × longest source and
    rows × longest target, each `rounded`, are at most `batch_tokens`, but for one sentence alone. Pairs of similar
    length go together; which of them, and the order of the batches, changes with seed and epoch. Raises UserError if
    one sentence alone is over the budget.
    """
    if len(lengths) == 0:
        return []
    if lengths.max() > batch_tokens:
        raise UserError(f"A sentence of {int(lengths.max()):,} tokens does not fit into a batch of {batch_tokens:,}: "
                        "raise train.batch-tokens or leave out longer sentences.")
    order = shuffled(len(lengths), seed, epoch)
    room = np.array([rounded(n) for n in range(int(lengths.max()) + 1)])
    longer, shorter = room[lengths[order].max(axis=1)], lengths[order].min(axis=1)
    order = order[np.lexsort((shorter // 2, longer))]         # stable: equals stay shuffled
    found: list[NDArray[np.int64]] = []
    start = 0
    for stop, index in enumerate(order):
        if stop > start and (stop - start + 1) * room[lengths[index].max()] > batch_tokens:
            found.append(order[start:stop])
            start = stop
    found.append(order[start:])
    return [found[i] for i in shuffled(len(found), seed, epoch, 1)]


@dataclass(frozen=True)
class Batch:
    """Padded ids of some pairs, int64; padding is id PAD, behind the row."""

    source: NDArray[np.int64]          # (B, S), each row ends with <eos>
    target_in: NDArray[np.int64]       # (B, T), each row begins with <bos>
    target_out: NDArray[np.int64]      # (B, T), each row ends with <eos>
    tokens: int                        # target tokens that count in the loss, <eos> included
    source_tokens: int


def pad(rows: Sequence[Sequence[int]], pad_id: int = PAD, length: int | None = None) -> NDArray[np.int64]:
    """The rows one below the other, filled with `pad_id` to `length` (default: that of the longest): (B, L) int64."""
    longest = max(map(len, rows), default=0) if length is None else length
    out = np.full((len(rows), longest), pad_id, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    return out


def pad_sources(rows: Sequence[Ids], length: int | None = None) -> NDArray[np.int64]:
    """Source sentences as the encoder wants them, in training and in translation: ids, <eos>, padding: (B, S)."""
    return pad([[*row, EOS] for row in rows], PAD, length)


def batch(encoded: Sequence[tuple[Ids, Ids]], indices: Sequence[int] | NDArray[np.int64]) -> Batch:
    """The pairs at `indices` as one batch, either side padded to a `rounded` length."""
    sources, targets = [encoded[i][0] for i in indices], [encoded[i][1] for i in indices]
    length = rounded(max(map(len, targets)) + 1)
    return Batch(
        source=pad_sources(sources, rounded(max(map(len, sources)) + 1)),
        target_in=pad([[BOS, *row] for row in targets], PAD, length),
        target_out=pad([[*row, EOS] for row in targets], PAD, length),
        tokens=sum(map(len, targets)) + len(targets),
        source_tokens=sum(map(len, sources)) + len(sources),
    )
