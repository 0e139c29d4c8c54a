"""`nan_check`: every number that is not finite is named at the op that made it, in either pass."""
import numpy as np
import pytest

import engine
from engine import NotFiniteError, Tensor, nan_check, no_grad, scope
from engine import core as engine_core
from microtfm import Transformer
from microtfm.loss import translation_loss
from microtfm.settings import ModelSettings

FAULTS = 100


engine.seed(0)
MODEL = Transformer(ModelSettings(d_model=8, heads=2, layers=2, ffn=12, dropout=0.1), 13, 13)
IDS = np.random.default_rng(0).integers(4, 13, (2, 5))


def _step():
    with engine.unfused():                                   # more ops, and smaller ones
        translation_loss(MODEL(IDS, IDS), Tensor(IDS)).backward()
    MODEL.zero_grad()


@pytest.fixture(scope="module")
def made():
    """Every op of a training step: name, scope and phase of those that make floating numbers, in order."""
    found, record = [], engine_core._record

    def noting(op, tensors, given, params, array, shape, dtype, state, residuals):
        if dtype.kind == "f" and array is not None and array.size:
            found.append((op.name, state.scope, state.phase))
        return record(op, tensors, given, params, array, shape, dtype, state, residuals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_core, "_record", noting)
        _step()
    return found


@pytest.mark.parametrize("fault", range(FAULTS))
def test_injected_faults_are_named(made, fault, monkeypatch):
    """One number of one op's result is spoilt; that op, its scope and its pass are named, and no other."""
    at, calls, record = fault * len(made) // FAULTS, [0], engine_core._record
    bad = [np.nan, np.inf, -np.inf][fault % 3]

    def spoiling(op, tensors, given, params, array, shape, dtype, state, residuals):
        if dtype.kind == "f" and array is not None and array.size:
            if calls[0] == at:
                array = array.copy()
                array.flat[array.size // 2] = bad
            calls[0] += 1
        return record(op, tensors, given, params, array, shape, dtype, state, residuals)

    monkeypatch.setattr(engine_core, "_record", spoiling)
    with nan_check(), pytest.raises(NotFiniteError) as e:
        _step()
    assert (e.value.op, e.value.scope, e.value.phase) == made[at]
    assert ".py:" in str(e.value) and "from " in str(e.value)
    assert ("backward pass" in str(e.value)) == (made[at][2] != "forward")


def test_both_passes_are_covered(made):
    assert {phase for _, _, phase in made} >= {"forward", "backward"} and len(made) >= FAULTS


# --- what is said ---------------------------------------------------------------------------------
def test_the_line_and_the_ranges_are_shown():
    x = Tensor([1.0, -4.0, 9.0], requires_grad=True, name="x")
    with nan_check(), scope("encoder"), pytest.raises(NotFiniteError) as e:
        engine.sqrt(x)                                       # this very line
    text = str(e.value)
    assert "sqrt made NaN (1 of 3 numbers, the first at [1]) in encoder, at" in text and "# this very line" in text
    assert "test_nans.py:" in text and "x float32 (3,) from -4 to 9" in text


def test_a_gradient_is_named_with_the_line_of_its_op():
    x = Tensor([0.0, 4.0], requires_grad=True, name="x")
    with nan_check(), pytest.raises(NotFiniteError) as e:
        y = engine.sqrt(x)                                   # finite here, not its slope
        y.sum().backward()
    assert e.value.phase == "backward" and "in the backward pass of sqrt" in str(e.value)
    assert "# finite here, not its slope" in str(e.value)


def test_a_loss_that_is_nan_before_any_backward():
    x = Tensor([-1.0], requires_grad=True)
    with nan_check(), pytest.raises(NotFiniteError, match="log made NaN"):
        engine.log(x).sum().backward()
    loss = engine.log(x).sum()
    with nan_check(), pytest.raises(NotFiniteError, match="backward\\(\\) starts from the output of sum, which is NaN"):
        loss.backward()
    with nan_check(), pytest.raises(NotFiniteError, match="log made NaN"), no_grad():
        engine.log(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_was_not_finite_from_the_start_is_called_that(bad):
    w = Tensor([[1.0, bad]], requires_grad=True, name="w")
    with nan_check(), pytest.raises(NotFiniteError, match="w already held") as e:
        Tensor(np.ones((2, 1), np.float32)) @ w
    assert e.value.tensor == "w"


def test_infinities_of_a_mask_are_let_pass():
    scores = Tensor([[1.0, 2.0]], requires_grad=True)
    with nan_check():
        engine.softmax(scores + np.array([[0.0, -np.inf]], np.float32)).sum().backward()


def test_a_replayed_step_is_checked_as_well():
    step = engine.replay(lambda x: (x.log() * 2.0).sum())
    assert np.isfinite(step(np.ones(3, np.float32)).item())
    with nan_check(), pytest.raises(NotFiniteError, match="log made -inf"):
        step(np.zeros(3, np.float32))


def test_nothing_is_watched_outside():
    with nan_check():
        pass
    assert engine.state.STATE.get().watch is None and np.isnan(engine.log(Tensor([-1.0])).item())
