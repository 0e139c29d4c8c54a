"""Training that is killed with SIGKILL at any instant loses nothing but the steps since the last save.

    python tests/trial_kills.py 200            # exit code 1 if a kill lost anything

A forked child trains, saving after every step, and tells the parent each save that is done. The parent kills it after a
random time, most often in the middle of a save, checks that the folder is whole and no older than was told, and forks
the next one. In the end the run must be, byte for byte, the one that was never killed, with nothing left over.
"""
from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import corpus, settings

from microtfm import checkpoint, state, train
from microtfm.events import Events
from microtfm.settings import ModelSettings


class Telling(Events):
    """Writes the step of every save to a pipe."""

    def __init__(self, pipe: int) -> None:
        right = state.save

        def save(path: Path, model: Any, optimiser: Any, progress: state.Progress, identity: Any) -> None:
            right(path, model, optimiser, progress, identity)
            os.write(pipe, f"{progress.step}\n".encode())

        state.save = save                # type: ignore[assignment]


def chosen(path: Path, steps: int) -> train.Settings:
    """A model of some 150,000 numbers, so that a save takes its time."""
    found = settings(path, steps=steps, save_every=1, validate_every=40, validate_sentences=2, average=50, keep=2)
    return replace(found, model=ModelSettings(d_model=64, heads=2, layers=1, ffn=256, dropout=0.1, tie="output"))


def killed(path: Path, steps: int, after: float) -> tuple[int, bool]:
    """Train in a child for so many seconds, then kill it -> the last step that it said was saved, whether it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        heard = Telling(write)
        if (path / "config.toml").exists():
            train.resume(path, heard)
        else:
            train.train(chosen(path, steps), heard, corpus())
        os._exit(0)
    os.close(write)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    told = b""
    while more := os.read(read, 65536):
        told += more
    os.close(read)
    steps = told.split(b"\n")[:-1]
    return int(steps[-1]) if steps else -1, not os.WIFSIGNALED(status)


def content(path: Path) -> dict[str, bytes]:
    """What must be equal in the end."""
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in sorted(path.rglob("*"))
            if each.suffix in (".safetensors", ".json")}


def main(kills: int = 200, steps: int = 400) -> int:
    """Kill a training of so many steps so many times. Returns how many things went wrong."""
    train.curves.draw = lambda metrics, picture: False           # type: ignore[assignment]
    wrong, done, torn, moments = [], 0, 0, random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        through, path = Path(name) / "through", Path(name) / "killed"
        train.train(chosen(through, steps), corpus=corpus())
        saved = -1
        while done < kills:
            told, ended = killed(path, steps, 0.02 + moments.random() * 0.25)
            if ended:                    # it came to its end: begin again
                if content(path) != content(through):
                    wrong.append(f"kill {done}: the run that ended is not the one that went through")
                shutil.rmtree(path)
                saved = -1
                continue
            done += 1
            torn += any(path.rglob(".*.tmp"))
            saved = max(saved, told)
            if saved < 0:
                continue
            try:
                found = checkpoint.load(path / "last" / "state.safetensors").facts["progress"]["step"]
                if found < saved:
                    wrong.append(f"kill {done}: step {found} on the disk, and {saved} was saved")
                if (path / "model.safetensors").exists():
                    checkpoint.load(path / "model.safetensors")
            except Exception as error:
                wrong.append(f"kill {done}: {error}")
        train.resume(path)
        if content(path) != content(through):
            wrong.append("the run in the end is not the one that went through")
        wrong += [f"left over: {each}" for each in path.rglob(".*")]
    print(f"{done} kills, {torn} of them in the middle of a write: {len(wrong)} went wrong")
    print("\n".join(wrong[:20]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(*map(int, sys.argv[1:])), 1))
