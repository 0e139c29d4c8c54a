"""The team: the threads that share the blocks of a kernel, woken in less than a microsecond.

The thread that launches a kernel (worker 0) writes the job into a line of memory and opens its ticket: which blocks
are left for how many threads, one word. Whoever changes the ticket in one atomic step has claimed a block of the job
that is then current, and the job cannot change before its claimed blocks are reported done. So the launching thread
waits only for blocks that others have begun: a worker that sleeps, or that another process keeps from its core, is
never waited for. Idle workers watch the ticket for a while, then sleep on a lock, without ever needing Python's.

Workers with even numbers take the first block that is left, the others the last one. So what a core has written in one
kernel, it mostly reads again in the next one, and has it in its own cache.

Every few blocks the launching thread listens for signals, so that Ctrl-C ends a long kernel, too: what is left of the
job is left out, and the exception of the signal's handler goes on.

One launch at a time holds the team; a Python thread that finds it held runs all its blocks alone. While a table of
launches holds it, no worker sleeps.
"""

import atexit
import ctypes
import os
import platform
import threading
import time
from typing import Any

import numpy as np
from numba import types
from numba.core import config

from .native import (
    WORD,
    PyErr_CheckSignals,
    PyEval_RestoreThread,
    PyEval_SaveThread,
    PyThread_acquire_lock,
    PyThread_release_lock,
    add,
    call_clock,
    call_plain,
    call_thunk,
    compiled,
    exchange,
    jit,
    observe,
    peek,
    poke,
    publish,
    relax,
)

_LINE = 128  # bytes that no two processors should write to at once
TICKET, THUNK, RECORD = (WORD * i for i in range(3))  # offsets into the memory of the team, in bytes
DONE = _LINE  # blocks of the job that workers have done
HELD = 2 * _LINE  # whether some launch has the team
(THREADS, STARTED, AWAKE, STOP, WATCH, YIELD, CLOCK, CLOCK_WHICH, CLOCK_SCALE, STARTER, NONE, NDARRAY, TYPE_ERROR,
 INDEX_ERROR) = (3 * _LINE + WORD * i for i in range(14))  # fmt: skip
BEDS = 4 * _LINE  # for each worker, whether it sleeps and the lock that it sleeps on
_BED = 2 * WORD
# A ticket: the number of threads that may claim, the first block that is left, and how many are left.
_BITS = 27
LEFT, _FIRST, _THREADS = (1 << _BITS) - 1, 1 << _BITS, 1 << 2 * _BITS
MOST_BLOCKS, MOST_CLAIMING = LEFT, (1 << 63 - 2 * _BITS) - 1
_PATIENCE = 512  # turns of a waiting loop, some microseconds, between two looks at the clock
WATCH_NANOSECONDS = 300_000  # how long an idle worker watches before it sleeps
BETWEEN_SIGNALS = 50_000_000  # nanoseconds
LISTENING = 4  # blocks between two looks at the clock


@jit
def clock(team):
    """Nanoseconds, from native code."""
    return call_clock(peek(team + CLOCK), peek(team + CLOCK_WHICH), peek(team + CLOCK_SCALE))


@jit
def hold(team):
    """Take the team if it is free and has several threads: whether it was."""
    return observe(team + THREADS) > 1 and observe(team + HELD) == 0 and exchange(team + HELD, 0, 1)


@jit
def release(team):
    """Let others hold the team."""
    publish(team + HELD, 0)


@jit
def wake(team, threads):
    """Wake those of the first workers that sleep."""
    for worker in range(1, min(threads, peek(team + AWAKE))):
        bed = team + BEDS + worker * _BED
        if observe(bed) != 0 and exchange(bed, 1, 0):
            PyThread_release_lock(peek(bed + WORD))


@jit
def heard(team, since, interpreter):
    """Listen for signals if that was long ago: -> (whether a handler raised, when it was, the interpreter's state).

    The interpreter's lock is not held. since: 0 for now.
    """
    now = clock(team)
    if since == 0 or now - since < BETWEEN_SIGNALS:
        return False, now if since == 0 else since, interpreter
    PyEval_RestoreThread(interpreter)
    raised = PyErr_CheckSignals() != 0
    return raised, now, PyEval_SaveThread()


@jit
def run_alone(team, thunk, record, blocks, since, interpreter):
    """Run a job in this thread: see `share`."""
    raised = False
    for block in range(0, blocks, LISTENING):
        call_thunk(thunk, 0, block, min(block + LISTENING, blocks), record)
        if block + LISTENING < blocks:
            raised, since, interpreter = heard(team, since, interpreter)
            if raised:
                break
    return raised, since, interpreter


@jit
def share(team, thunk, record, blocks, since, interpreter):
    """Run a job by the team, which the caller holds, as its worker 0: -> what `heard` says; if that is yes, the rest of
    the blocks is left out."""
    if blocks > MOST_BLOCKS:
        return run_alone(team, thunk, record, blocks, since, interpreter)
    poke(team + THUNK, thunk)
    poke(team + RECORD, record)
    threads = min(observe(team + THREADS), MOST_CLAIMING)
    publish(team + TICKET, threads * _THREADS + _FIRST + (blocks - 1))
    wake(team, min(threads, blocks))
    call_thunk(thunk, 0, 0, 1, record)
    others, own, raised = blocks - 1, 0, False
    while True:
        ticket = observe(team + TICKET)
        left = ticket & LEFT
        if left == 0:
            break
        if raised:
            if exchange(team + TICKET, ticket, ticket - left):
                others -= left
        elif exchange(team + TICKET, ticket, ticket + _FIRST - 1):
            block = ticket >> _BITS & LEFT
            call_thunk(thunk, 0, block, block + 1, record)
            others -= 1
            own += 1
            if own % LISTENING == 0:
                raised, since, interpreter = heard(team, since, interpreter)
    turns = 0
    while observe(team + DONE) != others:
        relax()
        turns += 1
        if turns % _PATIENCE == 0:
            call_plain(peek(team + YIELD))
    publish(team + DONE, 0)
    return raised, since, interpreter


def work(team, worker):
    """What a worker does until the process ends."""
    bed = team + BEDS + worker * _BED
    done, turns, since = 0, 0, 0
    while True:
        ticket = observe(team + TICKET)
        left = ticket & LEFT
        if left != 0 and worker < ticket >> 2 * _BITS:
            if exchange(team + TICKET, ticket, ticket - 1 + (1 - worker % 2) * _FIRST):
                block = (ticket >> _BITS & LEFT) + worker % 2 * (left - 1)
                call_thunk(peek(team + THUNK), worker, block, block + 1, peek(team + RECORD))
                done += 1
                turns, since = 0, 0
            continue
        if done != 0:
            add(team + DONE, done)
            done = 0
        relax()
        turns += 1
        if turns % _PATIENCE != 0:
            continue
        if observe(team + STOP) != 0:
            return
        call_plain(peek(team + YIELD))
        now = clock(team)
        if since == 0:
            since = now
        elif now - since > peek(team + WATCH) and (observe(team + HELD) == 0 or worker >= peek(team + AWAKE)):
            exchange(bed, 0, 1)
            busy = observe(team + STOP) != 0 or (observe(team + HELD) != 0 and worker < peek(team + AWAKE))
            if not (busy and exchange(bed, 1, 0)):
                PyThread_acquire_lock(peek(bed + WORD), 1)
            since = 0


class Team:
    """The memory and the threads of a team."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        words = (BEDS + threads * _BED + _LINE) // WORD
        self._memory = np.zeros(words + _LINE // WORD, np.int64)
        _keep_for_ever(self._memory)  # a worker may look at it until the very end of the process
        skipped = -self._memory.ctypes.data % _LINE // WORD
        self._words = self._memory[skipped : skipped + words]
        self.address = self._words.ctypes.data
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.threads = threads
        self._fill()
        atexit.register(self.stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def __getitem__(self, offset: int) -> int:
        return int(self._words[offset // WORD])

    def __setitem__(self, offset: int, value: int) -> None:
        self._words[offset // WORD] = value

    @property
    def threads(self) -> int:
        """How many threads may take blocks, with the one that launches."""
        return self[THREADS]

    @threads.setter
    def threads(self, n: int) -> None:
        self[THREADS] = n

    def start(self) -> None:
        """Start the workers that are missing; where the system gives no more threads, go on with fewer."""
        with self._starting:
            self[STARTED] = max(1, self[STARTED])
            address = compiled(work, types.void(types.int64, types.int64))
            target = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)
            while self[STARTED] < self.threads:
                worker = self[STARTED]
                thread = threading.Thread(
                    target=target, args=(self.address, worker), name=f"kernel worker {worker}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    self.threads = worker
                    return
                self._threads.append(thread)
                self[STARTED] = worker + 1

    def stop(self) -> None:
        """End the workers: what is launched later runs in the launching thread."""
        self.threads = 1
        self[STOP] = 1
        for worker in range(1, self[STARTED]):
            bed = BEDS + worker * _BED
            if self[bed]:
                self[bed] = 0
                ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(self[bed + WORD]))
        for thread in self._threads:
            thread.join(timeout=1)

    def _fill(self) -> None:
        """What the native side reads."""
        system, which, scale, pause = _system()
        self[AWAKE] = min(self._most, _processors())
        self[WATCH] = WATCH_NANOSECONDS
        self[CLOCK], self[CLOCK_WHICH], self[CLOCK_SCALE], self[YIELD] = system, which, scale, pause
        self._starter = self.start
        for offset, thing in ((STARTER, self._starter), (NONE, None), (NDARRAY, np.ndarray), (TYPE_ERROR, TypeError),
                              (INDEX_ERROR, IndexError)):  # fmt: skip
            self[offset] = id(thing)
        new, take = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
        new.restype = ctypes.c_void_p
        for worker in range(1, self._most):
            lock = new()
            take(ctypes.c_void_p(lock), 0)
            self[BEDS + worker * _BED + WORD] = lock

    def _forked(self) -> None:
        """A forked child has the memory but none of the threads: it begins with none, and starts its own."""
        threads = self.threads
        self._words[:] = 0
        self._starting = threading.Lock()
        self._threads = []
        self.threads = threads
        self._fill()


def _system() -> tuple[int, int, int, int]:
    """The address of a clock's C function, which clock, nanoseconds in its first word, and a call that yields."""
    if platform.system() == "Windows":
        system: Any = ctypes.CDLL("kernel32")
        frequency = ctypes.c_int64()
        system.QueryPerformanceFrequency(ctypes.byref(frequency))
        return _address(system.QueryPerformanceCounter), 0, 10**9 // frequency.value, _address(system.SwitchToThread)
    system = ctypes.CDLL(None)
    return _address(system.clock_gettime), time.CLOCK_MONOTONIC, 10**9, _address(system.sched_yield)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_for_ever(thing: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


TEAM = Team(config.NUMBA_NUM_THREADS)
