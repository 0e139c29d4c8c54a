"""The op table: one record an operation. Dispatch, gradients, tests, documentation and drawings read nothing else."""
from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import engine.core as core
from engine import describe
from engine.errors import DtypeError, ShapeError
from engine.shapes import Shape

if TYPE_CHECKING:
    from engine.core import Tensor

OPS: dict[str, Op] = {}
OUT = -1                                 # in `Op.saves`: the output


# --- what an input may be -------------------------------------------------------------------------
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
    """A boolean input: a mask or a condition, True = attend or take the first. Integers are true where they are not 0.

    floats: whether floating numbers are, too; else they are refused, as a mask of them may be one that is added.
    """
    floats: bool = False


class Key(NamedTuple):
    """A random key: a 0-d int64 tensor that decides every random bit of the op."""


Domain = Real | Index | Bool | Key
FIXED = {Bool: np.dtype(bool), Key: np.dtype(np.int64)}      # the dtype in which an input is read whatever it came in


# --- the record -----------------------------------------------------------------------------------
@dataclass(eq=False)
class Op:
    """One operation. Dispatch, gradients, tests, documentation and drawings all read this record and nothing else."""
    name: str
    meaning: Callable[..., Any]          # NumPy for a primitive; a composition of ops for a fused op
    vjps: tuple[Callable[..., Any] | None, ...] | Callable[..., Any] | None = None
    saves: tuple[int, ...] | None = None         # inputs and OUT that the rules read; None = all of them
    signature: str | None = "()->()"
    shape: Callable[..., Shape] | None = None    # (*shapes, **params) -> shape, where a signature cannot say it
    result: str = "same"                 # dtype: same | number (same, but no truth values) | float (integers become
    #                                      float32) | sum (integers become int64 or uint64) | bool | int64 | param
    domain: tuple[Domain, ...] = (Real(),)       # one an input; the last one serves the rest
    choices: Callable[..., dict[str, list[Any]]] | None = None   # (*shapes) -> values of parameters that tests may draw
    samples: tuple[tuple[Shape, ...], ...] = ()  # input shapes for tests, where a signature cannot say them
    equation: tuple[str, str] = ("", "")         # forward and backward, one Unicode line each
    doc: str = ""                        # what it computes; no text: what NumPy's function of the meaning does
    shapes: str = ""                     # the shapes in words, where a signature cannot say them
    about: Mapping[str, str] = field(default_factory=dict)   # what parameters, and inputs that need a word, mean
    raises: tuple[str, ...] | None = None        # "ShapeError: …", of what is refused; None = shapes that do not fit
    module: str = ""                     # where it is defined
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
        self._needed = [name for name, value in self.defaults.items() if value is inspect.Parameter.empty]
        self.ufunc = self.meaning.__name__ if isinstance(self.meaning, np.ufunc) else ""
        self.__name__ = self.__qualname__ = self.name
        self.__module__ = self.module or getattr(self.meaning, "__module__", None) or "numpy"
        if isinstance(self.meaning, np.ufunc):
            self.meaning = in_order(self.meaning)
        self._real = [isinstance(kind, Real) for kind in self.domain]
        self._fixed = [FIXED.get(type(kind)) for kind in self.domain]
        self.flows = self.vjps is None or callable(self.vjps) or any(self.vjps)      # does any gradient come back?
        self.__signature__ = describe.signature(self)
        self.__doc__ = describe.text(self)
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
        return core.apply(self, inputs, params)

    def _missing(self, given: int, params: dict[str, Any]) -> tuple[Any, ...]:
        late: list[Any] = []
        for name in self.inputs[given:]:
            if name not in params and name not in self.optional:
                raise TypeError(f"{self.name}() needs {', '.join(self.inputs)}; {name} is missing")
            late.append(params.pop(name, None))
        return tuple(late)

    def _bind(self, rest: tuple[Any, ...], params: dict[str, Any]) -> dict[str, Any]:
        if not rest and not self._needed:
            bound = {**self.defaults, **params}
            if len(bound) == len(self.defaults):
                return bound
        names = tuple(self.defaults)
        if len(rest) > len(names):
            raise TypeError(f"{self.name}() takes {', '.join((*self.inputs, *names))}; it got "
                            f"{len(rest) - len(names)} more")
        given = dict(zip(names, rest, strict=False))
        for key in params:
            if key not in self.defaults or key in given:
                known = ", ".join((*self.inputs, *names))
                raise TypeError(f"{self.name}() got {key!r} {'twice' if key in given else f'but takes {known}'}")
        bound = {**self.defaults, **given, **params}
        for key in self._needed:
            if bound[key] is inspect.Parameter.empty:
                raise TypeError(f"{self.name}() needs the parameter {key!r}")
        return bound

    def __get__(self, instance: object, owner: type | None = None) -> Op:
        """Itself: an op in a class is called as it stands. That it has this makes it a routine for `inspect` and pydoc.
        """
        return self

    def kind(self, i: int) -> Domain:
        """What input `i` may be."""
        return self.domain[min(i, len(self.domain) - 1)]

    def is_real(self, i: int) -> bool:
        """Whether input `i` is one of those that are promoted to one dtype."""
        return self._real[i] if i < len(self._real) else self._real[-1]

    def fixed(self, i: int) -> np.dtype | None:
        """The dtype in which input `i` is read whatever it came in; None: one of those given, or any integer's."""
        return self._fixed[i] if i < len(self._fixed) else self._fixed[-1]

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


def in_order(f: Callable[..., Any]) -> Callable[..., Any]:
    """The NumPy function on arrays none of which runs backwards: there its loops give other bits."""
    def meaning(*arrays: Any) -> Any:
        return f(*[a.copy() if a.strides and min(a.strides) < 0 else a for a in arrays])
    return meaning


def _optional(meaning: Callable[..., Any]) -> frozenset[str]:
    if isinstance(meaning, np.ufunc):
        return frozenset()
    return frozenset(p.name for p in inspect.signature(meaning).parameters.values()
                     if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is None)


def op(name: str, meaning: Callable[..., Any], *vjps: Callable[..., Any] | None, **fields: Any) -> Op:
    """Define a primitive: a name, what it computes in NumPy, and one pullback an input, written in the engine's ops.

    A rule is called as `rule(g, out, *inputs, **params)` and returns the input's cotangent; the engine undoes
    broadcasting. `None` marks an input without a derivative. See `Op` for the other fields.
    """
    fields.setdefault("module", sys._getframe(1).f_globals["__name__"])
    return Op(name, meaning, fields.pop("joint", None) or vjps, **fields)


def fused(*, vjps: Sequence[Callable[..., Any] | None] = (), joint: Callable[..., Any] | None = None,
          **fields: Any) -> Callable[[Callable[..., Any]], Op]:
    """Decorator: define a fused op by its meaning, a composition of ops. A kernel of the same name only makes it fast.

    Without rules it is differentiated through its meaning. `joint` is one rule that returns all inputs' cotangents.
    """
    def define(meaning: Callable[..., Any]) -> Op:
        doc = fields.pop("doc", None) or inspect.getdoc(meaning) or ""
        return Op(meaning.__name__.rstrip("_"), meaning, joint or tuple(vjps) or None, doc=doc, fused=True,
                  **{"module": meaning.__module__, **fields})
    return define
