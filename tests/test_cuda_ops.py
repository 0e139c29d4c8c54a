"""Every op of the table on a card, here a simulated one: what the CPU gives, forward and backward, and never by way of
the host: its arrays refuse to become NumPy arrays by themselves."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import (
    OPS,
    DeviceError,
    DtypeError,
    GraphError,
    IndexRangeError,
    Real,
    ShapeError,
    Tensor,
    default_device,
    grad,
    unfused,
)
from engine.check import calls, check_meaning, differentiable, gradcheck, terms, tolerance
from engine.kernels.cpu import jit_disabled
from tests.test_kinks import LOSSES
from tests.test_numpy_agreement import MASKED, masked

pytest.importorskip("greenlet")

HERE = [op for op in OPS.values() if op.name != "to"]     # which leaves the card
every_op = pytest.mark.parametrize("op", HERE, ids=lambda op: op.name)


@every_op
@given(data=st.data())
def test_a_card_gives_the_meaning(op, data):
    call = data.draw(calls(op, np.float32, ties=data.draw(st.booleans())))
    with default_device("cuda"):
        assert call.run(op).device == "cuda"
        check_meaning(op, call)


@every_op
@given(data=st.data())
def test_a_card_gives_the_meaning_of_nan_and_infinity(op, data):
    call = data.draw(calls(op, data.draw(st.sampled_from([np.float32, np.float64])), hard=True))
    with default_device("cuda"):
        check_meaning(op, call)


def pulled(op, call, device, seed):
    """The cotangents of the real inputs, as NumPy arrays."""
    real = [i for i, a in enumerate(call.arrays) if a is not None and isinstance(op.kind(i), Real)]
    with default_device(device):
        tensors = [None if a is None else Tensor(a, requires_grad=i in real) for i, a in enumerate(call.arrays)]
        y = call.on(op, tensors)
        u = np.random.default_rng(seed).uniform(0.5, 1, y.shape).astype(y.dtype)
        if not y.requires_grad:
            return []
        found = grad(y, [tensors[i] for i in real], Tensor(u))
        assert {g.device for g in found} <= {device}
        return [g.numpy() for g in found]


@pytest.mark.parametrize("op", [op for op in HERE if differentiable(op)], ids=lambda op: op.name)
@given(data=st.data())
def test_gradients_on_a_card_are_those_of_the_cpu(op, data):
    call = data.draw(calls(op, np.float32))
    ours = pulled(op, call, "cuda", 0)
    with unfused():
        for mine, theirs in zip(ours, pulled(op, call, "cpu", 0), strict=True):
            scale = max(float(np.max(np.abs(theirs), initial=0)), 1.0)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=8 * tolerance(np.float32, terms(op, call)) * scale)


# --- masks and ids --------------------------------------------------------------------------------
@pytest.mark.parametrize("op", MASKED.values(), ids=MASKED)
def test_a_mask_of_integers_on_a_card_is_one_of_truth_values(op):
    with default_device("cuda"):
        for mine, right in zip(masked(op, np.uint8([1, 3, 0, 255])), masked(op, np.arange(4) != 2), strict=True):
            np.testing.assert_array_equal(mine, right)
        with pytest.raises(DtypeError, match="mask holds truth values"):
            masked(op, [0.0, 0.0, -np.inf, 0.0])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_of_no_classes_on_a_card_is_zero(loss, reduction):
    with default_device("cuda"):
        x = Tensor(np.ones((3, 0), np.float32), requires_grad=True)
        y = loss(x, Tensor(np.full(3, -100)), reduction=reduction)
        assert not y.numpy().any() and grad(engine.sum(y), x).shape == (3, 0)


# --- indices --------------------------------------------------------------------------------------
GRID = np.arange(12, dtype=np.float32).reshape(3, 4)
INDICES = {
    "ids": lambda x: Tensor([2, 0, 2]), "a number": lambda x: Tensor(1), "where": lambda x: x > 4,
    "a mask": lambda x: Tensor([True, False, True]), "no rows": lambda x: Tensor(np.zeros(0, np.int64)),
    "columns": lambda x: (slice(None), Tensor([1, 1])), "places": lambda x: (Tensor([0, 1]), Tensor([1, -1])),
    "one column": lambda x: (Tensor([0, 1]), 0), "a new axis": lambda x: (None, ..., Tensor([[0], [3]])),
    "argmax": lambda x: engine.argmax(x, axis=0), "argsort": lambda x: engine.argsort(x[:, 0]),
    "beside NumPy's": lambda x: (np.array([0, 2]), Tensor([3, 3])), "a list": lambda x: [2, 0],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_tensor_is_indexed_by_tensors_on_a_card(index):
    """Values, gradients, gradients of gradients and writing: those of the CPU."""
    found = {}
    for device in ("cpu", "cuda"):
        with default_device(device):
            x = Tensor(GRID, requires_grad=True)
            y = x[index(x)]
            first = grad(engine.sum(y * y * y), [x], create_graph=True)[0]
            second = grad(engine.sum(first * first), [x])[0]
            written = x.detach()
            written[index(x)] = -1.0
            assert {t.device for t in (y, first, second)} == {device}
            found[device] = [t.tolist() for t in (y, first, second, written)]
    assert found["cuda"] == found["cpu"]


@pytest.mark.parametrize(("index", "says"), [
    (lambda: Tensor([0, 3]), "index 3 is out of bounds for axis 0"), (lambda: Tensor([-4]), "index -4 is out"),
    (lambda: Tensor([1.0]), "must be of integer"), (lambda: Tensor([True, False]), "boolean index did not match"),
    (lambda: (Tensor([0]), Tensor([0]), Tensor([0])), "too many indices"),
    (lambda: (Tensor([0, 1]), Tensor([0, 1, 2])), "could not be broadcast")])
def test_a_bad_index_on_a_card_is_refused(index, says):
    with default_device("cuda"):
        x = Tensor(GRID)
        with pytest.raises(IndexRangeError, match=says):
            x[index()]
        with pytest.raises(ShapeError, match=says):
            x[index()] = 0.0
        assert x.tolist() == GRID.tolist()


@pytest.mark.parametrize(("of", "by"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_an_index_may_be_on_another_device(of, by):
    x, ids = Tensor(GRID, device=of, requires_grad=True), Tensor([2, 0], device=by)
    y = x[ids]
    assert (y.device, y.tolist()) == (of, GRID[[2, 0]].tolist())
    assert grad(engine.sum(y), [x])[0].tolist() == [[1.0] * 4, [0.0] * 4, [1.0] * 4]
    z = x.detach()
    z[ids] = Tensor(7.0, device=by)
    assert (z.device, z[1].tolist()) == (of, GRID[1].tolist()) and z[ids].tolist() == [[7.0] * 4] * 2


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_index_of_a_replayed_step_has_numbers(device):
    with default_device(device):
        x, ids = Tensor(GRID), Tensor([2, 0])
        picked = engine.replay(lambda y: x[ids] * y)
        assert [picked(k).tolist() for k in (1.0, 2.0, 3.0)] == [(GRID[[2, 0]] * k).tolist() for k in (1, 2, 3)]
        for step in (lambda i: x[i], lambda i: x[i + 1], lambda i: x[x > i]):
            with pytest.raises(GraphError, match=r"is an index while a step is recorded.*engine\.take"):
                engine.replay(step)(np.array([[0], [1], [1]]))


def test_counts_of_repeats_may_be_on_a_card():
    with default_device("cuda"):
        assert engine.repeat(Tensor([1.0, 2.0]), Tensor([2, 1])).tolist() == [1.0, 1.0, 2.0]


# --- what was measured ----------------------------------------------------------------------------
def measured(device):
    """The boxes of a computation with every kind of attention, as a run on the device is drawn."""
    rng = np.random.default_rng(0)
    with default_device(device), engine.observe(times=False):
        x = Tensor(rng.standard_normal((2, 4, 8)).astype(np.float32), requires_grad=True, name="x")
        packed = engine.concat([x, x], axis=-1)
        mask = Tensor(np.array([True, True, False, True]))
        ys = [engine.self_attention(engine.concat([x, packed], axis=-1), heads=2, causal=True),
              engine.cross_attention(x, packed, mask, heads=2), engine.scaled_dot_product_attention(x, x, x, mask),
              engine.softmax(x @ x.mT), engine.log(x[0])]
        loss = sum(engine.sum(y * y) for y in ys)
        loss.backward()
    return engine.graph(loss, backward=True)


@pytest.mark.skipif(jit_disabled(), reason="the CPU runs fused ops by their definitions, and is drawn so")
def test_what_a_run_on_a_card_shows_is_what_one_on_the_cpu_does(tmp_path):
    here, there = measured("cpu"), measured("cuda")
    assert [box.label for box in there.boxes] == [box.label for box in here.boxes]
    pairs = [(a.seen, b.seen) for a, b in zip(here.boxes, there.boxes, strict=True) if a.seen is not None]
    assert not all(a.finite for a, _ in pairs) and sum(bool(a.weights) for a, _ in pairs) == 4
    for a, b in pairs:
        assert b is not None and a.finite == b.finite
        np.testing.assert_allclose([b.rms, b.low, b.high], [a.rms, a.low, a.high], rtol=1e-4, atol=1e-5)
        assert np.shape(a.weights) == np.shape(b.weights)
        np.testing.assert_allclose(b.weights, a.weights, atol=1)
    for name in ("run.html", "run.svg", "run.json"):
        there.save(tmp_path / name)
    assert there.diff(here).same


# --- moving ---------------------------------------------------------------------------------------
def test_gradients_come_back_through_a_move():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x.to("cuda") * 3).to("cpu")
    assert (x.to("cuda").device, y.device, x.to("cpu") is x) == ("cuda", "cpu", True)
    y.sum().backward()
    assert x.grad.device == "cpu" and x.grad.tolist() == [3, 3]


def test_devices_do_not_mix_in_silence():
    a, b = Tensor([1.0, 2.0], device="cuda", name="a"), Tensor([1.0, 2.0])
    with pytest.raises(DeviceError, match=r"add: its inputs live on two devices: float32 \(2,\) on cuda, .* on cpu"):
        a + b
    assert (a + 1).tolist() == [2, 3] and (a * Tensor(2.0)).device == "cuda"
    with pytest.raises(TypeError, match=r"does not turn into a NumPy array by itself|conversion to a NumPy array"):
        np.asarray(a.data)
    assert np.asarray(a).tolist() == [1, 2] and "device=cuda" in repr(a)
    with pytest.raises(DeviceError, match="there is no device 'gpu'"):
        a.to("gpu")
    with pytest.raises(DeviceError, match="there is no device 'gpu'"):
        Tensor([1.0], device="gpu")


def test_creation_and_random_numbers_are_the_same_on_either_device():
    for make in (lambda d: engine.zeros((2, 3), device=d), lambda d: engine.ones((), device=d),
                 lambda d: engine.random.normal((3, 5), key=Tensor(7), device=d),
                 lambda d: engine.random.uniform((7,), key=Tensor(7, device=d), device=d),
                 lambda d: engine.random.uniform((99_999,), 1e6, 1e6 + 1, key=7, device=d)):
        ours, theirs = make("cuda"), make("cpu")
        assert (ours.device, theirs.device) == ("cuda", "cpu")
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with default_device("cuda"):
        assert (engine.random.uniform((99_999,), 1e6, 1e6 + 1, key=7) < 1e6 + 1).numpy().all()
        with pytest.raises(DtypeError, match=r"a probability is given by name: p=0\.3"):
            engine.dropout(Tensor([1.0]), 0.3)


def test_values_are_written_and_read_on_a_card():
    x = Tensor(np.zeros((2, 3), np.float32), device="cuda")
    x[0] = np.arange(3.0)
    x[1, 1] = 7
    x[:, 2] = Tensor([4.0, 5.0], device="cuda")
    assert x.tolist() == [[0, 1, 4], [0, 7, 5]] and x[1, 1].item() == 7 and bool(x[1, 1] == 7)
    assert x.detach().device == "cuda" and float(x.sum()) == 17


def test_numbers_are_repeated_where_they_are():
    for default in ("cpu", "cuda"):
        with default_device(default):
            for there in ("cpu", "cuda"):
                x = Tensor([1.0, 2.0], device=there, requires_grad=True)
                y = engine.repeat(x, 2, axis=0)
                y.sum().backward()
                assert (y.device, y.tolist(), x.grad.device, x.grad.tolist()) == (there, [1, 1, 2, 2], there, [2, 2])
                assert engine.repeat(Tensor(3.0, device=there), 2).device == there


def test_leaves_move_in_place():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    engine.place([x], "cuda")
    assert x.device == x.grad.device == "cuda" and x.requires_grad and x.grad.tolist() == [2, 4]
    engine.place([x], "cpu")
    assert x.device == "cpu"


def test_changing_a_saved_value_on_a_card_is_found_out():
    x = Tensor([1.0, 2.0], requires_grad=True, device="cuda")
    live = x.data
    y = (x * x).sum()
    live[0] = 5
    with pytest.raises(engine.GraphError, match="was changed in place"):
        y.backward()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quotients_rounded_down_on_a_card_are_numpys(dtype):
    """Bit by bit, also where x / y is rounded to a whole number (1 // 0.1 is 9), at infinity, and the sign of zero."""
    hard = [0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 0.3, 2.5, 7.0, -7.0, np.inf, -np.inf, np.nan, 1e30, 5e-324]
    x = np.concatenate([hard, np.random.default_rng(0).integers(-40, 40, 200) / 10]).astype(dtype)
    for name, function in (("floor_divide", np.floor_divide), ("remainder", np.remainder)):
        got = OPS[name](Tensor(x[:, None], device="cuda"), Tensor(x, device="cuda")).numpy()
        with np.errstate(all="ignore"):
            expected = function(x[:, None], x)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got)[~np.isnan(got)], np.signbit(expected)[~np.isnan(expected)])


def test_single_numbers_that_learn_go_to_the_others_by_an_op():
    """Their gradients find the way back, to any order."""
    x = np.float32([1, 2, 3])
    for here, there in (("cpu", "cuda"), ("cuda", "cpu")):
        s, v = Tensor(2.0, device=here, requires_grad=True), Tensor(x, device=here, requires_grad=True)
        y = engine.sum(s * Tensor(x, device=there)) + engine.sum(engine.sum(v * v) * Tensor(x, device=there))
        y.backward()
        assert y.device == there and s.grad.device == v.grad.device == here
        assert s.grad.item() == 6 and v.grad.tolist() == [12, 24, 36]
        slope = grad(engine.sum(s * s * s * Tensor(x, device=there)), [s], create_graph=True)[0]
        assert slope.device == here and grad(slope, [s])[0].item() == 6 * 2 * 6
    s = Tensor(2.0)
    step = engine.replay(lambda x: x * s)
    with pytest.raises(GraphError, match="is a number on cpu in a step that is recorded for replay on cuda"):
        step(Tensor(x, device="cuda"))


def test_an_op_of_ones_own_that_leaves_the_card_is_named(monkeypatch):
    monkeypatch.setattr("engine.record.OPS", {})
    leaving = engine.op("leaving", lambda x: np.asarray([float(v) for v in x], x.dtype), lambda g, y, x: g)
    total = engine.op("total", lambda x: float(x.sum()), lambda g, y, x: g, signature="(n)->()")
    turning = engine.op("turning", lambda x: x * 2, lambda g, y, x: Tensor(np.ones(g.shape, np.float32)))
    x = Tensor(np.float32([1, 2]), requires_grad=True, device="cuda")
    for call in (leaving, engine.replay(leaving)):
        with pytest.raises(DeviceError, match="leaving: its meaning makes ndarray on the processor"):
            call(x)
    with pytest.raises(DeviceError, match="total: its meaning makes float on the processor"):
        total(x)
    with pytest.raises(DeviceError, match=r"turning.*: its rule gives a gradient on cpu where"):
        engine.sum(turning(x)).backward()
    assert x.grad is None


def test_a_step_runs_where_its_arguments_are():
    a, w = np.arange(6, dtype=np.float32).reshape(2, 3), Tensor(np.ones((3, 2), np.float32), device="cuda")
    for step in (lambda x: x * 2, lambda x: engine.dropout(x @ w, p=0.5)):
        run, plain = engine.replay(step), []
        for one in (step, run, run):
            engine.seed(3)
            plain.append(one(Tensor(a, device="cuda")))
        assert {y.device for y in plain} == {"cuda"}
        for y in plain[1:]:
            np.testing.assert_array_equal(y.numpy(), plain[0].numpy())
    both = engine.replay(lambda x: x + 1)
    assert [both(Tensor(a, device=device)).device for device in ("cpu", "cuda", "cpu", "cuda")] == 2 * ["cpu", "cuda"]


def test_gradcheck_checks_where_the_tensors_are():
    seen = set()

    def f(x, y):
        seen.update((x.device, y.device))
        return engine.sum(engine.tanh(x) * y)
    x = np.float32([0.5, -1.0, 2.0])
    assert gradcheck(f, [Tensor(x, device="cuda"), x], order=2)
    assert seen == {"cuda"}


@pytest.mark.parametrize("device", [0, "", "cuda:0", "CPU"])
def test_a_device_that_there_is_not_is_refused(device):
    for door in (lambda: Tensor([1.0], device=device), lambda: Tensor(np.ones(2), device=device),
                 lambda: engine.zeros((2,), device=device), lambda: engine.full_like(Tensor([1.0]), 2, device=device),
                 lambda: Tensor([1.0]).to(device), lambda: Tensor(Tensor([1.0], device="cuda").array(), device=device)):
        with pytest.raises(DeviceError, match="there is no device"):
            door()
