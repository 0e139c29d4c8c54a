"""What the tests of CUDA kernels have in common: arrays on the simulated card, and op meanings as the oracle."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import OPS, Tensor, unfused
from engine.check import WIDE, tolerance
from engine.kernels import cuda

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
KEY = np.array(0x123456789ABCDEF, np.int64)
simulated = pytest.mark.skipif(not SIMULATED, reason="runs in the simulator")


def run_in_the_simulator(file, family):
    """The tests of a file whose names begin so, in a process where kernels are simulated."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, "-k", f"test_{family}_"]
    run = subprocess.run(command, cwd=Path(__file__).parent.parent, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and " skipped" not in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def on_card(x):
    """An array on the simulated card, in the memory layout that it has here."""
    if x is None:
        return None
    from engine.kernels.cuda import tape

    memory = np.empty_like(x)
    memory[...] = x
    return tape.SimulatedArray(memory if memory.strides == x.strides else np.array(x, order="C"))


def call(name, *arrays, **params):
    """What the kernel gives; residuals too, where it has any."""
    made = cuda.kernel(name)(*(on_card(x) for x in arrays), **params)
    assert made is not NotImplemented
    return made


def meaning(name, *arrays, **params):
    """The op's meaning in long double."""
    wide = [None if x is None else Tensor(x.astype(WIDE) if x.dtype.kind == "f" else x) for x in arrays]
    with unfused():
        return OPS[name](*wide, **params).array()


def close(got, expected, terms=1):
    got = got.get() if hasattr(got, "get") else got
    assert got.shape == expected.shape
    assert got.dtype == (np.float32 if expected.dtype == WIDE else expected.dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(got.dtype))
    scale = float(np.max(np.abs(expected[finite]), initial=1.0))
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=tolerance(np.float32, terms) * scale)


def check(name, *arrays, terms=1, **params):
    made = call(name, *arrays, **params)
    close(made[0] if type(made) is tuple else made, meaning(name, *arrays, **params), terms)
