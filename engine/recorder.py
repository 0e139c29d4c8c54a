"""Recording a step: its launches on the tape, and all that must happen around them when it runs again."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from engine import device
from engine.core import Node, Tensor
from engine.errors import GraphError
from engine.kernels.cpu import tape
from engine.record import Op
from engine.shapes import Shape
from engine.state import STATE, State

KEYS = 256                               # random keys in one buffer


class Label(NamedTuple):
    """Which op a launch serves, for messages and profiles."""
    op: str
    phase: str
    scope: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((*self.scope, self.op)) + (" (backward)" if self.phase == "backward" else "")


class Recorder:
    """What `apply` and its kin tell while a step is recorded, and how they get what only a running step has."""

    def __init__(self, key_buffers: list[Any]) -> None:
        """key_buffers: of an earlier recording of the same step, to be used again."""
        self.tape = tape.Tape()
        self.labels: list[Label] = []                    # one a step of the tape
        self.keys: list[Any] = []                        # 0-d views of `key_buffers`, in the order of asking
        self.key_buffers = key_buffers
        self.owners: dict[int, Node] = {}                # whose memory the step changes in place
        self.leaves: dict[int, Tensor] = {}              # whose .grad the step sets

    def record(self, function: Callable[[], Any]) -> Any:
        """Call a function, writing down what it would do."""
        token = STATE.set(STATE.get()._replace(recorder=self))
        tape.CURRENT.tape = self.tape
        try:
            return function()
        except BaseException:
            for t in self.leaves.values():               # what they hold has no numbers
                t.grad = None
            raise
        finally:
            tape.CURRENT.tape = None
            STATE.reset(token)

    def note(self, name: str, state: State) -> None:
        """What was written down since the last note belongs to this op."""
        missing = len(self.tape.steps) - len(self.labels)
        if missing:
            self.labels += [Label(name, state.phase, state.scope)] * missing

    def check(self, op: Op, arrays: Sequence[Any], params: dict[str, Any]) -> None:
        """Refuse values that a kernel could not survive, at every run. A rule's were refused by its op already."""
        of = STATE.get().of
        if of is None or of.op is None or of.op.check is None:
            tape.call(Check(op, params), *arrays)

    def meaning(self, op: Op, arrays: Sequence[Any], params: dict[str, Any], shape: Shape, dtype: np.dtype) -> Any:
        """The output of an op without a kernel: a view of its input now, or an array that its meaning fills later."""
        if op.view and arrays[0] is not None:
            view = op.meaning(*arrays, **params)
            if np.may_share_memory(view, arrays[0]):
                return view
        out = device.empty_on_tape(shape, dtype, arrays)
        tape.call(partial(_run_meaning, op, params), out, *arrays)
        return out

    def key(self) -> Any:
        """A random key, () int64, that is another one at every run."""
        n = len(self.keys)
        if n == KEYS * len(self.key_buffers):
            self.key_buffers.append(device.empty(KEYS, np.int64, device.current()))
        self.keys.append(self.key_buffers[n // KEYS][n % KEYS, ...])
        return self.keys[-1]

    def leaf(self, t: Tensor) -> None:
        """The step sets this tensor's .grad. Raises GraphError where one from before the step would be added to."""
        if t.grad is not None and id(t) not in self.leaves:
            raise GraphError(f"{t.node.label()} has a gradient from before the step that is recorded for replay. Clear "
                             "it in the step, before backward(): model.zero_grad(), or x.grad = None.")
        self.leaves[id(t)] = t

    def changed(self, owner: Node) -> None:
        """The step changes this node's memory in place."""
        self.owners[id(owner)] = owner


class Check(NamedTuple):
    """The refusal of values that a kernel could not survive, as a step of a program."""
    op: Op
    params: dict[str, Any]

    def __call__(self, *arrays: Any) -> None:
        if self.op.check is not None:
            self.op.check(*arrays, **self.params)


def _run_meaning(op: Op, params: dict[str, Any], out: Any, *arrays: Any) -> None:
    try:
        np.copyto(out, op.meaning(*arrays, **params))
    except MemoryError as e:
        device.short_of_memory(e, device.of(out))
