"""CUDA kernels of rows, tables and parameters against their ops' meanings and the CPU's kernels.
"""
import numpy as np
import pytest
from simulated import KEY, call, check, close, meaning, numbers, on_card

from engine.kernels import cuda
from engine.kernels.cpu import optim
from engine.kernels.cuda import index
from engine.kernels.cuda.optim import PIECE
from engine.kernels.cuda.simulator import order
from engine.random import uniform_array


# --- sums and extremes ----------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (1030, 3), (2, 520), (1, 1021), (2, 1032), ()])
def test_reduce_over_any_axes(shape):
    x = numbers(*shape)
    for axis in {None, 0, len(shape) - 1, (0, len(shape) - 1)} if len(shape) > 1 else {None}:
        check("sum", x, axis=axis, terms=max(1, x.size))
        if x.size < 100:
            check("max", x, axis=axis, keepdims=True)
            check("min", x, axis=axis)
            if not isinstance(axis, tuple):
                check("argmax", x, axis=axis)


def test_reduce_of_much_or_nothing():
    check("sum", numbers(16500), terms=16500)
    check("sum", numbers(0, 3), axis=0)
    check("sum", numbers(2, 0), axis=(1,))
    check("sum", numbers(2, 3), axis=())
    assert cuda.kernel("max")(on_card(numbers(0))) is NotImplemented


def test_reduce_extremes_of_ties_infinity_and_nan():
    x = numbers(3, 40)
    x[0, 3], x[1, [5, 3]], x[2] = np.nan, 9, -np.inf
    for name in ("max", "min", "argmax"):
        check(name, x, axis=1)


# --- layer norm -----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3, 5), (9, 8), (1, 520), (2, 1030), (2, 1), (0, 2), (3,),
                                   (2, 131), (1, 517), (1, 1028), (1200, 4), (270, 516)])
def test_norm_and_its_gradients(shape):
    x, h, g, n = numbers(*shape), numbers(*shape, seed=1), numbers(*shape, seed=2), shape[-1]
    w, b = numbers(n), numbers(n, seed=1)
    check("layer_norm", x, w, None, terms=n)
    check("layer_norm_vjp", g, x, w, terms=x.size or 1)
    for p, weight, bias in ((0.0, None, b), (0.4, w, b)):
        made = call("add_norm", x, h, KEY, weight, bias, p=p)
        close(made[0], meaning("add_norm", x, h, KEY, weight, bias, p=p), n)
        given = dict(zip(("mean", "rstd", "s"), made[1:4], strict=True))
        got = cuda.kernel("add_norm_vjp")(*map(on_card, (g, x, h, KEY, weight)), p=p, **given)
        close(got, meaning("add_norm_vjp", g, x, h, KEY, weight, p=p), x.size or 1)


def test_norm_gradients_do_not_change_with_rows_of_zeros_behind():
    g, x, w = numbers(11, 6), numbers(11, 6, seed=1), numbers(6)
    more_g, more_x = np.zeros((30, 6), np.float32), numbers(30, 6)
    more_g[:11], more_x[:11] = g, x
    np.testing.assert_array_equal(call("layer_norm_vjp", more_g, more_x, w).get()[-12:],
                                  call("layer_norm_vjp", g, x, w).get()[-12:])


def test_norm_bits_do_not_depend_on_the_order_of_threads():
    g, x, w = numbers(11, 6), numbers(11, 6, seed=1), numbers(6)
    first = call("layer_norm_vjp", g, x, w).get()
    with order("reversed"):
        np.testing.assert_array_equal(call("layer_norm_vjp", g, x, w).get(), first)


def test_rows_have_the_bits_of_the_row_alone():
    for width in (8, 1021, 1032):
        x, ids = numbers(3, width), np.array([1, 0, 2])
        for name, given in (("softmax", ()), ("layer_norm", ()), ("cross_entropy", (ids,))):
            params = {"reduction": "none"} if given else {}
            many, one = call(name, x, *given, **params), call(name, x[1:2], *(a[1:2] for a in given), **params)
            many, one = (a[0] if type(a) is tuple else a for a in (many, one))
            np.testing.assert_array_equal(many.get()[1:2], one.get())


# --- cross-entropy --------------------------------------------------------------------------------
@pytest.mark.parametrize("rows, classes", [(3, 5), (9, 8), (2, 1021), (2, 4104)])
def test_loss_and_its_gradient(rows, classes):
    x, ids = numbers(rows, classes), np.random.default_rng(0).integers(0, classes, rows)
    ids[1] = -100
    for reduction, smoothing in (("mean", 0.1), ("sum", 0.0), ("none", 0.1)):
        params = {"reduction": reduction, "label_smoothing": smoothing}
        check("cross_entropy", x, ids, **params, terms=classes)
        check("cross_entropy_vjp", numbers(rows) if reduction == "none" else numbers(), x, ids, **params)


def test_loss_of_no_rows_one_row_and_hard_rows():
    check("cross_entropy", numbers(0, 3), np.zeros(0, np.int64))
    check("cross_entropy", numbers(2, 3), np.full(2, -100))
    check("cross_entropy", numbers(3), np.array(1))
    x = np.array([[1, np.inf, 2], [-np.inf] * 3, [np.nan, 1, 2], [-np.inf, 1, 2], [-200, -300, -np.inf]], np.float32)
    check("cross_entropy", x, np.array([0, 1, 1, 2, 1]), reduction="none")


# --- tables and dropout ---------------------------------------------------------------------------
@pytest.mark.parametrize("size, count, features", [(5, 7, 3), (70, 40, 8), (3, 5, 130)])
def test_index_takes_rows_and_adds_them_up(size, count, features):
    ids = np.random.default_rng(0).integers(0, size, count)
    check("embedding", numbers(size, features), ids)
    check("take", numbers(size, features), np.where(ids % 2 == 1, ids - size, ids), axis=0)
    g, expected = numbers(count, features), np.zeros((size, features), np.float32)
    np.add.at(expected, ids, g)
    np.testing.assert_array_equal(call("scatter_add", g, ids, axis=0, size=size).get(), expected)
    two = ids[:4].reshape(2, 2)
    for p in (0.0, 0.4):
        check("embed", numbers(size, features), two, numbers(2, features), KEY, scale=2.5, p=p)
        check("embed_vjp", numbers(2, 2, features), two, KEY, size=size, scale=2.5, p=p)


def test_index_adds_up_what_does_not_fit_one_round(monkeypatch):
    monkeypatch.setattr(index, "ROOM", 16)
    ids = np.random.default_rng(0).integers(0, 40, 600)
    ids[:300] = 39
    g, expected = numbers(600, 3), np.zeros((40, 3), np.float32)
    np.add.at(expected, ids, g)
    np.testing.assert_array_equal(call("scatter_add", g, ids, axis=0, size=40).get(), expected)


def test_index_of_dropout_bits_is_the_cpus():
    for n in (5, 8, 1030):
        for p in (0.0, 0.3, 1.0):
            check("dropout", numbers(n), KEY, p=p)
            check("dropout_vjp", numbers(n), KEY, p=p)
        np.testing.assert_array_equal(cuda.kernel("uniform")(on_card(KEY), (n,)).get(), uniform_array(KEY, (n,)))


# --- optimisers -----------------------------------------------------------------------------------
def _parameters():
    params = [numbers(5), numbers(4100), numbers(3, 4), numbers(0), numbers(8)[1:]]
    grads = [numbers(*p.shape, seed=1) for p in params]
    return params, grads, [np.full_like(p, 0.1) for p in params], [np.full_like(p, 0.2) for p in params]


@pytest.mark.parametrize("decoupled, clip_norm", [(True, 0.5), (False, 0.0)])
def test_optim_adam_is_the_cpus(decoupled, clip_norm):
    lists, decays = _parameters(), [0.1, 0, 0.2, 0, 0.1]
    here = [[on_card(x) for x in many] for many in lists]
    norm = cuda.kernel("global_norm")(here[1], 0.5)
    expected = 0.5 * np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in lists[1]))
    np.testing.assert_allclose(norm.get(), expected, rtol=1e-6)
    settings = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-9, "weight_decay": decays, "decoupled": decoupled,
                "clip_norm": clip_norm, "divisor": 2.0}
    lr, step = np.array(1e-2), np.array(3)
    cuda.kernel("adam")(*here, lr=on_card(lr), step=on_card(step), norm=norm, **settings)
    rows = zip(*lists, decays, strict=True)
    optim._adam_numpy(rows, 1e-2, 3, expected, 2.0, 0.9, 0.98, 1e-9, clip_norm, decoupled)
    for many, want in zip(here, lists, strict=True):
        for x, y in zip(many, want, strict=True):
            np.testing.assert_allclose(x.get(), y, rtol=1e-5, atol=1e-6)
    before = here[0][0].get()
    cuda.kernel("adam")(*here, lr=1e-2, step=4, norm=np.inf, **settings)
    np.testing.assert_array_equal(here[0][0].get(), before)


def test_optim_sgd_and_the_others():
    (params, grads, velocity, _), decays = _parameters(), [0.1, 0, 0.2, 0, 0.1]
    p, g, u = ([on_card(x) for x in many] for many in (params, grads, velocity))
    cuda.kernel("sgd")(p, g, u, lr=0.1, momentum=0.9, weight_decay=decays, nesterov=True)
    optim._sgd_numpy(zip(params, grads, velocity, decays, strict=True), 0.1, 0.0, 1.0, 0.0, 0.9, True)
    for many, want in ((p, params), (u, velocity)):
        for x, y in zip(many, want, strict=True):
            np.testing.assert_allclose(x.get(), y, rtol=1e-5, atol=1e-6)
    cuda.kernel("accumulate")(p, g)
    np.testing.assert_array_equal(p[0].get() - g[0].get(), p[0].get() - grads[0])
    cuda.kernel("copy")(p, g)
    assert all((x.get() == y).all() for x, y in zip(p, grads, strict=True))
    counter, table, row = on_card(np.array([3, 4])), on_card(numbers(2, 5, 3)), numbers(2, 1, 3)
    cuda.kernel("count")([counter], norm=on_card(np.array(np.nan)))
    cuda.kernel("count")([counter])
    cuda.kernel("write")([table], [on_card(row)], at=on_card(np.array(4)))
    assert counter.get().tolist() == [4, 5]
    np.testing.assert_array_equal(table.get()[:, 4:], row)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])          # float64 has no kernel
def test_optim_average_is_that_of_the_last_tenth(dtype):
    sizes = [(3, 5), (), (2, 2048), (0, 3), (PIECE + 5,), (1,)]
    means, new = ([numbers(*shape, seed=seed).astype(dtype) for shape in sizes] for seed in range(2))
    here, exact = [on_card(x) for x in means], [x.astype(np.float64) for x in means]
    steps = (on_card(np.array(1)), 1.0), (2, 1 / 1.1), (np.array([11]), 0.5), (on_card(np.array(1001)), 1 / 50)
    for step, share in steps:
        cuda.kernel("average")(here, [on_card(x) for x in new], step=step, window=50.0, norm=on_card(np.array(2.0)))
        exact = [m + (x - m) * share for m, x in zip(exact, new, strict=True)]
        new = [x + 1 for x in new]
    for got, right in zip(here, exact, strict=True):
        np.testing.assert_allclose(got.get(), right, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-6)
    before = [x.get() for x in here]
    for norm in (np.inf, on_card(np.array(np.nan))):
        cuda.kernel("average")(here, [on_card(x) for x in new], step=5, window=50.0, norm=norm)
    assert all((x.get() == y).all() for x, y in zip(here, before, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])          # float64 has no kernel
@pytest.mark.parametrize("columns", [False, True])
def test_write_of_several_positions(dtype, columns):
    buffer, x = numbers(2, 3, 9, 4).astype(dtype), numbers(2, 5, 3, 4).astype(dtype)
    out = on_card(buffer.swapaxes(2, 3).copy()).transpose(0, 1, 3, 2) if columns else on_card(buffer)
    cuda.kernel("write")([out], [on_card(x).transpose(0, 2, 1, 3)], at=on_card(np.array([3])))
    expected = buffer.copy()
    expected[:, :, 3:8] = x.swapaxes(1, 2)
    np.testing.assert_array_equal(out.get(), expected)
