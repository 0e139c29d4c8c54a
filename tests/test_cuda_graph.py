"""Recorded steps as CUDA graphs, on a played card: what is captured, what runs by itself, what becomes of errors."""
from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import DeviceError, Tensor, default_device
from engine.kernels import cuda
from engine.kernels.cpu import jit_disabled
from engine.kernels.cpu.tape import Call

pytest.importorskip("greenlet")
from engine.kernels.cuda import graph

BLAS = "calling cuBLAS API during stream capture is currently unsupported"


class Card:
    """What the graph uses of CuPy. While it captures, work is noted and not done."""

    def __init__(self) -> None:
        self.capturing: list[Callable[[], Any]] | None = None
        self.spoilt, self.launches, self.held, self.limit, self.captures, self.waited = False, 0, 0, 0, 0, 0
        self.at_the_end: Exception | None = None
        self.cuda = types.SimpleNamespace(
            Stream=lambda non_blocking: self, MemoryPool=lambda: self, get_current_stream=lambda: self,
            using_allocator=lambda malloc: self)

    def do(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Work that is given to the card."""
        if self.capturing is None:
            function(*arguments)
        else:
            self.capturing.append(partial(function, *arguments))

    # -- a stream
    def record(self) -> None:
        """An event; `wait_event` takes it."""

    def wait_event(self, event: Any) -> None:
        assert self.capturing is None

    def synchronize(self) -> None:
        assert self.capturing is None, "nobody may wait while a step is captured"
        self.waited += 1

    def begin_capture(self) -> None:
        assert self.capturing is None
        self.capturing, self.spoilt = [], False
        self.captures += 1

    def is_capturing(self) -> bool:
        if self.spoilt:
            raise RuntimeError("an error has invalidated the capture")
        return self.capturing is not None

    def end_capture(self) -> Any:
        noted, self.capturing = self.capturing, None
        if self.at_the_end is not None:
            raise self.at_the_end
        if self.spoilt or noted is None:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return types.SimpleNamespace(upload=lambda: None, launch=partial(self._launch, noted))

    def _launch(self, noted: list[Callable[[], Any]]) -> None:
        self.launches += 1
        for one in noted:
            one()

    def __enter__(self) -> Card:
        return self

    def __exit__(self, *_: Any) -> None:
        """The stream and the allocator of before."""

    # -- a memory pool
    def malloc(self, size: int) -> None:
        if self.limit and self.held + size > self.limit:
            raise MemoryError(f"Out of memory allocating {size} bytes")
        self.held += size

    def total_bytes(self) -> int:
        return self.held

    def set_limit(self, size: int) -> None:
        self.limit = size


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    played, provider = Card(), types.ModuleType("engine.kernels.cuda.provider")
    provider.cupy = lambda: played                       # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, provider.__name__, provider)
    monkeypatch.setattr(cuda, "provider", provider, raising=False)
    monkeypatch.setattr(graph, "SIMULATED", False)
    return played


def steps_on(card: Card, log: list[str], *kinds: str) -> list[Call]:
    """Steps that write their kind down when they run: "add" can be captured, "wait" refuses, "ask" breaks the capture
    off and says nothing, "more" needs memory."""
    def step(kind: str) -> None:
        if kind == "wait" and card.capturing is not None:
            raise NotImplementedError(BLAS)
        if kind == "ask" and card.capturing is not None:
            card.spoilt = True
        if kind == "more":
            card.malloc(100)
        card.do(log.append, kind)
    return [Call(partial(step, kind), ()) for kind in kinds]


@pytest.mark.parametrize(("kinds", "alone", "graphs"), [
    (("add", "add"), (), 1), ((), (), 0), (("wait",), (0,), 0), (("wait", "add", "ask", "wait", "add"), (0, 2, 3), 2),
    (("add", "wait", "add", "add", "ask"), (1, 4), 2), (("add", "more", "add"), (1,), 2)])
def test_what_no_graph_can_hold_runs_between_two(card: Card, kinds: tuple[str, ...], alone: tuple[int, ...],
                                                 graphs: int) -> None:
    log: list[str] = []
    step = graph.Graph(steps_on(card, log, *kinds))
    for run in range(3):
        card.launches = 0
        log.clear()
        step.run()
        card.limit = 0
        assert log == list(kinds)
        assert card.launches == (graphs if run else 0)
    assert tuple(sorted(step.alone)) == alone
    assert all(BLAS in why or "invalidated" in why or "Out of memory" in why for why in step.alone.values())


def test_memory_of_a_capture_is_there_before(card: Card) -> None:
    step = graph.Graph(steps_on(card, [], "more"))
    step.run()
    assert card.limit == card.held == 100


def test_an_interruption_ends_the_capture_and_the_next_run_begins_anew(card: Card) -> None:
    log: list[str] = []

    def interrupted() -> None:
        if card.capturing is not None and not log.count("again"):
            raise KeyboardInterrupt
        card.do(log.append, "step")
    step = graph.Graph([Call(interrupted, ())])
    with pytest.raises(KeyboardInterrupt):
        step.run()
    assert card.capturing is None and log == ["step"]
    log.append("again")
    for _ in range(2):
        step.run()
    assert log == ["step", "again", "step", "step"] and card.launches == 1


def test_steps_of_which_no_graph_can_be_made_run_one_by_one(card: Card) -> None:
    log: list[str] = []
    step = graph.Graph(steps_on(card, log, *["add"] * 50))
    card.at_the_end = RuntimeError("cudaErrorMemoryAllocation: out of memory")
    for run in range(1, 4):
        step.run()
        assert len(log) == 50 * run
    assert card.captures == 1 and card.launches == 0
    assert step.alone == dict.fromkeys(range(50), "RuntimeError: cudaErrorMemoryAllocation: out of memory")


def test_a_first_run_that_breaks_off_is_waited_for(card: Card) -> None:
    def broken() -> None:
        raise MemoryError("Out of memory allocating 7 bytes")
    with pytest.raises(MemoryError):
        graph.Graph([*steps_on(card, [], "add"), Call(broken, ())]).run()
    assert card.waited == 1


# --- whole steps ----------------------------------------------------------------------------------
@contextmanager
def _captured(card: Card, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every step of a program is work of the card; products of float64 are cuBLAS's, which refuses to be captured."""
    ready = graph._ready

    def work(step: Any) -> Any:
        run, arguments = ready(step)
        op = run.args[0].name if isinstance(run, partial) and hasattr(run.args[0], "name") else ""

        def played(*given: Any) -> None:
            if op == "matmul" and card.capturing is not None:
                raise NotImplementedError(BLAS)
            card.do(run, *given)
        return played, arguments
    monkeypatch.setattr(graph, "_ready", work)
    with default_device("cuda"):
        yield


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_that_no_graph_can_hold_whole_is_made_once_a_call(card: Card, monkeypatch: pytest.MonkeyPatch,
                                                                 dtype: Any) -> None:
    x = np.linspace(-1, 1, 6, dtype=dtype).reshape(3, 2)
    with _captured(card, monkeypatch), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = []
        for replayed in (False, True):
            w = Tensor(np.ones((2, 2), dtype), requires_grad=True, name="w")

            def step(x: Tensor, w: Tensor = w) -> Tensor:
                w.grad = None
                loss = engine.sum(engine.tanh(x @ w))
                loss.backward()
                engine.update("sgd", [w], [w.grad], lr=0.5, weight_decay=[0.0])
                return loss
            run, versions = engine.replay(step) if replayed else step, []
            losses = []
            for _ in range(4):
                losses.append(run(Tensor(x)).item())
                versions.append(w.node.version)
            assert len(set(versions)) == 4
            found.append((losses, w.numpy().tolist()))
    assert found[0] == found[1]
    said = [str(w.message) for w in heard]
    if dtype == np.float32:
        assert said == [] and card.launches == 3
    else:
        assert len(said) == 1 and "matmul and 1 more operations cannot be part of a CUDA graph" in said[0]
        assert BLAS in said[0] and heard[0].filename == __file__


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_a_step_that_runs_out_of_memory_says_so_and_counts_as_changed(card: Card, monkeypatch: pytest.MonkeyPatch
                                                                      ) -> None:
    with _captured(card, monkeypatch):
        w = Tensor(np.ones(3, np.float32), requires_grad=True)

        def step(x: Tensor) -> Tensor:
            engine.update("copy", [w], [x])
            return engine.sum(w)
        run, before = engine.replay(step), w.node.version
        monkeypatch.setattr(card, "do", lambda *_: card.malloc(2**40))
        card.limit = 1
        with pytest.raises(DeviceError, match="memory"):
            run(np.zeros(3, np.float32))
        assert w.node.version > before


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_a_step_whose_warning_is_an_error_is_made_and_answers_next_time(card: Card, monkeypatch: pytest.MonkeyPatch
                                                                        ) -> None:
    with _captured(card, monkeypatch):
        w = Tensor(np.ones(3, np.float32))
        run = engine.replay(lambda x: engine.update("accumulate", [w], [x]))
        card.at_the_end = RuntimeError("cudaErrorNotSupported")
        with pytest.raises(RuntimeWarning, match="cannot be part of a CUDA graph"):
            run(np.ones(3, np.float32))
        run(np.ones(3, np.float32))
        assert w.tolist() == [3, 3, 3]


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_a_recording_that_found_no_memory_is_bound_when_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with default_device("cuda"):
        run = engine.replay(lambda x: x * 2)
        sizes = [np.full(n, n, np.float32) for n in (5, 3000)]
        for x in sizes:
            run(x)
        make = graph.Graph
        for full in (True, True, False):
            monkeypatch.setattr(graph, "Graph", partial(_no_memory, make, full))
            if full:
                with pytest.raises(DeviceError, match="memory"):
                    run(sizes[0])
            else:
                assert run(sizes[0]).tolist() == [10.0] * 5


def _no_memory(make: Any, full: bool, steps: Any) -> Any:
    if full:
        raise MemoryError("Out of memory allocating 8 bytes")
    return make(steps)
