"""`microtfm translate`: sentences from the line, a file, standard input or a prompt; one line out for each line in."""
from __future__ import annotations

import sys
from pathlib import Path

from microtfm.data import split_lines
from microtfm.errors import UserError
from microtfm.files import read_bytes
from microtfm.translator import Translator


def translate(run: Path, sentences: list[str], file: Path | None, beam: int, length_penalty: float) -> int:
    """Translate what was given, one line out for each line in. Returns the exit code."""
    if any("\ud800" <= char <= "\udfff" for sentence in sentences for char in sentence):
        raise UserError("A sentence on the command line is not valid UTF-8. Put it into a UTF-8 file and use --file.")
    lines = sentences or (split_lines(read_bytes(file), str(file)) if file is not None else None)
    translator = Translator.load(run)
    if lines is None and sys.stdin.isatty():
        return _prompt(translator, beam, length_penalty)
    if lines is None:
        lines = split_lines(sys.stdin.buffer.read(), "Standard input")
    for text in translator.translate(lines, beam, length_penalty):
        print(text)
    for notice in translator.notices:
        print(f"note: {notice}", file=sys.stderr)
    return 0


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
