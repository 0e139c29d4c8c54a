"""Tables of launches: the kernels of a recorded step, packed once and run in order by one call."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .launch import DATA, none, pack, started
from .native import (
    WORD,
    PyEval_RestoreThread,
    PyEval_SaveThread,
    PyLong_FromLongLong,
    builtin,
    call_thunk,
    jit,
    peek,
    poke,
)
from .tape import Addresses, Launch
from .team import TEAM, THREADS, clock, heard, hold, release, run_alone, share, wake

# The words of a table, and of each of its rows.
TEAM_AT, ROWS, LENGTH, TIMES, SHARED = (WORD * i for i in range(5))
FUNCTION, RECORD, BLOCKS, ALONE = (WORD * i for i in range(4))
ROW = 4 * WORD

_PATIENCE = 32  # launches, if none is parallel, between two looks at the clock


@jit
def _run_row(team, row, held, since, interpreter):
    """One launch: -> what `heard` says."""
    thunk, record, blocks = peek(row + FUNCTION), peek(row + RECORD), peek(row + BLOCKS)
    raised = False
    if peek(row + ALONE) != 0:
        if blocks > 0:
            call_thunk(thunk, 0, 0, blocks, record)
    elif held:
        raised, since, interpreter = share(team, thunk, record, blocks, since, interpreter)
    else:
        raised, since, interpreter = run_alone(team, thunk, record, blocks, since, interpreter)
    return raised, since, interpreter


@jit
def _run_rows(team, table, interpreter, held):
    """All launches: how many went well, and whether a signal's handler raised; the interpreter's lock is not held."""
    length, times, row = peek(table + LENGTH), peek(table + TIMES), peek(table + ROWS)
    unseen, since = 0, clock(team)
    if times != 0:
        poke(times, since)
    for i in range(length):
        raised, since, interpreter = _run_row(team, row, held, since, interpreter)
        if raised or peek(peek(row + RECORD)) != 0:
            return i, interpreter, raised
        if times != 0:
            poke(times + (1 + i) * WORD, clock(team))
        unseen += _PATIENCE if peek(row + ALONE) == 0 else 1
        row += ROW
        if unseen >= _PATIENCE:
            unseen = 0
            raised, since, interpreter = heard(team, since, interpreter)
            if raised:
                return i, interpreter, True
    return length, interpreter, False


def run(bound, items, count):
    """The C function behind a table: the number of the launch that failed, or None."""
    table = peek(bound + DATA)
    team = peek(table + TEAM_AT)
    shared = peek(table + SHARED) != 0
    if shared and not started(team):
        return 0
    interpreter = PyEval_SaveThread()
    held = shared and hold(team)
    if held:
        wake(team, peek(team + THREADS))
    done, interpreter, raised = _run_rows(team, table, interpreter, held)
    if held:
        release(team)
    PyEval_RestoreThread(interpreter)
    if raised:
        return 0
    return none(team) if done == peek(table + LENGTH) else PyLong_FromLongLong(done)


class Table:
    """Launches packed once, run as one native call.

    It keeps the arrays that the launches read and write. A launch of no block does nothing. Ctrl-C is heard between
    launches and inside long ones. Not for two Python threads at once.

    Raises TypeError where an argument is not what its kernel takes.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = tuple(launches)  # with the arrays that their addresses stand for
        self._rules, self._arguments = [], []
        for launch in launches:
            arguments = tuple(_real(argument) for argument in launch.arguments)
            self._arguments.append(arguments)
            self._rules.append(launch.kernel.rules(arguments))
        sizes = [rules.words for rules in self._rules]
        self._records = np.zeros(sum(sizes), np.int64)
        self._rows = np.zeros((len(launches), ROW // WORD), np.int64)
        address = self._records.ctypes.data
        for row, launch, rules, arguments in zip(self._rows, launches, self._rules, self._arguments, strict=True):
            builtin(pack, rules.shared)(address, *arguments)
            row[:] = rules.thunk, address, launch.blocks, launch.serial or launch.blocks <= 1
            address += rules.words * WORD
        self._times = np.zeros(1 + len(launches), np.int64)
        self._run, self._run_timed = (builtin(run, self._head(times)) for times in (0, self._times.ctypes.data))

    def __len__(self) -> int:
        return len(self._rows)

    def run(self) -> None:
        """All launches, in order; IndexError with the kernel's name where one reached outside its arrays."""
        failed = self._run()
        if failed is not None:
            self._fail(failed)

    def run_timed(self) -> np.ndarray:
        """Like `run`: -> int64[launches], the nanoseconds that each launch took."""
        failed = self._run_timed()
        if failed is not None:
            self._fail(failed)
        return np.diff(self._times)

    def _head(self, times: int) -> np.ndarray:
        shared = bool((self._rows[:, ALONE // WORD] == 0).any())
        return np.array([TEAM.address, self._rows.ctypes.data, len(self), times, shared], np.int64)

    def _fail(self, launch: int) -> None:
        address = self._rows[launch, RECORD // WORD]
        self._records[(address - self._records.ctypes.data) // WORD] = 0
        raise IndexError(f"launch {launch} of {len(self)}: {self._rules[launch].failed}")


def _real(argument: Any) -> Any:
    """What the kernel is given for an argument of a launch on the tape."""
    return argument.table() if isinstance(argument, Addresses) else argument
