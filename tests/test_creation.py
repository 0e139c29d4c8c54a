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


@given(st.integers(-2**63, 2**63 - 2), st.integers(1, 2**64 - 1))
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
