"""`bench step --profile`: where the time of our step goes, op by op, forward and backward.

Calling an op is timed by standing in for `Op.__call__`. An op whose meaning runs instead of a kernel calls other ops:
its time is its own alone, without theirs.
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest import mock

from engine import Op, Tensor
from microtfm.bench.kernel_cases import PER_ELEMENT
from microtfm.bench.limits import share
from microtfm.bench.ours import OurStep
from microtfm.bench.stepping import timed

VIEWS = {"reshape", "swapaxes", "transpose", "expand_dims", "squeeze", "broadcast_to", "constant"}
ADAM_BYTES = 32                          # read and written a parameter, by clipping and Adam together


@dataclass
class Row:
    """One op in one phase, over all profiled steps."""
    seconds: float = 0.0
    calls: int = 0
    flop: float = 0.0
    touched: float = 0.0                 # bytes read and written at least
    least: float = 0.0                   # seconds that arithmetic or memory alone would take


@dataclass
class Watch:
    """Collects rows while it stands in for `Op.__call__`."""
    gflops: float
    bandwidths: dict[str, float]
    phase: str = "forward"
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    inner: list[float] = field(default_factory=list)         # for each op that is running: seconds spent in others
    own: float = 0.0                     # seconds that taking notes took

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every call of an op inside is noted."""
        plain = Op.__call__

        def call(op: Op, *args: Any, **params: Any) -> Tensor:
            self.inner.append(0.0)
            start = time.perf_counter()
            try:
                out = plain(op, *args, **params)
            finally:
                end = time.perf_counter()
                inside = self.inner.pop()
            self.note(op.name, end - start - inside, *((0.0, 0.0) if inside else cost(op.name, args, params, out)))
            noted = time.perf_counter()
            self.own += noted - end
            if self.inner:
                self.inner[-1] += noted - start
            return out

        with mock.patch.object(Op, "__call__", call):
            yield

    def note(self, name: str, seconds: float, flop: float, touched: float) -> None:
        """Add one call."""
        row = self.rows.setdefault((self.phase, name), Row())
        row.seconds += seconds
        row.calls += 1
        row.flop += flop
        row.touched += touched
        row.least += share(1.0, flop, touched, self.gflops, self.bandwidths)


class Profile(OurStep):
    """Our step with a watch on it."""
    watch: Watch | None = None

    def backward(self, loss: Tensor) -> None:
        if self.watch is not None:
            self.watch.phase = "backward"
        super().backward(loss)

    def update(self) -> None:
        if self.watch is None:
            super().update()
        else:
            n, self.watch.phase = self.count(), "update"
            seconds = timed(super().update, 1)[0] / 1000
            self.watch.note("clip and adam", seconds, PER_ELEMENT["adam"] * n, ADAM_BYTES * n)

    def train_on(self, batch: int) -> float:
        if self.watch is not None:
            self.watch.phase = "forward"
        return super().train_on(batch)

    def profile(self, steps: int, gflops: float, bandwidths: dict[str, float]) -> dict[str, Any]:
        """Rows a step, by time, with what is left between the ops as a row of its own."""
        plain = median(self.run(steps))
        self.step()
        self.watch = watch = Watch(gflops, bandwidths)
        with watch.watching():
            taken = timed(self.step, steps)
        self.watch, total = None, (sum(taken) / 1000 - watch.own) / steps
        rows = [_facts(phase, name, row, steps, total) for (phase, name), row in watch.rows.items()]
        between = Row(seconds=total * steps - sum(row.seconds for row in watch.rows.values()))
        rows.append(_facts("", "between the ops", between, steps, total))
        return {"steps": steps, "step_ms": total * 1000, "unwatched_ms": plain,
                "rows": sorted(rows, key=lambda row: -row["ms"])}


def _facts(phase: str, name: str, row: Row, steps: int, total: float) -> dict[str, Any]:
    """A row, for one step of `total` seconds."""
    return {"phase": phase, "op": name, "ms": 1000 * row.seconds / steps, "calls": row.calls / steps,
            "flop": row.flop / steps, "bytes": row.touched / steps, "share": row.seconds / steps / total,
            "of_limit": row.least / row.seconds if row.seconds else 0.0}


# --- what an op costs -----------------------------------------------------------------------------
def cost(name: str, args: Any, params: dict[str, Any], out: Tensor) -> tuple[float, float]:
    """FLOP of a call, and the bytes that it must read and write at least. Views cost nothing.

    Products are counted exactly, attention in full where it is causal; all else by a number an element.
    """
    given = _tensors((*args, *params.values()))
    if name in VIEWS:
        return 0.0, 0.0
    touched = float(sum(_bytes(x) for x in given) + _bytes(out))
    if name == "getitem":
        return 0.0, 2.0 * _bytes(out)
    if name in ("embedding", "take"):
        return 0.0, 2.0 * _bytes(out) + _bytes(given[-1])
    if name == "matmul":
        return 2.0 * out.size * given[0].shape[-1], touched
    if name.startswith("scaled_dot_product_attention"):
        backward = name.endswith("_vjp")
        q, k, v = given[1:4] if backward else given[:3]
        scores = math.prod(q.shape[:-1]) * k.shape[-2]
        first, second = 2.0 * scores * q.shape[-1], 2.0 * scores * v.shape[-1]
        return (3 * first + 2 * second if backward else first + second) + 5.0 * scores, touched
    largest = max([out.size, *(x.size for x in given)])
    return float(PER_ELEMENT.get(name, 1) * largest), touched


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [x for x in value if isinstance(x, Tensor)]
    return found


def _bytes(x: Tensor) -> int:
    return x.size * x.dtype.itemsize
