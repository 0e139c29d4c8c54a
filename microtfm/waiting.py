"""A line at a translator's door: many clients ask, one thread translates what waits, all of it together."""
from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field

from microtfm.translator import Translator

AT_ONCE = 64                             # lines translated between two looks at who waits


class Busy(Exception):
    """Too many lines wait already."""


class Late(Exception):
    """It took longer than whoever asked would wait."""


@dataclass
class _Request:
    """Lines of one client. width: translations of each. drawn: its attention is wanted, not its translation."""

    lines: list[str]
    width: int
    until: float
    drawn: bool = False
    answer: Future[object] = field(default_factory=Future)
    done: list[list[str]] = field(default_factory=list)


class Line:
    """Requests in the order in which they came, and the thread that answers them."""

    def __init__(self, translator: Translator, most: int) -> None:
        """`most`: lines that may wait."""
        self._translator, self._most = translator, most
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
        self._thread.start()

    def add(self, lines: list[str], width: int, seconds: float) -> Future[object]:
        """A promise of at most `width` translations of each line, the best first. Raises Busy; breaks with Late."""
        return self._add(_Request(lines, width, time.monotonic() + seconds))

    def draw(self, line: str, seconds: float) -> Future[object]:
        """A promise of a picture of a line's attention."""
        return self._add(_Request([line], 1, time.monotonic() + seconds, drawn=True))

    def close(self) -> None:
        """Answer nobody any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _add(self, request: _Request) -> Future[object]:
        request.answer.set_running_or_notify_cancel()    # from now on nobody but the thread decides on it
        with self._changed:
            if sum(len(each.lines) - len(each.done) for each in self._waiting) + len(request.lines) > self._most:
                raise Busy
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                first = self._waiting[0]
                chosen = [each for each in self._waiting if (each.width, each.drawn) == (first.width, first.drawn)]
            self._serve(chosen)
            with self._changed:
                self._waiting = deque(each for each in self._waiting if not each.answer.done())

    def _serve(self, chosen: list[_Request]) -> None:
        """Translate the next lines of these requests, fairly: as many of each, as long as there is room."""
        for each in chosen:
            if time.monotonic() > each.until:
                each.answer.set_exception(Late())
        chosen = [each for each in chosen if not each.answer.done()][:AT_ONCE]
        if not chosen:
            return
        share = max(1, AT_ONCE // len(chosen))
        try:
            if chosen[0].drawn:
                for each in chosen:
                    each.answer.set_result(self._picture(each.lines[0]))
                return
            parts = [each.lines[len(each.done):len(each.done) + share] for each in chosen]
            found = self._translations([line for part in parts for line in part], chosen[0].width)
        except Exception as error:       # is raised where the answer is awaited
            for each in chosen:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        at = 0
        for each, part in zip(chosen, parts, strict=True):
            each.done += found[at:at + len(part)]
            at += len(part)
            if len(each.done) == len(each.lines):
                each.answer.set_result(each.done)

    def _translations(self, lines: list[str], width: int) -> list[list[str]]:
        if width == 1:
            return [[text] for text in self._translator.translate(lines)]
        return [[one.text for one in several] for several in self._translator.candidates(lines, width)]

    def _picture(self, line: str) -> str:
        from microtfm.attention_map import attention_svg

        weights, source, target = self._translator.attention(line)
        return attention_svg(weights, source, target, title=f"{line} → {self._translator.translate([line])[0]}")
