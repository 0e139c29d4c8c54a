"""Where a gradient is a choice or a formula breaks down: at kinks, ties and zeros, and far out."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import engine
from engine import IndexRangeError, Tensor, grad

NAN, INF = math.nan, math.inf


def _slope(f, *values):
    """The gradient of the sum of f at numbers or lists."""
    xs = [Tensor(np.array(v, np.float64), requires_grad=True) for v in values]
    y = f(*xs)
    found = grad(y, xs, engine.ones_like(y))
    return [g.tolist() for g in found] if len(found) > 1 else found[0].tolist()


# --- kinks and ties -------------------------------------------------------------------------------
@pytest.mark.parametrize(("f", "x", "slope"), [
    (engine.abs, 0, 0), (engine.relu, 0, 0), (engine.hard_tanh, 1, 1), (engine.hard_tanh, -1, 1),
    (engine.selu, 0, 1.758099),
    (lambda x: engine.leaky_relu(x, slope=0.25), 0, 0.25), (lambda x: engine.elu(x, alpha=0.5), 0, 0.5),
    (lambda x: x.clip(0, 1), 0, 1), (lambda x: x.clip(0, 1), 1, 1), (engine.softsign, 0, 1),
    (engine.norm, [0, 0], [0, 0]),
    (engine.norm, [0, 3], [0, 1]), (lambda x: engine.norm(x, ord=1), [0, -3], [0, -1]),
    (lambda x: engine.norm(x, ord=0.5), [0, 4], [0, 1]),
    (lambda x: engine.norm(x, ord=INF), [-2, 2, 1], [-0.5, 0.5, 0]),
    (lambda x: engine.norm(x, ord=3), [0, 0], [0, 0]), (engine.std, [2, 2, 2], [0, 0, 0]),
    (engine.max, [1, 3, 3], [0, 0.5, 0.5]),
    (engine.min, [1, 1, 1, 5], [1 / 3, 1 / 3, 1 / 3, 0]),
    (engine.normalize, [0, 0], [1e12, 1e12]),
    (lambda x: engine.sort(x)[0], [2, 1, 1], [0, 1, 0]), (lambda x: engine.topk(x, 1)[0], [1, 3, 3], [0, 1, 0]),
    (lambda x: engine.topk(x, 2, largest=False)[0], [1, 3, 1, 1], [1, 0, 1, 0]),
    (lambda x: x % 3, [4, -4], [1, 1]), (lambda x: 7 % x, [2, 4], [-3, -1]),
    (lambda x: engine.square(x) ** 0.5, 2, 1)], ids=itertools.count())
def test_the_gradient_at_a_kink(f, x, slope):
    np.testing.assert_allclose(_slope(f, x), slope, rtol=1e-6)


@pytest.mark.parametrize(("f", "x", "y", "slopes"), [
    (engine.maximum, 2, 2, [0.5, 0.5]), (engine.minimum, 2, 2, [0.5, 0.5]), (engine.hypot, 0, 0, [0, 0]),
    (engine.hypot, 3, -4, [0.6, -0.8]), (engine.atan2, 0, 0, [0, 0]), (engine.atan2, 0, -2, [-0.5, 0]),
    (engine.pow, 0, 2, [0, 0]), (engine.pow, 0, 0, [0, 0]), (engine.pow, 0, -1, [-INF, -INF]),
    (engine.logaddexp, -INF, -INF, [0.5, 0.5]), (engine.logaddexp, INF, INF, [0.5, 0.5]),
    (engine.logaddexp, -INF, 1, [0, 1]), (engine.l1_loss, 1, 1, [0, 0]), (engine.huber_loss, 1, 3, [-1, 1]),
    (engine.kl_div, -1, 0, [0, 0]), (engine.binary_cross_entropy, 0, 0, [1, 0]),
    (engine.binary_cross_entropy_with_logits, 2, 1, [-0.11920292, -2])], ids=itertools.count())
def test_the_gradients_of_two_at_a_kink(f, x, y, slopes):
    np.testing.assert_allclose(_slope(f, x, y), slopes, atol=1e-7)


def test_no_gradient_flows_through_steps():
    x = Tensor([0.5, 1.5], requires_grad=True)
    for f in (engine.floor, engine.ceil, engine.round, engine.trunc, engine.sign, lambda t: t // 2, engine.argsort):
        assert not f(x).requires_grad
    assert grad((x - engine.floor(x)).sum(), x).tolist() == [1, 1]


def test_of_equal_ids_the_last_is_written_and_has_the_gradient():
    x, src = Tensor([1.0, 2.0, 3.0], requires_grad=True), Tensor([10.0, 20.0, 30.0, 40.0], requires_grad=True)
    y = engine.scatter(x, np.array([2, 0, 2, -1]), src)
    assert y.tolist() == [20, 2, 40]
    assert [g.tolist() for g in grad(y.sum(), [x, src])] == [[0, 1, 0], [0, 1, 0, 1]]


# --- products beside zeros ------------------------------------------------------------------------
def _others(x, left_out):
    return math.prod(v for i, v in enumerate(x) if i not in left_out)


@given(hnp.arrays(np.float64, st.integers(1, 6), elements=st.sampled_from([0.0, 0.0, 1.0, -2.0, 3.0, 0.5])))
def test_products_with_zeros_have_both_derivatives(x):
    t = Tensor(x, requires_grad=True)
    first = grad(engine.prod(t), t, create_graph=True)
    assert first.tolist() == [_others(x, {i}) for i in range(len(x))]
    if first.requires_grad:
        for i in range(len(x)):
            second = grad(first[i], t, retain_graph=True).tolist()
            assert second == [0.0 if i == j else _others(x, {i, j}) for j in range(len(x))]


@given(hnp.arrays(np.float64, st.integers(1, 7), elements=st.sampled_from([0.0, 0.0, 1.0, -2.0, 3.0])), st.data())
def test_running_products_with_zeros_have_both_derivatives(x, data):
    u = np.array(data.draw(st.lists(st.sampled_from([1.0, -1.0, 2.0, 0.0]), min_size=len(x), max_size=len(x))))
    t, n = Tensor(x, requires_grad=True), len(x)
    first = grad(engine.cumprod(t), t, Tensor(u), create_graph=True)
    assert first.tolist() == [sum(u[k] * _others(x[:k + 1], {i}) for k in range(i, n)) for i in range(n)]
    for i in range(n):
        second = grad(first[i], t, retain_graph=True).tolist()
        assert second == [0.0 if i == j else sum(u[k] * _others(x[:k + 1], {i, j}) for k in range(max(i, j), n))
                          for j in range(n)]


# --- far out and near 0 ---------------------------------------------------------------------------
@pytest.mark.parametrize(("f", "args", "value"), [
    (engine.log1p, [1e-20], 1e-20), (engine.expm1, [1e-20], 1e-20), (engine.expm1, [-1e3], -1),
    (engine.softplus, [1e4], 1e4), (engine.softplus, [-50], 1.9287498479639178e-22), (engine.logsigmoid, [-1e4], -1e4),
    (engine.logsigmoid, [50], -1.9287498479639178e-22), (engine.logaddexp, [-1e4, -1e4], -9999.306852819441),
    (engine.logaddexp, [INF, 1], INF), (engine.hypot, [1e300, 1e300], 1.4142135623730951e300),
    (engine.hypot, [1e-300, 0], 1e-300), (lambda x: engine.norm(x), [[3e300, 4e300]], 5e300),
    (lambda x: engine.norm(x), [[3e-300, 4e-300]], 5e-300), (lambda x: engine.norm(x, ord=3), [[1e200, 0]], 1e200),
    (engine.norm, [[INF, 1]], INF), (lambda x: engine.norm(x, ord=-1), [[0, 2]], 0),
    (engine.binary_cross_entropy_with_logits, [50, 1], 1.9287498479639178e-22),
    (engine.binary_cross_entropy_with_logits, [-50, 0], 1.9287498479639178e-22),
    (engine.binary_cross_entropy, [1, 1], 0), (engine.binary_cross_entropy, [0, 1], INF), (engine.kl_div, [-INF, 0], 0),
    (engine.mish, [-1e3], 0), (engine.elu, [1e4], 1e4), (engine.elu, [-INF], -1), (engine.rsqrt, [0], INF),
    (engine.mish, [NAN], NAN), (engine.mean, [[]], NAN), (engine.prod, [[]], 1), (engine.norm, [[]], 0),
], ids=itertools.count())
def test_values_far_out_and_near_zero(f, args, value):
    got = f(*[Tensor(np.array(a, np.float64)) for a in args]).item()
    assert got == pytest.approx(value, rel=1e-14, abs=0, nan_ok=True)


@pytest.mark.parametrize(("f", "x", "slope"), [
    (engine.expm1, -60, 8.75651076269652e-27), (engine.softplus, 1e4, 1), (engine.softplus, -1e4, 0),
    (engine.logsigmoid, -1e4, 1), (engine.elu, 1e4, 1), (engine.asinh, 1e200, 1e-200), (engine.atan, 1e100, 1e-200),
    (engine.acosh, 1e200, 1e-200), (lambda x: engine.hypot(x, 1e300), 1e300, 0.7071067811865476),
    (lambda x: engine.norm(x), [3e300, 4e300], [0.6, 0.8]), (lambda x: engine.atan2(x, 1e300), 0, 1e-300),
    (engine.tanh, 400, 0), (engine.sigmoid, -1e3, 0), (engine.mish, 1e4, 1)], ids=itertools.count())
def test_gradients_far_out(f, x, slope):
    np.testing.assert_allclose(_slope(f, x), slope, rtol=1e-13)


@pytest.mark.parametrize("loss", [engine.huber_loss, engine.smooth_l1_loss])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_outliers_whose_square_overflows_have_a_slope_of_one(loss, reduction):
    x, target = (Tensor(np.float32(v), requires_grad=True) for v in ([3e38, -INF, 2.0, 0.5, INF], [0, 0, 0, 0, 0]))
    y = loss(x, target, reduction=reduction)
    for found, sign in zip(grad(engine.sum(y), [x, target]), (1, -1), strict=True):
        assert found.tolist() == [sign, -sign, sign, sign / 2, sign]
    nothing = Tensor(NAN, requires_grad=True)
    assert math.isnan(grad(loss(nothing, 0.0), nothing).item())


def test_a_huber_loss_may_be_squared_everywhere():
    assert _slope(lambda x: engine.huber_loss(x, [0.0, 0.0], delta=INF, reduction="sum"), [1.0, -3.0]) == [1, -3]


LOSSES = {"cross_entropy": engine.cross_entropy, "nll_loss": engine.nll_loss,
          "smoothed": lambda x, ids, **how: engine.cross_entropy(x, ids, label_smoothing=0.1, **how)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(2, 3, 0), (0, 0), (0,), (2, 3, 4)], ids=str)
def test_where_every_id_is_ignored_there_need_be_no_class(loss, reduction, shape):
    x, ids = Tensor(np.ones(shape, np.float32), requires_grad=True), Tensor(np.full(shape[:-1], -100))
    y = loss(x, ids, reduction=reduction)
    slope = grad(engine.sum(y), x, create_graph=True)
    assert y.shape == (shape[:-1] if reduction == "none" else ()) and slope.shape == shape
    assert not y.numpy().any() and not slope.numpy().any()
    if shape == (2, 3, 0):
        with pytest.raises(IndexRangeError, match=r"(cross_entropy|nll_loss): id 1 is out of range for 0 rows"):
            loss(x, Tensor(np.ones(shape[:-1], np.int64)), reduction=reduction)


def test_second_derivatives_at_equal_inputs():
    x = Tensor([2.0], requires_grad=True)
    first = grad(engine.logaddexp(x, 2.0), x, create_graph=True)
    assert first.item() == 0.5 and grad(first, x).item() == 0.25


# --- cross-entropy --------------------------------------------------------------------------------
def _loss_and_gradient(device, logits, ids, **params):
    x = Tensor(np.array(logits, np.float32), requires_grad=True, device=device)
    loss = engine.cross_entropy(x, Tensor(np.array(ids), device=device), **params)
    return loss.numpy().tolist(), grad(loss, x, engine.ones_like(loss)).numpy().tolist()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [3, 1500, 5000])
def test_a_number_added_to_all_logits_changes_no_bit_of_a_loss(device, smoothing, classes):
    """As long as the sums with it are exact."""
    logits, ids = np.random.default_rng(0).integers(0, 8, (3, classes)), [0, 1, 2]
    params = {"label_smoothing": smoothing, "reduction": "none"}
    expected = _loss_and_gradient(device, logits, ids, **params)
    for offset in (10_000, -1_000_000, 10_000_000):
        assert _loss_and_gradient(device, logits + offset, ids, **params) == expected
    assert np.abs(np.sum(expected[1], axis=-1)).max() < 1e-5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("logits", "id", "smoothing", "value"), [
    ([0, 1, 2], 0, 0.0, 2.4076059644443806), ([1e7, 1e7 + 1, 1e7 + 2], 0, 0.0, 2.4076059644443806),
    ([1e30] * 3, 1, 0.1, math.log(3)), ([-3e38] * 40, 0, 0.1, math.log(40)), ([3e38, -3e38, 1e38], 0, 0.1, 8e37 / 3),
    ([3e38] * 20 + [-3e38] * 20, 0, 0.1, 3e37), ([-INF, 1, 2], 0, 1.0, INF), ([-INF, 1, 2], 1, 0.1, INF),
    ([1, INF], 0, 0.0, INF), ([1, -INF], 0, 0.0, 0), ([1, NAN], 0, 0.0, NAN), ([-INF, -INF], 0, 0.1, NAN),
], ids=itertools.count())
def test_the_loss_of_logits_far_out(device, logits, id, smoothing, value):
    loss, _ = _loss_and_gradient(device, logits, id, label_smoothing=smoothing)
    assert loss == pytest.approx(value, rel=3e-7, nan_ok=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_infinite_logit_leaves_others_no_gradient(device):
    assert _loss_and_gradient(device, [INF, 100, 2], 1)[1][1:] == [-1, 0]
