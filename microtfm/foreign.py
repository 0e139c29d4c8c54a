"""Text in another language than what a run learnt from: swapped files, sentences of the other side; never a guess."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from microtfm import scripts
from microtfm.languages import another, looks
from microtfm.run_folder import RunFolder

CHUNKS, CHUNK = 32, 1 << 13              # places of a file that are looked at, and bytes at each
LINES = 1000                             # of a text that are looked at
FEWEST = 20                              # lines from which a text tells in which scripts it is
T = TypeVar("T")


@dataclass(frozen=True)
class Sides:
    """Some lines of either side of a parallel text."""

    source: list[str]
    target: list[str]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Sides:
        """Evenly spread over some pairs."""
        some = spread(pairs)
        return cls([a for a, _ in some], [b for _, b in some])

    @cached_property
    def scripts(self) -> frozenset[str]:
        """The scripts of the source side; none where too little is known of it."""
        return scripts.own(self.source) if len(self.source) >= FEWEST else frozenset()


def learnt(run: RunFolder) -> Sides | None:
    """Lines of a run's training text, from all over it; where it has gone, of what was held out of it. None without
    either, and where it is not all that the model learnt."""
    settings = run.settings
    if settings.init is not None or settings.src is None:
        return None
    source, target = (settings.src, settings.tgt) if settings.src.is_file() else (run.held_out, None)
    try:
        if target is not None:
            return Sides(_lines(source), _lines(target))
        cells = [line.split("\t") for line in _lines(source)]
    except OSError:
        return None
    return Sides.of([(row[0], row[1]) for row in cells if len(row) == 2])


def differences(known: Sides, given: Sides, where: str) -> str | None:
    """How the languages of given text differ from those of training text, in words; None where they surely do not.

    where: what the given text is called.
    """
    sides = ((f"sources of {where}", known.source, given.source), (f"targets of {where}", known.target, given.target))
    odd = [f"the {name} look like {looks(new)}, those of the training text like {looks(old)}"
           for name, old, new in sides if len(old) >= FEWEST and another(new, old)]
    if not odd:
        return None
    said = "; ".join(odd)
    swapped = not (another(given.source, known.target) or another(given.target, known.source))
    return f"{said[0].upper()}{said[1:]}: " + (
        "the two sides seem to be swapped." if swapped else "other files seem to be meant, or other columns.")


def note(lines: Sequence[str], known: Sides | None) -> str | None:
    """What to say where most of the lines to be translated are surely in a script that the run's sources don't have."""
    if known is None or not known.scripts:
        return None
    some = [line for line in spread(lines) if scripts.counts(line)]
    odd = scripts.surely_foreign(some, known.scripts)
    if 2 * len(odd) <= len(some):
        return None
    script = sum(map(scripts.counts, odd), Counter[str]()).most_common(1)[0][0]
    letters = "Chinese characters" if script == "Han" else f"{script} letters"
    source, target = looks(known.source), looks(known.target)
    return (f"This is in {letters}, and the run learnt to translate from {source} into {target}: what it answers "
            f"means nothing. Give it {source}, or use a run that learnt from the language of this text.")


def spread(items: Sequence[T]) -> Sequence[T]:
    """At most LINES of some items, evenly spread over them."""
    return items[::max(1, -(-len(items) // LINES))]


def _lines(path: Path) -> list[str]:
    """Whole lines of a file, from places evenly spread over it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= CHUNKS * CHUNK:
            rows = file.read().split(b"\n")
        else:
            rows = []
            for start in range(0, size - CHUNK, size // CHUNKS):
                file.seek(start)
                rows += file.read(CHUNK).split(b"\n")[1:-1]
    return [row.decode("utf-8", errors="ignore").strip() for row in spread(rows)]
