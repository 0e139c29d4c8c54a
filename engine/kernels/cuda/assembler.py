"""Machine code of PTX by ptxas, NVIDIA's assembler: what was looked at without a card is then what runs on one.

A driver assembles PTX as well, each driver in its own way, and does so where there is no ptxas, or one that cannot.
"""

import re
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

_given_up: list[str] = []


@cache
def ptxas() -> str | None:
    """Where the assembler is: in a CUDA package, in CUDA_HOME, or on the path."""
    try:
        from cuda.pathfinder import SUPPORTED_BINARY_UTILITIES, find_nvidia_binary_utility
    except ImportError:  # no CUDA packages, or older ones
        return shutil.which("ptxas")
    found = find_nvidia_binary_utility("ptxas") if "ptxas" in SUPPORTED_BINARY_UTILITIES else None
    return found or shutil.which("ptxas")


@cache
def version() -> str | None:
    """Of ptxas, as "13.0.88"; None where there is none that runs."""
    program = ptxas()
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\bV(\d+(\.\d+)+)", said)
    return found[1] if found else None


def usable() -> bool:
    """Whether there is one that has assembled all so far."""
    return version() is not None and not _given_up


def give_up(why: str) -> None:
    """Leave all that follows to the driver. Warns, once."""
    if not _given_up:
        warnings.warn(f"ptxas {version()} ({ptxas()}): {why}. The driver assembles the kernels instead.",
                      RuntimeWarning, stacklevel=2)  # fmt: skip
    _given_up.append(why)


def assembled(text: str, capability: tuple[int, int]) -> bytes | None:
    """The machine code of a PTX text for a card of this compute capability; None, with a warning, where ptxas refuses
    it or cannot be run."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
            source.write_text(text, encoding="utf-8")
            command = [str(ptxas()), f"-arch=sm_{capability[0]}{capability[1]}", str(source), "-o", str(target)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode == 0:
                return target.read_bytes()
    except OSError as e:  # no room for temporary files, or a program that is gone
        give_up(f"it cannot be run ({e})")
        return None
    said = (run.stderr or run.stdout).strip().replace(str(source), "the PTX")
    give_up(f"it does not assemble what Numba compiled: {said.splitlines()[0] if said else f'exit {run.returncode}'}")
    return None
