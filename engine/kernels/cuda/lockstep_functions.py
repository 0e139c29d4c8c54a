"""Functions that rewritten kernels call, on lanes, the names that they see, and the launch. See `lockstep.py`."""

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import compiled as in_numba
from .. import scalar
from .lockstep import compiled
from .lockstep_values import KNOWN, RUN, WARP, Memory, Misstep, Range, lane_array, truth
from .memory import SimulatedFault
from .simulator import check_launch, raised_at

Array = np.ndarray
MOST_LANES = 32768  # threads that run side by side


def _dtype(x: Any) -> Any:
    return x.dtype.type if isinstance(x, (Array, np.generic)) else type(x)


def _fma(x: Any, y: Any, z: Any) -> Any:
    wide = np.multiply(x, y, dtype=np.float64) + z
    return wide.astype(_dtype(x)) if isinstance(wide, Array) else _dtype(x)(wide)


def _typed(function: Any) -> Any:
    """A function of `math` on lanes, in the precision of its argument."""
    over = getattr(np, function.__name__, None) or np.frompyfunc(function, 1, 1)

    def call(x: Any, *rest: Any) -> Any:
        if not isinstance(x, (Array, np.floating)):
            x = np.float64(x)
        found = np.asarray(over(x, *rest))
        kept = found if found.dtype == np.bool_ else found.astype(x.dtype)
        return kept if isinstance(x, Array) else kept[()]

    return call


def _extreme(smaller: bool) -> Any:
    def call(*xs: Any) -> Any:
        found = xs[0]
        for x in xs[1:]:
            better = x < found if smaller else x > found
            found = np.where(better, x, found) if isinstance(better, Array) else x if better else found
        return found

    return call


def _any_lanes(*xs: Any) -> bool:
    return any(isinstance(x, Array) for x in xs)


KNOWN |= {
    builtins.min: _extreme(True), builtins.max: _extreme(False), builtins.abs: np.abs,
    builtins.range: lambda *b: Range(*b) if _any_lanes(*b) else range(*(int(n) for n in b)),
    builtins.int: lambda x: x.astype(np.int64) if isinstance(x, Array) else int(x),
    builtins.float: lambda x: x.astype(np.float64) if isinstance(x, Array) else np.float64(x),
    builtins.bool: truth,
    scalar.bits: lambda x: np.asarray(x, np.float32).view(np.int32)[()],
    scalar.from_bits: lambda n: np.asarray(n, np.int32).view(np.float32)[()],
    scalar.like: lambda value, x: _dtype(x)(value), scalar.fma: _fma,
    scalar.sqrt: np.sqrt, in_numba.like: lambda value, x: _dtype(x)(value),
}  # fmt: skip
KNOWN |= {getattr(math, name): _typed(getattr(math, name)) for name in (
    "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "expm1", "fabs", "floor", "log", "log10",
    "log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh", "trunc", "isnan", "isinf", "isfinite")}  # fmt: skip


def launch(function: Callable[..., None], grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int,
           arguments: tuple[Any, ...], name: str) -> None:
    """Run all blocks, in order. Raises NotLockstep before anything is run, and SimulatedFault."""
    check_launch(name, block, shared_bytes)
    run, given = compiled(function), tuple(_seen(a, i) for i, a in enumerate(arguments))
    RUN.begin(grid, block, shared_bytes)  # type: ignore[arg-type]
    threads, total = math.prod(block), math.prod(grid)
    at_once = max(1, MOST_LANES // threads) if threads % WARP == 0 else 1
    with np.errstate(all="ignore"):
        for first in range(0, total, at_once):
            RUN.next_blocks(first, min(at_once, total - first))
            try:
                run(True, *given)
            except Misstep as e:
                file, line = raised_at(e)
                b, t = (tuple(int(lane_array(getattr(i, axis))[e.lane]) for axis in "xyz")
                        for i in (RUN.block, RUN.thread))  # fmt: skip
                raise SimulatedFault(f"kernel {name}, block {b}, thread {t}, {file.rsplit('/', 1)[-1]}:{line}: {e}"
                                     ) from e


def _seen(argument: Any, i: int) -> Any:
    if isinstance(argument, Array):
        return Memory(argument, f"argument {i}")
    if isinstance(argument, (list, tuple)):
        return [_seen(a, i) for a in argument]
    return argument
