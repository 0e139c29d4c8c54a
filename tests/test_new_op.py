"""A user's own op is tested like the engine's: by `check_op`, and by the generated tests once it is imported."""
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import OPS, Tensor, op
from engine.check import CheckError, GradcheckError, check_op

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _the_table_stays_as_it_was():
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "new_op.py"), run_name="__main__")
    assert "all checks passed" in capsys.readouterr().out
    assert "squareplus" in OPS


def test_the_generated_tests_cover_it():
    path = os.pathsep.join([str(ROOT / "examples"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "new_op", "tests/test_ops.py", "-k", "squareplus",
                          "-o", "addopts=", "-p", "no:cacheprovider"],
                         cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and passed and int(passed[1]) >= 10, run.stdout + run.stderr


def _cube(name, meaning=lambda x: x**3, rule=lambda g, y, x: 3 * g * x * x, **fields):
    return op(name, meaning, rule, **{"saves": (0,), "equation": ("Y = X³", "X̄ = 3 Ȳ ⊙ X²"), **fields})


def test_a_right_op_passes():
    check_op(_cube("right"))


def test_a_wrong_gradient_is_named():
    with pytest.raises(GradcheckError, match=r"wrong\(.*input 0 .*the rules give .*complex step"):
        check_op(_cube("wrong", rule=lambda g, y, x: 2 * g * x * x))


def test_a_gradient_that_is_only_wrong_in_its_own_gradient_is_found():
    with pytest.raises(GradcheckError, match="gradient of order 1"):
        check_op(_cube("shallow", rule=lambda g, y, x: g * Tensor(3 * x.array() ** 2)))


def test_a_rule_that_reads_what_was_not_saved_is_found():
    with pytest.raises(Exception, match="does not save"):
        check_op(_cube("forgetful", saves=()))


def test_a_wrong_shape_rule_is_found():
    with pytest.raises(CheckError, match="promises"):
        check_op(_cube("misshapen", signature=None, shape=lambda s: (*s, 1)))


def test_a_meaning_that_writes_to_its_input_is_found():
    def meaning(x):
        if x.flags.writeable:
            x *= 2
        return x**3
    with pytest.raises(CheckError, match="written to"):
        check_op(_cube("vandal", meaning))


def test_an_op_cannot_be_defined_twice():
    with pytest.raises(ValueError, match="twice"):
        op("exp", np.exp, None)
