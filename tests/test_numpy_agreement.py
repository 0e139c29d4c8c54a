"""Shapes, indices, reductions and products follow NumPy's rules: the same array, or both refuse."""
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import engine
from engine import IndexRangeError, ShapeError, Tensor

SHAPE = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


def _numbers(shape):
    return np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)


def _agree(ours, theirs):
    """Both give the same array, or both refuse."""
    try:
        want = theirs()
    except (ValueError, IndexError, TypeError):
        with pytest.raises((ShapeError, IndexRangeError, TypeError)):
            ours()
        return
    got = ours()
    assert got.shape == np.shape(want)
    np.testing.assert_array_equal(got.numpy(), want)


@given(SHAPE, st.data())
def test_basic_indexing_agrees(shape, data):
    x = _numbers(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    _agree(lambda: Tensor(x)[index], lambda: x[index])


@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), st.data())
def test_array_and_mask_indexing_agree(shape, data):
    x = _numbers(shape)
    index = data.draw(hnp.integer_array_indices(shape))
    _agree(lambda: Tensor(x)[index], lambda: x[index])
    mask = data.draw(hnp.arrays(bool, shape[:data.draw(st.integers(1, len(shape)))]))
    _agree(lambda: Tensor(x)[mask], lambda: x[mask])
    _agree(lambda: Tensor(x)[Tensor(mask)], lambda: x[mask])
    _agree(lambda: Tensor(x)[index[0], None], lambda: x[index[0], None])


@pytest.mark.parametrize("index", [5, -4, (0, 5), (0, 0, 0), np.array([0, 9]), np.ones(2, bool), [0, 1], [], True,
                                   1.5, "a",
                                   (slice(None), [0, 2]), ([0, 1], slice(None), None), (..., ...)], ids=str)
def test_odd_indices_agree(index):
    x = _numbers((3, 4))
    _agree(lambda: Tensor(x)[index], lambda: x[index])


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
       hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
def test_matmul_agrees_or_refuses(a, b):
    x, y = _numbers(a), _numbers(b)
    _agree(lambda: Tensor(x) @ Tensor(y), lambda: x @ y)


@given(st.data())
def test_matmul_that_fits_agrees(data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0,
                                                         max_side=3))
    x, y = map(_numbers, shapes.input_shapes)
    _agree(lambda: Tensor(x) @ y, lambda: x @ y)


@given(SHAPE, st.data())
def test_shape_ops_agree(shape, data):
    x, n = _numbers(shape), len(shape)
    axis = st.integers(-n - 1, n)
    i, j = data.draw(axis), data.draw(axis)
    order = data.draw(st.permutations(range(n)))
    target = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    factored = data.draw(st.sampled_from([(-1,), shape[::-1], (1, *shape), (-1, 1), (2, -1), target]))
    _agree(lambda: Tensor(x).reshape(factored), lambda: x.reshape(factored))
    _agree(lambda: Tensor(x).transpose(order), lambda: x.transpose(order) if n else x)
    _agree(lambda: Tensor(x).T, lambda: x.T)
    _agree(lambda: Tensor(x).swapaxes(i, j), lambda: x.swapaxes(i, j))
    _agree(lambda: Tensor(x).expand_dims(i), lambda: np.expand_dims(x, i))
    _agree(lambda: Tensor(x).expand_dims((i, j)), lambda: np.expand_dims(x, (i, j)))
    _agree(lambda: Tensor(x).squeeze(), lambda: x.squeeze())
    if n:                                                    # NumPy squeezes axis 0 of a 0-d array, which has none
        _agree(lambda: Tensor(x).squeeze(i), lambda: x.squeeze(i))
    _agree(lambda: Tensor(x).broadcast_to(target), lambda: np.broadcast_to(x, target))
    _agree(lambda: Tensor(x).flatten(), lambda: x.flatten())
    _agree(lambda: engine.concat([Tensor(x), Tensor(x)], axis=i), lambda: np.concatenate([x, x], i))
    _agree(lambda: engine.stack([Tensor(x), Tensor(x)], axis=i), lambda: np.stack([x, x], i))
    _agree(lambda: Tensor(x).pad(1), lambda: np.pad(x, 1) if n else x)


@given(SHAPE, st.data())
def test_reductions_agree(shape, data):
    x, n = _numbers(shape) - 3, len(shape)
    axis = data.draw(st.none() | st.integers(-n - 1, n) | hnp.valid_tuple_axes(n))
    assume(n or axis in (None, ()))                          # NumPy lets a 0-d array have an axis 0, which we refuse
    keepdims = data.draw(st.booleans())
    for name in ("sum", "max", "min"):
        _agree(lambda name=name: getattr(Tensor(x), name)(axis, keepdims),
               lambda name=name: getattr(np, name)(x, axis, keepdims=keepdims))
    one = data.draw(st.none() | st.integers(-n - 1, n)) if n else None
    _agree(lambda: Tensor(x).argmax(one, keepdims), lambda: np.argmax(x, one, keepdims=keepdims))
    if n and one is not None:
        _agree(lambda: Tensor(x).cumsum(one), lambda: np.cumsum(x, one))


@given(st.integers(1, 12), st.data())
def test_split_agrees(size, data):
    x = _numbers((size, 2))
    cuts = data.draw(st.integers(1, 4) | st.lists(st.integers(0, 12), max_size=3).map(sorted))
    try:
        want = np.split(x, cuts)
    except ValueError:
        with pytest.raises(ShapeError, match="equal parts"):
            engine.split(Tensor(x), cuts)
        return
    got = engine.split(Tensor(x), cuts)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g.numpy(), w)
