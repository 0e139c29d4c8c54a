"""What the commands do, in Python: every line that the package's documentation shows, with paths as texts."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import SMALL_RECIPE, text_files

import microtfm


def test_what_the_documentation_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = text_files(tmp_path)
    for name in ("my", "test"):
        Path(f"{name}.zh").write_bytes(source.read_bytes())
        Path(f"{name}.en").write_bytes(target.read_bytes())
    assert microtfm.__doc__ is not None
    shown = "\n".join(re.findall(r"^    (.*)$", microtfm.__doc__.split("too, in a program")[1], re.M))
    code = shown.replace('train={"minutes": 20}', SMALL_RECIPE).replace('{"minutes": 40}', '{"steps": 6}')
    assert code.count("steps") == 2
    names: dict[str, object] = {}
    exec(code, names)
    assert Path("runs/mean/model.safetensors").exists() and Path("mine.safetensors").exists()
    assert [line.partition("(")[0] for line in shown.splitlines() if "# microtfm " in line] == [
        "check", "examine", "probe", "average", "export", "inspect"]
