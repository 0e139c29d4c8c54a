"""The parent's end of the processes that are compared: starting them, asking them, and letting them take turns."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from types import TracebackType
from typing import Any, Self

from microtfm.errors import UserError

PEERS = {"torch": "PyTorch", "torch-compile": "compiled PyTorch", "jax": "JAX"}
DEVICE, PRECISION = "MICROTFM_BENCH_DEVICE", "MICROTFM_BENCH_PRECISION"  # what the processes of all sides are told
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from microtfm.bench.worker import main; main()"
SETTLING = 0.02                          # seconds between turns: idle threads of the last one stop spinning
# Idle threads of OpenBLAS spin for 2 to this power of cycles: by default 2²⁶, about 30 ms, and so into the next turn.
# This is less than 1 ms, still longer than what lies between two calls of one side.
SPINNING = {"OPENBLAS_THREAD_TIMEOUT": "20"}


def check_peers(names: list[str]) -> None:
    """UserError where a peer cannot run, before anything is started."""
    for name in names:
        if name not in PEERS:
            raise UserError(f"--peer {name}: there is no such peer. There are: {', '.join(PEERS)}.")
        package = name.partition("-")[0]
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--peer {name}: {PEERS[name]} is not installed here. Install it (pip install {package}), "
                            f"or leave --peer {name} out.")


@contextmanager
def placed(device: str, precision: str = "float32", tell: Callable[[str], None] | None = None
           ) -> Iterator[dict[str, str]]:
    """Every side that is started inside computes there: "cpu", "cuda" or "auto". Yields what to say about it.

    tell: told what "auto" took, and why. Raises DeviceError where the device cannot be used, and UserError where the
    precision does not go with it, before anything is started.
    """
    from microtfm.place import check_precision, choose, say_where
    chosen, why = choose(device)
    check_precision(precision, chosen, why)
    if tell is not None:
        say_where(device, why, tell)
    before = {name: os.environ.get(name) for name in (DEVICE, PRECISION)}
    os.environ.update({DEVICE: chosen, PRECISION: precision})
    try:
        facts = {"device": chosen, "precision": precision, "place": why}
        if chosen == "cuda" and simulated():
            facts["note"] = ("SIMULATED: these times are those of a simulator, and say nothing of a card; peers "
                             "compute on the processor")
        yield facts
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def simulated() -> bool:
    """Whether a card, where one is asked for, is a simulated one."""
    try:
        return int(os.environ.get("NUMBA_ENABLE_CUDASIM") or 0) != 0
    except ValueError:
        return False


def on_card() -> bool:
    """Whether a peer's process is to compute on a card."""
    return os.environ.get(DEVICE, "cpu") == "cuda" and not simulated()


class Side:
    """One of the processes: `call("run", 5)` calls the method `run` of the object that was made there."""

    def __init__(self, name: str, make: str, arguments: Mapping[str, Any], threads: int) -> None:
        """make: "module:class", made with the arguments, which must be plain values. Nothing runs before `start`."""
        self.name, self._make, self._arguments, self._threads = name, make, dict(arguments), threads
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None
        self.started = 0.0

    def start(self) -> Self:
        """Start the process and make the object."""
        command = [sys.executable, "-c", START, json.dumps(sys.path)]
        environment = {**SPINNING, **os.environ, **dict.fromkeys(THREADS, str(self._threads))}
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")    # noqa: SIM115 (see `close`)
        self.started = time.time()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                                         text=True, encoding="utf-8", env=environment)
        try:
            self._ask({"make": self._make, "arguments": self._arguments})
        except BaseException:
            self.close()
            raise
        return self

    def call(self, method: str, *arguments: Any) -> Any:
        """What the method returns. UserError where it fails or the process dies."""
        return self._ask({"call": method, "arguments": arguments})

    def _ask(self, request: dict[str, Any]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None, "start() comes first"
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"The process of {self.name} ended with status {process.wait()}. Its last words: "
                            f"{self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise UserError(f"{self.name} failed: {reply['error']}")
        return reply["answer"]

    def _last_words(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read()[-500:].split()) or "none"

    def close(self) -> None:
        """End the process. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


Turn = list[float]                       # milliseconds of each step of one turn


def take_turns(runs: Mapping[str, Callable[[], Turn]], seconds: float, least: int,
               settling: float = SETTLING, most: int | None = None) -> dict[str, list[Turn]]:
    """Rounds in which each side has one turn, in the order given, until the first has been busy for `seconds`.

    There are at least `least` rounds and at most `most`, with `settling` seconds of rest before each turn.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    busy, rounds = 0.0, 0
    while rounds < least or busy < seconds:
        if rounds == most:
            break
        for i, (name, run) in enumerate(runs.items()):
            time.sleep(settling)
            turns[name].append(run())
            busy += sum(turns[name][-1]) / 1000 if i == 0 else 0.0
        rounds += 1
    return turns


def steps_a_turn(step_ms: float, turn_seconds: float = 0.3) -> int:
    """How many steps fill a turn."""
    return max(1, min(100, round(turn_seconds * 1000 / max(step_ms, 1e-3))))


def ratio(ours: list[Turn], theirs: list[Turn]) -> float:
    """The median over all rounds of their median divided by ours: above 1 where we are faster."""
    return median(median(b) / median(a) for a, b in zip(ours, theirs, strict=True))


def significant(x: float) -> float:
    """x to four digits, which never makes it 0."""
    return float(f"{x:.4g}")


def flat(turns: list[Turn]) -> Turn:
    """The steps of all turns."""
    return [ms for turn in turns for ms in turn]
