"""The one graph: an op is a record, a tensor is an array and how it was made, `apply` is the only verb."""
from __future__ import annotations

import inspect
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine import device, shapes
from engine.errors import DtypeError, GraphError, IndexRangeError, ShapeError
from engine.methods import Methods
from engine.shapes import Shape

OPS: dict[str, Op] = {}
OUT = -1                                 # in `Op.saves`: the output


# ---------------------------------------------------------------------------------------------- what inputs may be

class Real(NamedTuple):
    """A floating input, drawn by tests from [low, high] away from the kinks."""
    low: float = -2.0
    high: float = 2.0
    kinks: tuple[float, ...] = ()


class Index(NamedTuple):
    """An integer input, each value in [0, size): the size of an axis of another input, or of a parameter."""
    of: int | str = 0
    axis: int = 0


class Bool(NamedTuple):
    """A boolean input: a mask or a condition, True = attend or take the first."""


class Key(NamedTuple):
    """A random key: a 0-d int64 tensor that decides every random bit of the op."""


Domain = Real | Index | Bool | Key


# ---------------------------------------------------------------------------------------------- state: where are we?

class State(NamedTuple):
    recording: bool = True               # is a record kept of how tensors are made?
    fusing: bool = True                  # may a fused op use its kernel, or must it run its meaning?
    computing: bool = True               # are there numbers, or shapes alone?
    scope: tuple[str, ...] = ()
    phase: str = "forward"
    of: Node | None = None               # in the backward phase: the forward node whose cotangent is being pulled back


STATE: ContextVar[State] = ContextVar("engine_state", default=State())


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


# ---------------------------------------------------------------------------------------------- an op is a record

@dataclass(eq=False)
class Op:
    """One operation. Dispatch, gradients, tests, documentation and drawings all read this record and nothing else."""
    name: str
    meaning: Callable[..., Any]          # NumPy for a primitive; a composition of ops for a fused op
    vjps: tuple[Callable[..., Any] | None, ...] | Callable[..., Any] | None = None
    saves: tuple[int, ...] | None = None         # inputs and OUT that the rules read; None = all of them
    signature: str | None = "()->()"
    shape: Callable[..., Shape] | None = None    # (*shapes, **params) -> shape, where a signature cannot say it
    result: str = "same"                 # dtype: same | float (integers become float32) | sum | bool | int64 | param
    domain: tuple[Domain, ...] = (Real(),)       # one an input; the last one serves the rest
    choices: Callable[..., dict[str, list[Any]]] | None = None   # (*shapes) -> values of parameters that tests may draw
    samples: tuple[tuple[Shape, ...], ...] = ()  # input shapes for tests, where a signature cannot say them
    equation: tuple[str, str] = ("", "")         # forward and backward, one Unicode line each
    doc: str = ""
    fused: bool = False
    view: bool = False                   # the output may share its input's memory
    variadic: bool = False               # takes one sequence of tensors
    canonical: Callable[..., dict[str, Any]] | None = None       # (params, *shapes) -> params in one normal form
    check: Callable[..., None] | None = None     # (*arrays, **params): refuses values a kernel could not survive
    residuals: tuple[str, ...] = ()      # what the kernel hands to the rules besides the output, as parameters

    def __post_init__(self) -> None:
        if self.name in OPS:
            raise ValueError(f"op {self.name!r} is defined twice")
        self.inputs, self.defaults = _parameters(self.meaning, self.signature, self.variadic)
        self.optional = _optional(self.meaning)
        self.__doc__ = _describe(self)
        OPS[self.name] = self

    def __call__(self, *args: Any, **params: Any) -> Tensor:
        if self.variadic:
            if not args or not isinstance(args[0], (tuple, list)):
                raise DtypeError(f"{self.name} takes a sequence of tensors first")
            inputs, rest = tuple(args[0]), args[1:]
            if not inputs:
                raise ShapeError(f"{self.name} needs at least one tensor")
        else:
            n = len(self.inputs)
            inputs, rest = args[:n], args[n:]
            if len(inputs) < n:
                inputs += self._missing(len(inputs), params)
        if rest or params or self.defaults:
            params = self._bind(rest, params)
        return apply(self, inputs, params)

    def _missing(self, given: int, params: dict[str, Any]) -> tuple[Any, ...]:
        late: list[Any] = []
        for name in self.inputs[given:]:
            if name not in params and name not in self.optional:
                raise TypeError(f"{self.name}() needs {', '.join(self.inputs)}; {name} is missing")
            late.append(params.pop(name, None))
        return tuple(late)

    def _bind(self, rest: tuple[Any, ...], params: dict[str, Any]) -> dict[str, Any]:
        names = tuple(self.defaults)
        if len(rest) > len(names):
            raise TypeError(f"{self.name}() takes {', '.join((*self.inputs, *names))}; got {len(rest) - len(names)} more")
        given = dict(zip(names, rest, strict=False))
        for key in params:
            if key not in self.defaults or key in given:
                known = ", ".join((*self.inputs, *names))
                raise TypeError(f"{self.name}() got {key!r} {'twice' if key in given else f'but takes {known}'}")
        bound = {**self.defaults, **given, **params}
        for key, value in bound.items():
            if value is inspect.Parameter.empty:
                raise TypeError(f"{self.name}() needs the parameter {key!r}")
        return bound

    def kind(self, i: int) -> Domain:
        """What input `i` may be."""
        return self.domain[min(i, len(self.domain) - 1)]

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _parameters(meaning: Callable[..., Any], signature: str | None, variadic: bool) -> tuple[tuple[str, ...], dict]:
    """Names of the tensor inputs (positional) and the parameters with their defaults (keyword-only)."""
    if isinstance(meaning, np.ufunc):
        return tuple("xyz"[:meaning.nin]), {}
    inputs, defaults = [], {}
    for p in inspect.signature(meaning).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            defaults[p.name] = p.default
        elif p.kind is not p.VAR_KEYWORD:
            inputs.append(p.name)
    return tuple(inputs), defaults


def _optional(meaning: Callable[..., Any]) -> frozenset[str]:
    if isinstance(meaning, np.ufunc):
        return frozenset()
    return frozenset(p.name for p in inspect.signature(meaning).parameters.values()
                     if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is None)


def _describe(op: Op) -> str:
    lines = [op.doc or f"Elementwise {op.name}." if op.signature and "()" in op.signature else op.doc or op.name + "."]
    if op.signature:
        lines.append(f"Shapes: {op.signature}" + (" (leading axes broadcast)" if "..." not in op.signature else ""))
    if op.equation[0]:
        lines.append(f"Forward:  {op.equation[0]}")
    if op.equation[1]:
        lines.append(f"Backward: {op.equation[1]}")
    return "\n\n".join(lines)


def op(name: str, meaning: Callable[..., Any], *vjps: Callable[..., Any] | None, **fields: Any) -> Op:
    """Define a primitive: a name, what it computes in NumPy, and one pullback an input, written in the engine's ops.

    A rule is called as `rule(g, out, *inputs, **params)` and returns the input's cotangent; the engine undoes
    broadcasting. `None` marks an input without a derivative. See `Op` for the other fields.
    """
    return Op(name, meaning, fields.pop("joint", None) or vjps, **fields)


def fused(*, vjps: Sequence[Callable[..., Any] | None] = (), joint: Callable[..., Any] | None = None,
          **fields: Any) -> Callable[[Callable[..., Any]], Op]:
    """Decorator: define a fused op by its meaning, a composition of ops. A kernel of the same name only makes it fast.

    Without rules it is differentiated through its meaning. `joint` is one rule that returns all inputs' cotangents.
    """
    def define(meaning: Callable[..., Any]) -> Op:
        doc = fields.pop("doc", None) or inspect.getdoc(meaning) or ""
        return Op(meaning.__name__.rstrip("_"), meaning, joint or tuple(vjps) or None, doc=doc, fused=True, **fields)
    return define


# ---------------------------------------------------------------------------------------------- a tensor and its record

class Saved(NamedTuple):
    """An array kept for the backward pass, and what it takes to know that nobody changed it meanwhile."""
    array: Any
    version: int
    digest: int | None


class Node:
    """How a tensor was made. Arrays die with their tensors; a node keeps only those that its op's rules read."""
    __slots__ = ("__weakref__", "digest", "dtype", "exported", "freed", "inputs", "literal", "name", "of", "op", "params",
                 "phase", "requires_grad", "residuals", "saved", "scope", "shape", "storage", "tensor", "used_by",
                 "version")

    def __init__(self, shape: Shape, dtype: np.dtype, state: State, op: Op | None = None,
                 inputs: tuple[Node | None, ...] = (), params: dict[str, Any] | None = None) -> None:
        self.shape, self.dtype, self.op, self.inputs, self.params = shape, dtype, op, inputs, params or {}
        self.scope, self.phase, self.of = state.scope, state.phase, state.of
        self.name: str | None = None
        self.literal = False             # a Python number: drawn inside the op's box, not as a box of its own
        self.requires_grad = False
        self.freed = False
        self.saved: dict[int, Saved] = {}
        self.residuals: tuple[Any, ...] = ()
        self.tensor: weakref.ref[Tensor] | None = None       # where `backward` leaves the gradient
        self.storage: Node | None = None                     # of a view: the node whose memory it shares
        self.version, self.exported, self.digest = 0, False, None
        self.used_by: str | None = None                      # the last op that saved this memory

    def owner(self) -> Node:
        """The node that owns this tensor's memory."""
        return self.storage or self

    def label(self) -> str:
        """A name for messages: the tensor's own, or the op that made it."""
        return self.name or (f"the output of {'/'.join((*self.scope, self.op.name))}" if self.op else "an unnamed tensor")


class Tensor(Methods):
    """An array, and how it was made.

    `Tensor(data, dtype=None, requires_grad=False, name=None)`: arrays keep their dtype, Python floats become float32,
    integers int64. The data is copied: changing the original afterwards changes nothing here.
    """
    __slots__ = ("__weakref__", "_array", "grad", "node")
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = False, name: str | None = None) -> None:
        array = data._array if isinstance(data, Tensor) else data
        array = np.array(array, dtype=dtype or _default_dtype(array), order="C")
        if array.dtype.kind not in "fiubc":
            raise DtypeError(f"a tensor holds numbers; got {array.dtype} from {type(data).__name__}")
        state = STATE.get()
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
        return self.node.shape

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.node.shape, dtype=np.int64))

    @property
    def dtype(self) -> np.dtype:
        return self.node.dtype

    @property
    def device(self) -> str:
        return device.of(self._array)

    @property
    def name(self) -> str | None:
        return self.node.name

    @name.setter
    def name(self, value: str | None) -> None:
        self.node.name = value

    @property
    def op(self) -> Op | None:
        """The op that made this tensor; None for a leaf."""
        return self.node.op

    @property
    def requires_grad(self) -> bool:
        return self.node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node.op is not None:
            raise GraphError(f"{self.node.label()} is made by an op, and only a leaf chooses whether it requires a "
                             "gradient. Use detach() first.")
        if value and self.dtype.kind not in "fc":
            raise DtypeError(f"{self.node.label()}: requires_grad needs a floating tensor, got {self.dtype}. "
                             "Use astype('float32').")
        self.node.requires_grad = bool(value)
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

    @property
    def data(self) -> Any:
        """The live array. Writing to it after an op has used it is found out by `backward`, which then refuses."""
        array, owner = self.array(), self.node.owner()
        if owner.used_by and owner.digest is None:
            owner.digest = _digest(array)
        owner.exported = True
        return array

    @data.setter
    def data(self, value: Any) -> None:
        self[...] = value

    def __setitem__(self, index: Any, value: Any) -> None:
        """Change values in place. A backward pass that still needs the old ones raises GraphError."""
        value = value._array if isinstance(value, Tensor) else value
        try:
            self.array()[_plain_index(index)] = value
        except (ValueError, IndexError) as e:
            raise ShapeError(f"{self.node.label()} of shape {self.shape}: {e}") from None
        self.changed()

    def changed(self) -> None:
        """Note that the values were changed in place."""
        owner = self.node.owner()
        owner.version += 1
        owner.digest = None

    def detach(self) -> Tensor:
        """The same values without a history (a copy: later changes to one do not reach the other)."""
        if self._array is None:
            return Tensor.placeholder(self.shape, self.dtype, self.name)
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
            np.array2string(self._array, prefix="Tensor(", separator=", ", threshold=20, precision=4)]
        if self.dtype != np.float32:
            what.append(f"dtype={self.dtype}")
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


def _default_dtype(data: Any) -> Any:
    """None where the data has a dtype of its own; Python floats are float32, Python integers int64."""
    if isinstance(data, (np.ndarray, np.generic)) or hasattr(data, "__array_interface__"):
        return None
    if isinstance(data, (list, tuple)) and _holds_arrays(data):
        return None
    kind = np.asarray(data).dtype.kind
    return {"f": np.float32, "i": np.int64}.get(kind)


def _holds_arrays(data: Sequence[Any]) -> bool:
    return any(isinstance(x, (np.ndarray, np.generic)) or (isinstance(x, (list, tuple)) and _holds_arrays(x)) for x in data)


def _digest(array: Any) -> int:
    """A checksum of the whole memory that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1)) if array.size else 0


def _plain_index(index: Any) -> Any:
    if isinstance(index, Tensor):
        return index.array()
    if isinstance(index, tuple):
        return tuple(_plain_index(i) for i in index)
    return index


# ---------------------------------------------------------------------------------------------- the one verb

def apply(op: Op, inputs: Sequence[Any], params: dict[str, Any]) -> Tensor:
    """Run one op: every number that the engine makes is made here, and noted if recording."""
    state = STATE.get()
    tensors = _coerce(op, inputs)
    given = [t.shape if t is not None else None for t in tensors]
    try:
        if op.canonical:
            params = op.canonical(params, *given)
        shape = op.shape(*given, **params) if op.shape else shapes.result_shape(op.signature or "()->()", given)
    except IndexError as e:
        raise IndexRangeError(_misfit(op, tensors, e)) from None
    except ValueError as e:
        raise ShapeError(_misfit(op, tensors, e)) from None
    if not state.computing:
        return _record(op, tensors, params, None, shape, _result_dtype(op, tensors, params), state, ())
    arrays = [t.array() if t is not None else None for t in tensors]
    if op.check:
        op.check(*arrays, **params)
    if op.fused:
        made = device.run(op.name, arrays, params) if state.fusing else NotImplemented
        if made is NotImplemented:
            with scope(op.name):
                return op.meaning(*tensors, **params)
    else:
        made = device.run(op.name, arrays, params)
        if made is NotImplemented:
            with np.errstate(all="ignore"):
                made = op.meaning(*arrays, **params)
    residuals: tuple[Any, ...] = ()
    if isinstance(made, tuple):
        made, *rest = made
        residuals = tuple(rest)
    array = made if isinstance(made, np.ndarray) else np.asarray(made)
    return _record(op, tensors, params, array, array.shape, array.dtype, state, residuals)


def _record(op: Op, tensors: Sequence[Tensor | None], params: dict[str, Any], array: Any, shape: Shape,
            dtype: np.dtype, state: State, residuals: tuple[Any, ...]) -> Tensor:
    if not state.recording:
        node = Node(shape, dtype, state)
        out = Tensor.wrap(array, node)
    else:
        node = Node(shape, dtype, state, op, tuple([t.node if t is not None else None for t in tensors]), params)
        node.requires_grad = dtype.kind in "fc" and any(t is not None and t.node.requires_grad for t in tensors)
        out = Tensor.wrap(array, node)
    if op.view and tensors[0] is not None:
        node.storage = tensors[0].node.owner()
    if node.requires_grad and op.vjps != (None,):
        node.residuals = residuals
        if array is not None:
            _save(op, node, tensors, array)
    return out


def _save(op: Op, node: Node, tensors: Sequence[Tensor | None], array: Any) -> None:
    """Keep the arrays that the op's rules will read, and no others."""
    wanted = op.saves if op.saves is not None else (*range(len(tensors)), OUT)
    for i in wanted:
        if i == OUT:
            owner, kept = node.owner(), array
        else:
            t = tensors[i]
            if t is None:
                continue
            owner, kept = t.node.owner(), t._array
        owner.used_by = op.name
        node.saved[i] = Saved(kept, owner.version, _digest(kept) if owner.exported else None)


def _coerce(op: Op, inputs: Sequence[Any]) -> list[Tensor | None]:
    """Inputs as tensors, the real ones of one dtype."""
    tensors: list[Any] = []
    dtype: Any = None
    mixed = False
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            if isinstance(op.kind(i), Real):
                mixed |= dtype is not None and x.node.dtype != dtype
                dtype = x.node.dtype if dtype is None or not mixed else _promote(dtype, x.node.dtype)
        elif x is None:
            if not op.variadic and op.inputs[i] not in op.optional:
                raise DtypeError(f"{op.name}: {op.inputs[i]} is None; it needs a tensor")
        else:
            mixed = True
        tensors.append(x)
    want = np.dtype(np.float32) if op.result == "float" and dtype is not None and dtype.kind in "iub" else dtype
    if not mixed and want == dtype:
        return tensors
    for i, x in enumerate(tensors):
        if x is not None and not isinstance(x, Tensor):
            tensors[i] = _literal(op, i, x, want)
            if isinstance(op.kind(i), Real):
                want = tensors[i].dtype if want is None else _promote(want, tensors[i].dtype)
    if op.result == "float" and want is not None and want.kind in "iub":
        want = np.dtype(np.float32)
    for i, t in enumerate(tensors):
        if t is not None and isinstance(op.kind(i), Real) and t.dtype != want:
            tensors[i] = apply(OPS["astype"], (t,), {"dtype": want})
    return tensors


def _literal(op: Op, i: int, x: Any, dtype: np.dtype | None) -> Tensor:
    """A Python number takes the tensors' dtype, an array keeps its own."""
    try:
        t = Tensor(x)
    except (ValueError, TypeError) as e:
        raise DtypeError(f"{op.name}: input {i} is a {type(x).__name__}, not a tensor, array or number ({e})") from None
    if isinstance(x, (bool, int, float, complex)):
        fits = dtype is not None and (dtype.kind in "fc" or (t.dtype.kind in "iub" and dtype.kind != "b"))
        t = Tensor(np.asarray(x, dtype if fits and isinstance(op.kind(i), Real) else t.dtype))
        t.node.literal, t.node.name = True, repr(x)
    return t


def _promote(a: np.dtype, b: np.dtype) -> np.dtype:
    """The dtype of a result of both: a float beats an integer and keeps its width; otherwise the array API's table."""
    if a.kind in "fc" and b.kind in "iub":
        return a
    if b.kind in "fc" and a.kind in "iub":
        return b
    return np.promote_types(a, b)


def _result_dtype(op: Op, tensors: Sequence[Tensor | None], params: dict[str, Any]) -> np.dtype:
    """The output's dtype, from the record alone."""
    if op.result in ("bool", "int64"):
        return np.dtype(op.result)
    if op.result == "param":
        return np.dtype(params["dtype"])
    dtype = next((t.dtype for i, t in enumerate(tensors) if t is not None and isinstance(op.kind(i), Real)), np.dtype(np.float32))
    return np.dtype(np.int64) if op.result == "sum" and dtype.kind in "iub" else dtype


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
