"""`bench step --profile`: where the time of our step goes, op by op, forward and backward.

The work of each op is counted while the step runs once without replay; the time is that of its launches in the replayed
step.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from engine import Replay, Tensor
from microtfm.bench import costs
from microtfm.bench.limits import share
from microtfm.bench.ours import OurStep
from microtfm.bench.watching import Seen, watching


@dataclass
class Row:
    """One op in one phase."""
    seconds: float = 0.0
    calls: float = 0.0
    flop: float = 0.0
    touched: float = 0.0                 # bytes read and written at least
    least: float = 0.0                   # seconds that arithmetic or memory alone would take


@dataclass
class Watch:
    """Counts the work of a step."""
    gflops: float
    bandwidths: dict[str, float]
    phase: str = "forward"
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def see(self, seen: Seen) -> None:
        """Count a call of an op that did the work itself."""
        if seen.alone:
            self.note(seen.name, *costs.of_op(seen.name, seen.tensors(), seen.parameters, seen.out))

    def note(self, name: str, flop: float, touched: float) -> None:
        """Count one call."""
        row = self.rows.setdefault((self.phase, name), Row())
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

    def learn(self) -> None:
        if self.watch is not None:
            self.watch.phase = "update"
            for rule in ("global_norm", "adam"):
                self.watch.note(rule, *costs.of_update(rule, self.count()))
        super().learn()

    def profile(self, steps: int, gflops: float, bandwidths: dict[str, float]) -> dict[str, Any]:
        """Rows a step, by time, with what is left between the launches as a row of its own."""
        plain = median(self.run(steps))
        self.watch = Watch(gflops, bandwidths)
        with watching(self.watch.see):
            self.whole_step(*map(Tensor, self._batches[0]))
        rows, self.watch = self.watch.rows, None
        total = self._time(rows, steps)
        found = [_facts(phase, name, row, total) for (phase, name), row in rows.items() if row.seconds or row.flop]
        found.append(_facts("", "between the launches", Row(seconds=total - sum(row.seconds for row in rows.values())),
                            total))
        return {"steps": steps, "step_ms": total * 1000, "unwatched_ms": plain,
                "rows": sorted(found, key=lambda row: -row["ms"])}

    def _time(self, rows: dict[tuple[str, str], Row], steps: int) -> float:
        """Add the seconds of each op's launches, a step. Returns the seconds of a whole step."""
        assert isinstance(self.update, Replay)
        begin = time.perf_counter()
        for i in range(steps):
            for label, seconds in self.update.timed(*self._batches[i % len(self._batches)])[1]:
                phase = "backward" if label.phase == "accumulate" else label.phase       # gradients that meet
                rows.setdefault((phase, label.op), Row()).seconds += seconds / steps
        return (time.perf_counter() - begin) / steps


def _facts(phase: str, name: str, row: Row, total: float) -> dict[str, Any]:
    """A row, for one step of `total` seconds."""
    return {"phase": phase, "op": name, "ms": 1000 * row.seconds, "calls": row.calls,
            "flop": row.flop, "bytes": row.touched, "share": row.seconds / total,
            "of_limit": row.least / row.seconds if row.seconds else 0.0}
