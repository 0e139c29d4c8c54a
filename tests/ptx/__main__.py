"""Run tests of CUDA with every kernel as it is compiled: python -m tests.ptx [--card] [what pytest takes].

Without files, all tests of kernels and of training. With --card the engine runs as on a card, which is played: Numba
compiles when a kernel is wanted, arguments go through the driver's launch, steps are captured as graphs. It needs
numba-cuda with its compiler, and no card. At the end it says how many launches ran, and which kernels no test has run;
--save writes a table of all kernels, with the parts of them that ran, and how often banks of shared memory were asked
for more than one word at once.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["NUMBA_ENABLE_CUDASIM"] = str(int("--card" not in sys.argv))  # without: arrays are simulated, kernels not

import pytest

from tests.gpu import TESTS, TRAINING

from . import card, compiling, running
from .machine import machine

RESULTS = Path(__file__).parent.parent / "bench" / "results" / "cuda_ptx.md"
PACKAGES = ("numba", "numba-cuda", "numpy", "nvidia-nvvm")
MOVING = "tests/test_cuda_moving.py"


class Compiled:
    """A plugin of pytest: launches run compiled kernels, and are counted."""

    def __init__(self, texts: dict[running.Key, str], count_traffic: bool, whole: bool) -> None:
        self.texts, self._running, self._whole = texts, running.compiled(texts, count_traffic), whole

    def pytest_sessionstart(self) -> None:
        self._running.__enter__()

    def pytest_sessionfinish(self) -> None:
        self._running.__exit__(None, None, None)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in said(self.texts)[: None if self._whole else 1]:
            terminalreporter.write_line(line)


class Played:
    """A plugin of pytest: the engine runs on a played card."""

    def pytest_sessionstart(self) -> None:
        self._played = card.played()
        self._played.__enter__()

    def pytest_sessionfinish(self) -> None:
        self._played.__exit__(None, None, None)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_line(f"{card.LAUNCHES:,} launches through the driver, {card.GRAPHS:,} of graphs")


def said(texts: dict[running.Key, str]) -> list[str]:
    """What ran, in words."""
    ran = [key for key in texts if running.LAUNCHES[key]]
    run, every = (sum(n) for n in zip(*(_instructions(texts[key]) for key in texts), strict=True))
    lines = [f"{running.LAUNCHES.total():,} launches of {len(ran)} of {len(texts)} compiled kernels, "
             f"{run:,} of their {every:,} instructions of PTX"]  # fmt: skip
    if running.WITHOUT:
        lines.append(f"{running.WITHOUT.total()} launches of others, in the simulator: {sorted(running.WITHOUT)}")
    never = sorted(name for _, name, _ in set(texts) - set(ran))
    return [*lines, f"never launched: {', '.join(never)}"] if never else lines


def _instructions(text: str) -> tuple[int, int]:
    """(instructions that ran, all)."""
    m = machine(text)
    sizes = [len(b.instructions) for b in m.program.blocks]
    return sum(size for size, visits in zip(sizes, m.visits, strict=True) if visits), sum(sizes)


def _table(texts: dict[running.Key, str], capability: str, passed: bool) -> Iterator[str]:
    yield "# CUDA kernels, run as they are compiled"
    yield ""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    yield f"{date.today()}, {versions}; PTX for compute capability {capability}, run by tests/ptx, on no card."
    yield "Written by `python -m tests.ptx --save`: " + ("all tests passed." if passed else "tests FAILED.")
    yield "A test fails where an access is out of bounds or misaligned, or where two threads meet at a word of shared"
    yield f"memory, one of them writing, without a barrier between. {said(texts)[0]}."
    yield "Wavefronts are of shared memory: those that the accesses took, over those that as many would take if no bank"
    yield "were asked for two words at once."
    yield ""
    yield "| kernel | module | launches | instructions | of which ran | wavefronts, loads | wavefronts, stores |"
    yield "|---|---|---|---|---|---|---|"
    for key, text in texts.items():
        module, name, _ = key
        run, every = _instructions(text)
        shares = " | ".join(_share(key, kinds) for kinds in (("loads", "ldmatrix"), ("stores", "copies")))
        yield f"| {name} | {module.rsplit('.', 1)[-1]} | {running.LAUNCHES[key]} | {every} | {run} | {shares} |"


def _share(key: running.Key, kinds: tuple[str, ...]) -> str:
    """Wavefronts over the least."""
    traffic = running.TRAFFIC.get(key)
    if traffic is None:
        return ""
    needed, least = (sum(counts["shared", kind] for kind in kinds) for counts in (traffic.needed, traffic.least))
    return f"{needed / least:.2f}" if least else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ptx", description=str(__doc__).splitlines()[0])
    parser.add_argument("--capability", default="9.0", choices=("8.0", "9.0"), help="compile for it (default 9.0)")
    parser.add_argument("--card", action="store_true", help="on a played card, with the engine's own code for cards")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given, rest = parser.parse_known_args()
    if given.save and (given.card or rest):
        parser.error("--save is for all tests: leave out --card and what is for pytest")
    problem = compiling.missing()
    if problem:
        print(f"tests.ptx: {problem}", file=sys.stderr)
        return 1
    files = [] if any(Path(a.partition("::")[0]).exists() for a in rest) else [*TESTS, TRAINING, MOVING]
    if given.card:
        return int(pytest.main(["-q", *rest, *files], plugins=[Played()]))
    texts = compiling.texts(given.capability)
    failed = int(pytest.main(["-q", *rest, *files], plugins=[Compiled(texts, given.save, bool(files))]))
    if given.save:
        RESULTS.write_text("\n".join(_table(texts, given.capability, not failed)) + "\n", encoding="utf-8")
        print(RESULTS)
    return failed or int(bool(running.WITHOUT))


if __name__ == "__main__":
    sys.exit(main())
