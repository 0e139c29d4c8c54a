"""Ctrl-C and SIGTERM: the first one asks the run to stop at the end of a step, the second one stops it at once."""
from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal came in while there was nothing to save."""


class Stopping:
    """Context in which signals set `received` instead of ending the program. It acts in the main thread only.

    While `patient` is False the first signal raises Stopped, wherever the program is: a first step that compiles for
    half a minute need not be waited for, because all that is known is on the disk.
    """

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        """`heard` is called inside the signal handler, so it may not write to a buffered stream."""
        self.received: int | None = None
        self.patient = True
        self._heard = heard
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            self._heard()
            if not self.patient:
                raise Stopped
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
