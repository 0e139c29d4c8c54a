"""Tensors of given values and of random ones: NumPy's values, the seed's bits, and errors for what is no shape."""
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import DtypeError, ShapeError, Tensor, random, shapes_only


def _same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.numpy(), theirs)


# --- given values ---------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(), 3, (2, 0), [2, 3], np.int64(2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_filled_as_numpy_fills(shape, dtype):
    _same(engine.zeros(shape, dtype), np.zeros(shape, dtype))
    _same(engine.ones(shape, dtype), np.ones(shape, dtype))
    _same(engine.full(shape, 7, dtype), np.full(shape, 7, dtype))
    x = np.ones(shape, dtype)
    _same(engine.zeros_like(x), np.zeros_like(x))
    _same(engine.ones_like(Tensor(x)), np.ones_like(x))
    _same(engine.full_like(Tensor(x), 2, np.float32), np.full_like(x, 2, np.float32))


def test_float32_unless_said_otherwise():
    made = [engine.zeros(2), engine.ones(2), engine.full(2, 0.5), engine.arange(2.0), engine.linspace(0, 1),
            engine.eye(2), random.uniform(2), random.normal(2)]
    assert {t.dtype for t in made} == {np.dtype(np.float32)}
    assert engine.arange(3).dtype == random.randint(2, 5).dtype == random.permutation(3).dtype == np.int64


@given(st.integers(-5, 5), st.integers(-5, 9), st.integers(-3, 3).filter(bool))
def test_arange_is_numpys(start, stop, step):
    _same(engine.arange(start, stop, step), np.arange(start, stop, step))
    _same(engine.arange(start, stop, step / 2), np.arange(start, stop, step / 2).astype(np.float32))
    _same(engine.arange(stop), np.arange(stop))


@given(st.integers(0, 6), st.booleans())
def test_linspace_is_numpys(num, endpoint):
    _same(engine.linspace(-1, 2, num, endpoint, np.float64), np.linspace(-1, 2, num, endpoint))


@pytest.mark.parametrize("args", [(3,), (2, 4), (3, 2, 1), (2, 3, -1), (0,)], ids=str)
def test_eye_is_numpys(args):
    _same(engine.eye(*args), np.eye(*args, dtype=np.float32))


def test_shapes_alone_are_enough():
    calls = [lambda: engine.zeros((2, 3)), lambda: engine.full_like(Tensor([1.0]), 2), lambda: engine.arange(2, 9, 2),
             lambda: engine.linspace(0, 1, 7), lambda: engine.eye(3, 2), lambda: random.uniform((2, 3)),
             lambda: random.normal(4), lambda: random.randint((2,), 9), lambda: random.permutation(5),
             lambda: random.permutation(Tensor(np.ones((4, 2))))]
    for call in calls:
        made = call()
        with shapes_only():
            promised = call()
        assert (promised.shape, promised.dtype) == (made.shape, made.dtype)


@pytest.mark.parametrize("call", [
    lambda: engine.zeros((-1,)), lambda: engine.ones("ab"), lambda: engine.full(1.5, 0), lambda: engine.arange(1, 5, 0),
    lambda: engine.eye(-2), lambda: engine.linspace(0, 1, -1), lambda: random.uniform((2, -1)),
    lambda: random.randint((2,), 3, 3), lambda: random.permutation(Tensor(1.0))], ids=range(9))
def test_what_is_no_shape_is_refused(call):
    with pytest.raises(ShapeError):
        call()


def test_dtypes_that_do_not_hold_it_are_refused():
    with pytest.raises(DtypeError, match="int8"):
        random.randint((2,), 0, 300, np.int8)
    with pytest.raises(DtypeError, match="float32"):
        random.randint((2,), 3, dtype=np.float32)
    with pytest.raises(DtypeError):
        engine.zeros(2, "U3")


# --- random ones ----------------------------------------------------------------------------------
DRAWS = [lambda: random.uniform((7, 3), -2, 5), lambda: random.normal((9,), 1.0, 0.5, np.float64),
         lambda: random.randint((5, 4), -3, 100), lambda: random.permutation(12),
         lambda: random.permutation(engine.arange(12).reshape(6, 2))]


@pytest.mark.parametrize("draw", DRAWS, ids=["uniform", "normal", "randint", "permutation", "rows"])
def test_the_seed_decides_every_bit(draw):
    engine.seed(11)
    first, second = draw().tolist(), draw().tolist()
    engine.seed(11)
    assert draw().tolist() == first != second
    engine.seed(12)
    assert draw().tolist() != first


def test_a_key_decides_alone():
    key = Tensor(42)
    assert random.randint((9,), 50, key=key).tolist() == random.randint((9,), 50, key=key).tolist()
    long, short = random.randint((9,), 50, key=key).tolist(), random.randint((4,), 50, key=key).tolist()
    assert long[:4] == short, "the bits of a number depend on the key and its position alone"


@pytest.mark.parametrize("draw", [
    random.uniform, random.normal, lambda shape, key: random.randint(shape, 9, key=key),
    lambda shape, key: random.permutation(5, key=key)], ids=["uniform", "normal", "randint", "permutation"])
def test_a_key_is_one_integer(draw):
    for key in (5, np.uint8(5), np.array(5), Tensor(5, dtype=np.int32)):
        assert draw((2,), key=key).tolist() == draw((2,), key=Tensor(5)).tolist()
    for key in (1.5, True, Tensor(1.5)):
        with pytest.raises(DtypeError, match="a random key is one integer"):
            draw((2,), key=key)
    with pytest.raises(ShapeError, match=r"not one of shape \(2,\)"):
        draw((2,), key=Tensor([1, 2]))


def test_a_probability_is_no_key():
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(DtypeError, match=r"dropout: a key is one integer.*next_key\(\).*not 0\.3;.*p=0\.3"):
        engine.dropout(x, 0.3)
    for key in (Tensor(1.5, name="rate"), np.float64(0.3), True, np.array([0.5, 1])):
        with pytest.raises(DtypeError, match=r"a key is one integer.*p="):
            engine.dropout(x, key, p=0.3)
        with pytest.raises(DtypeError, match=r"a key is one integer.*p="):
            engine.scaled_dot_product_attention(x, x, x, None, key, p=0.3)


def test_keys_of_any_integer_dtype_give_the_same_bits():
    x = Tensor(np.ones(50))
    made = [engine.dropout(x, key).tolist() for key in (5, np.int8(5), np.uint64(5), Tensor(5, dtype=np.int32))]
    assert made == [engine.dropout(x, Tensor(5)).tolist()] * 4


ENDS = [(100, 101, np.float32), (1e6, 1e6 + 1, np.float32), (-1, 0, np.float16), (0, 1, np.float16),
        (1e16, 1e16 + 2, np.float64), (0, 0.7, np.float32), (0, 1e-45, np.float32)]


@pytest.mark.parametrize(("low", "high", "dtype"), ENDS)
def test_uniform_numbers_never_reach_their_upper_end(low, high, dtype):
    x = random.uniform((500_000,), low, high, dtype, key=Tensor(3)).numpy()
    u = random.uniform((500_000,), key=Tensor(3)).numpy().astype(np.float64)
    rounded = (low + (high - low) * u).astype(dtype)
    assert (x >= dtype(low)).all() and (x < dtype(high)).all()
    inside = rounded < dtype(high)
    np.testing.assert_array_equal(x[inside], rounded[inside])
    assert (x[~inside] == np.nextafter(dtype(high), dtype(low))).all()


def test_uniform_numbers_between_equal_ends_are_that_end():
    assert random.uniform((3,), 2, 2).tolist() == [2, 2, 2]
    assert random.uniform((3,), 100, 100.0000001).tolist() == [100, 100, 100]


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 1e6, np.float16), (0, np.inf, np.float32), (np.nan, 1, float),
                                                    (-1.7e308, 1.7e308, float), (0, 5, np.int64), (0, 1, bool)])
def test_uniform_numbers_that_a_dtype_does_not_hold_are_refused(low, high, dtype):
    with pytest.raises(DtypeError, match="uniform"):
        random.uniform((3,), low, high, dtype)
    with shapes_only(), pytest.raises(DtypeError, match="uniform"):
        random.uniform((3,), low, high, dtype)
    with pytest.raises(DtypeError, match="normal draws floating numbers"):
        random.normal((3,), dtype=np.int64)


def test_integers_of_the_whole_range_of_64_bits():
    drawn = random.randint((99,), -2**63, 2**63, key=Tensor(1)).numpy()
    assert len(set(drawn.tolist())) == 99 and (drawn < 0).any() and (drawn > 0).any()
    same = random.randint((99,), 0, 2**64, np.uint64, key=Tensor(1)).numpy()
    np.testing.assert_array_equal(same.view(np.int64), drawn ^ np.int64(-2**63))


@given(st.integers(-2**63, 2**63 - 2), st.integers(1, 2**64))
def test_integers_lie_within_their_bounds(low, count):
    high = min(low + count, 2**63)
    drawn = random.randint((20,), low, high, key=Tensor(low % 1000)).tolist()
    assert all(low <= n < high for n in drawn)


def test_integers_are_equally_likely():
    counts = np.bincount(random.randint((60_000,), 6, key=Tensor(1)).numpy(), minlength=6)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 20.5          # χ² of 5 degrees of freedom, 0.1%


def test_orders_are_equally_likely():
    keys = [random.permutation(3, key=Tensor(i)).tolist() for i in range(3000)]
    counts = np.array([keys.count(list(order)) for order in permutations(range(3))])
    assert counts.sum() == 3000 and ((counts - 500) ** 2 / 500).sum() < 20.5


def test_a_permutation_has_everything_once():
    x = Tensor(np.arange(24.0).reshape(8, 3), requires_grad=True)
    mixed = random.permutation(x, key=Tensor(3))
    assert sorted(mixed.tolist()) == x.tolist() != mixed.tolist()
    mixed.sum().backward()
    assert (x.grad.numpy() == 1).all()
    assert random.permutation(0).shape == (0,)


def test_where_no_thread_can_be_started_numbers_are_the_same(monkeypatch):
    def refused(self, *given):
        raise RuntimeError("can't start new thread")

    key = engine.random.next_key()
    made = engine.random.normal((200_000,), key=key).numpy()
    monkeypatch.setattr(engine.random.ThreadPoolExecutor, "map", refused)
    assert np.array_equal(engine.random.normal((200_000,), key=key).numpy(), made)


def test_normal_numbers_have_the_moments_of_a_normal():
    x = random.normal((40_000,), 2.0, 3.0, np.float64, key=Tensor(5)).numpy()
    z = (x - 2) / 3
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs((z**3).mean()) < 0.06
    assert abs((z**4).mean() - 3) < 0.2
