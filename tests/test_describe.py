"""What `help()` and pydoc say of every op and of a tensor's methods, tested from the op table: no op is named here."""
from __future__ import annotations

import copy
import inspect
import pydoc
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import engine
from engine import OPS, Bool, DtypeError, EngineError, Op, Real, Tensor
from engine.check import calls
from tests.test_methods import NAMED

every_op = pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
PUBLIC = [(name, getattr(engine, name)) for name in OPS if hasattr(engine, name)]
DTYPES = {"same": "that of", "number": "truth values are refused", "float": "float32", "sum": "int64", "bool": "bool",
          "int64": "int64", "param": "`dtype`"}


def _section(op: Op, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:    .*\n?)+)", str(op.__doc__), re.M)
    return found.group(1) if found else ""


# --- the text -------------------------------------------------------------------------------------
@every_op
def test_shapes_dtype_and_every_argument_are_explained(op: Op) -> None:
    assert not op.__doc__.startswith(("Elementwise", "The op", "\n"))
    shapes = _section(op, "Shapes")
    assert "→" in shapes and all(re.search(rf"\b{name} \(", shapes) for name in op.inputs), shapes
    assert DTYPES[op.result] in _section(op, "Dtype")
    inputs, parameters = _section(op, "Inputs"), _section(op, "Parameters")
    assert all(re.search(rf"^    {name}( \(may be None\))?: \w", inputs, re.M) for name in op.inputs), inputs
    for name, value in op.defaults.items():
        known = f"default {getattr(value, '__name__', repr(value))}"
        said = "required" if value is inspect.Parameter.empty else known
        assert re.search(rf"^    {name} \({re.escape(said)}\): \S", parameters, re.M), parameters
    assert set(op.about) <= {*op.inputs, *op.defaults}
    assert all(re.fullmatch(r"\w+Error( \(a \w+Error\))?: .+[^.]", each) for each in op.raises or ())
    assert " ".join(op.equation[0].split()) in " ".join(_section(op, "Forward").split())
    assert op.fused == (f"Fused: its meaning is the composition of ops in {op.__module__}" in _section(op, "Notes"))


SHAPE = re.compile(r"\(((?:…|[A-Za-z])(?:, (?:…|[A-Za-z]))*,?|)\)")


def _bound(axes: str, shape: tuple[int, ...], sizes: dict[str, Any]) -> bool:
    """Whether a written shape fits a real one, with the sizes that its letters have so far."""
    letters = [axis for axis in axes.replace(",", " ").split() if axis]
    if letters[:1] == ["…"]:
        cut = len(shape) - (len(letters) - 1)
        fits = cut >= 0 and sizes.setdefault("…", shape[:cut]) == shape[:cut]
        letters, shape = letters[1:], shape[max(cut, 0):]
        return fits and _bound(", ".join(letters), shape, sizes)
    return len(letters) == len(shape) and all(sizes.setdefault(a, n) == n for a, n in zip(letters, shape, strict=True))


def _plain(op: Op) -> tuple[dict[str, str], str] | None:
    """The written shapes of the inputs and of the result, where they are letters alone and `…` in front."""
    left, _, right = op.shapes.partition(" → ")
    given = {name: SHAPE.fullmatch(text) for name, text in re.findall(r"(\w+) (\([^()]*\))", left)}
    out = SHAPE.fullmatch(right)
    if out is None or set(given) != set(op.inputs) or any(m is None or "…" in m[1][1:] for m in (*given.values(), out)):
        return None
    return {name: m[1] for name, m in given.items() if m}, out[1]


PLAIN = [op for op in OPS.values() if _plain(op)]


@pytest.mark.parametrize("op", PLAIN, ids=lambda op: op.name)
@given(data=st.data())
def test_written_shapes_are_those_of_a_call(op: Op, data: st.DataObject) -> None:
    call, sizes = data.draw(calls(op)), dict[str, Any]()
    given, out = _plain(op) or ({}, "")
    for name, array in zip(op.inputs, call.arrays, strict=True):
        assert array is None or _bound(given[name], array.shape, sizes), (op.shapes, array.shape)
    sizes |= {name: value for name, value in call.params.items() if isinstance(value, int)}
    assert _bound(out, call.run(op).shape, sizes), op.shapes


def test_enough_shapes_are_written_so_that_they_can_be_tested() -> None:
    assert len(PLAIN) >= 15


@every_op
@given(data=st.data())
def test_an_error_is_one_that_the_text_names(op: Op, data: st.DataObject) -> None:
    call = data.draw(calls(op))
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    arrays = [None if a is None else _filled(op.kind(i), data.draw(shapes)) for i, a in enumerate(call.arrays)]
    try:
        op(*(arrays,) if op.variadic else arrays, **call.params)
    except EngineError as e:
        assert re.search(rf"\b{type(e).__name__}(:| \()", _section(op, "Raises")), e


def _filled(kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape) if isinstance(kind, Real) else np.zeros(shape, bool if isinstance(kind, Bool) else np.int64)


@every_op
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.float64], ids=lambda dtype: dtype.__name__)
@settings(max_examples=4)
@given(data=st.data())
def test_the_dtype_is_the_one_that_the_text_says(op: Op, dtype: Any, data: st.DataObject) -> None:
    call = data.draw(calls(op))
    arrays = [abs(a).astype(dtype) if isinstance(op.kind(i), Real) and a is not None else a
              for i, a in enumerate(call.arrays)]
    try:
        found = op(*(arrays,) if op.variadic else arrays, **call.params).dtype
    except DtypeError:
        assert dtype is not np.float64
        return
    said, given = " ".join(_section(op, "Dtype").split()), np.dtype(dtype)
    assert not (given.kind == "b" and "truth values are refused" in said)
    if given.kind in "iub" and "computed as float32" in said:
        assert found == np.float32
    elif given.kind in "iub" and "give int64" in said:
        assert found == (np.uint64 if given.kind == "u" else np.int64)
    elif said.startswith("that of"):
        assert found == given
    else:
        assert found == ({**op.defaults, **call.params}["dtype"] if "`dtype`" in said else said)


# --- the signature --------------------------------------------------------------------------------
@every_op
@given(data=st.data())
def test_the_signature_binds_what_the_op_takes(op: Op, data: st.DataObject) -> None:
    call, signature = data.draw(calls(op)), inspect.signature(op)
    given = (list(call.arrays),) if op.variadic else call.arrays
    bound = signature.bind(*given, **call.params)
    assert list(bound.arguments)[:len(given)] == list(op.inputs)
    assert [*signature.parameters] == [*op.inputs, *op.defaults]
    wanted = call.run(op).numpy()
    np.testing.assert_array_equal(op(*bound.args, **bound.kwargs).numpy(), wanted)
    if not op.variadic:
        np.testing.assert_array_equal(op(**bound.arguments).numpy(), wanted)


@every_op
def test_the_signature_refuses_what_the_op_refuses(op: Op) -> None:
    for refused in ((), (None,) * 20):
        with pytest.raises(TypeError):
            inspect.signature(op).bind(*refused)
        with pytest.raises(TypeError):
            op(*refused)


# --- where people look ----------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "function"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_a_public_function_is_a_routine_with_the_text_of_its_op(name: str, function: Any) -> None:
    assert inspect.isroutine(function) and function.__name__ == name
    assert inspect.getdoc(function).endswith(inspect.getdoc(OPS[name]))
    said = pydoc.plain(pydoc.render_doc(function))
    assert re.search(rf"^{name}\(", said, re.M) and all(parameter in said for parameter in OPS[name].defaults)


def test_pydoc_lists_every_op_under_functions() -> None:
    text = pydoc.plain(pydoc.render_doc(engine))
    functions = text[text.index("\nFUNCTIONS\n"):text.index("\nDATA\n")]
    assert {name for name, _ in PUBLIC} <= set(re.findall(r"^    (\w+)\(", functions, re.M))


def test_an_op_in_a_class_is_called_as_it_stands_and_can_be_copied() -> None:
    class Layer:
        activation = engine.relu

    x = Tensor([-1.0, 2.0])
    assert Layer().activation is engine.relu and Layer().activation(x).tolist() == [0, 2]
    assert copy.deepcopy(engine.relu)(x).tolist() == [0, 2]


# --- methods --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMED)
def test_a_method_has_the_text_and_the_parameters_of_its_op(name: str) -> None:
    method, op = getattr(Tensor, name), OPS[name]
    own = inspect.signature(method).parameters
    assert name == "to" or inspect.getdoc(method).endswith(inspect.getdoc(op))
    assert all(p.kind is p.VAR_POSITIONAL or p.name in (*op.inputs, *op.defaults) for p in list(own.values())[1:])
    for key, value in op.defaults.items():
        if key in own and own[key].kind is not inspect.Parameter.VAR_POSITIONAL:
            assert own[key].default == value, key


def test_pydoc_of_a_tensor_explains_every_method_and_shows_no_comments() -> None:
    text = pydoc.plain(pydoc.render_doc(Tensor))
    assert "# --" not in text
    public = [name for name in dir(Tensor) if not name.startswith("_")]
    assert [name for name in public if not inspect.getdoc(getattr(Tensor, name))] == []
