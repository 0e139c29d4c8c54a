"""Text to ids and back: words, characters, or subwords (sentencepiece).

Every tokenizer has `encode`, `decode`, `pieces` and a length; ids 0 to 3 are <pad>, <unk>, <bos>, <eos>. `encode`
adds none of them, and no text, not even a literal "<pad>", ever encodes to <pad>, <bos> or <eos>.

All text is normalised first: Unicode NFC, each run of white space one space, none at the ends; text of which nothing
can be seen is empty. Within what a
tokenizer knows, `decode(encode(text)) == normalise(text)`; subwords know every text, because they fall back to bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from microtfm import atomic
from microtfm.bpe import Merges
from microtfm.errors import UserError
from microtfm.files import read_bytes

PAD, UNK, BOS, EOS = range(4)
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
KINDS = ("word", "char", "subword")
BYTES = 256                      # the subword tokenizer's fallback pieces
COVERAGE = 0.9995                # share of the corpus's characters that get pieces of their own
UNSPEAKABLE, SURROGATES = re.compile("[\x00▁\ud800-\udfff]"), re.compile("[\ud800-\udfff]")
# Anything but spaces and Default_Ignorable_Code_Point (UAX #44): zero-width spaces and joiners, variation selectors, …
VISIBLE = re.compile("[^ \xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
                     "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
                     "\U000e0000-\U000e0fff]")


class Tokenizer(Protocol):
    """What every kind of tokenizer offers."""

    kind: ClassVar[str]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without <bos> and <eos>."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; <pad>, <bos> and <eos> say nothing."""

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One readable label an id, for tables and pictures."""

    def to_bytes(self) -> bytes:
        """The tokenizer as one JSON file, read back by `from_bytes`."""

    def __len__(self) -> int:
        """The number of ids, specials included."""


def normalise(text: str) -> str:
    """Unicode NFC, runs of white space (also U+3000, U+2028 and their kin) to one space, none at the ends.

    Lone surrogates, NUL and ▁ (sentencepiece's own sign for a space) count as white space. Characters that are not seen
    (zero-width spaces, joiners, variation selectors: Default_Ignorable_Code_Point of UAX #44) stay beside others, but
    alone they are no text: "".
    """
    if text.isascii() and "\0" not in text:
        return " ".join(text.split())    # the same, sooner
    plain = " ".join(UNSPEAKABLE.sub(" ", unicodedata.normalize("NFC", text)).split())
    return plain if VISIBLE.search(plain) else ""


def speakable(text: str) -> str:
    """The text with spaces for lone surrogates, which count as white space and cannot be printed."""
    return SURROGATES.sub(" ", text)


class _Vocabulary:
    """Pieces and their ids: what the word and the character tokenizer share."""

    kind: ClassVar[str]
    reserved: ClassVar[tuple[str, ...]] = SPECIALS

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._pieces = (*self.reserved, *vocabulary)
        self._ids = {piece: len(self.reserved) + i for i, piece in enumerate(vocabulary)}
        if len(self._ids) != len(vocabulary):
            raise UserError("The vocabulary holds the same piece twice.")

    def __len__(self) -> int:
        return len(self._pieces)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One readable label an id."""
        return [self._pieces[i] for i in ids]

    def to_bytes(self) -> bytes:
        """The tokenizer as JSON."""
        return _pack(self.kind, {"pieces": list(self._pieces[len(self.reserved):])})


class CharTokenizer(_Vocabulary):
    """One id a character (Unicode code point after NFC), spaces included."""

    kind: ClassVar[str] = "char"

    @staticmethod
    def split(text: str) -> list[str]:
        """The characters of a text."""
        return list(normalise(text))

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a character never seen is <unk>."""
        return [self._ids.get(char, UNK) for char in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(self._pieces[i] for i in ids if i not in (PAD, BOS, EOS))


# Letters whose words are not set apart by spaces: Chinese, Japanese kana, full-width signs.
WIDE = ("\u2e80-\u2fdf\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
        "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff")
WORD = re.compile(rf"[{WIDE}]|(?<=\w)['’](?=[^\W{WIDE}])[^\W{WIDE}]+|\d+(?:[.,]\d+)+|(?:(?![{WIDE}])\w)[^\W{WIDE}]*|\S")
IS_WIDE = re.compile(f"[{WIDE}]")
JOINED_LEFT = re.compile(r"[.,!?;:%)\]}…»”’]|['’]\w+")      # no space before these
JOINED_RIGHT = re.compile(r"[(\[{¿¡«“‘#$£€]")                # and none after these
JOINED = re.compile(r"[-–/@_~]")                             # nor around these


class WordTokenizer(_Vocabulary):
    """One id a word or mark; Chinese by the character.

    Spaces are not stored: `spaces` guesses them from the neighbours, and where the text differs from the guess, a
    mark says so (<join>: no space here, <space>: a space here). So decoding gives back the very text.
    """

    kind: ClassVar[str] = "word"
    reserved: ClassVar[tuple[str, ...]] = (*SPECIALS, "<join>", "<space>")

    @classmethod
    def split(cls, text: str) -> list[str]:
        """The words and marks of a text."""
        return [match.group() for match in WORD.finditer(normalise(text))]

    @staticmethod
    def spaces(words: Sequence[str]) -> list[bool]:
        """For each word, whether a space is expected before it."""
        expected, previous, open_quote, closes = [], "", False, False
        for word in words:
            opens = word == '"' and not open_quote
            joined = (
                not previous
                or bool(IS_WIDE.match(word) or IS_WIDE.match(previous))
                or bool(JOINED_LEFT.fullmatch(word) or JOINED_RIGHT.fullmatch(previous))
                or bool(JOINED.fullmatch(word) or JOINED.fullmatch(previous))
                or (previous == '"' and not closes)
                or (word == '"' and not opens)
            )
            expected.append(not joined)
            if word == '"':
                open_quote, closes = opens, not opens
            previous = word
        return expected

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a word never seen is <unk>."""
        text = normalise(text)
        matches = list(WORD.finditer(text))
        ids: list[int] = []
        for match, expected in zip(matches, self.spaces([m.group() for m in matches]), strict=True):
            actual = text[match.start() - 1:match.start()] == " "
            if actual != expected:
                ids.append(SPACE if actual else JOIN)
            ids.append(self._ids.get(match.group(), UNK))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, spaced as written text is."""
        words: list[str] = []
        forced: list[bool | None] = []
        mark: bool | None = None
        for i in ids:
            if i in (JOIN, SPACE):
                mark = i == SPACE
            elif i not in (PAD, BOS, EOS):
                words.append(self._pieces[i])
                forced.append(mark)
                mark = None
        spaced = zip(words, forced, self.spaces(words), strict=True)
        return "".join((" " if (rule if mark is None else mark) else "") + word for word, mark, rule in spaced).strip()


JOIN, SPACE = range(len(SPECIALS), len(SPECIALS) + 2)


class SubwordTokenizer:
    """Pieces of words learnt by sentencepiece, and single bytes for what they cannot spell."""

    kind: ClassVar[str] = "subword"

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        if not model:
            raise UserError("Its subword model is empty.")
        sentencepiece.set_min_log_level(2)
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = self.pieces(range(len(self)))
        except (RuntimeError, ValueError) as error:
            raise UserError("Its subword model is not a sentencepiece model.") from error
        if tuple(pieces[:4]) != SPECIALS:
            raise UserError("Its subword model was not made by this program: its first pieces must be <pad> to <eos>.")
        if len(set(pieces)) < len(pieces) or sum(map(self._processor.is_byte, range(len(self)))) != BYTES:
            raise UserError(f"Its subword model was not made by this program: it must have each piece once, and one "
                            f"for each of the {BYTES} bytes.")

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """The ids of a text; what no piece spells is spelt in bytes."""
        return list(self._processor.encode(normalise(text)))

    def sample(self, texts: Sequence[str], dropout: float, seed: int) -> list[list[int]]:
        """The ids of texts, of whose merges each is left out with probability `dropout` (Provilkov et al. 2020).

        A function of the arguments. seed: 0 to 2⁶⁴ - 1.
        """
        return self._merges.sample(map(normalise, texts), dropout, seed)

    @cached_property
    def _merges(self) -> Merges:
        own, ids = self._processor, range(len(self))
        spelt = {own.id_to_piece(i): i for i in ids if own.is_byte(i)}
        pieces = {own.id_to_piece(i): i for i in ids if not (own.is_byte(i) or own.is_control(i) or own.is_unknown(i))}
        return Merges(pieces, [own.get_score(i) for i in ids], [spelt[f"<0x{byte:02X}>"] for byte in range(BYTES)])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that make no character become U+FFFD."""
        return str(self._processor.decode([int(i) for i in ids if i not in (PAD, BOS, EOS)]))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One label an id: ▁ is a space before the piece, <0xE7> a byte."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def to_bytes(self) -> bytes:
        """The tokenizer as JSON, the sentencepiece model in base64."""
        return _pack(self.kind, {"model": base64.b64encode(self._model).decode("ascii")})


def train(kind: str, lines: Iterable[str], size: int = 8000) -> tuple[Tokenizer, list[str]]:
    """Learn a tokenizer of at most `size` ids from lines of text; also returns notices for the person, if any.

    One call with both languages' lines makes a joint tokenizer, two calls make separate ones. The same lines in the
    same order give the same tokenizer. Raises UserError for an unknown kind, a size too small, or no text.
    """
    if kind not in KINDS:
        raise UserError(f"There is no tokenizer kind {kind!r}. Choose one of: {', '.join(KINDS)}.")
    smallest = BYTES + len(SPECIALS) + 8 if kind == "subword" else 8
    if size < smallest:
        raise UserError(f"A {kind} tokenizer of {size} pieces is too small: tokens.size must be at least {smallest}.")
    text = [line for line in map(normalise, lines) if line]
    if not text:
        raise UserError("There is no text to learn a tokenizer from: every line is empty.")
    if kind == "subword":
        return _train_subword(text, size)
    maker: type[CharTokenizer] | type[WordTokenizer] = CharTokenizer if kind == "char" else WordTokenizer
    counts = Counter(piece for line in text for piece in maker.split(line))
    ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
    kept = ranked[:size - len(maker.reserved)]
    notices = []
    if len(kept) < len(ranked):
        lost = sum(counts[piece] for piece in ranked[len(kept):]) / counts.total()
        unit = "characters" if kind == "char" else "words"
        notices.append(f"The vocabulary keeps the {len(kept):,} most frequent of {len(ranked):,} {unit}; "
                       f"the others, {lost:.1%} of the running text, become <unk>.")
    return maker(kept), notices


def _train_subword(text: list[str], size: int) -> tuple[Tokenizer, list[str]]:
    import sentencepiece

    kept, covered = _own_pieces(text, room=3 * (size - BYTES - len(SPECIALS)) // 4)
    notices = []
    if covered < COVERAGE:
        notices.append(f"The text has too many different characters for {size:,} subwords: {1 - covered:.1%} of it is "
                       "spelt in bytes. A larger tokens.size would help.")
    rare = {ord(char): " " for char in set().union(*text) - kept}
    model = io.BytesIO()
    sentencepiece.set_min_log_level(2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.translate(rare) for line in text), model_writer=model,
            vocab_size=size, model_type="bpe", required_chars="▁",
            character_coverage=1.0, byte_fallback=True, hard_vocab_limit=False,
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
            pad_piece=SPECIALS[PAD], unk_piece=SPECIALS[UNK], bos_piece=SPECIALS[BOS], eos_piece=SPECIALS[EOS],
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            max_sentence_length=1 << 24, num_threads=2, minloglevel=2,
        )
    except RuntimeError as error:
        if "KeyboardInterrupt" in str(error):            # raised while it asked for the next line
            raise KeyboardInterrupt from None
        raise UserError(f"sentencepiece could not learn subwords from this text: {error}") from error
    tokenizer = SubwordTokenizer(model.getvalue())
    if len(tokenizer) < size:
        notices.append(f"The text is too small for {size:,} subwords: the vocabulary has {len(tokenizer):,}.")
    return tokenizer, notices


def _own_pieces(text: list[str], room: int) -> tuple[set[str], float]:
    """The characters that get pieces of their own, the most frequent ones, and the share of the text they make up."""
    counts = Counter(char for line in text for char in line)
    kept: set[str] = set()
    covered, total = 0, counts.total()
    for char in sorted(counts, key=lambda char: (-counts[char], char))[:room]:
        if covered >= COVERAGE * total:
            break
        kept.add(char)
        covered += counts[char]
    return kept, covered / total


# ---- files

FIRST, FORMAT = "microtfm tokenizer 1", "microtfm tokenizer 2"     # in the first, the digest was of the content alone
LONGEST_FILE = 100_000_000               # bytes


def _digest(form: str, kind: Any, content: Any) -> str:
    signed = content if form == FIRST else {"kind": kind, "content": content}
    return hashlib.sha256(json.dumps(signed, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _pack(kind: str, content: dict[str, Any], form: str = FORMAT) -> bytes:
    record = {"format": form, "kind": kind, "sha256": _digest(form, kind, content), "content": content}
    return (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()


def fingerprint(source: Tokenizer, target: Tokenizer) -> str:
    """What a model's vocabularies are known by: the same for the same pieces, whatever the format of their file."""
    digest = hashlib.sha256()
    for tokenizer in (source, target):
        record = json.loads(tokenizer.to_bytes())
        digest.update(_pack(record["kind"], record["content"], FIRST))
    return digest.hexdigest()


def from_bytes(data: bytes, where: str = "The tokenizer") -> Tokenizer:
    """The tokenizer that `to_bytes` wrote. Raises UserError, beginning with `where`, for anything else."""
    try:
        record = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged or no tokenizer file: it is not JSON ({error}).") from error
    if not isinstance(record, dict) or record.get("format") not in (FIRST, FORMAT):
        raise UserError(f"{where} is not a tokenizer of this program: it lacks \"format\": \"{FORMAT}\".")
    kind, content = record.get("kind"), record.get("content")
    try:
        if isinstance(content, dict) and record.get("sha256") == _digest(record["format"], kind, content):
            return _unpack(kind, content)
    except (UserError, KeyError, TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise UserError(f"{where} is damaged. {error}") from error
    raise UserError(f"{where} has been changed or damaged: its content does not match its sha256. Restore it, or train "
                    "again.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _unpack(kind: Any, content: dict[str, Any]) -> Tokenizer:
    if kind not in KINDS:
        raise UserError(f"It holds the unknown tokenizer kind {kind!r}; known are {', '.join(KINDS)}.")
    if kind == "subword":
        return SubwordTokenizer(base64.b64decode(content["model"], validate=True))
    pieces = content["pieces"]
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise UserError("Its pieces are not a list of strings.")
    return WordTokenizer(pieces) if kind == "word" else CharTokenizer(pieces)


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
    """Write the tokenizer to a file, whole or not at all."""
    atomic.write(Path(path), [tokenizer.to_bytes()])


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a tokenizer file. Raises UserError if it is missing, damaged or foreign."""
    return from_bytes(read_bytes(path, LONGEST_FILE), str(path))
