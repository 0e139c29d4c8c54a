"""`bench step`: one training step, in turns with the same step of PyTorch and JAX."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import repeat
from statistics import median
from typing import Any

from microtfm.bench import limits
from microtfm.bench.sides import Side, Turn, check_peers, flat, ratio, significant, steps_a_turn, take_turns
from microtfm.bench.sizes import Size

MAKERS = {"ours": "microtfm.bench.ours:OurStep", "torch": "microtfm.bench.peer_torch:TorchStep",
          "torch-compile": "microtfm.bench.peer_torch:TorchCompiledStep",
          "jax": "microtfm.bench.peer_jax:JaxStep"}
LEAST = 5                                # rounds, unless told how many steps
Tell = Callable[[str], None]


def measure(size: Size, peers: list[str], threads: int, seconds: float, steps: int | None,
            tell: Tell, replay: bool = True) -> dict[str, Any]:
    """The answer of `bench step`. tell: hears what goes on. replay: whether our step is recorded once and replayed."""
    check_peers(peers)
    with ExitStack() as stack:
        bounds = stack.enter_context(limits.side(threads).start())
        sides, facts = {}, {}
        for name in ("ours", *peers):
            tell(f"{name}: warming up")
            side = sides[name] = stack.enter_context(side_of(name, size, threads, replay).start())
            facts[name] = warmed(side, size)
        tell(f"taking turns: {', '.join(sides)}")
        return compared(size, sides, facts, bounds, seconds, steps) | {"threads": threads, "replay": replay}


def side_of(name: str, size: Size, threads: int, replay: bool = True) -> Side:
    """The process that runs the step of `name`; to be started."""
    arguments = size.plain() | ({"replay": replay} if name == "ours" else {})
    return Side(name, MAKERS[name], arguments, threads)


def warmed(side: Side, size: Size) -> dict[str, Any]:
    """What a started side knows after its first steps."""
    facts: dict[str, Any] = side.call("warm_up", side.started)
    check_count(side.name, facts["params"], size)
    return facts


def compared(size: Size, sides: dict[str, Side], facts: dict[str, dict[str, Any]], bounds: Side, seconds: float,
             steps: int | None = None) -> dict[str, Any]:
    """Let the sides, of which one is "ours", take turns with `bounds`, which measures the rate of matrix products."""
    peaks: list[float] = []

    def limit() -> Turn:
        peaks.append(bounds.call("gflops"))
        return [size.products() / peaks[-1] / 1e6]

    a_turn = {name: steps_a_turn(facts[name]["step_ms"]) for name in sides}
    runs = {name: _run(side, repeat(a_turn[name])) for name, side in sides.items()}
    most = None
    if steps is not None:
        shares = portions(steps, a_turn["ours"])
        runs, most = {name: _run(side, iter(shares)) for name, side in sides.items()}, len(shares)
    turns = take_turns({**runs, "limit": limit}, seconds, most or LEAST, most=most)
    each = {name: {**_summary(turns[name], size), "compile_s": round(facts[name]["compile_s"], 2),
                   "ready_s": round(facts[name]["ready_s"], 2), "peak_mb": _rounded(side.call("peak_mb"))}
            for name, side in sides.items()}
    mine = each.pop("ours")
    return {
        "size": size.name, **mine, "params": facts["ours"]["params"], "gflop": round(size.products() / 1e9, 3),
        "limit": {"gflops": round(median(peaks), 1), "step_ms": round(median(flat(turns["limit"])), 3),
                  "share": round(1 / ratio(turns["limit"], turns["ours"]), 3)},
        "peers": {name: {**facts_of, "ratio": significant(ratio(turns["ours"], turns[name]))}
                  for name, facts_of in each.items()},
    }


def check_count(name: str, count: int, size: Size) -> None:
    """Whoever learns other numbers does other work: every side must have exactly the parameters of the size."""
    if count != size.parameters():
        raise RuntimeError(f"{name} has {count:,} parameters, but a model of size {size.name} has "
                           f"{size.parameters():,}: the steps cannot be compared")


def portions(steps: int, a_turn: int) -> list[int]:
    """Exactly so many steps, in turns of about equal length: at most `a_turn` each, and several where there can be."""
    rounds = max(min(steps, LEAST), -(-steps // a_turn))
    return [steps * (i + 1) // rounds - steps * i // rounds for i in range(rounds)]


def _run(side: Side, steps: Iterator[int]) -> Callable[[], Turn]:
    return lambda: side.call("run", next(steps))


def _summary(turns: list[Turn], size: Size) -> dict[str, Any]:
    """tokens_per_s counts the tokens of both sides, as training does."""
    taken = flat(turns)
    return {"step_ms": round(median(taken), 3), "min_ms": round(min(taken), 3), "steps": len(taken),
            "rounds": len(turns), "tokens_per_s": round(2 * size.batch * size.length / median(taken) * 1000, 1)}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def add_profile(answer: dict[str, Any], size: Size, threads: int, tell: Tell) -> None:
    """Add where the time of our step goes, op by op, and the limits that it is held against."""
    tell("profile: warming up")
    with ExitStack() as stack:
        bounds = stack.enter_context(limits.side(threads).start())
        side = Side("ours", "microtfm.bench.profiling:Profile", size.plain(), threads)
        ours = stack.enter_context(side.start())
        step_ms = ours.call("warm_up", ours.started)["step_ms"]
        gflops, copying = bounds.call("gflops"), bounds.call("bandwidths")
        tell("profile: watching")
        answer["profile"] = ours.call("profile", max(3, steps_a_turn(step_ms, 1.0)), gflops, copying)
    answer["profile"]["limit"] = {"gflops": round(gflops, 1), "copy_gb_s": {touched: round(rate, 1)
                                                                             for touched, rate in copying.items()}}
