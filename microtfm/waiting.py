"""A line at a translator's door: many clients ask, one thread translates what waits, all of it together."""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from microtfm.decode import Ids
from microtfm.translator import Translator

PORTION = 2048                           # source tokens times hypotheses, translated between two looks at who waits
SHORT = 32                               # source tokens of a piece that goes with any other


class Busy(Exception):
    """Too much text waits already."""


class _Unwanted(Exception):
    """Nobody waits any more for what is being translated."""


@dataclass(eq=False)
class _Request:
    """Pieces of one client's text. width: translations of each. call: what makes the answer instead, with width 0."""

    pieces: list[Ids]
    width: int
    call: Callable[[], object] | None = None
    answer: Future[Any] = field(default_factory=Future)
    done: list[list[str]] = field(default_factory=list)

    def left(self) -> int:
        """Source tokens that wait."""
        return sum(map(len, islice(self.pieces, len(self.done), None)))

    def keep(self, result: object) -> None:
        """Answer with this, or with the exception that it is, whoever still waits."""
        if self.answer.done() or not self.answer.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Line:
    """Requests and the thread that answers them, a portion of text at a time; in each, all get their turn.

    A promise that is cancelled is not worked on any longer, not even to the end of its portion.
    """

    def __init__(self, translator: Translator, most: int) -> None:
        """`most`: source tokens that may wait. The translator belongs to the line from now on."""
        self._translator, self._most = translator, most
        self._waiting: list[_Request] = []               # who was served longest ago first
        self._served: set[_Request] = set()              # in the portion under way
        self._changed = threading.Condition()
        self._closed = False
        translator.on_token = self._look
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
        self._thread.start()

    def add(self, pieces: list[Ids], width: int) -> Future[list[list[str]]]:
        """A promise of `Translator.translate_pieces(pieces, width)`. Raises Busy, but never where nobody waits."""
        request = _Request(pieces, width)
        if pieces:
            self._add(request)
        else:
            request.keep([])
        return request.answer

    def call(self, work: Callable[[], object], piece: Ids) -> Future[Any]:
        """A promise of what `work` returns, which may use the translator, for this piece. Raises Busy."""
        request = _Request([piece], 0, work)
        self._add(request)
        return request.answer

    def close(self) -> None:
        """Answer nobody any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _add(self, request: _Request) -> None:
        with self._changed:
            others = sum(each.left() for each in self._waiting if not each.answer.done())
            if others and others + request.left() > self._most:
                raise Busy
            self._waiting.append(request)
            self._changed.notify()

    def _look(self) -> None:
        """Before each token: whether anybody still wants it."""
        if self._closed or all(each.answer.done() for each in self._served):
            raise _Unwanted

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._waiting = [each for each in self._waiting if not each.answer.done()]
                chosen = [each for each in self._waiting if each.width == self._waiting[0].width]
            if chosen:
                self._serve(chosen)

    def _serve(self, chosen: list[_Request]) -> None:
        """Do the next portion of requests of one width; who had a part in it goes to the end of the line."""
        width = chosen[0].width
        portion = _portion(chosen if width else chosen[:1], PORTION // max(self._translator.beam, width))
        self._served = {each for each, _ in portion}
        try:
            self._answer(portion, width)
        except _Unwanted:
            pass
        except Exception as error:       # is raised where the answer is awaited
            for each in self._served:
                each.keep(error)
        leader = portion[0][0]           # it said how long the pieces of all are: next, another one does
        with self._changed:
            self._waiting.sort(key=lambda each: (each in self._served) + (each is leader))

    def _answer(self, portion: list[tuple[_Request, Ids]], width: int) -> None:
        first = portion[0][0]
        if first.call is not None:
            first.keep(first.call())
            return
        found = self._translator.translate_pieces([piece for _, piece in portion], width)
        for (each, _), texts in zip(portion, found, strict=True):
            each.done.append(texts)
        for each in self._served:
            if len(each.done) == len(each.pieces):
                each.keep(each.done)


def _portion(chosen: Iterable[_Request], room: int) -> list[tuple[_Request, Ids]]:
    """Their next pieces, one of each in turn, as long as there is room for their tokens; at least one.

    The longest says how long all take: so none is much longer than the first, whose request has waited longest.
    """
    found: list[tuple[_Request, Ids]] = []
    turns = deque((each, islice(each.pieces, len(each.done), None)) for each in chosen)
    while turns:
        each, rest = turns.popleft()
        for piece in islice(rest, 1):
            if found and len(piece) > max(SHORT, 2 * len(found[0][1])):
                continue
            room -= len(piece)
            if found and room < 0:
                return found
            found.append((each, piece))
            turns.append((each, rest))
    return found
