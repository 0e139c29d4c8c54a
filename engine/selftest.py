"""Is everything there that the engine uses, and does it compute right? A list of findings, each with a way out."""
from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from engine import device
from engine.core import Tensor
from engine.errors import EngineError
from engine.kernels import cpu
from engine.record import OPS


class Finding(NamedTuple):
    """One thing that was looked at: whether it is in order (None: not there, and not needed), and what to do if not."""
    name: str
    ok: bool | None
    found: str
    fix: str = ""


def health() -> list[Finding]:
    """What the engine needs and can use here, and a short test of kernels on each device. Takes a few seconds.

    Nothing is raised: what does not work is a finding.
    """
    return [_safely(name, look) for name, look in _LOOKS.items()] + _cuda()


def _safely(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as e:
        return Finding(name, False, f"{type(e).__name__}: {e}", "python -m pip install --force-reinstall microtfm")


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    return Finding("Python", fine, platform.python_version(), "" if fine else "install Python 3.11 or newer")


def _numpy() -> Finding:
    return Finding("NumPy", True, np.__version__)


def _numba() -> Finding:
    if cpu.jit_disabled():
        return Finding("Numba", False, "switched off by NUMBA_DISABLE_JIT: ops run by their meanings, slowly",
                       "unset NUMBA_DISABLE_JIT")
    return Finding("Numba", True, f"{metadata.version('numba')}, llvmlite {metadata.version('llvmlite')}")


def _threads() -> Finding:
    from engine.kernels.cpu.jit import MOST_THREADS, get_threads
    return Finding("threads", True, f"{get_threads()} of {MOST_THREADS}, in the engine's own team")


def _simd() -> Finding:
    from llvmlite import binding
    has = {name for name, there in binding.get_host_cpu_features().items() if there}
    bits = 512 if "avx512f" in has else 256 if "avx2" in has else 128
    return Finding("SIMD", True, f"{bits} bits, {bits // 32} float32 at once ({binding.get_host_cpu_name()})")


def _kernels() -> Finding:
    return _computes("cpu")


_LOOKS = {"Python": _python, "NumPy": _numpy, "Numba": _numba, "threads": _threads, "SIMD": _simd,
          "kernels on cpu": _kernels}


def _cuda() -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(_card())
    except Exception as e:
        found.append(Finding("CUDA", False, f"{type(e).__name__}: {e}", "microtfm runs on the processor: --device cpu"))
    return found


def _card() -> Iterator[Finding]:
    """The providers, the driver, the card, and kernels on it, as far as they are there."""
    from engine.kernels.cuda import card
    if card.simulated():
        yield Finding("CUDA provider", None, "simulated on the processor (NUMBA_ENABLE_CUDASIM)",
                      "unset NUMBA_ENABLE_CUDASIM to use a card")
    else:
        found = {name: _version(name) for name in ("numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "cupy")}
        there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
        there += f", {_assembler()}" if there else ""
        whole = bool(found["numba-cuda"] and len([v for v in found.values() if v]) > 1)
        yield Finding("CUDA provider", whole or None, there or "not installed: the processor computes",
                      "" if whole else 'for an NVIDIA card: pip install "microtfm[cuda13]" or "microtfm[cuda12]"')
        if not whole:
            return
    problem = card.problem()
    if problem is not None:
        yield unusable(problem)
        return
    yield from card_findings(card)
    yield _safely("kernels on cuda", lambda: _computes("cuda"))


def unusable(problem: str) -> Finding:
    """A card that cannot be used: what is wrong, and, behind a colon or a full stop outside brackets, what to do."""
    parts = re.fullmatch(r"((?:\([^()]*\)|[^(])*?)(?:: |\. )(.*)", problem)
    return Finding("card", False, *parts.groups()) if parts else Finding("card", False, problem, problem)


def _assembler() -> str:
    """What makes machine code of a card's kernels."""
    from engine.kernels.cuda import assembler
    version = assembler.version()
    return f"ptxas {version}" if version else "no ptxas: the driver assembles kernels"


def card_findings(card: Any) -> Iterator[Finding]:
    """Driver and card, where one can be used."""
    if card.simulated():
        yield Finding("card", None, card.name())
        return
    from engine.kernels.cuda import provider
    state = provider.state()
    yield Finding("driver", True, f"serves CUDA {card.cuda_version(state.driver)}, the packages are for "
                                  f"{card.cuda_version(state.runtime)}")
    yield Finding("card", True, f"{card.name()}, compute capability {'.'.join(map(str, state.capability))}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _computes(where: str) -> Finding:
    """Kernels on a device against NumPy: a product, a softmax, a gradient."""
    began = time.perf_counter()
    try:
        with device.default_device(where):
            worst = _worst_error()
    except EngineError as e:
        return Finding(f"kernels on {where}", False, str(e), "microtfm runs on the processor with --device cpu")
    took = f"{time.perf_counter() - began:.1f} s"
    if worst < 1e-5:
        return Finding(f"kernels on {where}", True, f"product, softmax and gradient agree with NumPy ({took})")
    return Finding(f"kernels on {where}", False, f"results are off by {worst:.2g}",
                   "NUMBA_DISABLE_JIT=1 runs without kernels; please report the processor and these versions")


def _worst_error() -> float:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((17, 33), (33, 19)))
    x = Tensor(a, requires_grad=True)
    y = OPS["softmax"](OPS["matmul"](x, Tensor(b)), axis=-1)
    OPS["sum"](OPS["mul"](y, y)).backward()
    z = a.astype(np.float64) @ b
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    g = p * (2 * p - (2 * p * p).sum(1, keepdims=True)) @ b.T.astype(np.float64)
    found = x.grad.numpy() if x.grad is not None else np.full_like(a, np.nan)
    return float(max(np.max(np.abs(y.numpy() - p)), np.max(np.abs(found - g)) / np.max(np.abs(g))))
