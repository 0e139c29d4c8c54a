"""`python -m tests.reference [torch] [numpy] [jax]`: every op beside each library, counted by family; 1 if any differs.

--ops: a line an op. --op NAME: that op alone. --every N: every Nth sample only. --markdown: a table as in the README.
"""
from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter

from engine import OPS, Op

from .compare import Result, compared
from .libraries import Jax, NumPy, Torch
from .notes import APART

LIBRARIES = {"torch": Torch, "numpy": NumPy, "jax": Jax}
FAMILIES = {                             # the files of engine/ops side by side
    "elementwise": "elementwise exponential trigonometry rounding", "activations": "activation",
    "reductions, running sums and products": "reduce products", "shape": "shape rearrange diagonal place",
    "position and order": "index along order", "matrix products": "matmul contraction linear",
    "softmax and normalisation": "softmax norm", "losses": "loss regression likelihood",
    "attention, embedding, dropout": "attention embed dropout"}
COLUMNS = ("values", "gradients", "refused", "apart", "wrong")


def main() -> int:
    """Compare, print the counts, and whatever differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", help="torch, numpy, jax; without one, those that are installed")
    parser.add_argument("--ops", action="store_true")
    parser.add_argument("--op")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.library) - set(LIBRARIES):
        parser.error(f"there is no library {', '.join(unknown)}; there are {', '.join(LIBRARIES)}")
    found: dict[str, list[Result]] = {}
    for name in given.library or [name for name in LIBRARIES if importlib.util.find_spec(name)]:
        start, reference = time.perf_counter(), LIBRARIES[name]()
        found[reference.name] = [compared(op, reference, every=given.every) for op in OPS.values()
                                 if op.name in reference.table and given.op in (None, op.name)]
        if not given.markdown:
            _report(reference.name, found[reference.name], given.ops or given.op, time.perf_counter() - start)
    if given.markdown:
        _markdown(found)
        _differing([r for results in found.values() for r in results])
    return 1 if any(r.wrong for results in found.values() for r in results) else 0


def family(op: Op) -> str:
    """The family of the file in which an op is written down."""
    rules = [op.meaning, *((op.vjps,) if callable(op.vjps) else op.vjps or ()), op.shape, op.canonical]
    modules = [getattr(rule, "__module__", "") or "" for rule in rules]
    file = next((m.rpartition(".")[2] for m in modules if m.startswith("engine.ops.")), "elementwise")
    return next(name for name, files in FAMILIES.items() if file in files.split())


def _counts(results: list[Result]) -> Counter[str]:
    return Counter({what: sum(len(r.wrong) if what == "wrong" else getattr(r, what) for r in results)
                    for what in COLUMNS})


def _report(name: str, results: list[Result], each: object, seconds: float) -> None:
    heads = "".join(f"{what:>11}" for what in COLUMNS)
    print(f"{name:<41}{'ops':>5}{heads}")
    groups = {r.op: [r] for r in results} if each else _by_family(results)
    for label, group in [*groups.items(), ("all", results)]:
        counts = _counts(group)
        print(f"  {label:<39}{len(group):>5}" + "".join(f"{counts[what]:>11}" for what in COLUMNS))
    _differing(results)
    print(f"  in {seconds:.0f} s\n")


def _differing(results: list[Result]) -> None:
    for r in results:
        for line in r.wrong[:4]:
            print(f"    {r.op}({line}")


def _by_family(results: list[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for r in results:
        groups.setdefault(family(OPS[r.op]), []).append(r)
    return groups


def _markdown(found: dict[str, list[Result]]) -> None:
    """One row a family: how many ops, and how many values and gradients were compared with each library."""
    columns = [(name, what) for name in found for what in (("values",) if name == "NumPy" else ("values", "gradients"))]
    print("| family | ops |" + "".join(f" {name} {what} |" for name, what in columns))
    print("|---|--:|" + "--:|" * len(columns))
    every = {name: _by_family(results) for name, results in found.items()}
    for label in [*dict.fromkeys(family for groups in every.values() for family in groups), "all"]:
        rows = {name: found[name] if label == "all" else groups.get(label, []) for name, groups in every.items()}
        cells = [f"{_counts(rows[name])[what]:,}" for name, what in columns]
        print(f"| {label} | {max(map(len, rows.values()))} |" + "".join(f" {cell} |" for cell in cells))
    counts = sum((_counts(results) for results in found.values()), Counter())
    reasons = len({reason.text for reason in APART.values()})
    print(f"\n{counts['wrong']} wrong; {counts['apart']} apart by intent, for {reasons} reasons in reference/notes.py")


if __name__ == "__main__":
    sys.exit(main())
