"""`bench decode`: greedy translation with the key/value cache, in turns with PyTorch's."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from microtfm.bench.sides import Side, Turn, check_peers, flat, ratio, significant, steps_a_turn, take_turns
from microtfm.bench.sizes import Size
from microtfm.errors import UserError

MAKERS = {"ours": "microtfm.bench.decoding_ours:OurDecoding", "torch": "microtfm.bench.decoding_torch:TorchDecoding"}
LEAST = 5                                # rounds


def measure(size: Size, sentences: list[int], beam: int, peers: list[str], threads: int, seconds: float,
            tell: Callable[[str], None]) -> dict[str, Any]:
    """The answer of `bench decode`: a row for each number of sentences, and one more for each with a beam."""
    if "jax" in peers:
        raise UserError("--peer jax: decoding is compared with PyTorch only. Use --peer torch.")
    if "torch-compile" in peers:
        raise UserError("--peer torch-compile: only a training step is compared with it. Use --peer torch.")
    check_peers(peers)
    rows = []
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, MAKERS[name], size.plain(), threads).start())
                 for name in ("ours", *peers)}
        for count in sentences:
            tell(f"{count} sentences at once")
            rows.append(_row(sides, size, count, 1, seconds))
            if beam > 1:
                rows.append(_row({"ours": sides["ours"]}, size, count, beam, seconds))
    return {"size": size.name, "threads": threads, "length": size.length, "rows": rows}


def _row(sides: dict[str, Side], size: Size, sentences: int, beam: int, seconds: float) -> dict[str, Any]:
    runs = {name: _run(side, steps_a_turn(side.call("prepare", sentences, beam))) for name, side in sides.items()}
    turns = take_turns(runs, seconds, LEAST)
    each = {name: _summary(turns[name], sentences, size.length) for name in sides}
    mine = each.pop("ours")
    peers = {name: {**facts, "ratio": significant(ratio(turns["ours"], turns[name]))} for name, facts in each.items()}
    return {"sentences": sentences, "beam": beam, **mine, "peers": peers}


def _run(side: Side, times: int) -> Callable[[], Turn]:
    return lambda: side.call("run", times)


def _summary(turns: list[Turn], sentences: int, length: int) -> dict[str, float]:
    ms = median(flat(turns))
    return {"ms": round(ms, 3), "sentences_per_s": round(sentences / ms * 1000, 2),
            "tokens_per_s": round(sentences * length / ms * 1000, 1)}
