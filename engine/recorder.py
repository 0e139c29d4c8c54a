"""Recording a step: its launches on the tape, and all that must happen around them when it runs again."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from engine import device
from engine.core import SERIAL, Node, Tensor
from engine.errors import GraphError
from engine.kernels.cpu import tape
from engine.record import OPS, Op
from engine.shapes import Shape
from engine.state import STATE, State

KEYS = 256                               # random keys in one buffer
TWO_DEVICES = "the step that is recorded for replay computes on two devices: move its inputs to one before"


class Label(NamedTuple):
    """Which op a launch serves, for messages and profiles."""
    op: str
    phase: str
    scope: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((*self.scope, self.op)) + (" (backward)" if self.phase == "backward" else "")


class Origin(NamedTuple):
    """How an array of whole numbers came about."""
    op: Op
    params: dict[str, Any]
    arrays: tuple[Any, ...]
    out: Any


class Recorder:
    """What `apply` and its kin tell while a step is recorded, and how they get what only a running step has."""

    def __init__(self, key_buffers: list[Any], inputs: Sequence[Any] = ()) -> None:
        """key_buffers: of an earlier recording of the same step, to be used again. inputs: its arguments' arrays."""
        self.inputs = inputs
        self.tape = tape.Tape()
        self.labels: list[Label] = []                    # one a step of the tape
        self.keys: list[Any] = []                        # 0-d views of `key_buffers`, in the order of asking
        self.key_buffers = key_buffers
        self.owners: dict[int, Node] = {}                # whose memory the step changes in place
        self.leaves: dict[int, Tensor] = {}              # whose .grad the step sets
        self.origins: list[Origin] = []                  # of whole numbers on a card, as ids are, in order
        self.written: list[Any] = []                     # arrays that the step changes in place
        self.began = next(SERIAL)
        self.outside: dict[int, tuple[Tensor, Any]] = {}         # tensors from before that it works on: their arrays

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

    def has_numbers(self, array: Any) -> bool:
        """Whether an array holds numbers already: it is no argument of the step, nor computed in it."""
        at = device.address(array)
        own = ((a, device.address(a)) for a in (*self.inputs, *self.key_buffers, *self.tape.made))
        return not array.nbytes or not any(start <= at < start + a.nbytes for a, start in own)

    def works_on(self, tensors: Iterable[Tensor | None]) -> None:
        """The step has the arrays of these tensors in it."""
        for t in tensors:
            if t is not None and t.node.serial < self.began:
                self.outside[id(t)] = (t, t.array())

    def has_moved(self) -> bool:
        """Whether a tensor from outside the step has its numbers in another array since."""
        return any(t.array() is not array for t, array in self.outside.values())

    def note(self, name: str, state: State) -> None:
        """What was written down since the last note belongs to this op."""
        missing = len(self.tape.steps) - len(self.labels)
        if missing:
            self.labels += [Label(name, state.phase, state.scope)] * missing

    def came(self, op: Op, arrays: Sequence[Any], params: dict[str, Any], out: Any) -> None:
        """An op made this array. On a card, whoever checks ids must know what whole numbers come from."""
        if out.dtype.kind in "iub" and device.is_on_card(out):
            self.origins.append(Origin(op, params, tuple(arrays), out))

    def check(self, op: Op, arrays: Sequence[Any], params: dict[str, Any]) -> None:
        """Refuse values that a kernel could not survive, at every run. A rule's were refused by its op already."""
        of = STATE.get().of
        if of is None or of.op is None or of.op.check is None:
            tape.call(Check(op, params), *arrays)

    def meaning(self, op: Op, arrays: Sequence[Any], params: dict[str, Any], shape: Shape, dtype: np.dtype) -> Any:
        """The output of an op without a kernel: a view of its input now, or an array that its meaning fills later."""
        if op.view and arrays[0] is not None:
            view = op.meaning(*arrays, **params)
            if device.of(view) != device.of(arrays[0]):
                raise GraphError(TWO_DEVICES)
            if np.may_share_memory(view, arrays[0]):
                return view
        out = device.empty_on_tape(shape, dtype, arrays)
        if op is OPS["getitem"]:                         # nothing comes from the host while the step runs
            params = {**params, "index": device.beside_in(out, params["index"])}
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

    def changed(self, owner: Node, array: Any) -> None:
        """The step changes this node's memory in place: this array, which is all of it or a view."""
        self.owners[id(owner)] = owner
        self.written.append(array)


class Check(NamedTuple):
    """The refusal of values that a kernel could not survive, as a step of a program."""
    op: Op
    params: dict[str, Any]

    def __call__(self, *arrays: Any) -> None:
        if self.op.check is not None:
            self.op.check(*arrays, **self.params)


def _run_meaning(op: Op, params: dict[str, Any], out: Any, *arrays: Any) -> None:
    np.copyto(out, device.run_meaning(op, arrays, params))
