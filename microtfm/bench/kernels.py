"""`bench kernels`: each kernel beside NumPy and PyTorch, and beside what the machine can do."""
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from microtfm.bench import costs, kernel_cases, limits
from microtfm.bench.kernel_cases import Case
from microtfm.bench.limits import share
from microtfm.bench.sides import Side, Turn, check_peers, flat, ratio, significant, take_turns
from microtfm.bench.sizes import Size
from microtfm.errors import UserError

MAKERS = {"ours": "microtfm.bench.kernel_ours:OurKernels", "numpy": "microtfm.bench.kernel_numpy:NumpyKernels",
          "torch": "microtfm.bench.kernel_torch:TorchKernels"}
ROUNDS, SETTLING = 5, 0.005              # turns of each side, and seconds between them
LARGE = 1e7                              # FLOP of a case that may be the worst of its group
GROUPS = ("matmul, float32", "matmul, float64", "matmul, batches", "linear", "elementwise", "reduction", "softmax",
          "log_softmax", "layer_norm", "add_norm", "cross_entropy", "attention", "attention, packed", "gelu", "dropout",
          "random numbers", "look-up", "clip and adam", "update")


def cases(sizes: list[Size], only: list[str], toy: bool = False) -> list[Case]:
    """All cases, or those whose kernel or group is named in `only`; toy: with products that a simulator can do."""
    found = kernel_cases.products(toy) + [case for size in sizes for case in kernel_cases.of_size(size)]
    known = {case.kernel for case in found} | {case.group for case in found}
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: there is no such kernel. There are: {', '.join(sorted(known))}.")
    return [case for case in found if not only or case.kernel in only or case.group in only]


def measure(chosen: list[Case], peers: list[str], threads: int, seconds: float,
            tell: Callable[[str], None]) -> dict[str, Any]:
    """The answer of `bench kernels`. seconds: for each case and side."""
    if "jax" in peers:
        raise UserError("--peer jax: kernels are compared with NumPy and PyTorch only. Use --peer torch.")
    if "torch-compile" in peers:
        raise UserError("--peer torch-compile: only a training step is compared with it. Use --peer torch.")
    check_peers(peers)
    with ExitStack() as stack:
        bounds = stack.enter_context(limits.side(threads).start())
        gflops, copying = bounds.call("gflops"), bounds.call("bandwidths")
        sides = {name: stack.enter_context(Side(name, MAKERS[name], {}, threads).start())
                 for name in ("ours", "numpy", *peers)}
        rows = []
        for i, case in enumerate(chosen):
            if i % 20 == 0:
                tell(f"kernel {i + 1} of {len(chosen)}: {case.kernel}")
            rows.append(_row(case, sides, seconds / ROUNDS))
        reached = [row["gflops"] for row in rows if row["kernel"] == "matmul" and row["dtype"] == "float32"]
        gflops = max(gflops, bounds.call("gflops"), *reached, 0.0)
    for row in rows:
        best = gflops / (2 if row["dtype"] == "float64" else 1)
        row["of_limit"] = round(share(row["ms"] / 1000, row["flop"], row["bytes"], best, copying), 3)
    return {"threads": threads, "limit": {"gflops": round(gflops, 1),
                                           "copy_gb_s": {size: round(rate, 1) for size, rate in copying.items()}},
            "kernels": rows, "geometric_means": means(rows), "worst": worst(rows)}


def _row(case: Case, sides: dict[str, Side], turn: float) -> dict[str, Any]:
    able = {name: side for name, side in sides.items() if side.call("prepare", case.plain())}
    turns = take_turns({name: _run(side, turn) for name, side in able.items()}, 0.0, ROUNDS, SETTLING)
    ms, (flop, touched) = median(flat(turns["ours"])), costs.of_case(case)
    return {"kernel": case.kernel, "group": case.group, "shape": list(case.shape), "form": case.form,
            "dtype": case.dtype, "ms": ms, "min_ms": min(flat(turns["ours"])), "flop": flop, "bytes": touched,
            "gflops": flop / ms / 1e6, "gb_s": touched / ms / 1e6,
            "peers": {name: {"ms": median(flat(turns[name])), "ratio": significant(ratio(turns["ours"], turns[name]))}
                      for name in turns if name != "ours"}}


def _run(side: Side, turn: float) -> Callable[[], Turn]:
    return lambda: side.call("run", turn)


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each group, the geometric mean of the ratios to each peer."""
    found: dict[str, dict[str, float]] = {}
    for group in GROUPS:
        members = [row["peers"] for row in rows if row["group"] == group]
        for peer in sorted({peer for peers in members for peer in peers}):
            logs = [math.log(peers[peer]["ratio"]) for peers in members if peer in peers]
            found.setdefault(group, {})[peer] = significant(math.exp(sum(logs) / len(logs)))
    return found


def worst(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each group and peer, the case of 10 MFLOP or more with the lowest ratio."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group in GROUPS:
        members = [row for row in rows if row["group"] == group and row["flop"] >= LARGE]
        for peer in sorted({peer for row in members for peer in row["peers"]}):
            least = min((row for row in members if peer in row["peers"]), key=lambda row: row["peers"][peer]["ratio"])
            found.setdefault(group, {})[peer] = {
                **{name: least[name] for name in ("kernel", "shape", "form")}, "ratio": least["peers"][peer]["ratio"]}
    return found
