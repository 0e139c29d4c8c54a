"""Damaged, truncated, swapped and hostile files of a run folder: each gives a clear error or the exact numbers.

    python tests/trial_mutations.py 10000      # prints what became of them; exit code 1 if anything was wrong

Every mutation is a function of its number alone. Loading happens in forked children with a time limit and a memory
limit, so that a crash, a hang and a huge allocation are seen for what they are.
"""
from __future__ import annotations

import collections
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny import corpus, settings

import engine
from microtfm import checkpoint, optim, state, tokens, train
from microtfm.errors import UserError
from microtfm.run_folder import RunFolder, new_model
from microtfm.settings import TokenSettings

SECONDS, MEBIBYTES = 20, 400             # of one load at most; the memory is above what the process has already
BATCH = 100                              # mutations a child
Mutation = tuple[str, str, Callable[[Path], None]]       # what, which file, how


class Runs:
    """Two runs of one shape, `a` and `b`, for each kind of tokenizer, and what is in the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.truth, self.digest = folder, {}, {}
        train.curves.draw = lambda metrics, picture: False       # type: ignore[assignment]
        for kind in ("word", "subword"):
            for name, seed in (("a", 1), ("b", 2)):
                chosen = settings(folder / kind / name, steps=3)
                if kind == "subword":
                    chosen = replace(chosen, tokens=TokenSettings(kind="subword", size=290))
                train.train(replace(chosen, seed=seed), corpus=corpus())
            saved = checkpoint.load(folder / kind / "a" / "last" / "state.safetensors")
            self.digest[kind] = saved.facts["data"]
            self.truth[kind] = self.load(kind, folder / kind / "a")
        self.files = {kind: [path.relative_to(folder / kind / "a").as_posix()
                             for path in sorted((folder / kind / "a").rglob("*"))
                             if path.name.startswith(("config", "tokenizer", "model", "state"))] for kind in self.truth}

    def load(self, kind: str, run: Path) -> list[Any]:
        """All that a run folder holds, bit for bit, but for averages of the weights: a setting lets go of them."""
        folder = RunFolder.open(run)
        source, target = folder.tokenizers()
        model = folder.load_model()
        saved = state.read(folder.state, {**folder.identity(source, target), "data": self.digest[kind]})
        last = new_model(folder.settings.model, source, target)
        optimiser = optim.chosen(last.named_parameters(), folder.settings.train)
        progress = state.restore(saved, folder.state, last, optimiser)
        arrays = [part.state_dict() for part in (model, last, optimiser)]
        return [*({name: (a.dtype.str, a.shape, a.tobytes()) for name, a in part.items()
                   if not name.startswith("average.")} for part in arrays),
                progress, engine.random.get_state(), source.to_bytes(), target.to_bytes()]


def mutation(number: int, runs: Runs) -> tuple[str, Mutation]:
    """The kind of tokenizer, and the mutation of this number."""
    rng = random.Random(number)
    kind = rng.choice(list(runs.truth))
    name = rng.choice(runs.files[kind])
    how = rng.choice([bits, some_bytes, cut, more, block, deleted, inserted, whole_number, digit, swapped, within, odd,
                      resealed, text])
    return kind, (how.__name__, name, lambda run: how(run / name, rng, runs.folder / kind))


def _edit(path: Path, rng: random.Random, act: Callable[[bytearray, int], Any]) -> None:
    data = bytearray(path.read_bytes())
    act(data, rng.randrange(min(len(data), 2000) if rng.random() < 0.5 else len(data)))  # headers come first
    path.write_bytes(data)


def bits(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        data[at] ^= 1 << rng.randrange(8)
    _edit(path, rng, act)


def some_bytes(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        for _ in range(rng.randrange(1, 9)):
            data[min(at + rng.randrange(64), len(data) - 1)] = rng.randrange(256)
    _edit(path, rng, act)


def cut(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        del data[at:]
    _edit(path, rng, act)


def more(path: Path, rng: random.Random, runs: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def block(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        end = min(at + rng.choice([8, 64, 512, 4096]), len(data))
        data[at:end] = bytes(end - at)
    _edit(path, rng, act)


def deleted(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        del data[at:at + rng.randrange(1, 20)]
    _edit(path, rng, act)


def inserted(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        data[at:at] = rng.randbytes(rng.randrange(1, 20))
    _edit(path, rng, act)


def whole_number(path: Path, rng: random.Random, runs: Path) -> None:
    """Eight bytes become a number that is too large, or −1: header lengths of 2^60 and the like."""
    def act(data: bytearray, at: int) -> None:
        at = 0 if rng.random() < 0.3 else at // 8 * 8
        data[at:at + 8] = rng.choice([2**60, 2**63, 2**64 - 1, 2**31, 10**8, 0]).to_bytes(8, "little")
    _edit(path, rng, act)


def digit(path: Path, rng: random.Random, runs: Path) -> None:
    def act(data: bytearray, at: int) -> None:
        places = [i for i in range(min(len(data), 8000)) if 48 <= data[i] <= 57]
        if places:
            data[rng.choice(places)] = rng.choice(b"0123456789-.eE")
    _edit(path, rng, act)


def swapped(path: Path, rng: random.Random, runs: Path) -> None:
    """The other run's file."""
    shutil.copy(runs / "b" / path.relative_to(path.parents[1 if path.parent.name == "last" else 0]), path)


def within(path: Path, rng: random.Random, runs: Path) -> None:
    """Another file of the same run; but weights kept from an earlier step are weights of the run."""
    run = path.parents[1] if path.parent.name == "last" else path.parent
    others = [each for each in run.rglob("*") if each.is_file() and each != path and each.parent.name != "checkpoints"]
    path.write_bytes(rng.choice(sorted(others)).read_bytes())


def odd(path: Path, rng: random.Random, runs: Path) -> None:
    """No plain file at all."""
    path.unlink()
    rng.choice([lambda: None, path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path),
                lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("/dev/null"),
                lambda: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 2**40)])()


def text(path: Path, rng: random.Random, runs: Path) -> None:
    """Hostile text in the place of a file."""
    deep = rng.choice([b"[" * 50_000, b'{"a":' * 50_000, b"a = " + b"[" * 9000, b"a" + b".a" * 4000 + b" = 1"])
    path.write_bytes(rng.choice([deep, b"", b"\0" * 100, b"\x80\x04\x95" + bytes(50), b"PK\x03\x04" + bytes(50),
                                 b"9" * 15_000, b'format_version = 2\nrun = "x"\n[model]\nclass = "os.system"\n',
                                 b"__import__('os').abort()", b"format_version = 1\n" * 2]))


def resealed(path: Path, rng: random.Random, runs: Path) -> None:
    """Damage below a digest that is made right again: wrong names, shapes, types, pieces; a settings key changed."""
    if path.suffix == ".safetensors":
        found = checkpoint.load(path)
        arrays, name = dict(found.arrays), rng.choice(sorted(found.arrays))
        kind = rng.randrange(5)
        if kind == 0:
            arrays[name + "."] = arrays.pop(name)
        elif kind == 1:
            arrays[name] = arrays[name].reshape(-1)[:-1]
        elif kind == 2:
            arrays[name] = arrays[name].astype(np.float64)
        elif kind == 3:
            del arrays[name]
        facts = dict(found.facts)
        if kind == 4:
            key = rng.choice(["model", "vocabulary", "run", "kind"])
            facts[key] = rng.choice([None, {}, "x", 3, [facts[key]]])
            if path.name == "model.safetensors" and key == "kind":
                facts["model"] = {}
        checkpoint.save(path, arrays, facts)
    elif path.suffix == ".json":
        record = json.loads(path.read_bytes())
        content = json.loads(rng.choice([str, lambda x: x])(json.dumps(record["content"])))
        if "pieces" in content:
            rng.shuffle(content["pieces"])
        else:
            import base64
            model = bytearray(base64.b64decode(content["model"]))
            model[rng.randrange(len(model))] ^= 1 << rng.randrange(8)
            content["model"] = base64.b64encode(model).decode()
        sealed = tokens._digest(tokens.FORMAT, record["kind"], content)
        path.write_text(json.dumps({**record, "content": content, "sha256": sealed}), encoding="utf-8")
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        i = rng.randrange(len(lines))
        lines[i] = rng.choice(["", lines[i] + "0", lines[i].replace("=", "= -"), f"x{lines[i]}", "[model]", "a.b = 1"])
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def verdict(kind: str, run: Path, runs: Runs) -> str:
    """What became of loading: "exact", "error", or what it should not be."""
    try:
        found = runs.load(kind, run)
    except UserError as error:
        return "error" if "\n" not in str(error) and str(error).strip() else f"NO PARAGRAPH {error!r}"
    except BaseException as error:
        return f"ODD {type(error).__name__}: {str(error)[:200]}"
    return "exact" if found == runs.truth[kind] else "WRONG"


def tried(numbers: range, runs: Runs, folder: Path) -> list[str]:
    """Verdicts of some mutations, one after the other in this process."""
    found = []
    for number in numbers:
        kind, (what, name, act) = mutation(number, runs)
        run = folder / "run"
        shutil.copytree(runs.folder / kind / "a", run)
        act(run)
        signal.alarm(SECONDS)
        said = verdict(kind, run, runs)
        signal.alarm(0)
        found.append(f"{what}\t{name}\t{number}\t{said}")
        shutil.rmtree(run)
    return found


def child(numbers: range, runs: Runs, folder: Path) -> tuple[list[str], int]:
    """The same in a forked child -> verdicts, and its exit status."""
    out = folder / "out"
    pid = os.fork()
    if pid == 0:
        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEBIBYTES * 2**20, resource.RLIM_INFINITY))
        with open(out, "w", encoding="utf-8") as file:
            for number in numbers:
                file.write("\n".join(tried(range(number, number + 1), runs, folder)) + "\n")
                file.flush()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return out.read_text(encoding="utf-8").splitlines(), status


def main(count: int, start: int = 0) -> int:
    """Try mutations and print a table. Returns how many went wrong."""
    began, table, wrong = time.monotonic(), collections.Counter[tuple[str, str]](), []
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name) / "runs")
        for first in range(start, start + count, BATCH):
            numbers = range(first, min(first + BATCH, start + count))
            place = Path(name) / f"trial-{first}"
            place.mkdir()
            lines, status = child(numbers, runs, place)
            shutil.rmtree(place, ignore_errors=True)
            if status:
                wrong.append(f"a process died with status {status} at mutation {first + len(lines)}")
            for line in lines:
                what, file, number, said = line.split("\t")
                table[what, said if said in ("exact", "error") else "wrong"] += 1
                if said not in ("exact", "error"):
                    wrong.append(f"mutation {number} ({what} of {file}): {said}")
    print(f"{'mutation':14} {'error':>7} {'exact':>7} {'wrong':>7}")
    for what in sorted({what for what, _ in table}):
        print(f"{what:14} " + " ".join(f"{table[what, said]:7,}" for said in ("error", "exact", "wrong")))
    totals = [sum(n for (_, said), n in table.items() if said == wanted) for wanted in ("error", "exact", "wrong")]
    print(f"{'all':14} " + " ".join(f"{n:7,}" for n in totals) + f"   in {time.monotonic() - began:.0f} s")
    print("\n".join(wrong[:40]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(*map(int, sys.argv[1:])), 1))
