"""Every op of the table, tested from its record alone: no op is named here.

An op from elsewhere is tested the same way by importing its module first: `pytest -p my_module tests/test_ops.py`.
"""
from contextlib import nullcontext, suppress

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from engine import (
    OPS,
    Bool,
    DtypeError,
    Index,
    IndexRangeError,
    Key,
    Real,
    ShapeError,
    Tensor,
    grad,
    shapes_only,
    unfused,
)
from engine.check import Call, calls, check_gradients, check_meaning, check_shape_rule, differentiable

every_op = pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
every_differentiable_op = pytest.mark.parametrize("op", [*filter(differentiable, OPS.values())], ids=lambda op: op.name)
either_float = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def _elementwise(op):
    """Whether every number of the result depends on one number of each input."""
    return bool(op.signature) and set(op.signature) <= set("(),->")


# --- values ---------------------------------------------------------------------------------------
@every_op
@either_float
@given(data=st.data())
def test_result_is_the_meaning(op, dtype, data):
    check_meaning(op, data.draw(calls(op, dtype, ties=data.draw(st.booleans()))))


@every_op
@either_float
@given(data=st.data())
def test_nan_and_infinity_are_as_in_the_meaning(op, dtype, data):
    check_meaning(op, data.draw(calls(op, dtype, hard=True)))


@every_op
@either_float
@given(data=st.data())
def test_the_same_bits_for_every_memory_layout(op, dtype, data):
    call = data.draw(calls(op, dtype, ties=data.draw(st.booleans())))
    plain = Call(tuple(a if a is None else np.array(a, order="C") for a in call.arrays), call.params)
    np.testing.assert_array_equal(call.run(op).array(), plain.run(op).array())


# --- shapes and dtypes ----------------------------------------------------------------------------
@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64], ids=["float32", "float64", "int64"])
@given(data=st.data())
def test_record_promises_the_shape_and_dtype_that_running_gives(op, dtype, data):
    try:
        check_shape_rule(op, data.draw(calls(op, dtype)))
    except DtypeError:
        assert dtype is np.int64             # an op may refuse integers


@every_op
@given(data=st.data())
def test_wrong_shapes_are_refused_or_promised(op, data):
    """Whatever the shapes are, an op raises an error of ours, with or without numbers, or gives the promised shape."""
    call = data.draw(calls(op))
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    arrays = [None if a is None else _filled(op.kind(i), data.draw(shapes) if data.draw(st.booleans()) else a.shape)
              for i, a in enumerate(call.arrays)]
    call = Call(tuple(arrays), call.params)
    try:
        with shapes_only():
            call.on(op, [None if a is None else Tensor.placeholder(a.shape, a.dtype) for a in arrays])
    except ShapeError as e:
        assert op.name in str(e)
        with pytest.raises(ShapeError, match=op.name):
            call.run(op)
        return
    except IndexRangeError:
        return
    with suppress(IndexRangeError):          # id 0 of an axis without rows
        check_shape_rule(op, call)


def _filled(kind, shape):
    if isinstance(kind, Real):
        return np.ones(shape)
    return np.zeros(shape, bool if isinstance(kind, Bool) else np.int64)


# --- gradients ------------------------------------------------------------------------------------
@every_differentiable_op
@either_float
@given(data=st.data())
def test_gradient_is_the_slope(op, dtype, data):
    check_gradients(op, data.draw(calls(op, dtype)), order=1, elements=4)


@every_differentiable_op
@given(data=st.data())
def test_gradient_of_the_gradient_is_its_slope(op, data):
    check_gradients(op, data.draw(calls(op)), order=2, elements=2)


@pytest.mark.parametrize("op", [op for op in OPS.values() if _elementwise(op) and differentiable(op)],
                         ids=lambda op: op.name)
@settings(max_examples=4)
@given(data=st.data())
def test_third_order_of_the_elementwise_ops(op, data):
    call = data.draw(calls(op))
    assume(all(a.size <= 12 for a in call.arrays))
    check_gradients(op, call, order=3, elements=1)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.fused and differentiable(op)], ids=lambda op: op.name)
@given(data=st.data())
def test_gradient_of_the_meaning_is_the_slope(op, data):
    with unfused():
        check_gradients(op, data.draw(calls(op)), order=1, elements=1)


@every_differentiable_op
@pytest.mark.parametrize("level", [nullcontext, unfused], ids=["fused", "unfused"])
@given(data=st.data())
def test_gradients_need_no_numbers(op, level, data):
    """Under shapes_only() the backward pass is recorded from shapes alone, and each gradient has its input's shape."""
    call = data.draw(calls(op))
    with shapes_only(), level():
        tensors = [None if a is None else Tensor.placeholder(a.shape, a.dtype) for a in call.arrays]
        real = [t for i, t in enumerate(tensors) if t is not None and isinstance(op.kind(i), Real)]
        for t in real:
            t.requires_grad = True
        y = call.on(op, tensors)
        if not y.requires_grad:              # how many numbers are not 0 (`norm` of order 0)
            return
        for t, g in zip(real, grad(y, real, Tensor.placeholder(y.shape, y.dtype), create_graph=True), strict=True):
            assert (g.shape, g.dtype) == (t.shape, t.dtype)


# --- the record itself ----------------------------------------------------------------------------
@every_op
def test_record_is_complete(op):
    forward, backward = op.equation
    assert forward and op.__doc__.strip()
    assert backward or not any(isinstance(op.kind(i), Real) for i in range(len(op.inputs))) or op.vjps in (
        None, (None,) * len(op.inputs))
    assert all("\n" not in line and len(line) <= 120 for line in op.equation)
    assert all(isinstance(kind, (Real, Index, Bool, Key)) for kind in op.domain)
    assert op.saves is None or all(-1 <= i < max(len(op.inputs), 1) for i in op.saves)
