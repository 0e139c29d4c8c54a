"""The threads of the kernels: every block done once, by whoever is awake, however many launch, fork, exit or crowd."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.kernels.cpu import jit_disabled

pytest.importorskip("numba")
if jit_disabled():
    pytest.skip("kernels are switched off", allow_module_level=True)

BEGIN = """
import os, sys, threading, time
import numpy as np
from engine.kernels.cpu import team
from engine.kernels.cpu.jit import get_threads, kernel, set_threads
from engine.kernels.cpu.table import Table
from engine.kernels.cpu.tape import Launch

@kernel("int64[::1], int64[::1], int")
def count(worker, lo, hi, done, by, turns):
    for block in range(lo, hi):
        x = 1.0
        for i in range(turns):
            x = x * 0.999 + 1.0
        done[block] += 1 + (x < 0)
        by[worker] += 1

def launches(n, seed=0, most=40, turns=300):
    rng = np.random.default_rng(seed)
    done, by = np.zeros(most, np.int64), np.zeros(get_threads(), np.int64)
    wanted = np.zeros(most, np.int64)
    for _ in range(n):
        blocks, few = int(rng.integers(0, most + 1)), int(rng.integers(1, turns))
        match rng.integers(4):
            case 0 | 1:
                count(blocks, done, by, few)
            case 2:
                count.serial(blocks, done, by, few)
            case _:
                Table([Launch(count, blocks, (done, by, few), False)] * 5).run()
                wanted[:blocks] += 4
        wanted[:blocks] += 1
        assert (done == wanted).all(), (done, wanted)
    assert by.sum() == done.sum()
    return by

def in_threads(n, work):
    failed = []
    def watched(i):
        try:
            work(i)
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=watched, args=(i,)) for i in range(n)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed, failed

def everybody_awake():
    team.TEAM[team.AWAKE] = get_threads()       # as if there were as many processors
"""


def _run(lines, threads=2, code=0):
    ran = subprocess.run([sys.executable, "-c", BEGIN + lines], env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
                         capture_output=True, text=True, timeout=120)
    assert ran.returncode == code, ran.stderr
    return ran


@pytest.mark.parametrize("awake", ["", "everybody_awake()"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_block_is_done_once(threads, awake):
    _run(f"""{awake}
launches(2500)
launches(300, 1, turns=3)
assert team.TEAM[team.STARTED] in (0 if {threads} == 1 else {threads},)
""", threads)


@pytest.mark.parametrize("threads", [2, 8])
def test_many_python_threads_launch_at_once(threads):
    _run("everybody_awake()\nin_threads(6, lambda i: launches(500, i))", threads)


def test_a_kernel_sees_only_workers_below_the_number_of_threads():
    _run("""everybody_awake()
for n in (4, 2, 8, 1, 3, 8, 2) * 20:
    set_threads(n)
    by = launches(10, n)                        # an array of n, whose sum is checked
    assert len(by) == n == get_threads()
""", 8)


def test_the_workers_help():
    _run("""
done, by = np.zeros(64, np.int64), np.zeros(2, np.int64)
for _ in range(200):
    count(64, done, by, 5000)
assert (done == 200).all() and by[1] > 0, by
time.sleep(0.05)                                # the worker sleeps, and is woken
before = by[1]
for _ in range(200):
    count(64, done, by, 5000)
assert (done == 400).all() and by[1] > before, by
""")


FORKED = """
launches(20)
def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

def child():
    assert team.TEAM[team.STARTED] == 0
    launches(100)
    assert team.TEAM[team.STARTED] == get_threads() == 2
    forked(lambda: launches(20))

import warnings
warnings.simplefilter("ignore", DeprecationWarning)
forked(child)
launches(50)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_team_of_its_own():
    _run(FORKED)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_while_other_threads_launch():
    _run(FORKED + """
enough = threading.Event()
def go_on():
    while not enough.is_set():
        launches(5)
others = [threading.Thread(target=go_on) for _ in range(3)]
[thread.start() for thread in others]
for _ in range(5):
    forked(child)
enough.set()
[thread.join() for thread in others]
""")


@pytest.mark.parametrize("end", [
    "pass",                                                                       # while the workers watch
    "time.sleep(0.1)",                                                            # while they sleep
    "os._exit(0)",
    "threading.Thread(target=lambda: launches(10**6), daemon=True).start(); time.sleep(0.05)",    # in mid-launch
    "threading.Thread(target=lambda: launches(200)).start()",                     # waited for, as ever
    "in_threads(3, launches)",
    "set_threads(1)",
    "del team.TEAM",
    "import gc; [sys.modules.pop(n) for n in list(sys.modules) if n.startswith('engine')]; gc.collect()",
])
def test_the_process_ends_whatever_the_workers_do(end):
    end = end.replace("launches)", "lambda i: launches(50, i))")
    for threads in (2, 8):
        _run(f"everybody_awake()\nlaunches(20)\n{end}\n", threads)


def test_the_process_ends_with_an_error_or_a_signal():
    assert "ValueError" in _run("launches(20)\nraise ValueError", code=1).stderr
    assert "KeyboardInterrupt" in _run("""
launches(20)
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
while True:
    launches(20)
""", code=-2 if os.name == "posix" else 1).stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are different here")
@pytest.mark.parametrize("run", ["count(blocks, done, by, 20_000)",
                                 "Table([Launch(count, blocks, (done, by, 20_000), False)]).run()"])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_signal_ends_a_single_long_kernel(threads, run):
    """It would take minutes; the handler's exception comes soon, every claimed block is whole, and all goes on."""
    _run(f"""
import signal
launches(20)
blocks = 10_000_000
done, by = np.zeros(blocks, np.int64), np.zeros(get_threads(), np.int64)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {run}
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("the kernel ran to its end")
assert 0 < done.sum() == by.sum() < blocks and done.max() == 1
launches(200)
""", threads)


def test_kernels_still_run_while_the_process_ends():
    ran = _run("""
import atexit
atexit._clear()
atexit.register(lambda: (launches(20), print("well", flush=True)))
atexit.register(team.TEAM.stop)
launches(20)
""")
    assert ran.stdout == "well\n"


def test_a_system_without_more_threads():
    _run("""
def refuse(thread):
    raise RuntimeError("can't start new thread")
start, threading.Thread.start = threading.Thread.start, refuse
launches(20)
assert get_threads() == 1
threading.Thread.start = start
set_threads(4)
launches(100)
assert team.TEAM[team.STARTED] == 4
""", 4)


@pytest.mark.parametrize("threads", [2, 8])
def test_a_busy_machine(threads):
    _run("""everybody_awake()
import subprocess
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
try:
    launches(500)
finally:
    for process in busy:
        process.kill()
        process.wait()
""", threads)
