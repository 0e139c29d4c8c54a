"""`python -m tests.reference [torch] [numpy] [jax] [--op NAME] [--every N]`: the table of ops and samples compared."""
from __future__ import annotations

import argparse
import importlib.util
import sys
import time

from engine import OPS

from .compare import Result, compared
from .libraries import Jax, NumPy, Torch

LIBRARIES = {"torch": Torch, "numpy": NumPy, "jax": Jax}


def main() -> int:
    """Compare, print a line an op and a total; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference", description=__doc__)
    parser.add_argument("library", nargs="*", choices=[*LIBRARIES, []], help="default: those installed")
    parser.add_argument("--op", help="this op alone")
    parser.add_argument("--every", type=int, default=1, help="every so many samples only")
    given = parser.parse_args()
    chosen = given.library or [name for name in LIBRARIES if importlib.util.find_spec(name)]
    wrong = 0
    for name in chosen:
        start, reference = time.perf_counter(), LIBRARIES[name]()
        found = [compared(op, reference, every=given.every) for op in OPS.values()
                 if op.name in reference.table and given.op in (None, op.name)]
        wrong += _report(reference.name, found, time.perf_counter() - start)
    return 1 if wrong else 0


def _report(name: str, found: list[Result], seconds: float) -> int:
    print(f"{name}\n{'op':<36}{'values':>8}{'gradients':>11}{'refused':>9}{'apart':>7}{'wrong':>7}")
    for r in found:
        print(f"{r.op:<36}{r.values:>8}{r.gradients:>11}{r.refused:>9}{r.apart:>7}{len(r.wrong):>7}")
        for line in r.wrong[:4]:
            print(f"    {r.op}({line}")
    wrong = sum(len(r.wrong) for r in found)
    values, gradients, apart = (sum(getattr(r, what) for r in found) for what in ("values", "gradients", "apart"))
    print(f"{name}: {len(found)} ops, {values} values, {gradients} gradients, {apart} apart by intent, {wrong} wrong, "
          f"{seconds:.0f} s\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
