"""metrics.jsonl: what happened, one JSON object a line, each flushed as it is written."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from microtfm import atomic
from microtfm.errors import UserError

NUMBERS = ("step", "seconds", "loss", "lr", "grad_norm", "tokens_per_s", "valid_loss", "bleu", "chrf", "exact_match")
SMOOTHED = 10                            # lines that a training loss is the mean of


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of the file; a last line that was cut off is left out. No file: no lines."""
    try:
        rows = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            line = json.loads(row) if row.strip() else None
        except (ValueError, RecursionError):
            if number >= len(rows) - 1:
                break
            raise UserError(f"{path}, line {number}: not a JSON object. Delete the line, or the file.") from None
        if isinstance(line, dict):
            wrong = [name for name in NUMBERS if name in line and type(line[name]) not in (int, float)]
            if wrong:
                raise UserError(f"{path}, line {number}: {wrong[0]} is not a number. Delete the line, or the file.")
            lines.append(line)
    return lines


def keep_until(path: Path, step: int, validated: int) -> list[dict[str, Any]]:
    """Drop lines past a checkpoint: later steps, and a validation that it does not know. Returns the other lines."""
    lines = [line for line in read(path)
             if line.get("step", 0) <= step and not ("valid_loss" in line and line.get("step", 0) > validated)]
    atomic.write(path, [_row(line).encode() for line in lines])
    return lines


def training_loss(lines: Sequence[dict[str, Any]], step: int) -> float | None:
    """The training loss at a step, a mean over the last lines that have one."""
    last = [line["loss"] for line in lines if "loss" in line and line["step"] <= step][-SMOOTHED:]
    return sum(last) / len(last) if last else None


class Metrics:
    """The file, open for more lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: TextIO = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None

    def write(self, **line: Any) -> dict[str, Any]:
        """Append one line."""
        try:
            self._file.write(_row(line))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path} could not be written: {error.strerror or error}. Make room, then go on "
                            f"with: microtfm resume {self._path.parent}") from None
        return line

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError:                  # what could not be written has been said by `write`
            return


def _row(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
