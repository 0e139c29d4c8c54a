"""Answers as tables for people."""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

WIDE = 160                               # columns: a narrow terminal breaks lines rather than lose numbers


def console() -> Console:
    """Standard output: colours and lines on a terminal, plain text where it is piped."""
    return Console(highlight=False, width=WIDE)


def teller(quiet: bool = False) -> Callable[[str], None]:
    """Says on standard error what goes on."""
    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)
    return tell


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Group:
    """A title above a table whose first `words` columns are words, and all others numbers."""
    made = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < words else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return Group(Text(title, style="bold"), made, Text())


def of_place(answer: dict[str, Any]) -> list[Text]:
    """A line on the card where all sides computed, if they did on one."""
    if answer.get("device", "cpu") == "cpu":
        return []
    return [Text("; ".join(filter(None, (answer["place"], f"products in {answer['precision']}", answer.get("note")))))]


def of_step(answer: dict[str, Any]) -> list[Group]:
    """The tables of `bench step`."""
    title = (f"{answer['size']}: {answer['params']:,} parameters, {answer['gflop']:g} GFLOP of matrix products a step, "
             f"{_threads(answer)}")
    rows = [_side("microtfm", answer, "1")]
    rows += [_side(name, peer, _times(peer["ratio"])) for name, peer in answer["peers"].items()]
    limit = answer["limit"]
    rows.append([f"matrix products at {limit['gflops']:.0f} GFLOP/s", f"{limit['step_ms']:.2f}", "", "", "", "", "", "",
                 f"{limit['share']:.2f}"])
    columns = ("", "step ms", "min ms", "steps", "tokens/s", "compile s", "ready s", "peak MiB", "times ours")
    found = [table(title, columns, rows)]
    if "profile" in answer:
        found.append(of_profile(answer["profile"]))
    return found


def _threads(answer: dict[str, Any]) -> str:
    return "1 thread" if answer["threads"] == 1 else f"{answer['threads']} threads"


def _times(ratio: float) -> str:
    """How many times ours, to two decimals; of a simulated card to a digit."""
    return f"{ratio:.2f}" if ratio >= 0.01 else f"{ratio:.1g}"


def _side(name: str, facts: dict[str, Any], ratio: str) -> list[str]:
    peak = facts["peak_mb"]
    return [name, f"{facts['step_ms']:.2f}", f"{facts['min_ms']:.2f}", str(facts["steps"]),
            f"{facts['tokens_per_s']:,.0f}", f"{facts['compile_s']:.1f}", f"{facts['ready_s']:.1f}",
            "?" if peak is None else f"{peak:,.0f}", ratio]


def of_profile(answer: dict[str, Any]) -> Group:
    """Where the time goes."""
    rows = [[row["op"], row["phase"], f"{row['ms']:.3f}", f"{row['share']:.1%}", f"{row['calls']:g}",
             f"{row['flop'] / 1e6:,.2f}", f"{row['bytes'] / 1e6:,.2f}",
             f"{row['of_limit']:.1%}" if row["of_limit"] else ""] for row in answer["rows"]]
    title = (f"one step: {answer['step_ms']:.2f} ms watched, {answer['unwatched_ms']:.2f} ms unwatched; "
             f"{_limits(answer['limit'])}")
    return table(title, ("op", "phase", "ms", "share", "calls", "MFLOP", "MB", "of limit"), rows, words=2)


def _limits(limit: dict[str, Any]) -> str:
    copies = ", ".join(f"{rate:.0f} GB/s at {int(size) / 2**20:g} MiB" for size, rate in limit["copy_gb_s"].items())
    return f"limits: {limit['gflops']:.0f} GFLOP/s, copying {copies}"


def of_kernels(answer: dict[str, Any]) -> list[Group]:
    """The tables of `bench kernels`: every case, then the geometric mean of each group."""
    peers = sorted({peer for row in answer["kernels"] for peer in row["peers"]})
    rows = []
    for row in answer["kernels"]:
        form = ", ".join(word for word in (row["form"], row["dtype"].replace("float32", "")) if word)
        cells = [row["kernel"], "×".join(map(str, row["shape"])), form, f"{row['ms'] * 1000:,.1f}",
                 f"{row['gflops']:.1f}", f"{row['gb_s']:.1f}", f"{row['of_limit']:.0%}"]
        rows.append(cells + [_times(row["peers"][peer]["ratio"]) if peer in row["peers"] else "" for peer in peers])
    beside = [f"{peer}: times ours" for peer in peers]
    means = [[group, *(_times(found[peer]) if peer in found else "" for peer in peers)]
             for group, found in answer["geometric_means"].items()]
    return [table(f"{_threads(answer)}; {_limits(answer['limit'])}",
                  ["kernel", "shape", "form", "µs", "GFLOP/s", "GB/s", "of limit", *beside], rows, words=3),
            table("geometric means", ["", *beside], means), _worst(answer)]


def _worst(answer: dict[str, Any]) -> Group:
    """Of each group, the worst case among those that are not small."""
    rows = [[group, peer, case["kernel"], "×".join(map(str, case["shape"])), case["form"], _times(case["ratio"])]
            for group, found in answer["worst"].items() for peer, case in found.items()]
    columns = ["", "beside", "kernel", "shape", "form", "times ours"]
    return table("worst cases of 10 MFLOP or more", columns, rows, words=5)


def of_decode(answer: dict[str, Any]) -> list[Group]:
    """The table of `bench decode`."""
    rows = []
    for row in answer["rows"]:
        search = f"beam {row['beam']}" if row["beam"] > 1 else "greedy"
        for name, facts in (("microtfm", row), *row["peers"].items()):
            rows.append([str(row["sentences"]), search, name, f"{facts['ms']:.2f}", f"{facts['sentences_per_s']:,.1f}",
                         f"{facts['tokens_per_s']:,.0f}", _times(facts["ratio"]) if "ratio" in facts else "1"])
    title = f"{answer['size']}, {answer['length']} tokens each, {_threads(answer)}"
    columns = ("sentences at once", "search", "", "ms", "sentences/s", "tokens/s", "times ours")
    return [table(title, columns, rows, words=3)]


def of_scaling(answer: dict[str, Any]) -> list[Group]:
    """The tables of `bench scaling`."""
    points = [[axis, str(point["value"]), f"{point['step_ms']:.2f}", f"{point['gflop']:.3f}",
               f"{point['gflop'] / point['step_ms'] * 1000:.1f}"]
              for axis, found in answer["axes"].items() for point in found["points"]]
    fitted = [[axis, f"{found['exponent']:.2f}", f"{found['expected']:.2f}"] for axis, found in answer["axes"].items()]
    return [table(f"from {answer['size']}, {_threads(answer)}", ("", "value", "step ms", "GFLOP", "GFLOP/s"), points),
            table("time grows as value to the power of", ("", "measured", "expected"), fitted)]
