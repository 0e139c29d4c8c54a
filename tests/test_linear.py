"""Linear layers in one kernel: the bits of the separate ops, sums in the order of the rows, and refusals in words."""
import os

import numpy as np
import pytest

import engine
from engine import OPS, ShapeError, Tensor, grad, no_grad, unfused

pytest.importorskip("numba")
if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    pytest.skip("kernels are switched off", allow_module_level=True)

from engine.kernels.cpu import linear as kernels
from engine.kernels.cpu.jit import get_threads, set_threads
from engine.kernels.cpu.matmul import matmul

DTYPES = [np.float32, np.float64]
SHAPES = [(3, 5, 7), (1, 40, 100), (30, 64, 96), (150, 300, 65), (700, 33, 513), (4, 0, 5)]
KEY = np.array(-81985529216486896)


def arrays(*shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.fixture
def threads():
    before = get_threads()
    yield range(1, min(2, before) + 1)
    set_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("activation", "p"), [("none", 0.0), ("relu", 0.0), ("none", 0.3), ("relu", 0.3)])
def test_same_bits_as_the_ops_one_by_one(shape, dtype, activation, p, threads):
    n, i, o = shape
    x, w, b = (Tensor(a) for a in arrays((n, i), (i, o), (o,), dtype=dtype))
    with no_grad(), unfused():
        y = x @ w + b
        y = engine.relu(y) if activation == "relu" else y
    with no_grad():
        y = engine.dropout(y, Tensor(KEY), p=p) if p else y
        for count in threads:
            set_threads(count)
            assert np.array_equal(engine.linear(x, w, b, Tensor(KEY), activation=activation, p=p).numpy(), y.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_side_by_side_have_the_bits_of_each(dtype, threads):
    x, *rest = (Tensor(a) for a in arrays((5, 37, 70), (70, 33), (70, 64), (70, 1), (33,), (64,), (1,), dtype=dtype))
    weights, biases = rest[:3], rest[3:]
    with no_grad():
        each = [engine.linear(x, w, b).numpy() for w, b in zip(weights, biases, strict=True)]
        for count in threads:
            set_threads(count)
            assert np.array_equal(engine.linears(x, *weights, *biases).numpy(), np.concatenate(each, axis=-1))
            two = engine.linears(x, weights[0], weights[1], b2=biases[1]).numpy()
            assert np.array_equal(two[..., 33:], each[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [(97,), (33, 64), (32, 64, 1), (0, 64, 33)], ids=str)
def test_gradients_of_weights_are_products_and_of_biases_sums_in_the_order_of_the_rows(dtype, widths, threads):
    x, g = arrays((300, 41), (300, 97), dtype=dtype)
    total = np.zeros(97, dtype)
    for row in g:
        total = total + row
    for count in threads:
        set_threads(count)
        packed = kernels.linear_vjp(x, g, widths=widths)
        at = column = 0
        for width in widths:
            end = at + 42 * width
            found = packed[at:end].reshape(42, width)
            assert np.array_equal(found[:41], matmul(x.T, g[:, column : column + width]))
            assert np.array_equal(found[41], total[column : column + width])
            at, column = end, column + width


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_gradient_change_no_bit(dtype):
    x, g, more = arrays((600, 41), (600, 50), (900, 41), dtype=dtype)
    place = np.sort(np.random.default_rng(1).permutation(900)[:600])
    longer = np.zeros((900, 50), dtype)
    more[place], longer[place] = x, g
    assert np.array_equal(kernels.linear_vjp(more, longer), kernels.linear_vjp(x, g))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [3, 400])
def test_the_gradient_of_a_shared_input_is_one_product(dtype, rows, threads):
    g, w1, w2, w3 = arrays((rows, 300), (70, 33), (70, 7), (70, 260), dtype=dtype)
    whole = matmul(g, np.concatenate([w1, w2, w3], axis=1).T)
    for count in threads:
        set_threads(count)
        assert np.array_equal(kernels.linears_input_vjp(g, w1, w2, w3), whole)
        two = kernels.linears_input_vjp(g[:, :40], w1, w2)
        assert np.array_equal(two, matmul(g[:, :40], np.hstack([w1, w2]).T))


@pytest.mark.parametrize(("activation", "p"), [("none", 0.0), ("relu", 0.0), ("none", 0.3), ("relu", 0.3)])
def test_gradients_are_those_of_the_meaning(activation, p):
    leaves = [Tensor(a, requires_grad=True) for a in arrays((6, 9, 20), (20, 33), (33,), dtype=np.float64)]
    g = Tensor(arrays((6, 9, 33), dtype=np.float64, seed=1)[0])
    found = grad(engine.linear(*leaves, Tensor(KEY), activation=activation, p=p), leaves, g)
    with unfused():
        expected = grad(engine.linear(*leaves, Tensor(KEY), activation=activation, p=p), leaves, g)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_where_they_are(dtype):
    x, w, b = arrays((40, 20), (20, 50), (50,), dtype=dtype)
    x[3, 4], w[5, 6], b[7] = np.nan, np.inf, -np.inf
    y = kernels.linear(x, w, b, activation="relu")
    with np.errstate(invalid="ignore"):
        expected = np.maximum(x @ w + b, 0)
    assert np.array_equal(np.isnan(y), np.isnan(expected)) and np.isnan(y[3]).all()
    assert np.array_equal(np.isinf(y), np.isinf(expected)) and np.isinf(y).any()
    assert (y[np.arange(40) != 3, 7] == 0).all()


def test_all_is_dropped_where_p_is_one():
    x, w, b = (Tensor(a) for a in arrays((4, 5), (5, 6), (6,)))
    assert not engine.linear(x, w, b, Tensor(KEY), p=1.0).numpy().any()


def test_what_is_refused_is_refused_in_words():
    x, w, b = (Tensor(a) for a in arrays((2, 3), (3, 4), (4,)))
    with pytest.raises(ValueError, match="activation is 'gelu'; there are 'none' and 'relu'"):
        engine.linear(x, w, b, activation="gelu")
    with pytest.raises(ValueError, match="dropout needs a key"):
        engine.linear(x, w, b, p=0.5)
    with pytest.raises(ValueError, match="a probability lies between 0 and 1"):
        engine.linear(x, w, b, Tensor(KEY), p=1.5)
    with pytest.raises(ShapeError, match="an input of 3 features"):
        engine.linear(x, w.mT)
    with pytest.raises(ShapeError, match="there are 4 outputs"):
        engine.linear(x, w, w[0, :3])
    with pytest.raises(ShapeError, match="w2 has shape"):
        engine.linears(x, w, w.mT)
    with pytest.raises(ShapeError, match="b3 is given without w3"):
        engine.linears(x, w, w, b3=b)
    with pytest.raises(ShapeError, match="the layers have"):
        OPS["linear_vjp"](x, x, widths=(1, 1))


def test_recording_computes_nothing_and_takes_all_memory_from_the_tape():
    from engine.kernels.cpu import tape

    x, w, b, g = arrays((60, 30), (30, 40), (40,), (60, 40))
    calls = [
        lambda: kernels.linear(x, w, b, KEY, activation="relu", p=0.1),
        lambda: kernels.linears(x[:, ::2], w[::2], w[1::2], None, b),
        lambda: kernels.linear_vjp(x.T[:, :30], g[:30].copy(order="F"), widths=(1, 39)),
        lambda: kernels.linears_input_vjp(g[:, ::-1], w, w[:, :0]),
        lambda: kernels.relu_dropout_vjp(g.T, g[::-1].T, p=0.1),
        lambda: matmul(x.T, g),
        lambda: matmul(np.stack([x, x])[:, ::2], w),
        lambda: matmul(np.zeros((2, 3, 4, 0), np.float32), np.zeros((3, 0, 5), np.float32)),
    ]
    for call in calls:
        expected = call()
        recorded = tape.Tape()
        tape.CURRENT.tape = recorded
        try:
            result = call()
        finally:
            tape.CURRENT.tape = None
        for array in recorded.made:
            array.fill(np.nan)
        assert np.isnan(result).all()
        for step in recorded.steps:
            if isinstance(step, tape.Launch):
                run = step.kernel.serial if step.serial else step.kernel
                run(step.blocks, *step.arguments)
            else:
                step.function(*step.arrays)
        assert np.array_equal(result, expected)
