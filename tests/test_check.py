"""The gradient checker itself: what it finds, what it lets pass, what it says, and its tools for property tests."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import OPS, Tensor
from engine.check import (
    Call,
    GradcheckError,
    InconclusiveWarning,
    calls,
    check_meaning,
    check_vjp,
    gradcheck,
    gradient_test,
    selfcheck,
)
from engine.check.awkward import awkward
from engine.check.faults import faults
from engine.check.layouts import LAYOUTS
from engine.check.strategies import arrays, broadcastable, modules, shapes, tensors
from engine.errors import DtypeError
from microtfm.layers import Linear

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)


# --- wrong and right ------------------------------------------------------------------------------
@pytest.mark.parametrize("k", range(len(faults())), ids=[f"{c.family}: {c.name}" for c in faults()])
def test_every_seeded_fault_is_found(k):
    case = faults()[k]
    with pytest.raises(GradcheckError):
        check_vjp(case.f, case.vjp, case.inputs)


@pytest.mark.parametrize("k", range(len(awkward())), ids=[c.name for c in awkward()])
def test_no_awkward_function_raises_an_alarm(k):
    case = awkward()[k]
    assert check_vjp(case.f, case.vjp, case.inputs).verdict == "right"


def test_selfcheck_prints_its_rates(capsys):
    result = selfcheck(every=30)
    assert result.caught == result.faults >= 48 and result.awkward >= 24 and result.sweep == 30
    assert result.alarms == result.sweep_alarms == 0
    assert "faults caught" in capsys.readouterr().out
    assert json.loads(result.json())["catch_rate"] == 1.0
    blind = selfcheck(lambda f, vjp, inputs: None, every=900, show=False)
    assert blind.caught == 0 and len(blind.missed) == blind.faults


def test_what_cannot_be_told_is_said():
    noisy = (lambda x: 1e16 + x, lambda g, x: (g * 3,), [np.array([1.0, -2.0])])
    with pytest.warns(InconclusiveWarning, match="cannot tell"):
        report = check_vjp(*noisy)
    assert report.verdict == "inconclusive" and not report and report.findings[0].slope.error > 0
    with pytest.raises(GradcheckError):
        check_vjp(*noisy, strict=True)


# --- what it says ---------------------------------------------------------------------------------
@pytest.mark.parametrize("wrapped", [lambda a: (a,), lambda a: a], ids=["a tuple", "an array"])
def test_the_code_in_a_message_shows_the_fault_again(capsys, wrapped):
    def vjp(g, x):
        return wrapped(g * np.cos(x) * np.where(x == 2.0, 2, 1).astype(x.dtype))

    with pytest.raises(GradcheckError) as e:
        check_vjp(np.sin, vjp, [np.array([[1.0, 2.0], [3.0, 4.0]])])
    finding = e.value.report.first()
    assert finding.name == "input 0" and finding.index == (0, 1) and not finding.near_kink
    np.testing.assert_allclose(finding.given, 2 * finding.slope.value, rtol=1e-9)
    code = "\n".join(line[4:] for line in e.value.report.code.splitlines()[1:])
    exec(code, {"f": np.sin, "vjp": vjp})
    printed = [float(line) for line in capsys.readouterr().out.split()]
    np.testing.assert_allclose(printed, [finding.given, finding.slope.value], rtol=1e-6)


def test_a_kink_is_called_one():
    with pytest.raises(GradcheckError, match=r"at \[1\] \(x = 0\): a kink; the rules give .* anything from") as e:
        check_vjp(np.abs, lambda g, x: (g * np.where(x == 0, 7, np.sign(x)),), [np.array([1.0, 0.0])])
    assert e.value.report.first().near_kink


def _one(x):
    return engine.softmax(x).sum()


def _nothing(x):
    return engine.layer_norm(x, np.ones(3, x.dtype), np.zeros(3, x.dtype)).sum()


def _centred(x):
    return (x - x.mean(axis=-1, keepdims=True)).sum()


@pytest.mark.parametrize("f", [_one, _nothing, _centred], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_that_is_rounding_alone_raises_no_alarm(f, dtype):
    """What should be 0 is some roundings of what cancels, and so is its linearity."""
    for seed in range(6):
        gradcheck(f, [np.random.default_rng(seed).standard_normal((2, 3)).astype(dtype)])


@pytest.mark.parametrize("factor", [-1.0, 1.01, 60.0])
@pytest.mark.parametrize("scale", [1.0, 1e-5])
@pytest.mark.parametrize("f", [lambda x: engine.abs(x - 1), lambda x: engine.clip(x, 0.0, 1.0), lambda x: x * x])
def test_a_wrong_gradient_beside_a_kink_is_found(f, scale, factor):
    def wrong(x):
        y = f(x) * scale
        return (y + (factor - 1) * (y - y.detach())).sum()
    for dtype in (np.float32, np.float64):
        x = np.array([1.0, 0.25, 3.0, 0.5, -2.0, 0.75], dtype)
        with pytest.raises(GradcheckError):
            gradcheck(wrong, [x])


@pytest.mark.parametrize("wrong", [lambda g, y, x: 1.001e-6 * g, lambda g, y, x: 1e-6 * g + 1e-4 * (g * g)])
def test_a_gradient_that_is_small_and_wrong_is_found(wrong, monkeypatch):
    monkeypatch.setattr("engine.record.OPS", {})
    tiny = engine.op("tiny", lambda x: x * np.float32(1e-6), wrong)
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: tiny(x).sum(), [np.float32([1.0, 2.0, 3.0])])


def test_what_the_functions_raise_goes_through():
    def broken(*_):
        raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        check_vjp(broken, lambda g, x: (g,), [np.ones(2)])
    with pytest.raises(KeyError, match="mine"):
        check_vjp(np.sin, broken, [np.ones(2)])
    with pytest.raises(DtypeError, match="int64"):
        check_vjp(lambda x: np.arange(3), lambda g, x: (g,), [np.ones(3)])
    assert check_vjp(lambda: np.ones(2), lambda g: (), []).verdict == "right"


# --- functions of tensors -------------------------------------------------------------------------
def test_parameters_of_a_module_are_checked_by_name():
    layer = Linear(3, 2)
    x = Tensor(RNG.standard_normal((4, 3)), name="x")
    report = gradcheck(lambda t: layer(t).tanh(), [x], order=2, parameters=layer)
    assert report and {t.dtype for t in layer.parameters()} == {np.dtype(np.float32)}
    with pytest.raises(GradcheckError, match=r"parameter weight at \[\d, \d\]"):
        gradcheck(lambda t: layer(t) + 0.1 * engine.constant(layer.weight).sum(), [x], parameters=layer)


@pytest.mark.parametrize("mode", ["dense", "random"])
def test_modes(mode):
    x = RNG.standard_normal((2, 3))
    assert gradcheck(lambda t: t.softmax(), [x], mode=mode)
    with pytest.raises(GradcheckError, match="complex step"):
        gradcheck(lambda t: t.exp() * engine.constant(t), [x], mode=mode)
    with pytest.raises(ValueError, match="dense"):
        gradcheck(lambda t: t, [x], mode="some")


def test_large_inputs_are_checked_along_directions():
    x = RNG.standard_normal((300, 200)).astype(np.float32)
    assert gradcheck(lambda t: (t * t).sum(axis=0), [x], elements=3)
    with pytest.raises(GradcheckError):
        gradcheck(lambda t: t * t + 5e-2 * t * engine.constant(t), [x], elements=0)


def test_kinks_of_tensor_functions_are_decided():
    assert gradcheck(lambda t: t.relu() + t.abs(), [np.array([0.0, 1.0, -1.0])])
    assert gradcheck(lambda t: t.max(axis=1), [np.array([[2.0, 2.0, 1.0], [0.0, 0.0, 0.0]])], order=2)
    assert gradcheck(engine.maximum, [np.ones(3), np.ones(3)])


# --- strategies -----------------------------------------------------------------------------------
@given(st.data())
def test_tensors_are_what_was_asked_for(data):
    shape = data.draw(shapes(min_rank=1, max_rank=3))
    t = data.draw(tensors(shape, np.float32, ["strided", "reversed"], domain=(-1, 1), away_from=[0.0], unique=True))
    a = t.numpy()
    assert t.shape == shape and t.dtype == np.float32 and t.requires_grad
    assert (np.abs(a) >= 1 / 16).all() and (np.abs(a) <= 1).all() and len(np.unique(a)) == a.size
    assert np.array_equal(a * 64, np.round(a * 64))
    one, two = data.draw(broadcastable(2))
    np.broadcast_shapes(one, two)
    a, b = data.draw(broadcastable(signature="(n,k),(k,m)->(n,m)", max_rank=0))
    assert a[1] == b[0]


@given(modules(Linear, inputs=st.integers(1, 3), outputs=st.integers(1, 3)))
def test_modules_have_drawn_parameters(layer):
    x = np.linspace(-1, 1, 2 * layer.weight.shape[0]).reshape(2, -1)
    assert gradcheck(lambda t: layer(t).tanh(), [x], parameters=layer, elements=4, contract=False)


@given(st.data())
def test_a_call_prints_as_code_that_makes_it_again(data):
    op = OPS[data.draw(st.sampled_from(["add", "softmax", "take", "where", "concat", "sum"]))]
    call = data.draw(calls(op, ties=True))
    again = eval(repr(call), {"Call": Call, "np": np, "LAYOUTS": LAYOUTS})
    check_meaning(op, again)
    for a, b in zip(call.arrays, again.arrays, strict=True):
        assert a is b is None or (np.array_equal(a, b) and a.dtype == b.dtype)


def test_every_layout_is_drawn():
    seen = set()

    @given(arrays((2, 3)))
    def look(a):
        seen.add((a.strides, a.flags.writeable))
    from hypothesis import settings
    settings(max_examples=100)(look)()
    assert len(seen) >= 6


# --- @gradient_test -------------------------------------------------------------------------------
def test_a_gradient_test_shrinks_to_one_number():
    @gradient_test
    def bent(x):
        return x.tanh() + 0.1 * engine.constant(x)

    with pytest.raises(GradcheckError) as e:
        bent()
    assert "bent: input 0 at []" in str(e.value) and "gradcheck(bent, [x0], 1)" in str(e.value)
    assert bent(Tensor([0.0])).tolist() == [0.0]


def test_a_right_function_passes():
    gradient_test(lambda x, w: (x @ w).sigmoid(), signature="(n,k),(k,m)->(n,m)", order=2, examples=5)()
    with pytest.raises(TypeError, match="takes no tensor"):
        gradient_test(lambda: 1)()


def test_the_plug_in_collects_marked_functions(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "from engine.check import gradient_test\n"
        "@gradient_test(away_from=[0.0])\ndef good(x, y): return x * y\n"
        "@gradient_test\ndef bad(x): return x * x.tanh().detach()\n"
        "def test_plain(): pass\n")
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "engine.check.plugin", "-p", "no:cacheprovider",
                          "--gradient-examples", "20", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
                         timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "2 passed" in run.stdout and "1 failed" in run.stdout and "bad: input 0" in run.stdout, run.stdout


def test_the_plug_in_is_light():
    code = ("import sys, engine.check.plugin; "
            "print([m for m in ('numba', 'hypothesis', 'matplotlib', 'pytest') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


# --- other frameworks -----------------------------------------------------------------------------
def test_torch_in_three_lines():
    torch = pytest.importorskip("torch")

    def pulled(torch_f):
        def vjp(g, *xs):
            given = tuple(torch.from_numpy(np.array(x)) for x in xs)
            found = torch.autograd.functional.vjp(torch_f, given, torch.from_numpy(np.array(g)))[1]
            return [t.numpy() for t in found]
        return lambda *xs: torch_f(*(torch.from_numpy(np.array(x)) for x in xs)).numpy(), vjp

    inputs = [RNG.standard_normal((3, 4)), RNG.standard_normal((4, 2))]
    assert check_vjp(*pulled(lambda x, w: torch.tanh(x @ w)), inputs)
    with pytest.raises(GradcheckError):
        check_vjp(*pulled(lambda x: x * x.detach()), [RNG.standard_normal(3)])
