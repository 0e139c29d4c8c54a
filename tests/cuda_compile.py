"""Compile every CUDA kernel without a card, and say what became of it: registers, spills, shared memory, instructions.

    python -m tests.cuda_compile                # writes tests/bench/results/cuda_kernels.md
    python -m tests.cuda_compile --json FILE    # for tests: the same as JSON

It needs numba-cuda with its compiler and the tools ptxas and nvdisasm: pip install "microtfm[cuda13]"
nvidia-cuda-nvdisasm. NVVM makes PTX for compute capability 8.0 and 9.0, and ptxas machine code of it, as for a card.
"""
from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from engine.kernels.cuda import assembler

ARCHITECTURES = ("sm_80", "sm_90")
PACKAGES = ("numba", "numba-cuda", "llvmlite", "numpy", "nvidia-nvvm")
INSTALL = 'pip install "microtfm[cuda13]" nvidia-cuda-nvdisasm'
RESULTS = Path(__file__).parent / "bench" / "results" / "cuda_kernels.md"


def nvdisasm() -> str | None:
    """Where the disassembler is: on the path, or in a package."""
    import site
    folders = [Path(p) / "nvidia" for p in (*site.getsitepackages(), site.getusersitepackages())]
    packaged = (str(path) for folder in folders for path in sorted(folder.glob("*/bin/nvdisasm")))
    return shutil.which("nvdisasm") or next(packaged, None)


def missing() -> str | None:
    """What cannot be had here, and how to get it; None if kernels can be compiled."""
    lacking = [name for name in ("numba_cuda", "numba") if importlib.util.find_spec(name) is None]
    lacking += [name for name, found in (("ptxas", assembler.version()), ("nvdisasm", nvdisasm())) if found is None]
    return f"no {', '.join(lacking)}: {INSTALL}" if lacking else None


def kernels() -> list[Any]:
    """Every kernel that an op has."""
    from engine.kernels import cuda
    for module in sorted(set(cuda.MODULES.values())):
        importlib.import_module(f"engine.kernels.cuda.{module}")
    from engine.kernels.cuda.jit import KERNELS
    return [k for k in KERNELS if str(k.__module__).startswith("engine.")]


def _compiled(index: int) -> list[dict[str, Any]]:
    """One kernel for each architecture, made as it is for a card."""
    from engine.kernels.cuda import provider
    kernel, rows = kernels()[index], []
    wide = any(p.element == "float64" for p in kernel.parameters)
    for architecture in ARCHITECTURES:
        capability = int(architecture[3:-1]), int(architecture[-1])
        text = provider.ptx(kernel, "float32" if kernel.generic else None, capability)
        head = text[text.index(".entry") : text.index("{", text.index(".entry"))]
        rows.append({"parameters": re.findall(r"\.param\s+\.(\w+)", head),
                     "elements": provider.elements(kernel, "float32" if kernel.generic else None),
                     "kernel": kernel.__name__, "module": kernel.__module__.rsplit(".", 1)[-1],
                     "threads": kernel.threads, "float64": ".f64" in text, "takes_float64": wide,
                     "architecture": architecture, **_assembled(text, architecture)})
    return rows


def _assembled(text: str, architecture: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "k.ptx", Path(folder) / "k.cubin"
        source.write_text(text, encoding="utf-8")
        command = [str(assembler.ptxas()), f"-arch={architecture}", "-v", str(source), "-o", str(binary)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"ptxas: {run.stderr[:2000]}")
        listing = subprocess.run([str(nvdisasm()), "-c", str(binary)], capture_output=True, text=True, check=True)
    opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", listing.stdout))
    opcodes.pop("NOP", None)
    return {"registers": _number(r"Used (\d+) registers", run.stderr),
            "stack": _number(r"(\d+) bytes stack", run.stderr),
            "spills": sum(int(n) for n in re.findall(r"(\d+) bytes spill", run.stderr)),
            "shared": _number(r"(\d+) bytes smem", run.stderr), "instructions": sum(opcodes.values()),
            "opcodes": dict(opcodes)}  # fmt: skip


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def compile_all(names: str = "") -> list[dict[str, Any]]:
    """Every kernel whose name matches, for every architecture."""
    wanted = [i for i, kernel in enumerate(kernels()) if re.search(names, kernel.__name__)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(_compiled, wanted) for row in rows]


def _count(row: dict[str, Any], pattern: str) -> int:
    return sum(n for name, n in row["opcodes"].items() if re.fullmatch(pattern, name))


COLUMNS = {"FFMA": r"FFMA.*", "HMMA": r"HMMA.*", "LDS.128": r"LDS.*\.128", "LDG.128": r"LDG.*\.128.*",
           "STG.128": r"STG.*\.128.*", "LDGSTS": r"LDGSTS.*"}


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "# CUDA kernels, compiled without a card"
    yield ""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield f"{date.today()}, {versions}, ptxas {assembler.version()}."
    yield "Written by `python -m tests.cuda_compile`; nothing here was measured on a card."
    yield "Shared memory is static, in bytes; instructions are those in the code, not those that run."
    for architecture in ARCHITECTURES:
        yield f"\n## {architecture}\n"
        heads = ["kernel", "module", "threads", "registers", "spills", "shared", "instructions"]
        yield f"| {' | '.join([*heads, *COLUMNS])} |"
        yield f"|{'---|' * len([*heads, *COLUMNS])}"
        for row in rows:
            if row["architecture"] == architecture:
                counts = [_count(row, pattern) for pattern in COLUMNS.values()]
                yield f"| {' | '.join(map(str, [row[head] for head in heads] + counts))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="write JSON there instead of the table")
    parser.add_argument("--kernels", default="", help="only those whose names match; they are printed, not written")
    given = parser.parse_args()
    try:
        re.compile(given.kernels)
    except re.error as error:
        parser.error(f"--kernels {given.kernels}: {error}")
    if given.json:
        try:
            given.json.touch()
        except OSError as error:
            parser.error(f"--json {given.json}: {error.strerror}")
    os.environ["NUMBA_ENABLE_CUDASIM"] = "0"
    problem = missing()
    if problem:
        sys.exit(f"cuda_compile: {problem}")
    rows = compile_all(given.kernels)
    if given.json:
        given.json.write_text(json.dumps(rows), encoding="utf-8")
        return
    if not rows:
        sys.exit(f"cuda_compile: no kernel's name matches {given.kernels}")
    if given.kernels:
        print("\n".join(_table(rows)))
        return
    RESULTS.write_text("\n".join(_table(rows)) + "\n", encoding="utf-8")
    print(f"{len(rows) // len(ARCHITECTURES)} kernels: {RESULTS}")


if __name__ == "__main__":
    main()
