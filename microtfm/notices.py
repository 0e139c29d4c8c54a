"""What there is to say about lines that were translated, in one call or in many."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from microtfm import foreign
from microtfm.foreign import Sides

NAMED = 5                                # lines


class Notices:
    """Which lines were translated in pieces, and whether they are in the language that the model learnt from."""

    def __init__(self, why_cut: str, learnt: Callable[[], Sides | None], counted: str = "lines") -> None:
        """why_cut: what a line has that is translated in pieces. learnt: some of the text that the model learnt from,
        if it is known. counted: what the lines are to who gave them."""
        self._why, self._learnt, self._counted = why_cut, learnt, counted
        self._count = 0
        self._cut: list[int] = []
        self._some: Sequence[str] = ()

    def add(self, lines: Sequence[str], cut: Sequence[Sequence[Any]]) -> None:
        """Take up more lines, and the pieces of each."""
        self._cut += [self._count + i for i, parts in enumerate(cut, 1) if len(parts) > 1]
        self._count += len(lines)
        self._some = foreign.spread([*self._some, *foreign.spread(lines)])

    def texts(self) -> list[str]:
        """The notices so far."""
        odd = foreign.note(self._some, self._learnt())
        return [*self._pieces(), *([odd] if odd is not None else [])]

    def _pieces(self) -> list[str]:
        if not self._cut:
            return []
        named = ", ".join(map(str, self._cut[:NAMED])) + (", …" if len(self._cut) > NAMED else "")
        numbers = f"number{'s' * (len(self._cut) > 1)} {named}"
        return [f"{len(self._cut):,} of {self._count:,} {self._counted} ({numbers}) had {self._why}: each was "
                f"translated in pieces, cut at the ends of sentences where there are any."]
