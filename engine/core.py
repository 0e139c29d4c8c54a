"""The one graph: a tensor is an array and how it was made, and `apply` is the only verb."""
from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from itertools import count
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np

from engine import device as devices
from engine import promotion, shapes
from engine.errors import DtypeError, GraphError, IndexRangeError, ShapeError
from engine.methods import Methods
from engine.record import OUT, Op
from engine.shapes import Shape
from engine.state import STATE, State, scope

# ---------------------------------------------------------------------------------------------- a tensor and its record

class Saved(NamedTuple):
    """An array kept for the backward pass, and what it takes to know that nobody changed it meanwhile."""
    array: Any
    version: int
    digest: int | None


SERIAL = count()                         # the order in which tensors are made, over all threads
MOVED = [0]                              # changes whenever a tensor's numbers go to another array


class Node:
    """How a tensor was made. Arrays die with their tensors; a node keeps only those that its op's rules read."""
    __slots__ = ("__weakref__", "axes", "digest", "dtype", "freed", "frozen", "inputs", "lent", "literal", "name",
                 "of", "op", "params", "phase", "requires_grad", "residuals", "saved", "scope", "seen", "serial",
                 "shape", "storage", "tensor", "used_by", "version")

    def __init__(self, shape: Shape, dtype: np.dtype, state: State, op: Op | None = None,
                 inputs: tuple[Node | None, ...] = (), params: dict[str, Any] | None = None) -> None:
        self.shape, self.dtype, self.op, self.inputs, self.params = shape, dtype, op, inputs, params or {}
        self.scope, self.phase, self.of = state.scope, state.phase, state.of
        self.serial = next(SERIAL)
        self.name: str | None = None
        self.axes: tuple[Any, ...] | None = None             # what its axes are called: see Tensor.axes
        self.seen: Any = None                                # what a real run has measured, for drawings
        self.frozen = False                                  # asked not to learn
        self.literal = False             # a Python number: drawn inside the op's box, not as a box of its own
        self.requires_grad = False
        self.freed = False
        self.saved: dict[int, Saved] = {}
        self.residuals: Sequence[Any] = ()
        self.tensor: weakref.ref[Tensor] | None = None       # where `backward` leaves the gradient
        self.storage: Node | None = None                     # of a view: the node whose memory it shares
        self.version = 0
        self.lent: Any = None                                # says whether an array from `Tensor.data` is still held
        self.digest: int | None = None
        self.used_by: str | None = None                      # the last op that saved this memory

    def owner(self) -> Node:
        """The node that owns this tensor's memory."""
        return self.storage or self

    def label(self) -> str:
        """A name for messages: the tensor's own, or the op that made it."""
        if self.name or not self.op:
            return self.name or "an unnamed tensor"
        return f"the output of {'/'.join((*self.scope, self.op.name))}"


class Tensor(Methods):
    """An array, and how it was made.

    `Tensor(data, dtype=None, requires_grad=False, name=None)`: arrays keep their dtype, Python floats become float32,
    integers int64. The data is copied: changing the original afterwards changes nothing here. It lives on `device`,
    "cpu", "cuda" or "auto"; if None, on the CPU, where `default_device` says, or where an array of a card already is.
    """
    __slots__ = {"__weakref__": "", "_array": "",
                 "grad": "The gradient that `backward` left here, a tensor of the same shape; None: there is none.",
                 "node": "How it was made: its record in the graph."}
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = False, name: str | None = None,
                 device: str | None = None) -> None:
        state = STATE.get()
        array = devices.array_of(data.read() if isinstance(data, Tensor) else data, dtype, device)
        self._array: Any = array if state.computing else None
        self.node = Node(array.shape, array.dtype, state)
        self.grad: Tensor | None = None
        self.node.name = name
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def wrap(cls, array: Any, node: Node) -> Tensor:
        """A tensor of this array and record, without a copy. For the engine itself."""
        t = object.__new__(cls)
        t._array, t.node, t.grad = array, node, None
        return t

    @classmethod
    def placeholder(cls, shape: Shape, dtype: Any = np.float32, name: str | None = None) -> Tensor:
        """A tensor of a shape and dtype without numbers, for `shapes_only()`."""
        t = cls.wrap(None, Node(tuple(shape), np.dtype(dtype), STATE.get()))
        t.node.name = name
        return t

    @property
    def shape(self) -> Shape:
        """The sizes of its axes."""
        return self.node.shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.node.shape)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.node.shape)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of its numbers."""
        return self.node.dtype

    @property
    def device(self) -> str:
        """Where its numbers are: "cpu" or "cuda"."""
        return devices.of(self._array)

    @property
    def name(self) -> str | None:
        """What messages and drawings call it; None: not said."""
        return self.node.name

    @name.setter
    def name(self, value: str | None) -> None:
        self.node.name = value

    @property
    def axes(self) -> tuple[Any, ...] | None:
        """What its axes are called in drawings, `("B", "T")`; an axis that is a product is a dict in order,
        `("D", {"H": 8, "K": 64})`. Ops carry the names on. None: not said."""
        return self.node.axes

    @axes.setter
    def axes(self, names: Sequence[Any] | None) -> None:
        if names is not None and len(names) != len(self.shape):
            raise ShapeError(f"{self.node.label()}: {len(names)} names for the {len(self.shape)} axes of {self.shape}")
        self.node.axes = None if names is None else tuple(names)

    @property
    def op(self) -> Op | None:
        """The op that made this tensor; None for a leaf."""
        return self.node.op

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` finds its gradient; a leaf may be asked to."""
        return self.node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node.op is not None:
            raise GraphError(f"{self.node.label()} is made by an op, and only a leaf chooses whether it requires a "
                             "gradient. Use detach() first.")
        if value and self.dtype.kind not in "fc":
            raise DtypeError(f"{self.node.label()}: requires_grad needs a floating tensor, got {self.dtype}. "
                             "Use astype('float32').")
        self.node.requires_grad, self.node.frozen = bool(value), not value
        self.node.tensor = weakref.ref(self) if value else None

    def retain_grad(self) -> Tensor:
        """Ask `backward` to leave the gradient of this inner tensor in `.grad` too."""
        if not self.requires_grad:
            raise GraphError(f"{self.node.label()} does not require a gradient, so there is none to retain")
        self.node.tensor = weakref.ref(self)
        return self

    def array(self) -> Any:
        """The array itself, for reading inside the engine. Raises GraphError where there are only shapes."""
        if self._array is None:
            raise GraphError(f"{self.node.label()} has a shape {self.shape} but no numbers: it was made under "
                             "shapes_only(), or a rule reads a value that its op does not save")
        return self._array

    def read(self) -> Any:
        """The array, for Python's eyes. Raises GraphError while a step is recorded: what Python sees then is not seen
        again when the step is replayed."""
        if STATE.get().recorder is not None:
            raise GraphError(f"{self.node.label()} of shape {self.shape} is read while a step is recorded for replay, "
                             "and has no numbers yet. Return it from the step and read it there, or compute with ops.")
        return self.array()

    @property
    def data(self) -> Any:
        """The live array. Writing to it after an op has used it is found out by `backward`, which then refuses."""
        array, owner = self.read(), self.node.owner()
        if owner.used_by and owner.digest is None:
            owner.digest = devices.checksum(array)
        loan = owner.lent() if owner.lent is not None else None
        if loan is None or loan.array is not array:
            loan = devices.Loan(array)
            owner.lent = weakref.ref(loan) if devices.of(array) == "cpu" else loan.itself
        return loan.take()

    @data.setter
    def data(self, value: Any) -> None:
        self[...] = value

    def __setitem__(self, index: Any, value: Any) -> None:
        """Change values in place. A backward pass that still needs the old ones raises GraphError."""
        value = value.read() if isinstance(value, Tensor) else value
        try:
            devices.write(self.read(), _plain_index(index), value)
        except (ValueError, IndexError) as e:
            raise ShapeError(f"{self.node.label()} of shape {self.shape}: {e}") from None
        self.changed()

    def relocate(self, array: Any) -> None:
        """Hold the same numbers in this array from now on. For the engine itself."""
        if array is not self._array:
            self._array, MOVED[0] = array, next(SERIAL)
        self.changed()

    def changed(self) -> None:
        """Note that the values were changed in place."""
        owner, recorder = self.node.owner(), STATE.get().recorder
        if recorder is not None:
            recorder.changed(owner, self._array)
        owner.version += 1
        owner.digest = None

    def detach(self) -> Tensor:
        """The same values without a history (a copy: later changes to one do not reach the other)."""
        if self._array is None:
            return Tensor.placeholder(self.shape, self.dtype, self.name)
        if STATE.get().recorder is not None:             # nothing changes in place while a step is recorded
            return constant(self)
        return Tensor(self._array, name=self.name)

    def backward(self, grad: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf that requires it.

        `grad` is the cotangent, needed where self is not a single number. The arrays saved for the pass are dropped
        afterwards unless `retain_graph`; with `create_graph` the pass is itself recorded and can be differentiated.
        Raises GraphError on a freed graph, and where a saved value was changed in place.
        """
        from engine.autograd import backward
        backward(self, grad, retain_graph, create_graph)

    def __repr__(self) -> str:
        what = [f"shape={self.shape}"] if self._array is None else [
            np.array2string(devices.host(self._array), prefix="Tensor(", separator=", ", threshold=20, precision=4)]
        if self.dtype != np.float32:
            what.append(f"dtype={self.dtype}")
        if self.device != "cpu":
            what.append(f"device={self.device}")
        if self.name:
            what.append(f"name={self.name!r}")
        if self.node.op:
            what.append(f"op={self.node.op.name}")
        elif self.requires_grad:
            what.append("requires_grad=True")
        return f"Tensor({', '.join(what)})"


def constant(x: Tensor) -> Tensor:
    """The same values as a leaf of their own: no gradient flows through it. Shares x's memory."""
    node = Node(x.shape, x.dtype, STATE.get())
    node.storage = x.node.owner()
    return Tensor.wrap(x._array, node)


def _plain_index(index: Any) -> Any:
    if isinstance(index, Tensor):
        return index.read()
    if isinstance(index, tuple):
        return tuple(_plain_index(i) for i in index)
    return index


# ---------------------------------------------------------------------------------------------- the one verb

def apply(op: Op, inputs: Sequence[Any], params: dict[str, Any]) -> Tensor:
    """Run one op: every number that the engine makes is made here, and noted if recording."""
    state = STATE.get()
    tensors = promotion.coerce(op, inputs)
    given = [t.node.shape if t is not None else None for t in tensors]
    try:
        if op.canonical:
            params = op.canonical(params, *given)
        shape = op.shape(*given, **params) if op.shape else shapes.result_shape(op.signature or "()->()", *given)
    except (IndexError, ValueError) as e:
        kind: type[ShapeError | IndexRangeError] = IndexRangeError if isinstance(e, IndexError) else ShapeError
        refusal = kind(_misfit(op, tensors, e))
        refusal.failed = _failed(op, tensors, params, state)
        raise refusal from None
    if not state.computing:
        if op.fused and not state.fusing:
            with scope(op.name):
                return op.meaning(*tensors, **params)
        return _record(op, tensors, (), params, None, shape, promotion.result_dtype(op, tensors, params), state, ())
    apart = [t.array() if t is not None else None for t in tensors]
    arrays = devices.together(op.name, apart)
    if arrays is not apart:
        tensors = promotion.followed(tensors, apart, arrays)
    recorder = state.recorder
    if op.check and recorder:
        recorder.check(op, arrays, params)
    elif op.check:
        op.check(*arrays, **params)
    residuals: Sequence[Any] = ()
    began = perf_counter_ns() if state.watch else 0
    made = devices.run(op.name, arrays, params) if state.fusing or not op.fused else NotImplemented
    if made is NotImplemented:
        if op.fused:
            with scope(op.name):
                return op.meaning(*tensors, **params)
        if recorder:
            made = recorder.meaning(op, arrays, params, shape, promotion.result_dtype(op, tensors, params))
        else:
            made = devices.run_meaning(op, arrays, params)
    elif type(made) is tuple:
        made, *residuals = made
    array = made if isinstance(made, np.ndarray) else devices.made(made)
    if recorder:
        recorder.works_on(tensors)
        recorder.note(op.name, state)
        recorder.came(op, arrays, params, array)
    out = _record(op, tensors, arrays, params, array, array.shape, array.dtype, state, residuals)
    if state.watch:
        state.watch(out, op, tensors, began)
    return out


def _record(op: Op, tensors: Sequence[Tensor | None], given: Sequence[Any], params: dict[str, Any], array: Any,
            shape: Shape, dtype: np.dtype, state: State, residuals: Sequence[Any]) -> Tensor:
    """The output as a tensor, with its history if recording."""
    if not state.recording:
        node = Node(shape, dtype, state)
    else:
        nodes = tuple([t.node if t is not None else None for t in tensors])
        node = Node(shape, dtype, state, op, nodes, params)
        if op.flows and dtype.kind in "fc":
            for n in nodes:
                if n is not None and n.requires_grad:
                    node.requires_grad = True
                    node.residuals = residuals
                    if array is not None:
                        _save(op, node, tensors, given, array)
                    break
    if op.view and tensors[0] is not None:
        node.storage = tensors[0].node.owner()
    return Tensor.wrap(array, node)


def _save(op: Op, node: Node, tensors: Sequence[Tensor | None], given: Sequence[Any], array: Any) -> None:
    """Keep the arrays that the op's rules will read, and no others: those it was given, all on one device."""
    wanted = op.saves if op.saves is not None else (*range(len(tensors)), OUT)
    for i in wanted:
        if i == OUT:
            owner, kept = node, array
        else:
            t = tensors[i]
            if t is None:
                continue
            owner, kept = t.node.storage or t.node, given[i]
        owner.used_by = op.name
        node.saved[i] = Saved(kept, owner.version, devices.checksum(kept) if _held(owner) else None)


def _held(owner: Node) -> bool:
    """Whether somebody holds an array from `Tensor.data`, with which these values can be changed unseen."""
    return owner.lent is not None and owner.lent() is not None


def _failed(op: Op, tensors: Sequence[Tensor | None], params: dict[str, Any], state: State) -> Node:
    """The record of a call that was refused, so that it can be drawn."""
    return Node((), np.dtype(np.float32), state, op, tuple([t.node if t is not None else None for t in tensors]),
                params)


def _misfit(op: Op, tensors: Sequence[Tensor | None], why: Exception) -> str:
    """What was given to the op, and why its shapes do not fit."""
    names = op.inputs if not op.variadic else tuple(f"[{i}]" for i in range(len(tensors)))
    given = ", ".join(f"{name} = {t.name + ' ' if t.name else ''}{t.shape}"
                      for name, t in zip(names, tensors, strict=False) if t is not None)
    where = f" in {'/'.join(STATE.get().scope)}" if STATE.get().scope else ""
    rule = f" Its shapes are {op.signature}." if op.signature and op.shape is None else ""
    hint = ""
    if op.name == "matmul" and len(tensors) == 2:
        a, b = tensors[0], tensors[1]
        if a is not None and b is not None and a.ndim and b.ndim >= 2 and a.shape[-1] == b.shape[-1]:
            hint = f" Did you mean {b.name or 'b'}.mT (its last two axes swapped)?"
    return f"{op.name}{where}: {why}. Given {given}.{rule}{hint}"
