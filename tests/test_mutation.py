"""Every twentieth mutant of rules, meanings and kernels is killed; `python -m tests.mutation` makes them all."""
import numpy as np
import pytest
from mutation import PROPERTIES, look, score

from engine import OPS
from engine.kernels import cpu


@pytest.mark.skipif(cpu.jit_disabled(), reason="there are no kernels to bend with NUMBA_DISABLE_JIT=1")
def test_mutants_are_killed():
    made, survivors = score(every=20)
    assert made >= 20 and survivors == []


@pytest.mark.parametrize("name", [*PROPERTIES, "logical_and", "logical_or", "logical_not"])
def test_ops_as_they_are_pass(name):
    """What kills mutants lets the op itself live."""
    look(OPS[name], np.float32)
