"""Every twentieth mutant of rules, meanings and kernels is killed; `python -m tests.mutation` makes them all."""
import pytest
from mutation import EQUIVALENT, score

from engine.kernels import cpu


@pytest.mark.skipif(cpu.jit_disabled(), reason="there are no kernels to bend with NUMBA_DISABLE_JIT=1")
def test_mutants_are_killed():
    made, survivors = score(every=20)
    assert made >= 20 and [name for name in survivors if name not in EQUIVALENT] == []
