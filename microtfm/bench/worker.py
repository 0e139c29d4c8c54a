"""The process of one side: makes an object and calls its methods, as its parent asks over two pipes.

It reads one JSON object a line: first `{"make": "module:class", "arguments": {…}}`, then `{"call": "method",
"arguments": […]}`. It answers each with `{"answer": …}` or `{"error": "…"}`, and ends with its input.
"""
from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from microtfm.bench.sides import DEVICE, PRECISION


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer every request until there are no more."""
    made: Any = None
    stack = ExitStack()                  # where our side computes, until the process ends
    for line in requests:
        request = json.loads(line)
        try:
            if "make" in request:
                module, name = request["make"].split(":")
                if not name.startswith(("Torch", "Jax", "Numpy", "Limits")):
                    stack.enter_context(_place())
                made = getattr(importlib.import_module(module), name)(**request["arguments"])
                answer = None
            else:
                answer = getattr(made, request["call"])(*request["arguments"])
            reply = json.dumps({"answer": answer})
        except Exception as error:
            traceback.print_exc()
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"})
        answers.write(reply + "\n")
        answers.flush()


@contextmanager
def _place() -> Iterator[None]:
    """Our side computes where `sides.placed` says."""
    import engine
    with (engine.default_device(os.environ.get(DEVICE, "cpu")),
          engine.precision(os.environ.get(PRECISION, "float32"))):
        yield


def main() -> None:
    """Standard output is for answers alone: whatever a library prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # the parent decides when to end
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
