"""Kernels of one's own: under an op, checked against its meaning, recorded with a step; and the two examples of it."""
import runpy
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import OPS, EngineError, Tensor, kernel_for, op
from engine.check import CheckError, check_op
from engine.kernels import cpu

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.skipif(cpu.jit_disabled(), reason="there are no kernels with NUMBA_DISABLE_JIT=1")


@pytest.fixture
def cube():
    before, found = dict(OPS), dict(cpu._found)
    yield op("cube", lambda x: x**3, lambda g, y, x: 3 * g * x * x, saves=(0,), equation=("Y = X³", "X̄ = 3 Ȳ ⊙ X²"))
    OPS.clear()
    OPS.update(before)
    cpu._found.clear()
    cpu._found.update(found)


def test_it_runs_instead_of_the_meaning_and_in_a_replayed_step(cube):
    calls = []

    @kernel_for(cube)
    def fast(x):
        calls.append(x.shape)
        return x * x * x

    check_op(cube, examples=5)
    del calls[:]
    step = engine.replay(lambda x: cube(x).sum())
    for k in range(4):
        x = np.arange(5.0) + k
        assert step(x).item() == (x * x * x).sum()
    assert len(calls) >= 2 and set(calls) == {(5,)}
    x = Tensor([2.0], requires_grad=True)
    cube(x).sum().backward()
    assert x.grad.item() == 12


@pytest.mark.parametrize("wrong", [lambda x: x * x * x + (x.size > 1), lambda x: (x * x * x).astype(np.float32),
                                   lambda x: (x * x * x).ravel()], ids=["value", "dtype", "shape"])
def test_a_wrong_one_is_found(cube, wrong):
    kernel_for(cube)(wrong)
    with pytest.raises((CheckError, EngineError), match="cube"):
        check_op(cube, examples=25)


def test_the_engines_own_stay():
    with pytest.raises(EngineError, match="softmax has a kernel"):
        kernel_for(OPS["softmax"])


@pytest.mark.parametrize(("name", "says"), [("own_kernel", "its kernel is its meaning"), ("property_test", "right:")])
def test_the_examples_run(name, says, capsys):
    before, found = dict(OPS), dict(cpu._found)
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        OPS.clear()
        OPS.update(before)
        cpu._found.clear()
        cpu._found.update(found)
    out = capsys.readouterr().out
    assert "found: " in out and says in out
