"""Checkpoints: whole or not there, and never a wrong number."""
from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from microtfm import atomic, checkpoint
from microtfm.errors import UserError

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.asarray(3, np.int64), "empty": np.zeros((0, 4)),
          "strided": np.arange(12, dtype=np.float64).reshape(3, 4).T, "名": np.ones(5, np.float32)}
FACTS = {"step": 5, "text": '"sha256":"' + "0" * 64 + '"', "名": [1.5, None, True]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, ARRAYS, FACTS)
    return path


def test_what_was_saved_is_loaded(saved: Path) -> None:
    found = checkpoint.load(saved)
    assert found.facts == FACTS
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].flags.aligned


def test_it_is_a_safetensors_file_with_its_digest_inside(saved: Path) -> None:
    for name, array in load_file(saved).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    with safe_open(saved, "np") as file:
        digest = file.metadata()["sha256"]
    data = saved.read_bytes()
    zeroed = data.replace(digest.encode(), b"0" * 64, 1)
    assert hashlib.sha256(zeroed).hexdigest() == digest


def test_equal_content_gives_equal_bytes(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "y.safetensors"
    other.parent.mkdir()
    checkpoint.save(other, dict(reversed(ARRAYS.items())), dict(reversed(FACTS.items())))
    assert other.read_bytes() == saved.read_bytes()


@settings(max_examples=200)
@given(st.data())
def test_no_damage_goes_unseen(data: st.DataObject) -> None:
    blob = bytearray(whole())
    kind = data.draw(st.sampled_from(["bit", "byte", "cut", "append", "zero", "delete", "insert"]))
    at = data.draw(st.integers(0, len(blob) - 1))
    if kind == "bit":
        blob[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "byte":
        blob[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del blob[at:]
    elif kind == "append":
        blob += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "zero":
        blob[at:at + 8] = b"\1" * len(blob[at:at + 8])
    elif kind == "delete":
        del blob[at]
    else:
        blob.insert(at, data.draw(st.integers(0, 255)))
    if bytes(blob) == whole():
        return
    with pytest.raises(UserError):
        checkpoint.load(written(bytes(blob)))


def whole() -> bytes:
    if not hasattr(whole, "blob"):
        path = written(b"")
        checkpoint.save(path, ARRAYS, FACTS)
        whole.blob = path.read_bytes()  # type: ignore[attr-defined]
    return bytes(whole.blob)  # type: ignore[attr-defined]


def written(data: bytes) -> Path:
    path = Path(os.environ["PYTEST_CHECKPOINT_FOLDER"]) / "damaged.safetensors"
    path.write_bytes(data)
    return path


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_CHECKPOINT_FOLDER", str(tmp_path_factory.mktemp("damaged")))
        yield


def forged(table: dict[str, Any] | str, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with a right digest and whatever inside."""
    text = table if isinstance(table, str) else json.dumps(table, separators=(",", ":"))
    raw = text.encode()
    head = (len(raw) if length is None else length).to_bytes(8, "little", signed=False) + raw
    digest = hashlib.sha256(head + data).hexdigest()
    return head.replace(b"0" * 64, digest.encode(), 1) + data


def meta(**changes: Any) -> dict[str, Any]:
    return {"format": "microtfm", "format_version": "1", "facts": "{}", "sha256": "0" * 64} | changes


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_forged_file_is_read_when_it_is_right() -> None:
    found = checkpoint.load(written(forged({"__metadata__": meta(), "x": entry()}, bytes(8))))
    np.testing.assert_array_equal(found.arrays["x"], [0, 0])


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "short": b"abc",
    "pickle": b"\x80\x04\x95" + bytes(40),
    "zip": b"PK\x03\x04" + bytes(60),
    "huge header": (2**63).to_bytes(8, "little") + b"{" + bytes(20),
    "header past the end": (10**6).to_bytes(8, "little") + b"{}" + bytes(20),
    "not JSON": forged("{" + "x" * 30),
    "deep JSON": forged('{"a":' + "[" * 100_000),
    "long number": forged('{"a":' + "9" * 10_000 + "}"),
    "a list": forged("[1,2,3,4,5,6,7,8]"),
    "no metadata": forged({"x": entry()}, bytes(8)),
    "metadata is a list": forged({"__metadata__": []}),
    "no digest": forged({"__metadata__": {"format": "microtfm", "format_version": "1", "facts": "{}"}}),
    "two digests": forged({"__metadata__": meta(), "x": {"sha256": "1" * 64}}),
    "newer": forged({"__metadata__": meta(format_version="2")}),
    "no facts": forged({"__metadata__": {k: v for k, v in meta().items() if k != "facts"}}),
    "facts are a number": forged({"__metadata__": meta(facts="3")}),
    "facts are no JSON": forged({"__metadata__": meta(facts="{")}),
    "facts are no text": forged({"__metadata__": meta(facts=[1])}),
    "duplicate name": forged('{"__metadata__":' + json.dumps(meta(), separators=(",", ":")) + ',"x":1,"x":2}'),
    "gap": forged({"__metadata__": meta(), "x": entry(offsets=(4, 12))}, bytes(12)),
    "overlap": forged({"__metadata__": meta(), "x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
    "past the end": forged({"__metadata__": meta(), "x": entry()}, bytes(4)),
    "bytes of no array": forged({"__metadata__": meta(), "x": entry()}, bytes(16)),
    "size overflow": forged({"__metadata__": meta(), "x": entry(shape=(2**32, 2**32), offsets=(0, 0))}),
    "negative shape": forged({"__metadata__": meta(), "x": entry(shape=(-2, -1))}, bytes(8)),
    "fractional shape": forged({"__metadata__": meta(), "x": entry(shape=(2.0,))}, bytes(8)),
    "shape is text": forged({"__metadata__": meta(), "x": entry(shape="2")}, bytes(8)),
    "shape is true": forged({"__metadata__": meta(), "x": entry(shape=(True, 2))}, bytes(8)),
    "offsets are text": forged({"__metadata__": meta(), "x": entry(offsets="08")}, bytes(8)),
    "endless offset": forged({"__metadata__": meta(), "x": entry(offsets=(0, float("inf")))}, bytes(8)),
    "three offsets": forged({"__metadata__": meta(), "x": entry(offsets=(0, 4, 8))}, bytes(8)),
    "unknown dtype": forged({"__metadata__": meta(), "x": entry(dtype="object")}, bytes(8)),
    "dtype is a list": forged({"__metadata__": meta(), "x": entry(dtype=["F32"])}, bytes(8)),
    "entry is a number": forged({"__metadata__": meta(), "x": 3}, bytes(8)),
    "no shape": forged({"__metadata__": meta(), "x": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        checkpoint.load(written(HOSTILE[name]))
    assert "\n" not in str(error.value)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of microtfm"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(UserError, match="not a file"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(("arrays", "said"), [
    ({"w": np.zeros((2, 3), np.float32)}, "b is missing"),
    ({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32), "c": np.zeros(1)}, "c is unknown"),
    ({"w": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.float32)}, "instead of float32 (2, 3)"),
    ({"w": np.zeros((2, 3)), "b": np.zeros(3, np.float32)}, "w is float64"),
])
def test_arrays_that_do_not_fit(arrays: dict[str, np.ndarray], said: str) -> None:
    wanted = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(UserError) as error:
        checkpoint.fit(arrays, wanted, Path("m"))
    assert said in str(error.value)


def test_what_a_dead_process_left_is_swept_and_a_living_one_is_not(saved: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True,
                          check=True)
    stale = saved.with_name(f".{saved.name}.{dead.stdout.strip()}.tmp")
    living = saved.with_name(f".{saved.name}.{os.getppid()}.tmp")
    other = saved.with_name(".other.1.tmp")
    for path in (stale, living, other):
        path.write_bytes(b"half")
    checkpoint.save(saved, ARRAYS, FACTS)
    assert not stale.exists()
    assert living.exists()
    assert other.exists()


def test_a_full_disk_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(saved, {"a": np.zeros(9)}, {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        atomic.write(tmp_path / "no" / "x", [b"1"])


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_at_any_moment_the_old_or_the_new_state_is_whole(tmp_path: Path) -> None:
    code = ("import sys, numpy as np; from pathlib import Path; from microtfm import checkpoint\n"
            "path, n = Path(sys.argv[1]), 0\n"
            "while True:\n"
            "    n += 1\n"
            "    checkpoint.save(path, {'x': np.full(200_000, float(n))}, {'n': n})\n"
            "    print(n, flush=True)\n")
    path, moments = tmp_path / "x.safetensors", random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = checkpoint.load(path)
        np.testing.assert_array_equal(found.arrays["x"], float(found.facts["n"]))
    checkpoint.save(path, ARRAYS, FACTS)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
