"""Shapes, indices, reductions and products follow NumPy's rules: the same array, or both refuse."""
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import engine
from engine import DtypeError, IndexRangeError, ShapeError, Tensor, grad

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


# --- ops that rearrange ---------------------------------------------------------------------------
@given(SHAPE, st.data())
def test_rearranging_agrees(shape, data):
    x, n = _numbers(shape), len(shape)
    axis = data.draw(st.none() | st.integers(-n - 1, n))
    by = data.draw(st.integers(-4, 4))
    reps = data.draw(st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=4).map(tuple))
    _agree(lambda: engine.tile(Tensor(x), reps), lambda: np.tile(x, reps))
    _agree(lambda: engine.roll(Tensor(x), by, axis), lambda: np.roll(x, by, axis))
    if n:
        _agree(lambda: engine.repeat(Tensor(x), abs(by), axis), lambda: np.repeat(x, abs(by), axis))
        several = data.draw(st.lists(st.integers(0, 2), max_size=4))
        _agree(lambda: engine.repeat(Tensor(x), several, axis), lambda: np.repeat(x, np.array(several, int), axis))
    _agree(lambda: engine.flip(Tensor(x), axis), lambda: np.flip(x, axis))
    axes = data.draw(hnp.valid_tuple_axes(n))
    _agree(lambda: engine.flip(Tensor(x), axes), lambda: np.flip(x, axes))
    if axes:
        _agree(lambda: engine.roll(Tensor(x), (by,) * len(axes), axes), lambda: np.roll(x, (by,) * len(axes), axes))
        _agree(lambda: engine.roll(Tensor(x), by, axes), lambda: np.roll(x, by, axes))
    if axis is not None:
        other = data.draw(st.integers(-n - 1, n))
        _agree(lambda: engine.moveaxis(Tensor(x), axis, other), lambda: np.moveaxis(x, axis, other))
        if -n <= axis < n and shape[axis]:
            np.testing.assert_array_equal(engine.stack(engine.unstack(Tensor(x), axis), axis).numpy(), x)


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), st.data())
def test_diagonals_agree(shape, data):
    x, n = _numbers(shape), len(shape)
    k = data.draw(st.integers(-4, 4))
    i, j = data.draw(st.tuples(st.integers(-n - 1, n), st.integers(-n - 1, n)))
    _agree(lambda: Tensor(x).diagonal(k, i, j), lambda: np.diagonal(x, k, i, j))
    _agree(lambda: Tensor(x).trace(k, i, j), lambda: np.trace(x, k, i, j))
    if n > 1:                                                # NumPy makes matrices of vectors, which we refuse
        _agree(lambda: Tensor(x).tril(k), lambda: np.tril(x, k))
        _agree(lambda: Tensor(x).triu(k), lambda: np.triu(x, k))
    _agree(lambda: engine.diag(Tensor(x), k), lambda: np.diag(x, k))


# --- order and position ---------------------------------------------------------------------------
VALUES = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan])


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5), elements=VALUES),
       st.data())
def test_order_agrees(x, data):
    axis = data.draw(st.none() | st.integers(-x.ndim - 1, x.ndim))
    _agree(lambda: engine.sort(Tensor(x), axis), lambda: np.sort(x, axis, kind="stable"))
    _agree(lambda: engine.argsort(Tensor(x), axis), lambda: np.argsort(x, axis, kind="stable"))
    _agree(lambda: engine.sort(Tensor(x), axis, True), lambda: np.flip(np.sort(x, axis), axis or 0))
    if axis is not None and -x.ndim <= axis < x.ndim:
        k = data.draw(st.integers(0, x.shape[axis]))
        values, places = engine.topk(Tensor(x), k, axis)
        np.testing.assert_array_equal(values.numpy(), np.flip(np.sort(x, axis), axis).take(range(k), axis))
        np.testing.assert_array_equal(np.take_along_axis(x, places.numpy(), axis), values.numpy())
        if not np.isnan(x).any():                            # which NumPy would put last
            np.testing.assert_array_equal(places.numpy(), np.argsort(-x, axis, kind="stable").take(range(k), axis))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, bool, np.float32])
def test_order_keeps_the_dtype(dtype):
    x = np.array([[3, 0, 2], [0, 1, 1]], dtype)
    largest = -np.sort(-x.astype(int))[:, :2]
    for got, want in ((engine.sort(Tensor(x)), np.sort(x)), (engine.topk(Tensor(x), 2)[0], largest)):
        np.testing.assert_array_equal(got.numpy(), want.astype(dtype))
        assert got.dtype == dtype


@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), st.data())
def test_along_an_axis_agrees(shape, data):
    x, n = _numbers(shape), len(shape)
    axis = data.draw(st.integers(-n, n - 1))
    size = shape[axis]
    ids = data.draw(hnp.arrays(np.int64, tuple(data.draw(st.integers(0, 4)) if i == axis % n else data.draw(
        st.sampled_from([1, m])) for i, m in enumerate(shape)), elements=st.integers(-size, size - 1)))
    wide = np.broadcast_to(ids, tuple(k if i == axis % n else max(k, m) if k else 0
                                      for i, (k, m) in enumerate(zip(ids.shape, shape, strict=True))))
    _agree(lambda: engine.take_along_axis(Tensor(x), ids, axis), lambda: np.take_along_axis(x, wide, axis))
    _agree(lambda: engine.take(Tensor(x), ids, axis), lambda: np.take(x, ids, axis))
    _agree(lambda: engine.take(Tensor(x), ids % x.size), lambda: np.take(x, ids % x.size))
    src = -1 - _numbers(wide.shape)

    def put():
        y = x.copy()
        np.put_along_axis(y, wide, src, axis)
        return y
    _agree(lambda: engine.scatter(Tensor(x), wide, src, axis=axis), put)
    row = ids.reshape(-1)[:3]
    part = _numbers((*shape[:axis % n], len(row), *shape[axis % n + 1:]))

    def add():
        y = np.moveaxis(x.copy(), axis, 0)
        np.add.at(y, row, np.moveaxis(part, axis, 0))
        return np.moveaxis(y, 0, axis)
    _agree(lambda: engine.index_add(Tensor(x), row, part, axis=axis), add)


# --- products and running ones --------------------------------------------------------------------
@given(SHAPE, st.data())
def test_products_and_truth_agree(shape, data):
    x, n = _numbers(shape) - 2, len(shape)
    axis = data.draw(st.none() | st.integers(-n - 1, n) | hnp.valid_tuple_axes(n))
    assume(n or axis in (None, ()))
    keepdims = data.draw(st.booleans())
    for name in ("prod", "any", "all"):
        for array in (x, x.astype(int), x > 0):
            _agree(lambda name=name, array=array: getattr(Tensor(array), name)(axis, keepdims),
                   lambda name=name, array=array: getattr(np, name)(array, axis, keepdims=keepdims))
    one = data.draw(st.none() | st.integers(-n - 1, n)) if n else None
    _agree(lambda: Tensor(x).argmin(one, keepdims), lambda: np.argmin(x, one, keepdims=keepdims))
    _agree(lambda: Tensor(x).cumprod(one), lambda: np.cumprod(x, one))
    _agree(lambda: Tensor(x).cumsum(one), lambda: np.cumsum(x, one))


@given(st.data())
def test_einsum_agrees(data):
    """Any equation over a few letters, with repeated ones, `...`, axes of size 1 and 0, given result or not."""
    sizes = {c: data.draw(st.integers(0, 3)) for c in "abC"}
    terms, arrays = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        letters = data.draw(st.lists(st.sampled_from("abC"), max_size=3))
        dots = data.draw(st.sampled_from(["", "", "..."]))
        at = data.draw(st.integers(0, len(letters)))
        free = data.draw(st.lists(st.sampled_from([1, 2]), max_size=2)) if dots else []
        one = {c: 1 for c in letters if data.draw(st.integers(0, 5)) == 0}
        shape = [{**sizes, **one}[c] for c in letters]
        arrays.append(_numbers((*shape[:at], *free, *shape[at:])) - 3)
        terms.append("".join(letters[:at]) + dots + "".join(letters[at:]))
    equation = ",".join(terms)
    if data.draw(st.booleans()):
        used = sorted(set(equation) & set("abC"))
        out = data.draw(st.permutations(used))[:data.draw(st.integers(0, len(used)))]
        dots = data.draw(st.sampled_from(["...", "..." if "..." in equation else ""]))
        equation += " -> " + dots + "".join(out)
    _agree(lambda: engine.einsum(equation, *map(Tensor, arrays)), lambda: np.einsum(equation, *arrays))


@pytest.mark.parametrize("equation", ["i", "ij->ijk", "ij->ii", "ij,jk", "i.j", "...i...", "i->j", "1j", "ij->i->j"])
def test_equations_that_are_none_are_refused(equation):
    with pytest.raises(ShapeError, match="einsum"):
        engine.einsum(equation, Tensor(np.ones((2, 3)), name="left"))


@given(st.data())
def test_contractions_agree(data):
    a, b = data.draw(st.tuples(SHAPE, SHAPE))
    x, y = _numbers(a), _numbers(b)
    _agree(lambda: engine.outer(Tensor(x), y), lambda: np.outer(x, y))
    _agree(lambda: engine.dot(Tensor(x), y), lambda: np.dot(x, y))
    axes = data.draw(st.integers(0, 3) | st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
    _agree(lambda: engine.tensordot(Tensor(x), y, axes), lambda: np.tensordot(x, y, axes))


# --- truth values and integers --------------------------------------------------------------------
def test_truth_values_are_no_numbers():
    for call in (lambda t: -t, lambda t: t - t, lambda t: t % t, lambda t: t.clip(0, 1), engine.square, engine.sign,
                 engine.floor, engine.round, lambda t: engine.einsum("i->", t)):
        with pytest.raises(DtypeError, match="truth values"):
            call(Tensor([True, False]))


def test_integers_stay_integers_where_they_can():
    x = np.array([-7, 0, 7, 2])
    for name in ("square", "floor", "ceil", "trunc", "round", "sign", "abs"):
        got = getattr(engine, name)(Tensor(x))
        assert got.dtype == np.int64 and got.tolist() == getattr(np, name)(x).astype(int).tolist()
    assert (Tensor(x) // 2).tolist() == (x // 2).tolist() and (Tensor(x) % 3).tolist() == (x % 3).tolist()
    assert (7 // Tensor(np.array([2, -2]))).tolist() == [3, -4] and (7 % Tensor(np.array([4, -4]))).tolist() == [3, -1]
    assert engine.reciprocal(Tensor(np.array([2, 4]))).tolist() == [0.5, 0.25]
    assert engine.masked_fill(Tensor(x), x < 0, 5).tolist() == [5, 0, 7, 2]
    with pytest.raises(DtypeError, match=r"int64 has no 0\.5"):
        engine.masked_fill(Tensor(x), x < 0, 0.5)
    with pytest.raises(DtypeError, match="int64 has no number at the limits"):
        Tensor(x).clip(0.5, 3)


@pytest.mark.parametrize("put", [lambda x, value: engine.pad(x, 1, value=value),
                                 lambda x, value: engine.masked_fill(x, [True, False], value)],
                         ids=["pad", "masked_fill"])
def test_integers_are_filled_with_what_they_hold_alone(put):
    for dtype, value in ((np.int64, 0.5), (np.uint8, -1), (np.int8, 300), (np.int64, np.nan), (np.int64, np.inf),
                         (np.int64, 2**70), (np.int64, 2.0**63), (bool, 0.5), (np.uint8, 256)):
        with pytest.raises(DtypeError, match=rf"(pad|masked_fill): {np.dtype(dtype)} has no .*x\.astype"):
            put(Tensor(np.ones(2, dtype)), value)
    for dtype, value in ((np.int64, 2.0), (np.uint8, 255), (np.int8, -128), (np.uint64, 2**64 - 1), (bool, True),
                         (np.float32, 0.5)):
        y = put(Tensor(np.ones(2, dtype)), value)
        assert y.dtype == dtype and y.numpy()[0] == value


CONDITIONS = [np.array([2, 0, -1]), np.array([0.5, -0.0, np.nan]), np.array([1e-40, 0, -np.inf], np.float32),
              np.array([0, 255, 1], np.uint8), np.array([1, 0, 1j]), [0, 3, 0], 1.5, 0]


@pytest.mark.parametrize("condition", CONDITIONS, ids=range(len(CONDITIONS)))
def test_a_condition_holds_where_it_does_in_numpy(condition):
    x = Tensor(np.array([1.0, np.nan, np.inf]), requires_grad=True)
    y = engine.where(condition, x, 0.0)
    np.testing.assert_array_equal(y.numpy(), np.where(condition, x.numpy(), 0.0))
    holds = np.broadcast_to(np.asarray(condition, bool), 3)
    np.testing.assert_array_equal(grad(y, x, np.ones(3)).numpy(), holds)


MASKED = {"softmax": lambda x, mask: engine.softmax(x, mask),
          "attention": lambda x, mask: engine.scaled_dot_product_attention(x, x, x, mask),
          "attention of one query": lambda x, mask: engine.scaled_dot_product_attention(x[:, :1], x, x, mask),
          "self-attention": lambda x, mask: engine.self_attention(engine.concat([x, x, x], axis=-1), mask, heads=2),
          "cross-attention": lambda x, mask: engine.cross_attention(x, engine.concat([x, x], axis=-1), mask, heads=2),
          "masked_fill": lambda x, mask: engine.masked_fill(x, mask, 0.0)}


def masked(op, mask):
    """The result and the gradient of an op on numbers of which those at 2 are NaN."""
    numbers = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    numbers[:, 2] = np.nan
    x = Tensor(numbers, requires_grad=True)
    y = op(x, mask)
    return [y.numpy(), grad(y, x, engine.ones_like(y)).numpy()]


@pytest.mark.parametrize("op", MASKED.values(), ids=MASKED)
@pytest.mark.parametrize("mask", [np.array([1, 3, 0, -1]), np.uint8([1, 3, 0, 255]), [1, 3, 0, -1]],
                         ids=["int64", "uint8", "list"])
def test_a_mask_of_integers_is_one_of_truth_values(op, mask):
    """Bit for bit, and a NaN that one hides does not leak where it does not leak from the other."""
    for mine, right in zip(masked(op, mask), masked(op, np.array([True, True, False, True])), strict=True):
        np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("op", MASKED.values(), ids=MASKED)
def test_a_mask_that_would_be_added_is_refused(op):
    x = Tensor(np.ones((2, 4, 4), np.float32))
    for mask in (Tensor([0.0, -np.inf, 0.0, 0.0], name="hidden"), np.ones(4), 1.0, np.ones(4, complex)):
        with pytest.raises(DtypeError, match=r"mask holds truth values \(True = (attend|replace)\), .*`mask == 0` or"):
            op(x, mask)
