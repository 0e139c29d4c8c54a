"""Where are we? Whether a record is kept, in which scope and phase: context variables, so that threads do not mix."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple


class State(NamedTuple):
    recording: bool = True               # is a record kept of how tensors are made?
    fusing: bool = True                  # may a fused op use its kernel, or must it run its meaning?
    computing: bool = True               # are there numbers, or shapes alone?
    scope: tuple[str, ...] = ()
    phase: str = "forward"
    of: Any = None               # in the backward phase: the forward node whose cotangent is being pulled back
    watch: Any = None            # called with every tensor that is made, its op, and when its kernel began
    device: str = "cpu"          # where tensors of given values are made
    begins: Any = None           # called with the tensor that a backward pass starts from
    recorder: Any = None         # while a step is recorded for replay: what notes it (plan.Recorder)


STATE: ContextVar[State] = ContextVar("engine_state", default=State())  # noqa: B039 (a tuple: it cannot change)


@contextmanager
def _during(**changes: Any) -> Iterator[None]:
    token = STATE.set(STATE.get()._replace(**changes))
    try:
        yield
    finally:
        STATE.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Everything made inside is drawn inside a box of this name; scopes nest."""
    with _during(scope=(*STATE.get().scope, str(name))):
        yield


@contextmanager
def no_grad() -> Iterator[None]:
    """Nothing made inside is recorded: no gradient, no memory kept. Also a decorator."""
    with _during(recording=False):
        yield


@contextmanager
def unfused() -> Iterator[None]:
    """Fused ops run their meaning, a composition of primitive ops, instead of their kernel."""
    with _during(fusing=False):
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Ops run on shapes and dtypes alone: a model of any size is recorded without a kernel or an array."""
    with _during(computing=False):
        yield
