"""Which tile is the fastest for which matrix product on this card, beside cuBLAS: where tiles.py has its numbers from.

    python -m tests.gpu_tiles --seconds 60 --precision float32 --precision tf32

Every tile that products are made in, and some that they are not, at the shapes of the benchmark's models and at large
squares: microseconds of one product in a CUDA graph of several, so that nothing of the processor is in them. A result
that is wrong beside float64 is marked. Kernels are compiled first, on all processors at once.
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "0")

try:
    from engine.kernels.cuda import card, matmul, provider, tiles, words
except ImportError as error:
    sys.exit(f"gpu_tiles: {error}")
from engine.kernels.cuda.jit import Kernel, set_precision
from engine.kernels.cuda.tiles import Tile

MORE = {                                 # tiles that might be faster
    "float32": (Tile(128, 128, 16, 2, 8, 8, 2, 1, 1), Tile(128, 128, 16, 2, 16, 8, 2, 1, 1),
                Tile(64, 64, 32, 2, 4, 8, 4, 1, 1), Tile(32, 32, 16, 4, 4, 4, 8, 1, 1)),
    "tf32x3": (Tile(64, 128, 32, 3, 32, 32, 1, 1, 1), Tile(128, 128, 32, 3, 64, 32, 1, 1, 1)),
    "tf32": (Tile(128, 256, 32, 3, 64, 64, 1, 1, 1), Tile(64, 64, 32, 4, 32, 32, 3, 1, 1)),
    "bf16": (Tile(256, 128, 32, 3, 64, 64, 1, 1, 1), Tile(64, 64, 32, 4, 32, 32, 3, 1, 1)),
}
WRONG = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-3, "bf16": 1e-2}      # relative errors that no rounding explains
SHAPES = (                               # m, k, n, whether a and b are transposed
    *((n, n, n, a, b) for n in (2048, 4096, 8192) for a, b in ((False, False), (False, True), (True, False))),
    (320, 32, 32, False, False), (1024, 128, 128, False, False), (1024, 256, 128, False, True),
    (128, 1024, 128, True, False), (1024, 128, 4000, False, False), (1024, 4000, 128, False, True),
    (1280, 256, 1024, False, False), (1280, 1024, 256, False, True), (256, 1280, 1024, True, False),
    (512, 512, 512, False, False), (512, 512, 2048, False, False), (512, 2048, 512, False, True),
    (512, 512, 16000, False, False), (512, 16000, 512, False, True), (512, 512, 2048, True, False),
)


def candidates(precision: str) -> tuple[Tile, ...]:
    """The tiles to be tried."""
    return (tiles.TILES if precision == "float32" else tiles.TENSOR_TILES[precision]) + MORE[precision]


def kernels() -> list[Kernel]:
    """The kernels of all candidates, made in the same order in every process."""
    made = [matmul._add_parts, words._round_both]
    for tile in candidates("float32"):
        tiles.PRODUCTS[tile, ""] = tiles.PRODUCTS.get((tile, "")) or tiles.made(tile)
        made.append(tiles.PRODUCTS[tile, ""])
    for precision in tiles.PAIRS:
        for tile in candidates(precision):
            for a, b in ((True, True), (True, False), (False, True), (False, False)):
                if precision != "bf16" or (a and b):
                    key = precision, tile, a, b
                    kernel = tiles.TENSOR_PRODUCTS.get(key) or tiles.made_for_tensor_cores(tile, precision, a, b)
                    made.append(tiles.TENSOR_PRODUCTS.setdefault(key, kernel))
    return made


def compile_one(number: int, capability: tuple[int, int]) -> None:
    """In a process of its own, into the cache on disk."""
    provider.cached_ptx(kernels()[number], None, capability)
    provider.cached_code(kernels()[number], None, capability)


def microseconds(work: Callable[[], Any], repeats: int) -> float:
    """Of one product of ours among several in a graph; the best of three."""
    cupy = provider.cupy()
    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
    with cupy.cuda.using_allocator(pool.malloc):
        work()
        cupy.cuda.Device().synchronize()
        with stream:
            stream.begin_capture()
            for _ in range(repeats):
                work()
            graph = stream.end_capture()
        start, end, taken = cupy.cuda.Event(), cupy.cuda.Event(), []
        for _ in range(4):
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(start, end) * 1000 / repeats)
    return min(taken[1:])


def cublas(a: Any, b: Any, precision: str, repeats: int, rounding: bool = False) -> float:
    """The same of PyTorch's. rounding: of float32 arrays that are rounded each time, as ours are, not before."""
    import torch
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x, y = (torch.from_dlpack(array).to(torch.float32 if rounding else kind) for array in (a, b))
    x.to(kind) @ y.to(kind)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            x.to(kind) @ y.to(kind)
    taken = []
    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) * 1000 / repeats)
    return min(taken[1:])


def tried(tile: Tile, precision: str, a: Any, b: Any, exact: Any, repeats: int) -> str:
    """The tile and its time."""
    before = tiles.TILES, tiles.TENSOR_TILES
    tiles.TILES, tiles.TENSOR_TILES = (tile,), dict.fromkeys(tiles.PAIRS, (tile,))
    try:
        got, norm = matmul.matmul(a, b), provider.cupy().linalg.norm
        far = 0.0 if exact is None else float(norm(got - exact) / norm(exact))
        mark = "" if far < WRONG[precision] else f" WRONG by {far:.1e}"
        taken = microseconds(lambda: matmul.matmul(a, b), repeats)
        return f"{tile.rows}x{tile.columns}x{tile.depth}/{tile.stages} {taken:.1f}{mark}"
    finally:
        tiles.TILES, tiles.TENSOR_TILES = before


def main() -> None:
    """Compile, then time shape by shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no new shape after so long")
    parser.add_argument("--precision", action="append", choices=list(WRONG))
    wish = parser.parse_args()
    problem = "a simulated card says nothing of speed" if card.simulated() else card.problem()
    if problem:
        sys.exit(f"gpu_tiles: {problem}")
    began, cupy, capability = time.monotonic(), provider.cupy(), provider.state().capability
    count = len(kernels())
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_one, range(count), [capability] * count))
    print(f"{count} kernels compiled in {time.monotonic() - began:.0f} s", flush=True)
    for precision in wish.precision or list(WRONG):
        set_precision(precision)
        for m, k, n, a_turned, b_turned in SHAPES:
            if time.monotonic() - began > wish.seconds:
                return
            a = cupy.random.standard_normal((k, m) if a_turned else (m, k), dtype=cupy.float32)
            b = cupy.random.standard_normal((n, k) if b_turned else (k, n), dtype=cupy.float32)
            a, b = a.T if a_turned else a, b.T if b_turned else b
            exact = a.astype(cupy.float64) @ b.astype(cupy.float64) if m <= 2048 else None
            repeats = max(1, min(20, round(4e10 / (m * k * n))))
            theirs = cublas(a, b, precision, repeats)
            found = [tried(tile, precision, a, b, exact, repeats) for tile in candidates(precision)]
            layout = "aT"[a_turned] + "bT"[b_turned]
            rate = 2 * m * k * n / theirs / 1e6
            print(f"{precision} {m}x{k}x{n} {layout}: cuBLAS {theirs:.1f} µs, {rate:.1f} TFLOP/s | {', '.join(found)}",
                  flush=True)


if __name__ == "__main__":
    main()
