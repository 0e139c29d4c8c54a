"""The rules carry weight: a rule bent by one percent, or robbed of a value that it saves, is found out.

That a rule reads nothing but what its op saves needs no test of its own: it is not given the other arrays.
"""
import pytest
from hypothesis import Phase, given, settings

from engine import OPS, GraphError, Real
from engine.check import GradcheckError, calls, check_gradients, differentiable
from engine.kernels import cpu
from engine.record import OUT

# Enough calls to meet every branch of a rule; a failure is what is wanted, so it is not made smaller.
SEARCH = settings(max_examples=40, phases=[Phase.generate], report_multiple_bugs=False)

# A fused op's rules serve its kernel: where there is none, the op is differentiated through its meaning.
RULED = [op for op in OPS.values()
         if differentiable(op) and op.vjps is not None and not (op.fused and cpu.kernel(op.name) is None)]


def _rules():
    """Every rule of every op: (op, which input's gradient). Ops without rules go through their meaning."""
    for op in RULED:
        for i in range(len(op.inputs)):
            if isinstance(op.kind(i), Real) and (callable(op.vjps) or op.vjps[i] is not None):
                yield pytest.param(op, i, id=f"{op.name}-{op.inputs[i]}")


def _bent(op, i, factor):
    """The op's rules, with input i's gradient multiplied by the factor."""
    if callable(op.vjps):
        def joint(*args, **params):
            return [g * factor if k == i and g is not None else g for k, g in enumerate(op_vjps(*args, **params))]
        op_vjps = op.vjps
        return joint
    rule = op.vjps[i]
    return (*op.vjps[:i], lambda *args, **params: rule(*args, **params) * factor, *op.vjps[i + 1:])


@pytest.mark.parametrize(("op", "i"), [*_rules()])
def test_a_bent_rule_is_found_out(op, i, monkeypatch):
    monkeypatch.setattr(op, "vjps", _bent(op, i, 1.01))

    @SEARCH
    @given(calls(op))
    def look(call):
        check_gradients(op, call, order=1, elements=1)

    with pytest.raises(GradcheckError, match=op.name):
        look()


def _saved():
    """Every array that an op saves: (op, which). An output kept beside residuals only spares work, and is left out."""
    for op in RULED:
        for i in op.saves or ():
            if i != OUT or not op.residuals:
                yield pytest.param(op, i, id=f"{op.name}-{i}")


@pytest.mark.parametrize(("op", "i"), [*_saved()])
def test_everything_saved_is_read(op, i, monkeypatch):
    """Without the array that it saves, some rule of the op fails: nothing is kept in memory for nothing."""
    monkeypatch.setattr(op, "saves", tuple(k for k in op.saves if k != i))

    @SEARCH
    @given(calls(op))
    def look(call):
        check_gradients(op, call, order=1, elements=0)

    with pytest.raises((GraphError, GradcheckError)):
        look()
