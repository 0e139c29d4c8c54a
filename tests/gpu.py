"""All proof on a card by one command: `python -m tests.gpu`. Compiles every kernel, tests, times, writes a result file.

It goes on after a failure and reports all of them at the end, with their tracebacks in a file beside the results. With
NUMBA_ENABLE_CUDASIM=1 the same runs in the simulator, at toy sizes, and says so. Exit code 0: nothing failed.

    python -m tests.gpu --seconds 420 --save tests/bench/results
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "0")       # on a card, unless the simulator is asked for
NVCC = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
if "CUDA_HOME" not in os.environ and NVCC.exists():      # where libNVVM is, if no package brings it
    os.environ["CUDA_HOME"] = str(NVCC.resolve().parent.parent)
ROOT = Path(__file__).parent.parent
TESTS = ("tests/test_cuda_kernels.py", "tests/test_cuda_rows.py", "tests/test_cuda_attention.py",
         "tests/test_cuda_ops.py", "tests/test_cuda_words.py", "tests/test_cuda_limits.py", "tests/test_cuda_split.py",
         "tests/test_cuda_replay.py")
TRAINING = "tests/test_cuda_train.py"
STAGES = ("facts", "kernels", "smoke", "products", "bandwidths", "decode", "steps", "each", "tests")


class Proof:
    """Stages one after another, each with what it found or how it failed."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds
        self.found: dict[str, Any] = {}
        self.failures: list[str] = []

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def stage(self, name: str, work: Callable[[], Any], least: float = 5.0) -> None:
        """Run one stage, if there is time for it."""
        if self.left() < least:
            self.failures.append(f"{name}: left out, {self.left():.0f} s remain")
            print(f"[{self.seconds - self.left():5.0f} s] {name}: no time left", flush=True)
            return
        print(f"[{self.seconds - self.left():5.0f} s] {name} …", flush=True)
        began = time.monotonic()
        try:
            self.found[name] = work()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.failures.append(f"{name}: {traceback.format_exc()}")
            print(f"          FAILED: {type(error).__name__}: {str(error)[:300]}", flush=True)
            return
        print(f"          done in {time.monotonic() - began:.1f} s: {json.dumps(self.found[name])[:900]}", flush=True)

    def note(self, what: str) -> None:
        """A failure inside a stage that goes on."""
        self.failures.append(what)
        print(f"          FAILED: {what.strip().splitlines()[-1][:300]}", flush=True)


# --- facts and kernels ----------------------------------------------------------------------------
def facts() -> dict[str, Any]:
    """What this is measured on."""
    from importlib import metadata

    import engine
    from engine.kernels.cuda import assembler, card
    versions = {}
    for package in ("numpy", "numba", "numba-cuda", "llvmlite", "cupy-cuda13x", "cupy-cuda12x", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    versions["ptxas"] = assembler.version() or "none: the driver assembles"
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "card": card.name(), "simulated": card.simulated(),
            "python": platform.python_version(), "versions": versions,
            "health": [list(f) for f in engine.health() if "cuda" in f.name.lower() or f.name in ("driver", "card")]}


def all_kernels() -> list[tuple[int, str, str | None]]:
    """(number, name, dtype) of every kernel that there is."""
    import importlib

    from engine.kernels import cuda
    from engine.kernels.cuda.jit import KERNELS
    for module in sorted(set(cuda.MODULES.values())):
        importlib.import_module(f"engine.kernels.cuda.{module}")
    return [(i, k.__name__, dtype) for i, k in enumerate(KERNELS) for dtype in (k.floats if k.generic else (None,))]


def compile_one(job: tuple[int, str, str | None, tuple[int, int]]) -> str | None:
    """In a process of its own: compile into the cache on disk. -> how it failed."""
    number, name, dtype, capability = job
    try:
        all_kernels()
        from engine.kernels.cuda import provider
        from engine.kernels.cuda.jit import KERNELS
        provider.cached_ptx(KERNELS[number], dtype, capability)
        provider.cached_code(KERNELS[number], dtype, capability)
    except Exception:
        return f"{name} ({dtype}):\n{traceback.format_exc()}"
    return None


def compile_all(proof: Proof) -> dict[str, Any]:
    """Every kernel, in as many processes as there are processors, then loaded one by one."""
    from engine.kernels.cuda import card, provider
    from engine.kernels.cuda.jit import KERNELS
    jobs = all_kernels()
    capability = provider.state().capability
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for failed in pool.map(compile_one, [(*job, capability) for job in jobs], chunksize=4):
            if failed:
                proof.note(failed)
    loaded = 0
    for number, name, dtype in jobs:
        try:
            provider.load(KERNELS[number], dtype)
            loaded += 1
        except Exception:
            proof.note(f"loading {name} ({dtype}):\n{traceback.format_exc()}")
    card.synchronise()
    return {"kernels": len(jobs), "loaded": loaded}


def smoke() -> dict[str, Any]:
    """One kernel of each kind of parameter beside NumPy: if even these fail, nothing else is worth its time."""
    import numpy as np

    import engine
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((65, 130)).astype(np.float32) for _ in range(2))
    ids = rng.integers(0, 65, 200)
    with engine.default_device("cuda"), engine.no_grad():
        ways = {
            "exp": (engine.exp(x), np.exp(x)), "add": (engine.add(x, y[:1]), x + y[:1]),
            "sum": (engine.sum(x, axis=1), x.sum(1)), "max": (engine.max(x, axis=0), x.max(0)),
            "matmul": (engine.matmul(x, y.T), x @ y.T), "embedding": (engine.embedding(x, ids), x[ids]),
            "softmax": (engine.softmax(x, axis=-1).sum(axis=-1), np.ones(65)),
        }
        far = {name: float(np.abs(got.numpy() - expected).max()) for name, (got, expected) in ways.items()}
    if wrong := [name for name, distance in far.items() if not distance < 1e-3]:
        raise AssertionError(f"{', '.join(wrong)}: wrong by {far}")
    return far


def tested(proof: Proof, seconds: float) -> dict[str, Any]:
    """The CUDA tests, on this card; in several processes where pytest-xdist is installed. A kernel that hangs ends its
    process, as one does that breaks the card's context (see conftest.py)."""
    import importlib.util
    many = ["-n", str(min(12, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    runs = {"kernels and ops": _pytest(*many, *TESTS), "training": _pytest(TRAINING)}
    until, said = time.monotonic() + seconds, {}
    for name, run in runs.items():
        try:
            out, _ = run.communicate(timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            run.kill()
            out, _ = run.communicate()
            proof.note(f"{name}: the tests took more than {seconds:.0f} s; so far:\n{out[-100000:]}")
        if run.returncode:
            proof.note(out[-400000:])
        lines = [line for line in out.splitlines() if " passed" in line or " failed" in line]
        said[name] = lines[-1] if lines else "no summary"
    return said


def _pytest(*arguments: str) -> subprocess.Popen[str]:
    options = ["-p", "no:cacheprovider", "--no-header", "-rf", "--tb=short", "-W", "default", "-W",
               "error::RuntimeWarning", "--timeout", "120", "--timeout-method", "thread"]
    return subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# --- times ----------------------------------------------------------------------------------------
def seconds_of(work: Callable[[], Any], least: float = 0.15) -> float:
    """The seconds of one call, by events on the card: the median of several bursts."""
    from engine.kernels.cuda import card
    if card.simulated():
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    from engine.kernels.cuda import provider
    cupy = provider.cupy()
    work()
    start, end, taken, count = cupy.cuda.Event(), cupy.cuda.Event(), [], 1
    spent = 0.0
    while spent < least or len(taken) < 5:
        start.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        each = cupy.cuda.get_elapsed_time(start, end) / 1000 / count
        spent += each * count
        taken.append(each)
        count = max(1, min(100, int(0.01 / max(each, 1e-6))))
    return sorted(taken)[len(taken) // 2]


def products(simulated: bool) -> list[dict[str, Any]]:
    """Square products in each precision beside cuBLAS (through PyTorch), in graphs of several: TFLOP/s and our share;
    for bfloat16 also beside PyTorch where it rounds the same float32 matrices as we do."""
    import numpy as np

    import engine
    rows = []
    with engine.default_device("cuda"), engine.no_grad():
        for precision in ("float32", "tf32x3", "tf32", "bf16"):
            for n in (33,) if simulated else (512, 1024, 2048, 4096, 8192):
                rng = np.random.default_rng(n)
                x, y = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
                a, b = engine.Tensor(x), engine.Tensor(y)
                with engine.precision(precision):
                    rows.append({"n": n, "precision": precision, **_product(lambda a=a, b=b: engine.matmul(a, b), n,
                                                                            precision, x, y, simulated)})
    return rows


def _product(work: Callable[[], Any], n: int, precision: str, x: Any, y: Any, simulated: bool) -> dict[str, float]:
    if simulated:
        taken = seconds_of(work)
        return {"ms": taken * 1e3, "tflops": 2 * n**3 / taken / 1e12}
    from engine.kernels.cuda import provider
    from tests.gpu_tiles import cublas, microseconds
    repeats, (x, y) = max(1, min(20, round(4e10 / n**3))), map(provider.cupy().asarray, (x, y))
    ours, theirs = microseconds(work, repeats), cublas(x, y, precision, repeats)
    found = {"ms": ours / 1e3, "tflops": 2 * n**3 / ours / 1e6, "cublas_tflops": 2 * n**3 / theirs / 1e6,
             "share": theirs / ours}
    if precision == "bf16":
        found["share_with_rounding"] = cublas(x, y, precision, repeats, True) / ours
    return found


def bandwidths(simulated: bool) -> dict[str, Any]:
    """What a copy reaches, and the share of it that memory-bound kernels reach, on 512 MB and more: less would be done
    before the next is launched."""
    import numpy as np

    import engine
    rows, n = {}, 256 if simulated else 128 * 2**20       # float32: 512 MB
    width = 64 if simulated else 1024
    with engine.default_device("cuda"), engine.no_grad():
        x = engine.Tensor(np.random.default_rng(0).standard_normal((n // width, width)).astype(np.float32))
        g, w, b = engine.Tensor(x), engine.ones((width,)), engine.zeros((width,))
        to = engine.Tensor(x)
        copy = seconds_of(lambda: engine.update("copy", [to], [x]))
        rows["copy"] = {"ms": copy * 1e3, "gb_s": 8 * n / copy / 1e9}
        y = engine.softmax(x, axis=-1)
        cases: dict[str, tuple[int, Callable[[], Any]]] = {
            "add": (12, lambda: x + g), "relu": (8, lambda: engine.relu(x)), "gelu": (8, lambda: engine.gelu(x)),
            "softmax": (8, lambda: engine.softmax(x, axis=-1)),
            "softmax_vjp": (12, lambda: engine.OPS["softmax_vjp"](g, y, axis=-1)),
            "layer_norm": (8, lambda: engine.layer_norm(x, w, b)),
            "dropout": (8, lambda: engine.dropout(x, p=0.1)), "sum": (4, lambda: engine.sum(x, axis=-1)),
        }
        for name, (touched, work) in cases.items():
            taken = seconds_of(work)
            rows[name] = {"ms": taken * 1e3, "gb_s": touched * n / taken / 1e9,
                          "share": touched * n / taken / 1e9 / rows["copy"]["gb_s"]}
    return rows


def steps(simulated: bool, proof: Proof, peers: list[str]) -> dict[str, Any]:
    """A replayed step at every size beside PyTorch, eager and compiled, in turns. All sides of a precision start and
    compile at once, and then only one at a time has a turn."""
    from microtfm.bench import limits, sides, step
    from microtfm.bench.sizes import SIZES
    found: dict[str, Any] = {}
    sizes = {"nano": SIZES["nano"].changed(batch=2, length=4, layers=1)} if simulated else SIZES
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    for precision in ("float32",) if simulated else ("float32", "bf16", "tf32x3", "tf32"):
        if proof.left() < 45:
            proof.note(f"steps: {precision} left out, {proof.left():.0f} s remain")
            continue
        names = ["ours", *([] if simulated else peers if precision == "float32" else peers[:1])]
        with sides.placed("cuda", precision), ExitStack() as stack:
            bounds = stack.enter_context(limits.side(2).start())
            made = {(size, name): step.side_of(name, sizes[size], 2) for size in sizes for name in names}
            with ThreadPoolExecutor(len(made)) as pool:
                known = pool.map(_ready, made.values(), [sizes[size] for size, _ in made], repeat(proof))
                facts = dict(zip(made, known, strict=True))
            for side in made.values():
                stack.callback(side.close)
            for size in sizes:
                able = {name: made[size, name] for name in names if facts[size, name] is not None}
                if "ours" not in able:
                    continue
                told = {name: facts[size, name] for name in able}
                try:
                    answer = step.compared(sizes[size], able, told, bounds, 0.0 if simulated else 1.0,
                                           1 if simulated else None)
                except Exception:
                    proof.note(f"step {size} {precision}:\n{traceback.format_exc()}")
                    continue
                found[f"{size}, {precision}"] = answer
                ratios = {peer: known["ratio"] for peer, known in answer["peers"].items()}
                print(f"          {size} {precision}: {answer['step_ms']} ms, beside {ratios}", flush=True)
    return found


def _ready(side: Any, size: Any, proof: Proof) -> dict[str, Any] | None:
    """Start one side and warm it up; None if that fails."""
    from microtfm.bench import step
    try:
        return step.warmed(side.start(), size)
    except Exception:
        proof.note(f"{side.name} at size {size.name}:\n{traceback.format_exc()}")
        return None


def decoding(simulated: bool) -> dict[str, Any]:
    """Greedy translation with the cache beside PyTorch's."""
    from microtfm.bench import decoding as bench
    from microtfm.bench import sides
    from microtfm.bench.sizes import SIZES
    size = SIZES["nano"].changed(batch=2, length=3, layers=1) if simulated else SIZES["tiny"]
    with sides.placed("cuda", "float32"):
        return bench.measure(size, [1, size.batch], 1, [] if simulated else ["torch"], 2, 0.0 if simulated else 1.0,
                             print)


def kernels(simulated: bool) -> dict[str, Any]:
    """Every kernel over a Transformer's shapes beside PyTorch's: the geometric means, and the worst."""
    from microtfm.bench import kernels as bench
    from microtfm.bench import sides
    from microtfm.bench.sizes import SIZES
    chosen = bench.cases([SIZES["nano"] if simulated else SIZES["base"]], ["exp"] if simulated else [])
    if not simulated:
        chosen = [case for case in chosen if case.dtype == "float32" and case.group != "matmul, float32"]
    with sides.placed("cuda", "float32"):
        return bench.measure(chosen, [] if simulated else ["torch"], 2, 0.01, lambda text: None)


def main() -> int:
    """Run all stages. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0, help="stop beginning new stages after so long")
    parser.add_argument("--save", type=Path, default=ROOT / "tests" / "bench" / "results", help="folder of the results")
    parser.add_argument("--only", action="append", choices=STAGES, help="only this stage; may be repeated")
    parser.add_argument("--peer", action="append", help="of steps [default: torch and torch-compile]")
    wish = parser.parse_args()
    proof = Proof(wish.seconds)
    from engine.kernels.cuda import card
    simulated = card.simulated()
    if simulated:
        print("No card is used: this runs in the simulator, at toy sizes, and its times say nothing of a card.")
    stages: dict[str, tuple[Callable[[], Any], float]] = {
        "facts": (facts, 5),
        "kernels": (lambda: {"simulated": len(all_kernels())} if simulated else compile_all(proof), 60),
        "smoke": (smoke, 5),
        "products": (lambda: products(simulated), 20), "bandwidths": (lambda: bandwidths(simulated), 15),
        "decode": (lambda: decoding(simulated), 20),
        "steps": (lambda: steps(simulated, proof, wish.peer or ["torch", "torch-compile"]), 60),
        "each": (lambda: kernels(simulated), 30),
        "tests": (lambda: tested(proof, max(30.0, proof.left() - 5)), 40),
    }
    assert tuple(stages) == STAGES
    for name, (work, least) in stages.items():
        if not wish.only or name in wish.only:
            proof.stage(name, work, least)
        if name == "smoke" and any(f.startswith("smoke") for f in proof.failures):
            break
    wish.save.mkdir(parents=True, exist_ok=True)
    label = "simulated" if simulated else "card"
    file = wish.save / f"gpu-{label}-{datetime.now(UTC).strftime('%Y-%m-%d-%H%M%S')}.json"
    file.write_text(json.dumps({**proof.found, "failed": [f.splitlines()[0] for f in proof.failures]}, indent=1) + "\n",
                    encoding="utf-8")
    print(f"{file}: {len(proof.failures)} failures")
    if proof.failures:
        report = file.with_suffix(".failures.txt")
        report.write_text("\n\n".join(proof.failures) + "\n", encoding="utf-8")
        print(f"{report}: what failed, in full")
    return 1 if proof.failures else 0


if __name__ == "__main__":
    sys.exit(main())
