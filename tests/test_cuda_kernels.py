"""Every CUDA kernel in the simulator against its op's meaning in long double, at sizes that leave odd tails.

The simulator is chosen when the kernels are imported, so this file runs itself again in a process of its own.
"""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import OPS, Tensor, unfused
from engine.check import WIDE, tolerance
from engine.kernels import cuda
from engine.kernels.cpu import optim
from engine.random import uniform_array

pytest.importorskip("greenlet")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

if not SIMULATED:
    FAMILIES = ["lift", "matmul", "linear", "softmax", "reduce", "norm", "loss", "index", "optim"]

    @pytest.mark.parametrize("family", FAMILIES)
    def test_in_the_simulator(family):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", f"{family}_"]
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
        run = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True,
                             timeout=300)
        assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]

    pytestmark = []
else:
    from engine.kernels.cuda import index, tape
    from engine.kernels.cuda import matmul as products
    from engine.kernels.cuda.simulator import order

KEY = np.array(0x123456789ABCDEF, np.int64)
simulated = pytest.mark.skipif(not SIMULATED, reason="runs in the simulator")


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def on_card(x):
    """An array on the simulated card, in the memory layout that it has here."""
    if x is None:
        return None
    memory = np.empty_like(x)
    memory[...] = x
    return tape.SimulatedArray(memory if memory.strides == x.strides else np.array(x, order="C"))


def call(name, *arrays, **params):
    """What the kernel gives; residuals too, where it has any."""
    made = cuda.kernel(name)(*(on_card(x) for x in arrays), **params)
    assert made is not NotImplemented
    return made


def meaning(name, *arrays, **params):
    """The op's meaning in long double."""
    wide = [None if x is None else Tensor(x.astype(WIDE) if x.dtype.kind == "f" else x) for x in arrays]
    with unfused():
        return OPS[name](*wide, **params).array()


def close(got, expected, terms=1):
    got = got.get() if hasattr(got, "get") else got
    assert got.shape == expected.shape
    assert got.dtype == (np.float32 if expected.dtype == WIDE else expected.dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(got.dtype))
    scale = float(np.max(np.abs(expected[finite]), initial=1.0))
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=tolerance(np.float32, terms) * scale)


def check(name, *arrays, terms=1, **params):
    made = call(name, *arrays, **params)
    close(made[0] if type(made) is tuple else made, meaning(name, *arrays, **params), terms)


# --- elementwise ----------------------------------------------------------------------------------
UNARY = ["exp", "sin", "cos", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "abs", "neg"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp",
          "silu_vjp"]
SHAPES = [((5,), (5,)), ((2, 8), (8,)), ((3, 8), (3, 1)), ((3, 7), (7,)), ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 1, 4)),
          ((2, 3, 4), ()), ((3, 1), (1, 8)), ((0, 3), (3,)), ((2, 3, 8), (1, 3, 8))]


@simulated
@pytest.mark.parametrize("name", UNARY)
def test_lift_of_one_operand(name):
    for x in (numbers(3, 7), numbers(8, 4).T, numbers(), numbers(0, 2), numbers(1030)[::2]):
        check(name, x)


@simulated
@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_lift_of_a_positive_operand(name):
    check(name, np.abs(numbers(9)) + 1)


@simulated
@pytest.mark.parametrize("name", BINARY)
def test_lift_of_two_operands(name):
    for first, second in SHAPES[:4] if name != "sub" else SHAPES:
        x, y = numbers(*first), numbers(*second, seed=1) + 4
        check(name, x, y)
        check(name, y, x + 4)


@simulated
def test_lift_of_the_others():
    x, y = numbers(3, 8), numbers(8)
    for condition in (x > 0, y > 0, np.array(True)):
        check("where", condition, x, y)
    check("clip", x, low=-0.5, high=None)
    check("pow", np.abs(x) + 1, y)
    assert cuda.kernel("add")(on_card(x.astype(np.float64)), on_card(y.astype(np.float64))) is NotImplemented


@simulated
def test_lift_keeps_nan_and_infinity():
    x = np.array([np.nan, np.inf, -np.inf, 1, 0, -0.0], np.float32)
    for name in ("exp", "relu", "abs", "sigmoid", "tanh"):
        check(name, x)
    for name in ("maximum", "add", "mul"):
        check(name, x[:, None], x)


# --- products -------------------------------------------------------------------------------------
@pytest.fixture
def tile(request, monkeypatch):
    """One tile for every product, and k cut as soon as it can be."""
    monkeypatch.setattr(products, "TILES", products.TILES[request.param:request.param + 1])
    monkeypatch.setattr(products, "LEAST_DEPTH", 16)


every_tile = pytest.mark.parametrize("tile", [0, 1, 2], indirect=True)


@simulated
@every_tile
def test_matmul_in_every_layout(tile):
    for a, b in [(numbers(6, 12), numbers(12, 8)), (numbers(5, 33), numbers(33, 7)), (numbers(3, 8), numbers(20, 8).T),
                 (numbers(12, 36).T, numbers(12, 20)), (numbers(9, 3).T, numbers(5, 9).T)]:
        check("matmul", a, b, terms=a.shape[1])


@simulated
def test_matmul_of_more_than_a_tile():
    check("matmul", numbers(33, 20), numbers(20, 37), terms=20)
    check("matmul", numbers(12, 70)[::2, ::3], numbers(24, 3), terms=24)


@simulated
def test_matmul_of_batches_and_vectors():
    for a, b in [((2, 3, 2, 5), (2, 3, 5, 3)), ((3, 2, 5), (2, 1, 5, 3)), ((2, 1, 2, 2, 5), (2, 1, 5, 3)),
                 ((5,), (5, 3)), ((2, 3, 5), (5,)), ((5,), (5,)), ((2, 0), (0, 3)), ((0, 2), (2, 3))]:
        check("matmul", numbers(*a), numbers(*b), terms=5)
    check("matmul", numbers(2, 3, 4, 5).swapaxes(1, 2), numbers(2, 3, 6, 5).transpose(0, 1, 3, 2)[:, :1], terms=5)


@simulated
def test_matmul_does_not_depend_on_the_tile_or_the_batch():
    a, b = numbers(40, 24), numbers(24, 40)
    whole = call("matmul", a, b).get()
    np.testing.assert_array_equal(call("matmul", a[3:5], b).get(), whole[3:5])
    tiles, products.TILES = products.TILES, products.TILES[:1]
    try:
        np.testing.assert_array_equal(call("matmul", a, b).get(), whole)
    finally:
        products.TILES = tiles


@simulated
@every_tile
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_linear_with_its_epilogue(tile, p):
    for rows, inputs, outputs in [(5, 7, 9), (3, 4, 36)]:
        x, w, b = numbers(rows, inputs), numbers(inputs, outputs), numbers(outputs)
        check("linear", x, w, b, KEY, activation="relu", p=p, terms=inputs)
    check("linear", x[0], w, None, KEY, activation="none", p=p, terms=inputs)


@simulated
@every_tile
def test_linear_gradients(tile):
    x, g = numbers(2, 9, 5), numbers(2, 9, 12)
    for widths in (None, (4, 8), (1, 8, 3)):
        check("linear_vjp", x, g, widths=widths, terms=18)
    check("linear_vjp", numbers(35, 4), numbers(35, 8), terms=35)
    check("linear_vjp", numbers(0, 2), numbers(0, 3))
    for p in (0.0, 0.4, 1.0):
        check("relu_dropout_vjp", numbers(21), numbers(21, seed=1), p=p)


@simulated
@every_tile
def test_linear_layers_side_by_side(tile):
    for rows, inputs, outputs in [(5, 7, (3, 4, 5)), (3, 8, (4, 8, 36)), (4, 2, (0, 3, 17)), (2, 5, (6, 2))]:
        weights = [numbers(inputs, n, seed=i) for i, n in enumerate(outputs)] + [None] * (3 - len(outputs))
        biases = [numbers(outputs[0]), None, numbers(outputs[-1]) if len(outputs) > 2 else None]
        check("linears", numbers(rows, inputs), *weights, *biases, terms=inputs)
        check("linears_input_vjp", numbers(rows, sum(outputs)), *weights, terms=sum(outputs))


# --- softmax --------------------------------------------------------------------------------------
@simulated
@pytest.mark.parametrize("shape", [(3, 5), (9, 8), (2, 130), (1, 515), (1, 4098), (2, 0)])
def test_softmax_of_rows(shape):
    x, g = numbers(*shape), numbers(*shape, seed=1)
    for name in ("softmax", "log_softmax"):
        check(name, x)
        y = call(name, x).get() if x.size else x
        check(f"{name}_vjp", g, y, terms=shape[1])


@simulated
def test_softmax_along_any_axis_and_with_masks():
    x, g = numbers(2, 3, 4), numbers(2, 3, 4, seed=1)
    for axis in (0, 1):
        check("softmax", x, axis=axis)
        check("softmax_vjp", g, call("softmax", x, axis=axis).get(), axis=axis)
    seen = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    seen[0, 0] = False
    for mask in (seen, seen[:, :1], seen[0, 0], seen[:1, :, 1:2]):
        check("softmax", x, mask)
        check("softmax", x.astype(np.float32), mask, axis=1)
    check("softmax", numbers(2, 1, 2, 2, 3), seen[:, None, None, :1, :3])
    x[0, 1], mask = np.nan, np.ones((3, 4), bool)
    mask[1] = False
    assert np.isfinite(call("softmax", x, mask).get()).all()


@simulated
def test_softmax_of_infinities_and_nan():
    x = np.array([[1, np.inf, 2], [-np.inf, -np.inf, -np.inf], [np.nan, 1, 2], [-np.inf, 1, 2]], np.float32)
    for name in ("softmax", "log_softmax"):
        check(name, x)


@simulated
def test_softmax_bits_do_not_depend_on_the_order_of_threads():
    x = numbers(1, 700)
    first = call("softmax", x).get()
    with order("reversed"):
        np.testing.assert_array_equal(call("softmax", x).get(), first)


# --- sums and extremes ----------------------------------------------------------------------------
@simulated
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (1030, 3), (2, 520), ()])
def test_reduce_over_any_axes(shape):
    x = numbers(*shape)
    for axis in {None, 0, len(shape) - 1, (0, len(shape) - 1)} if len(shape) > 1 else {None}:
        check("sum", x, axis=axis, terms=max(1, x.size))
        if x.size < 100:
            check("max", x, axis=axis, keepdims=True)
            check("min", x, axis=axis)
            if not isinstance(axis, tuple):
                check("argmax", x, axis=axis)


@simulated
def test_reduce_of_much_or_nothing():
    check("sum", numbers(16500), terms=16500)
    check("sum", numbers(0, 3), axis=0)
    check("sum", numbers(2, 0), axis=(1,))
    check("sum", numbers(2, 3), axis=())
    assert cuda.kernel("max")(on_card(numbers(0))) is NotImplemented


@simulated
def test_reduce_extremes_of_ties_infinity_and_nan():
    x = numbers(3, 40)
    x[0, 3], x[1, [5, 3]], x[2] = np.nan, 9, -np.inf
    for name in ("max", "min", "argmax"):
        check(name, x, axis=1)


# --- layer norm -----------------------------------------------------------------------------------
@simulated
@pytest.mark.parametrize("shape", [(3, 5), (9, 8), (1, 520), (2, 1), (0, 2), (3,)])
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


@simulated
def test_norm_gradients_do_not_change_with_rows_of_zeros_behind():
    g, x, w = numbers(11, 6), numbers(11, 6, seed=1), numbers(6)
    more_g, more_x = np.zeros((30, 6), np.float32), numbers(30, 6)
    more_g[:11], more_x[:11] = g, x
    np.testing.assert_array_equal(call("layer_norm_vjp", more_g, more_x, w).get()[-12:],
                                  call("layer_norm_vjp", g, x, w).get()[-12:])


# --- cross-entropy --------------------------------------------------------------------------------
@simulated
@pytest.mark.parametrize("rows, classes", [(3, 5), (9, 8), (2, 1030)])
def test_loss_and_its_gradient(rows, classes):
    x, ids = numbers(rows, classes), np.random.default_rng(0).integers(0, classes, rows)
    ids[1] = -100
    for reduction, smoothing in (("mean", 0.1), ("sum", 0.0), ("none", 0.1)):
        params = {"reduction": reduction, "label_smoothing": smoothing}
        check("cross_entropy", x, ids, **params, terms=classes)
        check("cross_entropy_vjp", numbers(rows) if reduction == "none" else numbers(), x, ids, **params)


@simulated
def test_loss_of_no_rows_one_row_and_hard_rows():
    check("cross_entropy", numbers(0, 3), np.zeros(0, np.int64))
    check("cross_entropy", numbers(2, 3), np.full(2, -100))
    check("cross_entropy", numbers(3), np.array(1))
    x = np.array([[1, np.inf, 2], [-np.inf] * 3, [np.nan, 1, 2], [-np.inf, 1, 2], [-200, -300, -np.inf]], np.float32)
    check("cross_entropy", x, np.array([0, 1, 1, 2, 1]), reduction="none")


# --- tables and dropout ---------------------------------------------------------------------------
@simulated
@pytest.mark.parametrize("size, count, features", [(5, 7, 3), (70, 40, 8), (3, 5, 130)])
def test_index_takes_rows_and_adds_them_up(size, count, features):
    ids = np.random.default_rng(0).integers(0, size, count)
    check("embedding", numbers(size, features), ids)
    check("take", numbers(size, features), np.where(ids % 2 == 1, ids - size, ids))
    g, expected = numbers(count, features), np.zeros((size, features), np.float32)
    np.add.at(expected, ids, g)
    np.testing.assert_array_equal(call("scatter_add", g, ids, axis=0, size=size).get(), expected)
    two = ids[:4].reshape(2, 2)
    for p in (0.0, 0.4):
        check("embed", numbers(size, features), two, numbers(2, features), KEY, scale=2.5, p=p)
        check("embed_vjp", numbers(2, 2, features), two, KEY, size=size, scale=2.5, p=p)


@simulated
def test_index_adds_up_what_does_not_fit_one_round(monkeypatch):
    monkeypatch.setattr(index, "ROOM", 16)
    ids = np.random.default_rng(0).integers(0, 40, 600)
    ids[:300] = 39
    g, expected = numbers(600, 3), np.zeros((40, 3), np.float32)
    np.add.at(expected, ids, g)
    np.testing.assert_array_equal(call("scatter_add", g, ids, axis=0, size=40).get(), expected)


@simulated
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


@simulated
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


@simulated
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
