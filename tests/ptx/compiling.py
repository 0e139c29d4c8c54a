"""The PTX of every kernel of the engine, compiled in a process of its own, where none are simulated.

    python -m tests.ptx.compiling FILE [--capability 8.0]       # writes {"module:name:number": PTX} as JSON
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
INSTALL = 'pip install "microtfm[cuda13]"'


def missing() -> str | None:
    """What cannot be had here, and how to get it; None if kernels can be compiled to PTX."""
    lacking = [name for name in ("numba_cuda", "numba", "llvmlite") if importlib.util.find_spec(name) is None]
    return f"no {', '.join(lacking)}: {INSTALL}" if lacking else None


def texts(capability: str = "9.0") -> dict[tuple[str, str, int], str]:
    """The PTX of every kernel, under its module, name and number. Raises RuntimeError where one does not compile."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.json"
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
        command = [sys.executable, "-m", "tests.ptx.compiling", str(file), "--capability", capability]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"kernels do not compile: {run.stderr[-4000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
    parts = {tuple(key.split(":")): text for key, text in found.items()}
    return {(module, name, int(number)): text for (module, name, number), text in parts.items()}


def _kernels() -> list[Any]:
    from tests.cuda_compile import kernels
    return kernels()


def _compiled(index: int, capability: tuple[int, int]) -> tuple[str, str]:
    from engine.kernels.cuda import provider

    from .running import key
    kernel = _kernels()[index]
    text = provider.cached_ptx(kernel, "float32" if kernel.generic else None, capability)
    return ":".join(map(str, key(kernel))), text


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--capability", default="9.0")
    given = parser.parse_args()
    major, minor = map(int, given.capability.split("."))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = dict(pool.map(partial(_compiled, capability=(major, minor)), range(len(_kernels()))))
    given.file.write_text(json.dumps(made), encoding="utf-8")


if __name__ == "__main__":
    main()
