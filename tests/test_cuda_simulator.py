"""The CUDA simulator: what a card does right it does right, and what a card does wrong in silence it names."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("greenlet")

ROOT = Path(__file__).parent.parent
SETUP = """
import numpy as np
from engine.kernels.cuda import simulator, stand_in, tape
from engine.kernels.cuda.jit import cuda, intrinsic, jit, kernel
from engine.kernels.cuda.memory import SimulatedFault

def at(mark):
    with open(__file__, encoding="utf-8") as file:
        lines = file.read().splitlines()
    return f"simulated.py:{next(i for i, line in enumerate(lines, 1) if line.endswith('# ' + mark))}"

def refused(run):
    try:
        run()
    except SimulatedFault as e:
        return str(e)
    raise AssertionError("nothing was refused")
"""


def simulate(tmp_path, code, kind="threads"):
    """Run code in a process of its own, where kernels are simulated; its source is a file, for the lines in errors."""
    code = f"import engine.kernels.cuda.jit as wrapper\nwrapper._simulation.set({kind!r})\n" + textwrap.dedent(code)
    file = tmp_path / "simulated.py"
    file.write_text(SETUP + textwrap.dedent(code), encoding="utf-8")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-W", "error", str(file)], env=environment, capture_output=True, text=True,
                         timeout=120, cwd=tmp_path)
    assert run.returncode == 0, run.stderr


either = pytest.mark.parametrize("kind", ["threads", "lockstep"])


@either
def test_a_block_exchanges_numbers(tmp_path, kind):
    simulate(tmp_path, """
    @kernel("float32[::1], float32[::1], int32", threads=64)
    def total(x, out, n):
        part = cuda.shared.array(64, np.float32)
        i, t = cuda.grid(1), cuda.threadIdx.x
        part[t] = x[i] if i < n else np.float32(0)
        cuda.syncthreads()
        step = 32
        while step:
            if t < step:
                part[t] += part[t + step]
            cuda.syncthreads()
            step >>= 1
        if t == 0:
            out[cuda.blockIdx.x] = part[0]

    @kernel("int32[::1], int32[::1]", threads=32)
    def shuffled(down, votes):
        lane = cuda.laneid
        down[lane] = cuda.shfl_down_sync(0xffffffff, lane, 4)
        votes[lane] = cuda.ballot_sync(0xffffffff, lane % 3 == 0) & 0xff
        if lane < 8:
            votes[lane] += 1000 * cuda.any_sync(0xff, lane == 7) + 2000 * cuda.all_sync(0xff, lane < 7)

    x = np.arange(150, dtype=np.float32)
    for _ in range(2):
        out = np.zeros(3, np.float32)
        total[3, 64](x, out, 150)
        down, votes = np.zeros(32, np.int32), np.zeros(32, np.int32)
        shuffled[1, 32](down, votes)
        assert out.tolist() == [x[:64].sum(), x[64:128].sum(), x[128:].sum()]
        assert down.tolist() == [*range(4, 32), 28, 29, 30, 31]
        assert votes.tolist() == [0b01001001 + 1000] * 8 + [0b01001001] * 24
    """, kind)


@either
def test_faults_are_named_with_block_thread_and_line(tmp_path, kind):
    simulate(tmp_path, """
    @kernel("float32[::1], int32", threads=64)
    def outside(x, at):
        if cuda.threadIdx.x == 3:
            x[at] = np.float32(1)                                   # written

    x = np.zeros(8, np.float32)
    for index in (8, -1):
        said = refused(lambda: outside[2, 4](x, index))
        assert "kernel outside, block (0, 0, 0), thread (3, 0, 0), " + at("written") in said, said
        assert f"index {index} is outside argument 0 of shape (8,)" in said, said

    @kernel("float32[::1]", threads=64)
    def ends_early(x):
        if cuda.threadIdx.x == 5:
            return
        cuda.syncthreads()                                          # barrier

    said = refused(lambda: ends_early[1, 64](x))
    assert "divergent barrier: thread (5, 0, 0)" in said and at("barrier") in said, said

    @kernel("float32[::1]", threads=64)
    def two_barriers(x):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
        else:
            cuda.syncthreads()

    assert "divergent barrier" in refused(lambda: two_barriers[1, 64](x))

    @kernel("float32[::1]", threads=64)
    def mixed(x):
        if cuda.threadIdx.x < 16:
            cuda.shfl_sync(0xffffffff, 1, 0)
        else:
            cuda.syncthreads()

    said = refused(lambda: mixed[1, 32](x))
    assert "divergent barrier" in said and "shfl_sync" in said, said

    @kernel("float32[::1]", threads=64)
    def half_a_warp(x):
        if cuda.threadIdx.x < 16:
            cuda.syncwarp()

    assert "syncwarp waits for lanes that have ended or" in refused(lambda: half_a_warp[1, 32](x))

    @kernel("float32[::1]", threads=64)
    def unwritten(x):
        part = cuda.shared.array(8, np.float32)
        x[cuda.threadIdx.x] = part[cuda.threadIdx.x] + cuda.local.array(1, np.float32)[0]

    unwritten[1, 8](x)
    assert np.isnan(x).all()
    for wrong in (lambda: outside[1, 65](x, 0), lambda: outside[0, 1](x, 0)):
        try:
            wrong()
        except ValueError as e:
            assert "outside" in str(e)
        else:
            raise AssertionError
    """, kind)


def test_a_missing_barrier_shows_in_the_other_order(tmp_path):
    simulate(tmp_path, """
    @kernel("float32[::1], float32[::1]", threads=8)
    def races(x, out):
        part = cuda.shared.array(8, np.float32)
        t = cuda.threadIdx.x
        part[t] = x[t]
        out[t] = part[t - 1] if t else part[0]                      # a barrier is missing

    x, found = np.arange(8, dtype=np.float32), []
    for name in ("forward", "reversed"):
        out = np.zeros(8, np.float32)
        with simulator.order(name):
            races[1, 8](x, out)
        found.append(out)
    assert found[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6] and np.isnan(found[1][1:]).all()
    """)


@either
def test_intrinsics_run_by_their_twins(tmp_path, kind):
    simulate(tmp_path, """
    def pair_twin(x, i):
        return x[i], x[i + 1]

    def product(a, scale):
        return (a[0] * scale, np.full(32, a[1].sum()))

    @intrinsic(thread=pair_twin)
    def ld2(context, x, i): ...

    @intrinsic(warp=product)
    def times(context, a, scale): ...

    @kernel("float32[::1], float32[::1], float32", threads=64)
    def uses(x, out, scale):
        i = cuda.threadIdx.x
        y, total = times(ld2(x, 2 * i), scale)
        out[2 * i], out[2 * i + 1] = y, total

    x, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    uses[1, 64](x, out, 3)
    assert out[::2].tolist() == (3 * x[::2]).tolist()
    assert out[1::2].tolist() == [x[1:64:2].sum()] * 32 + [x[65::2].sum()] * 32
    """, kind)


@either
def test_four_numbers_at_once_begin_at_a_multiple_of_their_size(tmp_path, kind):
    simulate(tmp_path, """
    from engine.kernels.cuda.cp_async import arrived, commit, copy4
    from engine.kernels.cuda.ptx import load4, store4

    @kernel("float32[::1], int32, int32, int32, int32", threads=32)
    def moves(x, source, to, count, at):
        part = cuda.shared.array(16, np.float32)
        if cuda.threadIdx.x == 3:
            a, b, c, d = load4(x, source)                               # loads
            store4(x, to, a, b, c, d)                                   # stores
            copy4(part, at, x, source + to, count)                      # copies
            commit()
            arrived(0)

    memory = np.zeros(68, np.float32)
    skipped = -memory.ctypes.data % 16 // 4
    x = memory[skipped:skipped + 64]
    moves[1, 32](x, 4, 8, 4, 12)
    moves[1, 32](x, 4, 8, 0, 12)
    for arguments, mark in (((2, 8, 4, 12), "loads"), ((4, 9, 4, 12), "stores"), ((4, 8, 4, 6), "copies")):
        said = refused(lambda: moves[1, 32](x, *arguments))
        assert "block (0, 0, 0), thread (3, 0, 0)" in said and at(mark) in said, said
        assert "misaligned: four numbers at once from index" in said, said
    assert "from index 4 of argument 0" in refused(lambda: moves[1, 32](memory[skipped + 1:], 4, 8, 4, 12))
    moves[1, 32](memory[skipped + 4:], 4, 8, 4, 12)
    """, kind)


def test_asynchronous_copies_arrive_when_they_are_waited_for(tmp_path):
    simulate(tmp_path, """
    x, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)

    @kernel("float32[::1], float32[::1], int32", threads=64)
    def copies(x, out, waits):
        part = cuda.shared.array(64, np.float32)
        t = cuda.threadIdx.x
        stand_in.async_copy(part, 4 * t, x, 4 * t, 4)
        stand_in.async_commit()
        if waits:
            stand_in.async_wait(0)
        cuda.syncthreads()
        for i in range(4):
            out[4 * t + i] = part[4 * t + i]

    copies[1, 16](x, out, 1)
    assert out[:64].tolist() == x[:64].tolist()
    copies[1, 16](x, out, 0)
    assert np.isnan(out[:64]).all()
    """)


def test_several_threads_may_launch_at_once(tmp_path):
    """As on a stream: one after the other, each with its own memory."""
    simulate(tmp_path, """
    import sys, threading

    @kernel("float32[::1], float32[::1], int32", threads=64)
    def reverse(x, out, n):
        shared = cuda.shared.array(64, np.float32)
        t = cuda.threadIdx.x
        shared[t] = x[t]
        cuda.syncthreads()
        out[t] = shared[n - 1 - t] if t < n else np.float32(0)

    def work(n):
        x, out = np.arange(64, dtype=np.float32) * n, np.empty(64, np.float32)
        for _ in range(20):
            out[:] = np.nan
            reverse[1, 64](x, out, n)
            right.append(out[:n].tolist() == x[:n][::-1].tolist() and not out[n:].any())

    before, right = sys.getswitchinterval(), []
    sys.setswitchinterval(1e-6)
    team = [threading.Thread(target=work, args=(n,)) for n in (5, 17, 40, 64)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    sys.setswitchinterval(before)
    assert len(right) == 80 and all(right)
    """)


def test_both_simulators_give_the_same_bits(tmp_path):
    """Loops of other lengths for each thread, early ends, branches, tuples, memory of one's own, whatever the block."""
    simulate(tmp_path, """
    @jit
    def pick(x, i, n):
        if i >= n:
            return np.float32(-1), i
        if x[i] > np.float32(0.5):
            return x[i], -i
        return x[i] * np.float32(2), i + 1

    @kernel("float32[::1], float32[::1], int32[::1], int32", threads=96)
    def mixed(x, out, counts, n):
        own = cuda.local.array(3, np.float32)
        shared = cuda.shared.array((2, 48), np.float32)
        t, total, steps = cuda.threadIdx.x, np.float32(0), 0
        for k in range(3):
            own[k] = np.float32(k + t)
        shared[t % 2, t // 2] = own[t % 3]
        cuda.syncthreads()
        for i in range(t, n, 7 + cuda.blockIdx.x):
            value, where = pick(x, i, n - 3)
            if where < 0 and not (t % 5 == 1 or i == 40):
                continue
            total += value * shared[t & 1, t // 2] if t % 3 else value
            steps += 1
            if 0 < steps - 4 < 3:
                break
        while steps > 1 and total > np.float32(1):
            total, steps = total / np.float32(3), steps - 1
        out[cuda.grid(1)] = max(total, own[0] - np.float32(50))
        cuda.atomic.add(counts, t % 4, 1)

    x = np.random.default_rng(0).random(100).astype(np.float32)
    found = []
    for name in ("threads", "lockstep"):
        out, counts = np.zeros(3 * 96, np.float32), np.zeros(4, np.int32)
        with wrapper.simulation(name):
            mixed[3, 96](x, out, counts, 100)
        found.append((out.tolist(), counts.tolist()))
    assert found[0] == found[1] and found[0][1] == [72] * 4 and len(set(found[0][0])) > 50
    """)
