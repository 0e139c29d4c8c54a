"""Tables of launches do what the launches do one by one, in order, and say which one failed."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.cpu import jit_disabled

pytest.importorskip("numba")
if jit_disabled():
    pytest.skip("kernels are switched off", allow_module_level=True)

from engine.kernels.cpu.jit import kernel
from engine.kernels.cpu.table import Table
from engine.kernels.cpu.tape import CURRENT, Addresses, Launch, Tape


@kernel("T[::1], int64[::1], T")
def scale(lo, hi, out, offset, factor):
    """out ← factor out + offset + block, each block two elements."""
    for i in range(2 * lo, min(2 * hi, out.size)):
        out[i] = factor * out[i] + i // 2
        if offset.size:
            out[i] += offset[0]


@kernel("T[:, :], T[:, :], bool, uint64, float")
def add_turned(lo, hi, x, out, twice, count, more):
    """out ← out + x (+ x) + count + more, by columns."""
    for j in range(lo, hi):
        for i in range(out.shape[0]):
            out[i, j] += x[i, j] + (x[i, j] if twice else 0) + count + more


@kernel("int64[:, :], float64[::1]")
def total(lo, hi, arrays, out):
    """The sizes of several arrays, with the block's number."""
    for i in range(lo, hi):
        out[i] = arrays[i, 1] + i


@kernel("int64[::1], float64[::1]")
def at(lo, hi, index, out):
    """Fails, where bounds are checked, at an index outside."""
    out[index[0]] += 1


def _memory(dtype):
    return {"flat": np.arange(30, dtype=dtype), "square": np.arange(30, dtype=dtype).reshape(5, 6).copy(),
            "added": np.arange(42, dtype=dtype).reshape(6, 7), "offset": np.array(5), "sums": np.zeros(3)}


def _launches(memory, plan):
    """What the table does for a plan: (which kernel, blocks, serial, a number)."""
    flat, square, added, offset, sums = memory.values()
    for which, blocks, serial, number in plan:
        if which == 0:
            yield Launch(scale, min(blocks, 15), (flat, offset if number > 1 else None, number / 4), serial)
        elif which == 1:
            arguments = (added[::-1][:5, 1:6], square.T[:5, :5], number > 2, number, 0.5)
            yield Launch(add_turned, min(blocks, 5), arguments, serial)
        elif which == 2:
            arguments = (np.broadcast_to(added[:1, ::-1][:, :6], (5, 6)), square, False, 2**63, number)
            yield Launch(add_turned, min(blocks, 6), arguments, serial)
        else:
            yield Launch(total, min(blocks, 3), (Addresses([flat, square, sums]), sums), serial)


PLANS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 20), st.booleans(), st.integers(0, 4)), max_size=12)


@given(plan=PLANS, dtype=st.sampled_from(["float32", "float64"]), times=st.integers(0, 3), timed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_table_does_what_its_launches_do(plan, dtype, times, timed):
    found, wanted = _memory(dtype), _memory(dtype)
    table = Table(list(_launches(found, plan)))
    assert len(table) == len(plan)
    for _ in range(times):
        if timed:
            nanoseconds = table.run_timed()
            assert nanoseconds.shape == (len(plan),) and (nanoseconds >= 0).all()
        else:
            table.run()
        for launch in _launches(wanted, plan):
            arguments = [a.table() if isinstance(a, Addresses) else a for a in launch.arguments]
            (launch.kernel.serial if launch.serial else launch.kernel)(launch.blocks, *arguments)
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)


def test_what_a_tape_wrote_down_runs_as_a_table():
    x, tape = np.ones(8), Tape()
    CURRENT.tape = tape
    try:
        scale(4, x, None, 2)
        scale.serial(4, x, np.array(1), 2)
    finally:
        CURRENT.tape = None
    assert (x == 1).all()
    Table(tape.steps).run()
    assert (x.reshape(4, 2) == (4 + 3 * np.arange(4) + 1)[:, None]).all()


@pytest.mark.parametrize("arguments", [(np.ones(3), None), (np.ones((4, 4))[:, 1:], None, 1.0), (np.ones(3), 1, 1.0),
                                       (np.ones(3), None, "1"), (np.ones(3), np.ones(1), 1.0)])
def test_arguments_are_checked_once_and_early(arguments):
    with pytest.raises(TypeError):
        Table([Launch(scale, 2, arguments, False)])


def test_a_table_keeps_its_arrays():
    out = np.zeros(2)
    table = Table([Launch(total, 2, (Addresses([np.ones(7), np.ones(9)]), out), False),
                   Launch(scale, 1, (out, np.array(1), np.float32(2)), False)])
    rubbish = [np.full(n, 77) for n in (1, 2, 4, 7, 9) for _ in range(50)]
    table.run()
    assert (out == 2 * (np.array([7, 10])) + 1).all() and len(rubbish) == 250


def test_tables_in_several_python_threads():
    def work():
        x = np.zeros(40)
        table = Table([Launch(scale, 20, (x, None, 1.0), False)] * 50)
        for _ in range(20):
            table.run()
        results.append(x)

    results: list[np.ndarray] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for x in results:
        np.testing.assert_array_equal(x, 1000 * (np.arange(40) // 2))


def _python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True,
                          text=True, timeout=300)


FAILING = """
import numpy as np, pytest
from tests.test_table import Launch, Table, at, scale
x, index, out = np.zeros(4), np.array(2), np.zeros(3)
table = Table([Launch(scale, 2, (x, None, 1.0), False), Launch(at, BLOCKS, (index, out), SERIAL),
               Launch(scale, 2, (x, None, 1.0), False)])
table.run()
assert (x == [0, 0, 2, 2]).all()
index[()] = 3
for run in (table.run, table.run_timed):
    with pytest.raises(IndexError, match="launch 1 of 3.*kernel at"):
        run()
index[()] = 1
table.run()                                     # a failure is forgotten
assert (x == [0, 0, 6, 6]).all(), x
"""


@pytest.mark.parametrize(("blocks", "serial"), [(1, False), (4, False), (4, True)])
def test_a_failure_names_the_kernel_and_the_launch(blocks, serial):
    code = FAILING.replace("BLOCKS", str(blocks)).replace("SERIAL", str(serial))
    ran = _python(code, NUMBA_BOUNDSCHECK="1", NUMBA_NUM_THREADS="2")
    assert ran.returncode == 0, ran.stderr


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from tests.test_table import Launch, Table, scale
x = np.zeros(40000)
table = Table([Launch(scale, 20000, (x, None, 1.0), False)] * 300_000)      # minutes
signal.signal(signal.SIGINT, signal.default_int_handler)                    # a shell may have it ignored
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    table.run()
except KeyboardInterrupt:
    assert 0 < x[-1] < 20000 * 300_000
    scale(20000, x, None, 0.0)                  # the team is free
    assert x[-1] == 19999
    print("heard")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are different here")
def test_ctrl_c_is_heard_between_launches():
    ran = _python(INTERRUPTED, NUMBA_NUM_THREADS="2")
    assert ran.stdout == "heard\n", ran.stderr
