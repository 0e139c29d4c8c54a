"""The played card: what a captured stream notes and does later, what it refuses, and the engine's own code on it."""
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.kernels.cuda.arrays import SimulatedArray
from tests.ptx import card, compiling
from tests.ptx.memory import Fault
from tests.ptx.written import OWN, text

DOUBLE = f"{OWN} ld.global.f32 %f1, [%rd4]; add.f32 %f1, %f1, %f1; st.global.f32 [%rd5], %f1;"


@pytest.fixture
def played():
    with card.played():
        yield


on_it = pytest.mark.usefixtures("played")


def kernel(body=DOUBLE):
    module = card.Module()
    module.load(text(body).encode())
    return module.get_function("k").ptr


def launch(function, x, out, threads=4, shared=0, stream=None):
    """As the engine's launcher does it: a table of the arguments' addresses."""
    values = [ctypes.c_int64(a.data.ptr) for a in (x, out)]
    table = (ctypes.c_void_p * 2)(*map(ctypes.addressof, values))
    stream = card._stream if stream is None else stream
    card.launch(function, 1, 1, 1, threads, 1, 1, shared, stream.ptr, ctypes.addressof(table), 0)


def arrays():
    return card.asarray(np.arange(4, dtype=np.float32)), card.asarray(np.zeros(4, np.float32))


@on_it
def test_a_kernel_finds_its_arguments_where_the_driver_would():
    x, out = arrays()
    launch(kernel(), x, out)
    assert out.get().tolist() == [0, 2, 4, 6]
    within = card.ndarray((2,), np.float32, out.data + 8)
    launch(kernel(), x, within, threads=2)
    assert out.get().tolist() == [0, 2, 0, 2]


@on_it
def test_what_a_captured_stream_is_given_is_done_when_its_graph_is_launched():
    x, out = arrays()
    with card.Stream() as stream:
        stream.begin_capture()
        launch(kernel(), x, out)
        x[...] = out
        y = out + x
        graph = stream.end_capture()
    assert out.get().tolist() == [0, 0, 0, 0]
    graph.launch()
    assert (x.get().tolist(), y.get().tolist()) == ([0, 2, 4, 6], [0, 4, 8, 12])
    graph.launch()
    assert (out.get().tolist(), y.get().tolist()) == ([0, 4, 8, 12], [0, 8, 16, 24])


@on_it
@pytest.mark.parametrize("wait", [lambda x, stream: x.get(), lambda x, stream: stream.synchronize(),
                                  lambda x, stream: card.Event().synchronize()])
def test_who_waits_breaks_a_capture_off(wait):
    x, _ = arrays()
    with card.Stream() as stream:
        stream.begin_capture()
        with pytest.raises(card.CUDARuntimeError, match="StreamCaptureUnsupported"):
            wait(x, stream)
        with pytest.raises(card.CUDARuntimeError, match="Invalidated"):
            stream.is_capturing()
        with pytest.raises(card.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


@on_it
@pytest.mark.parametrize("product", [lambda x: x @ x, lambda x: np.matmul(x, x), lambda x: np.dot(x, x)])
def test_products_of_the_library_are_not_captured(product):
    x, _ = arrays()
    with card.Stream() as stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            product(x)
        stream.end_capture()
    assert product(x).item() == 14


@on_it
def test_the_driver_refuses():
    x, out = arrays()
    function = kernel()
    with pytest.raises(card.CUDADriverError, match="60000 bytes of shared memory"):
        launch(function, x, out, shared=60000)
    card.set_attribute(function, 8, 60000)
    launch(function, x, out, shared=60000)
    with pytest.raises(card.CUDADriverError, match="not the current stream"):
        launch(function, x, out, stream=card.Stream())
    with pytest.raises(card.CUDADriverError, match="not found"):
        module = card.Module()
        module.load(text(DOUBLE).encode())
        module.get_function("another")
    with pytest.raises(Fault, match="16 bytes from the beginning of an array of 16"):
        launch(function, x, out, threads=5)


def test_a_card_that_is_put_away_leaves_all_as_it_was():
    before = SimulatedArray.__init__, SimulatedArray.fill, sys.modules.get("cupy")
    with card.played():
        assert sys.modules["cupy"].__version__ == "played" and hasattr(SimulatedArray, "data")
    assert (SimulatedArray.__init__, SimulatedArray.fill, sys.modules.get("cupy")) == before
    assert not hasattr(SimulatedArray, "data")


def test_the_engine_runs_on_it():
    """Compiled, launched by the driver and captured: some ops; all by `python -m tests.ptx --card`."""
    problem = compiling.missing()
    if problem:
        pytest.skip(problem)
    command = [sys.executable, "-m", "tests.ptx", "--card", "tests/test_cuda_replay.py", "-k",
               "every_op_replays and (softmax or matmul or layer_norm)"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    run = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True,
                         check=False, timeout=900)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "launches through the driver" in run.stdout and " 0 of graphs" not in run.stdout
