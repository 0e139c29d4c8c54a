"""`microtfm translate`: sentences from the line, a file or standard input; one line out for each line in."""
from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from microtfm.data import split_lines
from microtfm.errors import UserError
from microtfm.files import read_bytes
from microtfm.place import note
from microtfm.translator import Translator

AT_ONCE = 512                            # lines of standard input translated together, at most
BESIDE = 4                               # tokens shown in place of each token


@dataclass(frozen=True)
class Wish:
    """What is wanted of each line. beam, length_penalty: None is the run's own. first: notes before all else."""

    beam: int | None = None
    length_penalty: float | None = None
    nbest: int = 1
    alternatives: bool = False
    json: bool = False
    quiet: bool = False
    first: tuple[str, ...] = ()


def translate(run: Path, sentences: list[str], file: Path | None, wish: Wish) -> int:
    """Translate what was given. Returns the exit code."""
    if any("\ud800" <= char <= "\udfff" for sentence in sentences for char in sentence):
        raise UserError("A sentence on the command line is not valid UTF-8. Put it into a UTF-8 file and use --file.")
    lines = sentences or (split_lines(read_bytes(file), str(file)) if file is not None else None)
    if lines is None and sys.stdin is None:
        raise UserError("There is no standard input to read. Give sentences, or --file.")
    if lines is None and sys.stdin.isatty() and not wish.json:
        from microtfm import prompt

        return prompt.run(run, wish)
    translator = Translator.load(run)
    for text in wish.first:
        note(text)
    answers: list[dict[str, Any]] = []
    noticed, done = translator.noticed([], []), 0
    for part in [lines] if lines is not None else incoming(sys.stdin.buffer):
        found = answer(translator, part, wish)
        noticed.add(part, translator.cut(part))
        if wish.json:
            answers += found
        elif found:
            print("\n".join(as_text(found, done)), flush=True)
        done += len(part)
    notices = noticed.texts()
    if wish.json:
        print(json.dumps({"translations": answers, "notices": notices}, ensure_ascii=False, indent=2))
    elif not wish.quiet:
        for notice in notices:
            print(f"note: {notice}", file=sys.stderr)
    return 0


def answer(translator: Translator, lines: Sequence[str], wish: Wish) -> list[dict[str, Any]]:
    """What is wanted of each line, as plain values."""
    found: list[dict[str, Any]] = []
    if wish.nbest > 1:
        for line, several in zip(lines, translator.candidates(lines, wish.nbest, wish.beam, wish.length_penalty),
                                 strict=True):
            found.append({"source": line, "translation": several[0].text,
                          "nbest": [{"text": each.text, "score": each.score} for each in several]})
    else:
        translations = translator.translate(lines, wish.beam, wish.length_penalty)
        found = [{"source": a, "translation": b} for a, b in zip(lines, translations, strict=True)]
    if wish.alternatives:
        for each in found:
            choices = translator.alternatives(each["source"], BESIDE, wish.beam, wish.length_penalty)
            each["tokens"] = [{"token": choice.token, "probability": choice.probability,
                               "alternatives": [{"token": token, "probability": p} for token, p in choice.others]}
                              for choice in choices]
    return found


def as_text(found: list[dict[str, Any]], before: int | None = None) -> list[str]:
    """The same for a person: a line each, or several where several translations or alternatives are wanted.

    before: how many lines came before these. Of several translations, each has the number of its line and its score.
    """
    lines = []
    for row, each in enumerate(found, 1):
        number = "" if before is None else f"{before + row:5} "
        best = each.get("nbest")
        lines += [f"{number}{one['score']:8.3f}  {one['text']}" for one in best] if best else [each["translation"]]
        for token in each.get("tokens", []):
            others = "  ".join(f"{other['token']} {other['probability']:.2f}" for other in token["alternatives"])
            lines.append(f"    {token['probability']:.2f}  {token['token']:<16}  or  {others}")
    return lines


def incoming(stream: BinaryIO) -> Iterator[list[str]]:
    """Lines as they come in: each time all that wait, so that a line is answered at once and a file in large batches.

    Raises UserError with the line's number for what is not UTF-8, after the lines before it.
    """
    waiting: queue.Queue[bytes] = queue.Queue(4 * AT_ONCE)
    threading.Thread(target=_read, args=(stream, waiting), daemon=True).start()
    number, more = 0, True
    while more:
        rows = [waiting.get()]
        while rows[-1] and len(rows) < AT_ONCE and not waiting.empty():
            rows.append(waiting.get())
        more = bool(rows[-1])
        lines, trouble = _decoded([row for row in rows if row], number)
        number += len(lines)
        if lines:
            yield lines
        if trouble is not None:
            raise trouble


def _read(stream: BinaryIO, waiting: queue.Queue[bytes]) -> None:
    """Hand over each line as it comes; b"" at the end."""
    rest = b""
    for chunk in _chunks(stream):
        *rows, rest = (rest + chunk).split(b"\n")
        for row in rows:
            waiting.put(row + b"\n")
    if rest:
        waiting.put(rest)
    waiting.put(b"")


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """What has come in, as soon as it is there. Past the stream's own lock, which a thread that waits for more would
    hold when the program ends."""
    try:
        file = stream.fileno()
    except OSError:                      # not a file of the system
        yield stream.read()
        return
    while chunk := os.read(file, 1 << 16):
        yield chunk


def _decoded(rows: list[bytes], before: int) -> tuple[list[str], UserError | None]:
    """The lines up to the first that is not UTF-8, and what is wrong with it. `before`: how many came before."""
    lines: list[str] = []
    for row in rows:
        try:
            number = before + len(lines) + 1
            where = "Standard input" if number == 1 else f"Standard input, line {number}"
            lines += split_lines(row, where) if number == 1 else [_line(row, where)]
        except UserError as error:
            return lines, error
    return lines, None


def _line(row: bytes, where: str) -> str:
    text = row.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte 0x{text[error.start]:02X} at position {error.start + 1} is not valid UTF-8 "
                        f"({error.reason}). Convert the text to UTF-8.") from None
