"""What is said as `x.method(…)` is the op of that name."""
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import OPS, Tensor
from engine.check import calls

NAMED = [name for name, method in vars(Tensor.__mro__[1]).items() if name in OPS and callable(method)
         and name != "topk"]                      # which gives two tensors


@pytest.mark.parametrize("name", NAMED)
@given(data=st.data())
def test_a_method_is_its_op(name, data):
    op = OPS[name]
    call = data.draw(calls(op, np.float32))
    first, *rest = [None if a is None else Tensor(a) for a in call.arrays]
    method = getattr(first, name)
    several = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(method).parameters.values())
    if name == "to":
        found = method(call.params["device"])
    elif several:
        found = method(*call.params.values())
    elif name == "softmax":
        found = method(call.params["axis"], *rest)
    else:
        found = method(*[t for t in rest if t is not None], **call.params)
    np.testing.assert_array_equal(found.numpy(), call.run(op).numpy())


def test_every_op_of_one_tensor_that_numpy_or_pytorch_has_as_a_method_is_one():
    expected = """
        abs acos acosh all any argmax argmin argsort asin asinh astype atan atan2 atanh ceil clip cos cosh cumprod
        cumsum diagonal dot erf exp exp2 expand_dims expm1 flip floor floor_divide gather hypot index_add log log10
        log1p log2 log_softmax logaddexp logsumexp masked_fill matmul max maximum mean min minimum moveaxis norm outer
        prod reciprocal relu remainder repeat reshape roll round rsqrt scatter sigmoid sign sin sinh softmax sort sqrt
        square squeeze std sum swapaxes take take_along_axis tan tanh tile topk trace transpose tril triu trunc var"""
    assert not [name for name in expected.split() if not hasattr(Tensor, name)]


def test_operators():
    x, y = Tensor([7.0, -7.0]), Tensor([2.0, 2.0])
    assert (x % y).tolist() == [1, 1] and (x // y).tolist() == [3, -4] and (9 % y).tolist() == [1, 1]
    assert (9 // y).tolist() == [4, 4] and round(Tensor([1.26]), 1).tolist() == pytest.approx([1.3])
    t, f = Tensor([True, False]), Tensor([True, True])
    assert (t ^ f).tolist() == [False, True] and (True ^ t).tolist() == [False, True]
    assert (True & t).tolist() == [True, False] and (False | t).tolist() == [True, False]
    values, places = Tensor([[1.0, 3.0, 2.0]]).topk(2)
    assert values.tolist() == [[3, 2]] and places.tolist() == [[1, 2]]
    assert [part.tolist() for part in engine.unstack(Tensor([[1, 2], [3, 4]]), axis=1)] == [[1, 3], [2, 4]]
