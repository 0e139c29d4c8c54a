"""Every op beside PyTorch and NumPy: values and gradients over many samples, and no op of the table left out.

`python -m tests.reference` compares on all samples; here every other one of a coarser choice of parameters has to do.
"""
import pytest
from reference.array_table import TABLE as ARRAYS
from reference.compare import compared
from reference.libraries import NumPy, Torch
from reference.notes import ALONE, APART

from engine import OPS


def _agrees(op, reference):
    result = compared(op, reference, combinations=3, every=2)
    assert not result.wrong, f"{op.name}({result.wrong[0]} (and {len(result.wrong) - 1} more)"
    assert result.values or op.name in ALONE


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.name in ARRAYS], ids=lambda op: op.name)
def test_numpys_values(op):
    _agrees(op, NumPy())


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_pytorchs_values_and_gradients(op):
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    if op.name not in ALONE:
        _agrees(op, Torch())


def test_no_op_is_left_out():
    pytest.importorskip("torch", reason="PyTorch is not installed, so there is nothing to agree with")
    from reference.torch_table import TABLE
    known = {*TABLE, *ARRAYS, *ALONE}
    assert not OPS.keys() - known, "say in tests/reference what these are in PyTorch, or in notes.ALONE why nothing is"
    assert not known - OPS.keys(), "no op has these names"


def test_every_difference_has_a_reason():
    assert all(name in OPS and reason.text for (name, _), reason in APART.items())
    assert all(reason.strip() for reason in ALONE.values())
