"""Ctrl-C while LLVM calls back into Python, where an exception is lost, or ends the process.

llvmlite hands machine code from and to Numba by functions that LLVM calls. An exception that a signal's handler raises
in one of them is printed and forgotten by ctypes, and LLVM goes on with what it was not given.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from llvmlite.binding import executionengine

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.01  # seconds after which a signal that came inside a callback is raised once more


@contextlib.contextmanager
def outside_callbacks() -> Iterator[None]:
    """While machine code is made or loaded, the handlers of signals wait until LLVM's callbacks have returned."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}

    def hear(number: int, frame: FrameType | None) -> None:
        if _called_back(frame):
            again = threading.Timer(AGAIN, signal.raise_signal, [number])
            again.daemon = True
            again.start()
        else:
            before[number](number, frame)

    for number in before:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is hear:
                signal.signal(number, handler)


def _called_back(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename == executionengine.__file__ and code.co_name.startswith("_raw_object_cache"):
            return True
        frame = frame.f_back
    return False
