"""`microtfm translate`: sentences from the line, a file, standard input or a prompt; one line out for each line in."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from microtfm.data import read_lines
from microtfm.errors import UserError
from microtfm.translator import Translator


def translate(run: Path, sentences: list[str], file: Path | None, beam: int, length_penalty: float) -> int:
    """Translate what was given, one line out for each line in. Returns the exit code."""
    if any("\ud800" <= char <= "\udfff" for sentence in sentences for char in sentence):
        raise UserError("A sentence on the command line is not valid UTF-8. Put it into a UTF-8 file and use --file.")
    lines = sentences or (read_lines(file) if file is not None else None)
    translator = Translator.load(run)
    if lines is None and sys.stdin.isatty():
        return _prompt(translator, beam, length_penalty)
    for text in translator.translate(lines if lines is not None else list(_standard_input()), beam, length_penalty):
        print(text)
    for notice in translator.notices:
        print(f"note: {notice}", file=sys.stderr)
    return 0


def _standard_input() -> Iterator[str]:
    """The lines of standard input, split at the line feed only."""
    rows = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not rows[-1]:
        rows.pop()
    for number, row in enumerate(rows, 1):
        try:
            yield row.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UserError(f"Standard input, line {number}: byte 0x{row[error.start]:02X} is not valid UTF-8. Convert "
                            f"the text to UTF-8.") from None


def _prompt(translator: Translator, beam: int, length_penalty: float) -> int:
    print("Type a sentence and press Enter; an empty line or Ctrl-D ends.")
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if not line.strip():
            return 0
        print(translator.translate([line.encode(errors="replace").decode()], beam, length_penalty)[0])
        for notice in translator.notices:
            print(f"note: {notice}", file=sys.stderr)
