"""Every op of the table on a card, here a simulated one: what the CPU gives, forward and backward, and never by way of
the host: its arrays refuse to become NumPy arrays by themselves."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import OPS, DeviceError, Real, Tensor, default_device, grad, unfused
from engine.check import calls, check_meaning, differentiable, terms, tolerance

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
    call = data.draw(calls(op, np.float64, hard=True))
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
                 lambda d: engine.random.uniform((7,), key=Tensor(7, device=d), device=d)):
        ours, theirs = make("cuda"), make("cpu")
        assert (ours.device, theirs.device) == ("cuda", "cpu")
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


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
