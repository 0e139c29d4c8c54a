"""`microtfm doctor`: every part has a finding, and what is wrong has a way out."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine.kernels.cpu import jit_disabled
from microtfm import cli, doctor

PARTS = ["Python", "NumPy", "Numba", "threads", "SIMD", "kernels on cpu", "CUDA provider"]


def test_every_part_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    wanting = 2 if jit_disabled() else 0                 # kernels that are switched off are named, with the way back
    assert cli.main(["doctor", "--json"]) == wanting
    answer = json.loads(capsys.readouterr().out)
    names = [f["name"] for f in answer["findings"]]
    assert answer["ok"] == (not jit_disabled()) and names[:7] == PARTS and names[-2:] == ["Graphviz", "CJK font"]
    assert all(f["fix"] for f in answer["findings"] if f["ok"] is False)
    assert cli.main(["doctor"]) == wanting
    said = capsys.readouterr().out
    assert "ok  kernels on cpu" in said and "float32 at once" in said


def test_what_is_switched_off_is_said_with_a_way_back() -> None:
    code = ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'; from microtfm import cli; "
            "raise SystemExit(cli.main(['doctor']))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2 and "NO  Numba" in run.stdout and "→ unset NUMBA_DISABLE_JIT" in run.stdout


def test_a_missing_program_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._graphviz().ok is None and "apt install graphviz" in doctor._graphviz().fix
    assert "fonts-noto-cjk" in doctor._font().fix
