"""What this machine, or its card, can do at best: the rate of matrix products, and the bandwidth of copying."""
from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

import numpy as np

import engine
from engine import Tensor
from microtfm.bench.sides import DEVICE, Side

ROWS, DEPTH, COLUMNS = 1024, 512, 2048   # a product that every library does well
COPIES = (2**20, 2**23, 2**27)           # bytes read and written together: from the caches, and past them
CARD_SIDE, CARD_COPIES = 4096, (2**23, 2**27, 2**29)  # the same on a card, of square matrices
PRODUCT, COPY = 0.12, 0.06               # seconds of each measurement


def side(threads: int) -> Side:
    """The process that measures what the comparison's device can do; to be started."""
    kind = "CardLimits" if os.environ.get(DEVICE) == "cuda" else "Limits"
    return Side("limits", f"{__name__}:{kind}", {}, threads)


class Limits:
    """Measured in a process of its own, in turns with what is compared with it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._a, self._b = (rng.standard_normal(shape, np.float32) for shape in ((ROWS, DEPTH), (DEPTH, COLUMNS)))
        self._threads = int(os.environ["OMP_NUM_THREADS"])

    def gflops(self) -> float:
        """The best rate of float32 products, of NumPy's library and ours, in GFLOP/s."""
        a, b = Tensor(self._a), Tensor(self._b)
        with engine.no_grad():
            ways: list[Callable[[], object]] = [lambda: self._a @ self._b, lambda: a @ b]
            best = min(_best(way, PRODUCT) for way in ways)
        return 2.0 * ROWS * DEPTH * COLUMNS / best / 1e9

    def bandwidths(self) -> dict[str, float]:
        """GB/s of copying, reads and writes both counted, by the bytes that are touched."""
        return {str(touched): self._copying(touched) for touched in COPIES}

    def _copying(self, touched: int) -> float:
        """Each thread copies a part of its own again and again."""
        part = touched // 2 // self._threads
        pairs = [(np.ones(part, np.uint8), np.empty(part, np.uint8)) for _ in range(self._threads)]
        best = [math.inf] * self._threads
        gate = threading.Barrier(self._threads)

        def work(i: int) -> None:
            source, out = pairs[i]
            gate.wait()
            best[i] = _best(lambda: np.copyto(out, source), COPY)

        team = [threading.Thread(target=work, args=(i,)) for i in range(self._threads)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        return sum(2.0 * part / seconds for seconds in best) / 1e9


class CardLimits:
    """The same of a card, in the precision of the comparison; of a simulated one, at a size that a simulator can do."""

    def __init__(self) -> None:
        self._simulated = "simulated" in engine.choose_device("cuda")[1]
        n = self._n = 32 if self._simulated else CARD_SIDE
        rng = np.random.default_rng(0)
        self._a, self._b = (Tensor(rng.standard_normal((n, n), np.float32)) for _ in range(2))

    def gflops(self) -> float:
        """The best rate of products, of the card's library in float32 and ours, in GFLOP/s."""
        a, b = self._a.array(), self._b.array()
        with engine.no_grad():
            ways: list[Callable[[], object]] = [lambda: a @ b, lambda: self._a @ self._b]
            best = min(_best(lambda way=way: _finished(way), PRODUCT) for way in ways)  # type: ignore[misc]
        return 2.0 * self._n**3 / best / 1e9

    def bandwidths(self) -> dict[str, float]:
        """GB/s of copying, reads and writes both counted, by the bytes that are touched."""
        return {str(touched): self._copying(2**10 if self._simulated else touched) for touched in CARD_COPIES}

    def _copying(self, touched: int) -> float:
        source, out = (engine.zeros(touched // 8) for _ in range(2))
        return touched / _best(lambda: _finished(lambda: engine.update("copy", [out], [source])), COPY) / 1e9


def _finished(work: Callable[[], object]) -> None:
    work()
    engine.synchronise()


def _best(work: Callable[[], object], seconds: float) -> float:
    """The shortest run of `work`, tried for so long and at least three times."""
    work()
    best, end, tried = math.inf, time.perf_counter() + seconds, 0
    while tried < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        tried += 1
    return best


def bandwidth(measured: dict[str, float], touched: float) -> float:
    """GB/s at the measured size that is nearest to `touched` bytes."""
    nearest = min(measured, key=lambda size: abs(math.log(max(touched, 1.0) / int(size))))
    return measured[nearest]


def share(seconds: float, flop: float, touched: float, gflops: float, measured: dict[str, float]) -> float:
    """The time that arithmetic or memory alone would take, whichever is longer, divided by the time taken."""
    return max(flop / (gflops * 1e9), touched / (bandwidth(measured, touched) * 1e9)) / seconds if seconds else 0.0
