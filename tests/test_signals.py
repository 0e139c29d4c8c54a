"""Ctrl-C in the worst moments: while LLVM asks Python for machine code, or hands it over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal
from llvmlite.binding import executionengine

calls = 0

def spied(hook):
    def spy(*given):
        global calls
        calls += 1
        if calls == {at}:
            signal.raise_signal(signal.SIGINT)
        return hook(*given)
    return spy

set_object_cache = executionengine.ExecutionEngine.set_object_cache
executionengine.ExecutionEngine.set_object_cache = lambda self, notify, getbuffer: set_object_cache(
    self, *({hooks}))

import numpy as np
import engine
try:
    print(engine.exp(engine.Tensor(np.zeros(100_000, np.float32))).numpy()[0])
except KeyboardInterrupt:
    print("stopped")
print(engine.exp(engine.Tensor(np.zeros(100_000, np.float32))).numpy()[0], calls >= {at})
"""
HOOKS = {"handed over": "spied(notify), getbuffer", "asked for": "notify, spied(getbuffer)"}


@pytest.mark.parametrize("when", HOOKS)
@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_in_a_callback_is_neither_lost_nor_deadly(when: str, at: int, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for _ in range(2 if when == "asked for" else 1):     # the second time, machine code comes from the disk
        found = subprocess.run([sys.executable, "-c", PROGRAM.format(at=at, hooks=HOOKS[when])], capture_output=True,
                               text=True, timeout=120)
        assert (found.returncode, found.stderr, found.stdout.split()) == (0, "", ["stopped", "1.0", "True"])
