"""What a run survives: full disks, folders that are read-only or taken, too little memory, numbers that are none."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import Heard, folder_bytes
from tiny import corpus, settings, text_files

from engine.kernels.cpu import jit_disabled
from microtfm import checkpoint, lock, train
from microtfm.errors import UserError
from microtfm.learner import Learner
from microtfm.train import resume
from microtfm.translator import Translator

resource = pytest.importorskip("resource")
PLAIN = {**os.environ, "NUMBA_DISABLE_JIT": "1"}


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files can grow to `size` bytes, then the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(path: Path) -> set[str]:
    return {each.relative_to(path).as_posix() for each in path.rglob("*")}


# ---- the disk

def test_a_full_disk_while_saving_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    train.train(settings(tmp_path / "through"), corpus=corpus())
    path = tmp_path / "x"
    train.train(settings(path), Heard(6, lambda: os.kill(os.getpid(), signal.SIGTERM)), corpus())
    before = folder_bytes(path)
    with small_disk(20_000), pytest.raises(UserError, match=r"state\.safetensors could not be written.*unharmed.*Make "
                                                            r"room.*microtfm resume"):
        resume(path)
    assert folder_bytes(path) == before
    assert not [name for name in names(path) if name.endswith(".tmp")]
    resume(path)
    assert folder_bytes(path) == folder_bytes(tmp_path / "through")


def test_a_full_disk_from_the_start_leaves_nothing_or_the_old_run(tmp_path: Path) -> None:
    with small_disk(20_000), pytest.raises(UserError, match="could not be written"):
        train.train(settings(tmp_path / "new"), corpus=corpus())
    assert not (tmp_path / "new").exists()
    train.train(settings(tmp_path / "old", steps=2), corpus=corpus())
    before = names(tmp_path / "old")
    with small_disk(20_000), pytest.raises(UserError, match="could not be written"):
        train.train(replace(settings(tmp_path / "old"), force=True), corpus=corpus())
    assert names(tmp_path / "old") == before
    assert resume(tmp_path / "old").step == 2


def test_a_full_disk_for_metrics_is_said(tmp_path: Path) -> None:
    train.train(settings(tmp_path / "x", steps=2), corpus=corpus())
    with open(tmp_path / "x/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 1, "note": "' + "x" * 40_000 + '"}\n')
    state = (tmp_path / "x/last/state.safetensors").read_bytes()
    with small_disk(40_000), pytest.raises(UserError, match=r"metrics\.jsonl could not be written"):
        resume(tmp_path / "x", changes={"steps": 8})
    assert (tmp_path / "x/last/state.safetensors").read_bytes() == state


# As root, who may write everywhere, but for the two capabilities that let root do so.
AS_A_USER = """
import ctypes, os, sys
for capability in (1, 2):                # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def as_a_user(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python as somebody who may not write to folders that are read-only."""
    return subprocess.run([sys.executable, "-c", AS_A_USER, *words], capture_output=True, text=True,
                          env=PLAIN | environment)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux capabilities")
def test_a_read_only_run_is_used_and_not_resumed(tmp_path: Path) -> None:
    text_files(tmp_path)
    train.train(settings(tmp_path / "run", steps=2), corpus=corpus())
    before = folder_bytes(tmp_path / "run")
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert as_a_user("-m", "microtfm.cli", "translate", str(tmp_path / "run"), "一二").returncode == 0
        for words in (("resume", str(tmp_path / "run"), "--train.steps", "4"),
                      ("train", "--src", str(tmp_path / "all.zh"), "--tgt", str(tmp_path / "all.en"), "--out",
                       str(tmp_path / "new"))):
            found = as_a_user("-m", "microtfm.cli", *words)
            assert (found.returncode, found.stderr.count("\n")) == (2, 1), found.stderr
            assert "Permission denied" in found.stderr and str(tmp_path) in found.stderr
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)
    assert folder_bytes(tmp_path / "run") == before


# ---- two in one folder

def test_a_folder_is_trained_in_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    said: list[str] = []

    def intrude() -> None:
        for act in (lambda: resume(path), lambda: train.train(replace(settings(path), force=True), corpus=corpus())):
            with pytest.raises(UserError, match="is in use") as error:
                act()
            said.append(str(error.value))
        Translator.load(path)

    train.train(settings(path, steps=8), Heard(6, intrude), corpus())
    assert len(said) == 2 and str(path) in said[0]
    assert resume(path).step == 8


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    code = ("import sys, time; from pathlib import Path; from microtfm.lock import locked\n"
            "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="is in use"), lock.locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with lock.locked(tmp_path), pytest.raises(UserError), lock.locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "x"
    train.train(settings(path, steps=2), corpus=corpus())
    clean = names(path)
    (path / ".new.999999999.tmp" / "last").mkdir(parents=True)
    (path / ".new.999999999.tmp" / "last" / "state.safetensors").write_bytes(b"half")
    for name in (".model.safetensors.999999999.tmp", "last/.state.safetensors.999999999.tmp", ".x.png.999999.tmp"):
        (path / name).write_bytes(b"half")
    (path / ".mine").write_text("kept", encoding="utf-8")
    resume(path)
    assert names(path) == clean | {".mine"}


# ---- signals

def test_a_signal_in_the_first_step_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes long, and what is known is on the disk."""
    right = Learner.__call__

    def compiling(self: Any, *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)                    # the handler runs
        raise AssertionError("went on")

    path = tmp_path / "x"
    monkeypatch.setattr(Learner, "__call__", compiling)
    found = train.train(settings(path), corpus=corpus())
    assert (found.reason, found.signal, found.step) == ("stopped", signal.SIGINT, 0)
    monkeypatch.setattr(Learner, "__call__", right)
    resume(path)
    train.train(settings(tmp_path / "through"), corpus=corpus())
    assert folder_bytes(path) == folder_bytes(tmp_path / "through")


# ---- numbers and memory

def at_step_six(act: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to a training when it has reached step 6; it saved at step 4."""
    right = train._Training.run_all

    def watched(self: Any, stopping: Any) -> Any:
        self.events = Heard(6, lambda: act(self))
        return right(self, stopping)

    monkeypatch.setattr(train._Training, "run_all", watched)


MADE = ("matmul", "/linears/linear") if jit_disabled() else ("linears", "")  # without kernels: the definition's op


@pytest.mark.parametrize(("accumulate", "value", "says"), [
    (1, np.nan, "in the parameter encoder.layers.0.self_attention.key.weight"),
    (1, 1e38, f"made by {MADE[0]} (forward) in transformer/encoder/layers.0/self_attention{MADE[1]}"),
    (2, 1e38, f"(batch 1 of 2) are made by {MADE[0]}"),
])
def test_a_breakdown_names_step_op_module_and_the_last_good_checkpoint(
        accumulate: int, value: float, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(training: Any) -> None:
        dict(training.model.named_parameters())["encoder.layers.0.self_attention.key.weight"][...] = value

    at_step_six(spoil, monkeypatch)
    with pytest.raises(UserError) as error:
        train.train(settings(tmp_path / "x", accumulate=accumulate), corpus=corpus())
    assert says in str(error.value)
    assert "broke down at step 7" in str(error.value) and "The checkpoint of step 5" in str(error.value)
    monkeypatch.undo()
    monkeypatch.setattr(train.curves, "draw", lambda metrics, picture: False)
    resume(tmp_path / "x")
    train.train(settings(tmp_path / "through", accumulate=accumulate), corpus=corpus())
    assert folder_bytes(tmp_path / "x") == folder_bytes(tmp_path / "through")


def test_a_state_that_is_not_finite_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(training: Any) -> None:
        dict(training.model.named_parameters())["encoder.layers.0.self_attention.key.weight"][...] = np.inf
        os.kill(os.getpid(), signal.SIGTERM)

    at_step_six(spoil, monkeypatch)
    with pytest.raises(UserError, match=r"step 6: model\.encoder.*not finite.*checkpoint of step 5"):
        train.train(settings(tmp_path / "x"), corpus=corpus())


@pytest.mark.parametrize("value", [np.inf, 3e38])
def test_a_model_that_is_not_finite_is_not_kept_as_the_best(value: float, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not finite, or that make a loss that is not, in the first validation."""
    def spoil(training: Any) -> None:
        dict(training.model.named_parameters())["encoder.layers.0.self_attention.key.weight"][...] = value

    at_step_six(spoil, monkeypatch)
    with pytest.raises(UserError, match=r"down at step 6: (model\.encoder|the loss on the validation text is nan)"):
        train.train(settings(tmp_path / "x", validate_every=6, average=0), corpus=corpus())
    assert not (tmp_path / "x/model.safetensors").exists()


def test_too_little_memory_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*given: Any) -> Any:
        raise MemoryError

    at_step_six(lambda training: monkeypatch.setattr(Learner, "__call__", no_memory), monkeypatch)
    with pytest.raises(UserError, match=r"not enough memory for step 7: a batch of \d+ sentences of \d+ and \d+ "
                                        r"tokens.* step 5 .*--train\.batch-tokens 30 --train\.accumulate 2"):
        train.train(settings(tmp_path / "x"), corpus=corpus())
    monkeypatch.undo()
    assert resume(tmp_path / "x").step == 12


def test_memory_that_really_runs_out(tmp_path: Path) -> None:
    """With a limit on the address space, as `ulimit -v` sets it."""
    source, target = text_files(tmp_path)
    code = ("import resource, sys; from microtfm.cli import main\n"
            "import numpy, engine, sacrebleu, sentencepiece, microtfm.train\n"
            "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (now + 500_000_000, resource.RLIM_INFINITY))\n"
            "sys.exit(main(sys.argv[1:]))")
    found = subprocess.run(
        [sys.executable, "-c", code, "train", "--src", str(source), "--tgt", str(target), "--out",
         str(tmp_path / "run"), "--model.ffn", "200000", "--train.batch-tokens", "4096",
         "--tokens.size", "300", "--train.steps", "2"],
        capture_output=True, text=True, env={**PLAIN, "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})
    assert found.returncode == 2, found.stderr
    assert "not enough memory" in found.stderr and "--train.batch-tokens" in found.stderr
    assert "Traceback" not in found.stderr


# ---- the best model and the state

@pytest.mark.parametrize("place", ["keep", "save", "_write_model"])
def test_the_best_model_is_never_of_steps_that_were_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         place: str) -> None:
    def state_and_model(path: Path) -> list[int]:
        files = [(path / "last" / "state.safetensors"), (path / "model.safetensors")]
        state, model = (checkpoint.load(file).facts for file in files)
        return [state["progress"]["step"], state["progress"]["best"].get("step"), model["step"]]

    chosen = {"steps": 9, "validate_every": 2, "save_every": 100}
    train.train(settings(tmp_path / "through", **chosen), corpus=corpus())
    home: Any = train.kept if place == "keep" else train._Training
    right, calls = getattr(home, place), []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise RuntimeError("killed")
        return right(*given)

    monkeypatch.setattr(home, place, killed)
    with pytest.raises(RuntimeError):
        train.train(settings(tmp_path / "x", **chosen), corpus=corpus())
    monkeypatch.setattr(home, place, right)
    step, best, model = state_and_model(tmp_path / "x")
    assert model <= step and best == step
    resume(tmp_path / "x", changes={"steps": step})
    assert state_and_model(tmp_path / "x")[2] == best
    resume(tmp_path / "x", changes={"steps": 9})
    assert folder_bytes(tmp_path / "x") == folder_bytes(tmp_path / "through")
