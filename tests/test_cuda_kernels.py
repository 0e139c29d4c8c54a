"""CUDA kernels of single numbers, matrix products and softmax against their ops' meanings.
"""
import numpy as np
import pytest
from simulated import KEY, call, check, meaning, numbers, on_card

from engine.kernels import cuda
from engine.kernels.cuda import tiles
from engine.kernels.cuda.jit import simulation
from engine.kernels.cuda.precision import set_precision
from engine.kernels.cuda.simulator import order

# --- elementwise ----------------------------------------------------------------------------------
UNARY = ["exp", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "abs", "neg"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp",
          "silu_vjp"]
SHAPES = [((5,), (5,)), ((2, 8), (8,)), ((3, 8), (3, 1)), ((3, 7), (7,)), ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 1, 4)),
          ((2, 3, 4), ()), ((3, 1), (1, 8)), ((0, 3), (3,)), ((2, 3, 8), (1, 3, 8))]


@pytest.mark.parametrize("name", UNARY)
def test_lift_of_one_operand(name):
    for x in (numbers(3, 7), numbers(8, 4).T, numbers(), numbers(0, 2), numbers(1030)[::2]):
        check(name, x)


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_lift_of_a_positive_operand(name):
    check(name, np.abs(numbers(9)) + 1)


@pytest.mark.parametrize("name", BINARY)
def test_lift_of_two_operands(name):
    for first, second in SHAPES[:4] if name != "sub" else SHAPES:
        x, y = numbers(*first), numbers(*second, seed=1) + 4
        check(name, x, y)
        check(name, y, x + 4)


@pytest.mark.parametrize("name", [name for name in BINARY if name.endswith("_vjp")] + ["maximum"])
def test_lift_of_two_operands_whose_numbers_lie_anywhere(name):
    """Four at a time, one by one, and from places that four numbers do not share."""
    for first, second in [((65,), (65,)), ((5, 7), (5, 1)), ((5, 12), (5, 1)), ((4, 12), (12,)), ((33,), ())]:
        x, y = numbers(*first), numbers(*second, seed=1)
        check(name, x, y)
        check(name, x[1:], y[1:] if first == second or second[:1] == first[:1] else y)


def test_lift_of_a_choice_whose_numbers_lie_anywhere():
    x, y = numbers(5, 12), numbers(12, seed=1)
    for choice in (x > 0, x[:, :1] > 0, y > 0):
        for a, b in ((x, y), (y, x), (x[:, :1], x), (x, numbers())):
            check("where", choice, a, b)
    check("where", x[1:, 1:] > 0, x[1:, 1:], y[1:])


def test_lift_of_the_others():
    x, y = numbers(3, 8), numbers(8)
    for condition in (x > 0, y > 0, np.array(True)):
        check("where", condition, x, y)
    check("clip", x, low=-0.5, high=None)
    check("pow", np.abs(x) + 1, y)
    assert cuda.kernel("add")(on_card(x.astype(np.float64)), on_card(y.astype(np.float64))) is NotImplemented


def test_lift_keeps_nan_and_infinity():
    x = np.array([np.nan, np.inf, -np.inf, 1, 0, -0.0], np.float32)
    for name in ("exp", "relu", "abs", "sigmoid", "tanh"):
        check(name, x)
    for name in ("maximum", "add", "mul"):
        check(name, x[:, None], x)


# --- products -------------------------------------------------------------------------------------
ROUNDING = {"float32": 0, "tf32x3": 0, "tf32": 2 / 3 * 2.0**-10, "bf16": 2.0**-8}


@pytest.fixture
def tile(request, monkeypatch):
    """One tile for every product, and k cut as soon as it can be."""
    monkeypatch.setattr(tiles, "TILES", tiles.TILES[request.param:request.param + 1])
    monkeypatch.setattr(tiles, "LEAST_DEPTH", 16)
    return tiles.TILES[0]


every_tile = pytest.mark.parametrize("tile", [0, 1, 2], indirect=True)


@every_tile
def test_matmul_in_every_layout(tile):
    for a, b in [(numbers(6, 12), numbers(12, 8)), (numbers(5, 33), numbers(33, 7)), (numbers(3, 8), numbers(20, 8).T),
                 (numbers(12, 36).T, numbers(12, 20)), (numbers(9, 3).T, numbers(5, 9).T)]:
        check("matmul", a, b, terms=a.shape[1])


def test_matmul_of_more_than_a_tile():
    check("matmul", numbers(33, 20), numbers(20, 37), terms=20)
    check("matmul", numbers(12, 70)[::2, ::3], numbers(24, 3), terms=24)


@every_tile
def test_tiles_that_are_whole_and_those_at_the_edges(tile):
    """Steps of which all is there, the rest of k, and tiles that begin earlier so that they end with the matrix."""
    rows, depth, columns = tile.rows, tile.depth, tile.columns
    for m, k, n in [(rows + 8, 2 * depth + 4, columns + 12), (rows + 5, 4 * depth, columns)]:
        for a, b in [(numbers(m, k), numbers(k, n)), (numbers(k, m).T, numbers(n, k).T)]:
            check("matmul", a, b, terms=k)
    check("linear_vjp", numbers(2 * depth, rows + 4), numbers(2 * depth, columns + 8), terms=70)
    weights = [numbers(columns + 4, k) for k in (depth, 2 * depth + 4, 3)]
    x = numbers(rows + 1, sum(w.shape[1] for w in weights))
    for given in (weights, weights[:2]):
        check("linears_input_vjp", x[:, :sum(w.shape[1] for w in given)], *given, *[None] * (3 - len(given)), terms=200)


every_tensor_tile = pytest.mark.parametrize(
    "name, place", [(name, i) for name in tiles.PAIRS for i in range(len(tiles.TENSOR_TILES[name]))])


@every_tensor_tile
def test_tiles_on_tensor_cores_that_are_whole_and_those_at_the_edges(name, place, monkeypatch):
    tile, rounding = tiles.TENSOR_TILES[name][place], ROUNDING[name]
    monkeypatch.setattr(tiles, "TENSOR_TILES", {name: (tile,)})
    before = set_precision(name)
    try:
        k = tile.depth * tiles.PAIRS[name]
        for m, deep, n in [(tile.rows + 8, 2 * k + 4, tile.columns + 12), (tile.rows + 5, 4 * k, tile.columns)]:
            for a, b in [(numbers(m, deep), numbers(deep, n)), (numbers(deep, m).T, numbers(n, deep).T)]:
                _rounded("matmul", a, b, rounding)
        _rounded("linear_vjp", numbers(2 * k, tile.rows + 4), numbers(2 * k, tile.columns + 8), rounding)
        weights = [numbers(tile.columns + 4, deep) for deep in (k, 2 * k + 4, 8)]
        _rounded("linears_input_vjp", numbers(tile.rows + 1, 3 * k + 12), weights[0], rounding, *weights[1:])
    finally:
        set_precision(before)


def test_nan_and_infinity_go_through_tensor_cores():
    a, b = numbers(20, 40), numbers(40, 24)
    a[3, 5], a[7, 1], b[2, 9] = np.nan, np.inf, np.uint32(0x7FFFFFFF).view(np.float32)
    for name in tiles.PAIRS:
        before = set_precision(name)
        try:
            got, expected = call("matmul", a, b).get(), meaning("matmul", a, b)
        finally:
            set_precision(before)
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


def test_matmul_of_batches_and_vectors():
    for a, b in [((2, 3, 2, 5), (2, 3, 5, 3)), ((3, 2, 5), (2, 1, 5, 3)), ((2, 1, 2, 2, 5), (2, 1, 5, 3)),
                 ((5,), (5, 3)), ((2, 3, 5), (5,)), ((5,), (5,)), ((2, 0), (0, 3)), ((0, 2), (2, 3))]:
        check("matmul", numbers(*a), numbers(*b), terms=5)
    check("matmul", numbers(2, 3, 4, 5).swapaxes(1, 2), numbers(2, 3, 6, 5).transpose(0, 1, 3, 2)[:, :1], terms=5)


def test_matmul_does_not_depend_on_the_tile_or_the_batch(monkeypatch):
    every = tiles.TILES
    for k in (24, 530):                                  # the second is cut into two
        a, b = numbers(40, k), numbers(k, 40)
        monkeypatch.setattr(tiles, "TILES", every)
        whole = call("matmul", a, b).get()
        np.testing.assert_array_equal(call("matmul", a[3:5], b).get(), whole[3:5])
        monkeypatch.setattr(tiles, "TILES", every[:1])
        np.testing.assert_array_equal(call("matmul", a, b).get(), whole)


@pytest.mark.parametrize("precision", list(ROUNDING))
def test_matmul_cuts_long_sums(precision):
    before = set_precision(precision)
    rounding = ROUNDING[precision]
    try:
        for name, arrays, params in [
                ("matmul", (numbers(3, 700), numbers(700, 5)), {}),
                ("matmul", (numbers(2, 3, 515), numbers(2, 515, 5)), {}),
                ("linear", (numbers(3, 1030), numbers(1030, 5), numbers(5), KEY), {"activation": "relu", "p": 0.4}),
                ("linears_input_vjp", (numbers(3, 530), numbers(2, 3), numbers(2, 500), numbers(2, 27)), {})]:
            _rounded(name, *arrays[:2], rounding, *arrays[2:], **params)
    finally:
        set_precision(before)


@every_tile
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_linear_with_its_epilogue(tile, p):
    for rows, inputs, outputs in [(5, 7, 9), (3, 4, 36)]:
        x, w, b = numbers(rows, inputs), numbers(inputs, outputs), numbers(outputs)
        check("linear", x, w, b, KEY, activation="relu", p=p, terms=inputs)
    check("linear", x[0], w, None, KEY, activation="none", p=p, terms=inputs)


@every_tile
def test_linear_gradients(tile):
    x, g = numbers(2, 9, 5), numbers(2, 9, 12)
    for widths in (None, (4, 8), (1, 8, 3)):
        check("linear_vjp", x, g, widths=widths, terms=18)
    check("linear_vjp", numbers(35, 4), numbers(35, 8), terms=35)
    check("linear_vjp", numbers(0, 2), numbers(0, 3))
    for p in (0.0, 0.4, 1.0):
        check("relu_dropout_vjp", numbers(21), numbers(21, seed=1), p=p)


@every_tile
def test_linear_layers_side_by_side(tile):
    for rows, inputs, outputs in [(5, 7, (3, 4, 5)), (3, 8, (4, 8, 36)), (4, 2, (0, 3, 17)), (2, 5, (6, 2))]:
        weights = [numbers(inputs, n, seed=i) for i, n in enumerate(outputs)] + [None] * (3 - len(outputs))
        biases = [numbers(outputs[0]), None, numbers(outputs[-1]) if len(outputs) > 2 else None]
        check("linears", numbers(rows, inputs), *weights, *biases, terms=inputs)
        check("linears_input_vjp", numbers(rows, sum(outputs)), *weights, terms=sum(outputs))


@every_tensor_tile
def test_linear_on_tensor_cores(name, place, monkeypatch):
    """Operands are rounded once, or are sums of two, and sums are float32: the error is that of the rounding."""
    rounding = ROUNDING[name]
    monkeypatch.setattr(tiles, "TENSOR_TILES", {name: tiles.TENSOR_TILES[name][place:place + 1]})
    monkeypatch.setattr(tiles, "LEAST_DEPTH", 32)
    before = set_precision(name)
    try:
        for a, b in [(numbers(20, 36), numbers(36, 24)), (numbers(33, 7).T, numbers(9, 33).T)]:
            _rounded("matmul", a, b, rounding)
        _rounded("linear", numbers(5, 7), numbers(7, 9), rounding, numbers(9), KEY, activation="relu", p=0.4)
        _rounded("linear_vjp", numbers(18, 5), numbers(18, 12), rounding, widths=(4, 8))
        _rounded("linears_input_vjp", numbers(5, 7), numbers(6, 3), rounding, numbers(6, 4))
        for second in (numbers(9, 1), numbers(4, 9).T, numbers(9, 4)):         # beside layers of another layout
            _rounded("linears", numbers(5, 9), numbers(9, 8), rounding, second)
            _rounded("linears", numbers(5, 9), second, rounding, numbers(9, 8))
            _rounded("linears_input_vjp", numbers(5, 8 + second.shape[1]), numbers(9, 8), rounding, second)
    finally:
        set_precision(before)


def _rounded(name, a, b, rounding, *rest, **params):
    if not rounding:
        check(name, a, b, *rest, **params, terms=max(*a.shape, *b.shape))
        return
    got, expected = call(name, a, b, *rest, **params).get(), meaning(name, a, b, *rest, **params)
    terms = meaning(name, np.abs(a), np.abs(b), *(np.abs(x) if x is not None else x for x in rest), **params)
    assert got.dtype == np.float32 and np.all(np.abs(got - expected) <= 4 * rounding * (np.abs(terms).max() + 1))
    assert np.abs(got - expected).max() > 1e-6           # it was not computed in float32


# --- softmax --------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(3, 5), (9, 8), (2, 130), (1, 515), (2, 1030), (1, 4098), (2, 0),
                                   (2, 132), (2, 516), (1, 4100), (1, 12001), (1, 12004)])
def test_softmax_of_rows(shape):
    x, g = numbers(*shape), numbers(*shape, seed=1)
    for name in ("softmax", "log_softmax"):
        check(name, x)
        y = call(name, x).get() if x.size else x
        check(f"{name}_vjp", g, y, terms=shape[1])


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


@pytest.mark.parametrize("n", [130, 132, 515, 1028])
def test_softmax_of_longer_rows_with_masks(n):
    x, seen = numbers(2, 3, n), np.random.default_rng(n).random((2, 3, n)) < 0.6
    for mask in (seen, seen[:, :1], seen[0, 0], np.broadcast_to(seen[:1, :, 1:2], x.shape)):
        check("softmax", x, mask)


def test_softmax_of_infinities_and_nan():
    x = np.array([[1, np.inf, 2], [-np.inf, -np.inf, -np.inf], [np.nan, 1, 2], [-np.inf, 1, 2]], np.float32)
    for name in ("softmax", "log_softmax"):
        check(name, x)


@pytest.mark.parametrize("precision", list(ROUNDING))
def test_products_wait_for_what_they_read(precision):
    """Thread by thread, where a copy arrives no sooner than it is waited for, and memory is poisoned till then."""
    before = set_precision(precision)
    try:
        for a, b in [(numbers(5, 70), numbers(70, 9)), (numbers(70, 5).T, numbers(9, 70).T)]:
            quick = call("matmul", a, b).get()
            with simulation("threads"):
                np.testing.assert_array_equal(call("matmul", a, b).get(), quick)
    finally:
        set_precision(before)


def test_softmax_bits_do_not_depend_on_the_order_of_threads():
    x = numbers(1, 1100)
    first = call("softmax", x).get()
    with order("reversed"):
        np.testing.assert_array_equal(call("softmax", x).get(), first)
