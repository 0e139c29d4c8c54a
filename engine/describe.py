"""What `help()` and pydoc say of an op and of a tensor's methods: its signature and its text, made from its record."""
from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

import engine.record as record
from engine import shapes

if TYPE_CHECKING:
    from engine.record import Op

EMPTY = inspect.Parameter.empty
Function = TypeVar("Function", bound=Callable[..., Any])

DTYPES = {
    "same": "{theirs}",
    "number": "{theirs}; truth values are refused",
    "float": "{theirs}; integers and truth values are computed as float32",
    "sum": "{theirs}; integers and truth values give int64, unsigned ones uint64",
    "bool": "bool",
    "int64": "int64",
    "param": "the parameter `dtype`",
}


# --- the signature --------------------------------------------------------------------------------
def signature(op: Op) -> inspect.Signature:
    """How an op may be called: its inputs, then its parameters. A variadic op takes a sequence of tensors first.

    Parameters may be given by position too, as in NumPy, but for those of an op that has optional inputs and a
    parameter without a default, which Python's signatures cannot say.
    """
    first = inspect.Parameter.POSITIONAL_ONLY if op.variadic else inspect.Parameter.POSITIONAL_OR_KEYWORD
    inputs = [inspect.Parameter(name, first, default=None if name in op.optional else EMPTY) for name in op.inputs]
    after = [bool(op.optional), *(value is not EMPTY for value in op.defaults.values())]
    kind = (inspect.Parameter.POSITIONAL_OR_KEYWORD if after == sorted(after) else inspect.Parameter.KEYWORD_ONLY)
    return inspect.Signature([*inputs, *(inspect.Parameter(name, kind, default=value)
                                         for name, value in op.defaults.items())])


# --- the text -------------------------------------------------------------------------------------
def text(op: Op) -> str:
    """What an op is, its shapes, dtype, inputs, parameters, errors and equations, one section each."""
    sections = [("Shapes", [_shapes(op)]), ("Dtype", [_dtype(op)]), ("Inputs", list(_inputs(op))),
                ("Parameters", list(_parameters(op))), ("Raises", list(_raises(op))), ("Forward", [op.equation[0]]),
                ("Backward", [_backward(op)]), ("Notes", list(_notes(op)))]
    lines = ["\n".join([f"{title}:", *map(_wrapped, body)]) for title, body in sections if any(body)]
    return "\n\n".join([op.doc or _numpy(op) or f"The op {op.name}.", *lines])


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 104, initial_indent=" " * 4, subsequent_indent=" " * 8, break_long_words=False,
                         break_on_hyphens=False)


def _numpy(op: Op) -> str:
    """The NumPy function that a primitive is."""
    return f"As numpy.{op.ufunc}." if op.ufunc else ""


def _shapes(op: Op) -> str:
    if op.shapes or op.signature is None:
        return op.shapes
    cores, out = shapes.parse(op.signature)
    free = "..." not in out
    given = ", ".join(f"{name} {_shape(core, free)}" for name, core in zip(op.inputs, cores, strict=False))
    said = f"{given} → {_shape(out, free)}"
    if any(letter.endswith("?") for core in cores for letter in core):
        said += "; an axis marked ? may be missing"
    if free and len(cores) > 1:
        said += "; the leading axes broadcast" if any(cores) else "; they broadcast"
    return said


def _shape(core: tuple[str, ...], free: bool) -> str:
    axes = ["…"] * free + ["…" if axis == "..." else axis for axis in core]
    return f"({', '.join(axes)})" if len(axes) != 1 or axes == ["…"] else f"({axes[0]},)"


def _dtype(op: Op) -> str:
    real = [name for i, name in enumerate(op.inputs) if op.is_real(i)]
    many = len(real) > 1 or op.variadic
    theirs = f"that of {_listed(real)}" + (", promoted where they differ" if many else "")
    return DTYPES[op.result].format(theirs=theirs)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _inputs(op: Op) -> Iterator[str]:
    for i, name in enumerate(op.inputs):
        about = op.about.get(name)
        yield (f"{name}{' (may be None)' if name in op.optional else ''}: "
               f"{'a sequence of tensors of ' if op.variadic else ''}{_kind(op.kind(i))}"
               f"{f'; {about}' if about else ''}")


def _kind(kind: record.Domain) -> str:
    if isinstance(kind, record.Real):
        return "numbers"
    if isinstance(kind, record.Index):
        return "integers"
    if isinstance(kind, record.Bool):
        return f"truth values, or {'numbers' if kind.floats else 'integers'}, true where they are not 0"
    return "a random key, one integer (see engine.random.next_key), that decides every random bit"


def _parameters(op: Op) -> Iterator[str]:
    for name, value in op.defaults.items():
        default = "required" if value is EMPTY else f"default {getattr(value, '__name__', repr(value))}"
        about = op.about.get(name)
        yield f"{name} ({default}){f': {about}' if about else ''}"


def _raises(op: Op) -> Iterator[str]:
    if op.raises is not None:
        yield from op.raises
    elif len(op.inputs) > 1 or op.variadic or (op.canonical and op.signature is None):
        what = "shapes or parameters" if op.canonical else "shapes"
        yield f"ShapeError: {what} that do not {'broadcast' if op.signature else 'fit'}"
    if op.check and any(isinstance(kind, record.Index) for kind in op.domain):
        yield "IndexRangeError: an id that is out of range"
        yield "DtypeError: ids that are no integers"
    if record.Bool() in op.domain:
        yield "DtypeError: a mask of floating numbers"
    if record.Key() in op.domain:
        yield "DtypeError: a key that is no integer"
    if op.result == "number":
        yield "DtypeError: truth values"


def _backward(op: Op) -> str:
    real = any(op.is_real(i) for i in range(len(op.inputs)))
    return op.equation[1] or ("" if op.flows and real else "no gradient flows through it")


def _notes(op: Op) -> Iterator[str]:
    if op.doc and op.ufunc and "numpy." not in op.doc:
        yield _numpy(op)
    if op.view:
        yield f"The result may share the memory of {op.inputs[0]}."
    if op.fused:
        yield (f"Fused: its meaning is the composition of ops in {op.__module__}, which engine.unfused() runs as such; "
               "a kernel of the same name, where a device has one, only makes it fast.")


# --- other callables that are an op ---------------------------------------------------------------
def face(op: Op) -> Callable[[Function], Function]:
    """Decorator: a function that stands for an op in public. It has the op's name, and the op's text below its own."""
    def named(function: Function) -> Function:
        function.__name__ = op.name
        function.__doc__ = f"{inspect.getdoc(function) or ''}\n\n{op.__doc__}".lstrip()
        return function
    return named


def describe_methods(cls: type, table: Mapping[str, Op]) -> None:
    """Give the methods of a class, its bases' too, the text of the op that each calls. An operator only names it."""
    for method in [each for base in cls.__mro__ for each in vars(base).values()]:
        if isinstance(method, FunctionType) and not method.__doc__:
            called = [name for name in method.__code__.co_consts if isinstance(name, str) and name in table]
            if called:
                method.__doc__ = _method(method.__name__, table[called[0]])


def _method(name: str, op: Op) -> str:
    if name.startswith("__"):
        return f"The op `{op.name}`: {str(op.__doc__).splitlines()[0]}"
    return f"engine.{op.name} of this tensor, its {op.inputs[0]}.\n\n{op.__doc__}"
