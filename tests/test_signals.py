"""Ctrl-C in the worst moments: while LLVM asks Python for machine code, or hands it over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.kernels.cpu import norm, softmax

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


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "layer_norm"])
def test_a_row_too_long_for_one_block_is_left_to_the_meaning(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between blocks signals are heard; a row that is one of them must not keep Ctrl-C waiting."""
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    g = x[::-1].copy()

    def both() -> tuple[np.ndarray, np.ndarray]:
        tensor = engine.Tensor(x, requires_grad=True)
        y = getattr(engine, op)(tensor)
        slope = engine.grad(y, tensor, engine.Tensor(g))
        return y.numpy(), slope.numpy()

    expected = both()
    for module in (softmax, norm):
        monkeypatch.setattr(module, "LONGEST", 39)
    home = norm if op == "layer_norm" else softmax
    assert getattr(home, op)(x) is NotImplemented
    for found, right in zip(both(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
