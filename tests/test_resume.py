"""Stopping a real process: Ctrl-C, SIGTERM, and the plug pulled."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import text_files

from microtfm import metrics

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

FLAGS = ["--model.d-model", "16", "--model.heads", "2", "--model.layers", "1", "--model.ffn", "32",
         "--tokens.kind", "char", "--tokens.size", "60", "--train.steps", "40", "--train.batch-tokens", "100",
         "--train.validate-every", "15", "--train.validate-sentences", "8", "--train.save-every", "7",
         "--train.log-every", "1"]
COMMAND = [sys.executable, "-m", "microtfm.cli"]
PLAIN = {**os.environ, "NUMBA_DISABLE_JIT": "1"}         # starts sooner; the numbers are whatever the meanings give


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """A training process that has begun to write metrics."""
    run = folder / name
    process = subprocess.Popen([*COMMAND, "train", "--src", str(folder / "all.zh"), "--tgt", str(folder / "all.en"),
                                "--out", str(run), *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=PLAIN)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    return process


def resume(run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "resume", str(run)], capture_output=True, text=True, env=PLAIN, timeout=300)


def ends(run: Path) -> tuple[bytes, bytes]:
    return (run / "last/state.safetensors").read_bytes(), (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, and a run that went through."""
    path = tmp_path_factory.mktemp("runs")
    text_files(path)
    process = start(path, "through")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(folder: Path, number: int, code: int) -> None:
    name = f"signal-{number}"
    process = start(folder, name)
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert f"microtfm resume {folder / name}" in out
    assert "Traceback" not in err
    assert resume(folder / name).returncode == 0
    assert ends(folder / name) == ends(folder / "through")


def test_pulling_the_plug_loses_nothing_that_was_saved(folder: Path) -> None:
    moments, run = random.Random(1), folder / "killed"
    process = start(folder, "killed")
    for _ in range(3):
        time.sleep(moments.random() * 0.5)
        process.kill()
        process.communicate(timeout=300)
        process = subprocess.Popen([*COMMAND, "resume", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=PLAIN)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert ends(run) == ends(folder / "through")
    steps = [line["step"] for line in metrics.read(run / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 41))
    assert not list(run.rglob(".*.tmp"))
