"""The first few of each long trial; `python tests/trial_….py` runs them all."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("trial", "counts", "says"), [
    ("mutations", ["150"], "all"), ("kills", ["4", "60"], "4 kills"), ("memory", ["200"], "from"),
])
def test_the_first_of(trial: str, counts: list[str], says: str) -> None:
    """In a process of its own, which has no threads when it forks."""
    found = subprocess.run([sys.executable, str(HERE / f"trial_{trial}.py"), *counts], capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    if trial != "memory":                # so short a run still meets new shapes
        assert found.returncode == 0, found.stdout + found.stderr
    assert says in found.stdout, found.stdout + found.stderr
