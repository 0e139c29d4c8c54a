"""Many at once: eight Python threads on one model, and processes forked from one whose kernels have run in parallel."""
from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import Tensor
from microtfm.translator import Translator

RUN = Path(__file__).parent / "old_runs" / "format-1"
LINES = [line.split("\t")[0] for line in (RUN.parent / "format-1.tsv").read_text(encoding="utf-8").splitlines()]


def gradients(seed: int) -> list[bytes]:
    """Forward and backward through kernels that run in parallel."""
    x, w = (Tensor(np.random.default_rng(seed + i).standard_normal((300, 300), np.float32), requires_grad=True)
            for i in (0, 1))
    loss = engine.sum(engine.softmax(engine.layer_norm(x @ w, w[0], w[1]), axis=-1) * x)
    loss.backward()
    return [loss.numpy().tobytes(), *(t.grad.numpy().tobytes() for t in (x, w) if t.grad is not None)]


def test_eight_threads_compute_at_once_what_each_computes_alone() -> None:
    alone = [gradients(seed) for seed in range(8)]
    model = Translator.load(RUN)
    right = [model.translate(LINES[i::8], beam=1 + i % 2) for i in range(8)]
    found: list[object] = [None] * 8

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = gradients(i), model.translate(LINES[i::8], beam=1 + i % 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == list(zip(alone, right, strict=True))


MODELS: list[Translator] = []            # what children inherit


def translations(beam: int) -> list[str]:
    """By the model that this process has, or has inherited."""
    return MODELS[0].translate(LINES, beam)


def fork_after_kernels() -> None:
    """Run in a process of its own: every child computes what its parent did."""
    MODELS.append(Translator.load(RUN))
    right, said = gradients(1), translations(1)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(gradients, [1] * 6) == [right] * 6
        assert pool.map(translations, [1] * 3) == [said] * 3
    assert (gradients(1), translations(1)) == (right, said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_forked_after_a_parallel_kernel_compute_the_same() -> None:
    code = "import warnings; warnings.simplefilter('ignore'); import test_crowds; test_crowds.fork_after_kernels()"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
                           env={**os.environ, "PYTHONPATH": path, "NUMBA_NUM_THREADS": "2"})
    assert found.returncode == 0, found.stderr
