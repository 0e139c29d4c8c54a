"""Replay: record a step once for each set of shapes, then run it as a straight line of kernel calls."""
from __future__ import annotations

import dataclasses
import functools
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from engine import device, random
from engine.core import MOVED, Node, Tensor
from engine.errors import EngineError, GraphError
from engine.state import STATE

PLANS = 32                               # kept at most, the last used


def replay(step: Callable[..., Any], *, plans: int = PLANS) -> Replay:
    """A function that does what `step` does, without building the graph again.

        train = engine.replay(lambda source, target, lr: …)      # forward, backward, update
        loss = train(source, target, 3e-4)

    Positional arguments (tensors, arrays, Python numbers) vary from call to call; keyword arguments are fixed: each
    value of theirs, like each set of shapes, has a recording of its own, of which the last `plans` are kept. Tensors
    that the step returns are copied, so they stay as they are; the gradients that it leaves in `.grad` are fixed
    buffers, which the next call with the same shapes overwrites. Random keys are new at every call, in the order in
    which the step would draw them, and every number has the same bits as without replay.

    The Python code of `step` runs at the first two calls with a set of shapes, not at later ones, and sees shapes, not
    numbers. Where tensors that it works on have moved to another device since (`place`), it is recorded anew; call it
    inside `default_device` of theirs, where it also runs if an argument is on a card. Raises GraphError where it reads
    a number (`item`, `numpy`, `if x:`), and at the second call if its two recordings differ: then something that
    changes from call to call is not an argument. The arguments of `step` are tensors. With NUMBA_DISABLE_JIT=1 the step
    itself runs, every time.
    """
    return Replay(step, plans)


class Replay:
    """A replayed step; see `replay`."""

    def __init__(self, step: Callable[..., Any], plans: int = PLANS) -> None:
        if plans < 1:
            raise EngineError(f"replay: plans is {plans}; at least one recording must be kept")
        functools.update_wrapper(self, step)
        self._step, self._limit = step, plans
        self._plans: OrderedDict[Any, Any] = OrderedDict()
        self._trusted: set[Any] = set()                  # recorded twice, with the same outcome
        self._memory: dict[str, Any] = {}                # by device
        self._moved = MOVED[0], 0                        # as it was when the recordings were last looked through
        self._lock = threading.RLock()
        self._timing = False
        self.timings: list[tuple[Any, float]] | None = None      # of the last call that was timed

    def __call__(self, *arguments: Any, **fixed: Any) -> Any:
        state = STATE.get()
        if state.device == "cpu" and any(map(_is_on_card, arguments)):
            with device.default_device("cuda"):
                return self(*arguments, **fixed)
        if state.recorder is not None or not state.computing or state.watch is not None or device.jit_disabled():
            return self._step(*[_tensor(i, a) for i, a in enumerate(arguments)], **fixed)
        arrays = [_array(i, a) for i, a in enumerate(arguments)]
        with self._lock:
            self._follow()
            key = self._key(arrays, fixed)
            plan = self._plans.get(key)
            if plan is None:
                plan = self._record(arrays, fixed)
                while key != (now := self._key(arrays, fixed)):          # a kernel was given up meanwhile
                    plan, key = self._record(arrays, fixed), now
                self._plans[key] = plan
                if len(self._plans) > self._limit:
                    self._trusted.discard(self._plans.popitem(last=False)[0])
            elif key not in self._trusted:
                self._compare(plan, self._record(arrays, fixed, plan))
                self._trusted.add(key)
            self._plans.move_to_end(key)
            try:
                self._load(plan, arrays)
                self.timings = plan.run_timed() if self._timing else plan.run()
            except BaseException:
                plan.clear_gradients()
                raise
            return plan.answer()

    def _key(self, arrays: list[Any], fixed: dict[str, Any]) -> Any:
        """What a recording depends on besides the step."""
        state = STATE.get()
        return (tuple((a.shape, a.dtype) for a in arrays), tuple((name, _told_apart(fixed[name], name))
                for name in sorted(fixed)), state.fusing, state.recording, state.device, device.current_precision(),
                device.given_up() if state.device == "cuda" else None)

    def _follow(self) -> None:
        """Let go of recordings whose tensors have moved to other arrays, to which they would do what they did to the
        old ones, and of those from before a kernel was given up."""
        if self._moved == (MOVED[0], device.given_up()):
            return
        self._moved = MOVED[0], device.given_up()
        for key in [key for key, plan in self._plans.items()
                    if plan.recorder.has_moved() or key[-1] not in (None, device.given_up())]:
            self._trusted.discard(key)
            del self._plans[key]
        used = {plan.device for plan in self._plans.values()}
        self._memory = {name: memory for name, memory in self._memory.items() if name in used}

    def _record(self, arrays: list[Any], fixed: dict[str, Any], like: Any = None) -> Any:
        """A recording for these arguments' shapes; with the buffers of `like` for what varies."""
        from engine.program import Program
        from engine.recorder import Recorder
        inputs = like.inputs if like else [device.empty(a.shape, a.dtype, device.current()) for a in arrays]
        recorder = Recorder(like.recorder.key_buffers if like else [], inputs)
        names = _parameter_names(self._step, len(arrays))

        def step() -> Any:
            return self._step(*map(_leaf, inputs, names), **fixed)
        result = recorder.record(step)
        recorder.note("update", STATE.get())
        return Program(recorder, inputs, result)

    def _compare(self, plan: Any, again: Any) -> None:
        difference = plan.difference(again)
        if difference is not None:
            raise GraphError(f"{_name(self._step)} cannot be replayed: in two recordings for the same shapes, "
                             f"{difference}. What changes from call to call must be an argument of the step.")

    def _load(self, plan: Any, arrays: list[Any]) -> None:
        """Memory, arguments and random keys for the next run."""
        memory = self._memory.get(plan.device)
        if memory is None or plan.memory is not memory or len(memory) < plan.size:
            if memory is None or len(memory) < plan.size:
                self._memory[plan.device] = None         # the old one is free before the new one is asked for
                for other in self._plans.values():
                    if other.device == plan.device:
                        other.unbind()
                memory = self._memory[plan.device] = device.memory(plan.size, plan.device)
            plan.bind(memory)
        keys = plan.recorder.keys
        if keys:
            drawn = random.draw(len(keys))
            for i, buffer in enumerate(plan.recorder.key_buffers):
                part = drawn[i * len(buffer):(i + 1) * len(buffer)]
                device.load(buffer[:len(part)], part)
        plan.load(arrays)

    def timed(self, *arguments: Any, **fixed: Any) -> tuple[Any, list[tuple[Any, float]]]:
        """A call, and the seconds of each of its launches with a label (op, phase, scope); the list is empty where the
        step is not recorded (NUMBA_DISABLE_JIT=1)."""
        with self._lock:
            self._timing, self.timings = True, None
            try:
                result = self(*arguments, **fixed)
            finally:
                self._timing = False
            return result, self.timings or []

    def plans(self) -> list[Any]:
        """The recordings that are kept, the last used at the end."""
        return list(self._plans.values())


def _array(position: int, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.array()
    if isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        return np.asarray(value)
    raise EngineError(f"replay: argument {position} is a {type(value).__name__}; tensors, arrays and numbers vary from "
                      "call to call, everything else is passed by keyword")


def _is_on_card(argument: Any) -> bool:
    array = argument._array if isinstance(argument, Tensor) else argument
    return not isinstance(array, (np.ndarray, float, int)) and device.is_on_card(array)


def _told_apart(value: Any, name: str) -> Any:
    """A keyword's value as part of a key: numbers that are equal and yet not the same (2, 2.0 and True; 0.0 and -0.0)
    are not alike."""
    if isinstance(value, (tuple, frozenset)):
        kind = tuple if isinstance(value, tuple) else frozenset
        return type(value), kind(_told_apart(part, name) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(_told_apart(getattr(value, f.name), name) for f in dataclasses.fields(value))
    if isinstance(value, (float, complex, np.generic)):
        return type(value), repr(value)
    try:
        hash(value)
    except TypeError:
        raise EngineError(f"replay: the keyword {name} is a {type(value).__name__}, and what can change has no place "
                          "in a recording's name. Pass a tuple, or tensors and arrays by position") from None
    return type(value), value


def _tensor(position: int, value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(_array(position, value))


def _leaf(array: Any, name: str | None) -> Tensor:
    t = Tensor.wrap(array, Node(array.shape, array.dtype, STATE.get()))
    t.name = name
    return t


def _parameter_names(step: Callable[..., Any], count: int) -> list[str | None]:
    """What the step calls its first `count` arguments, as far as it can be known."""
    try:
        known = [p.name for p in inspect.signature(step).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):
        known = []
    return [*known[:count], *[None] * (count - len(known))]


def _name(step: Callable[..., Any]) -> str:
    return f"the step {getattr(step, '__qualname__', type(step).__name__)}"


