"""`bench scaling`: does the time of a step grow as its work does?"""
from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

from microtfm.bench.sides import Side, Turn, flat, steps_a_turn, take_turns
from microtfm.bench.sizes import Size

AXES = {"length": "length", "batch": "batch", "depth": "layers", "vocabulary": "vocabulary"}     # axis: field of Size
FACTORS = (1, 2, 4, 8)
LEAST = 3                                # rounds


def points(size: Size, axis: str) -> list[Size]:
    """The sizes along an axis, all else as it is."""
    field = AXES[axis]
    return [size.changed(**{field: getattr(size, field) * factor}) for factor in FACTORS]


def measure(size: Size, threads: int, seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """The answer of `bench scaling`. The points of an axis take turns in one process."""
    axes: dict[str, Any] = {}
    for axis, field in AXES.items():
        sizes = points(size, axis)
        tell(f"{axis}: {', '.join(str(getattr(each, field)) for each in sizes)}")
        maker = "microtfm.bench.scaling_steps:Steps"
        with Side("ours", maker, {"sizes": [each.plain() for each in sizes]}, threads).start() as side:
            warm = [side.call("warm_up", i) for i in range(len(sizes))]
            turns = take_turns({str(i): _run(side, i, steps_a_turn(ms, 0.2)) for i, ms in enumerate(warm)},
                               seconds, LEAST)
        times = [median(flat(turn)) for turn in turns.values()]
        values, work = [float(getattr(each, field)) for each in sizes], [each.products() / 1e9 for each in sizes]
        axes[axis] = {"exponent": round(slope(values, times), 3), "expected": round(slope(values, work), 3),
                      "points": [{"value": getattr(each, field), "step_ms": round(ms, 3), "gflop": gflop}
                                 for each, ms, gflop in zip(sizes, times, work, strict=True)]}
    return {"size": size.name, "threads": threads, "axes": axes}


def _run(side: Side, point: int, steps: int) -> Callable[[], Turn]:
    return lambda: side.call("run", point, steps)


def slope(x: list[float], y: list[float]) -> float:
    """The exponent e of the power law y = c · xᵉ that fits best: least squares of the logarithms."""
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    centre, middle = sum(u) / len(u), sum(v) / len(v)
    return (sum((a - centre) * (b - middle) for a, b in zip(u, v, strict=True))
            / sum((a - centre) ** 2 for a in u))
