"""Counter-based random numbers: the same seed gives the same bits, on either device, in any order of asking.

A key is one integer, a 0-d int64 tensor where the engine makes it. The bits of element i of an array drawn under a key
are Philox-4x32-10 of (key, i) and depend on nothing else (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011).
"""
from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine import device as devices
from engine.core import Node, Tensor
from engine.creation import sizes_of
from engine.errors import DtypeError, ShapeError
from engine.kernels import cpu
from engine.kernels.scalar import philox_numpy
from engine.shapes import Shape
from engine.state import STATE

PART = 1 << 14                           # numbers that one thread makes at a time

_lock = threading.Lock()
_state = {"seed": 0, "drawn": 0}


def seed(value: int) -> None:
    """Start the sequence of keys anew. Any integer; the same seed gives the same keys."""
    with _lock:
        _state.update(seed=int(value) & (2**64 - 1), drawn=0)


def get_state() -> dict[str, int]:
    """The seed and how many keys were drawn from it: all there is to store."""
    with _lock:
        return dict(_state)


def set_state(state: dict[str, int]) -> None:
    """Go on from a state that `get_state` gave. Raises KeyError, and ValueError for what are no 64-bit counts."""
    new = {name: state[name] for name in ("seed", "drawn")}
    for name, value in new.items():
        if type(value) is not int or not 0 <= value < 2**64:
            raise ValueError(f"{name} = {value!r:.40} is no 64-bit count")
    with _lock:
        _state.update(new)


def next_key() -> Tensor:
    """The next key of the seed's sequence."""
    recorder = STATE.get().recorder
    key = Tensor.wrap(recorder.key() if recorder else draw(1).reshape(()), Node((), np.dtype(np.int64), STATE.get()))
    key.node.name = "key"
    return key


def draw(count: int) -> np.ndarray:
    """The next keys of the seed's sequence, (count,) int64."""
    with _lock:
        first, start = _state["drawn"] + 1, np.uint64(_state["seed"])
        _state["drawn"] += count
    return _mix(start ^ _mix(np.arange(first, first + count, dtype=np.uint64))).astype(np.int64)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a bijection that scatters neighbouring integers."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def words(key: Any, count: int) -> Any:
    """The first `count` random 32-bit words under an int64 key, on the key's device."""
    n = (count + 3) // 4
    if devices.of(key) == "cuda":
        return philox_numpy(key.astype(np.uint64), np.arange(n, dtype=np.uint64, like=key)).reshape(-1)[:count]
    return philox_numpy(int(key), np.arange(n, dtype=np.uint64)).reshape(-1)[:count]


def uniform_array(key: Any, shape: Shape) -> Any:
    """float32 in [0, 1), a multiple of 2⁻²⁴, for each element of `shape` in C order under an int64 key."""
    drawn = words(key, math.prod(shape))
    return ((drawn >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def _key(given: Any) -> np.ndarray:
    """A key, or the next one of the seed, on the host. Raises ShapeError and DtypeError for what is not one integer."""
    key = next_key() if given is None else given if isinstance(given, Tensor) else Tensor(given)
    if key.ndim:
        raise ShapeError(f"a random key is a single integer, not one of shape {key.shape}")
    if key.dtype.kind not in "iu":
        raise DtypeError(f"a random key is one integer, as engine.random.next_key() gives it, not of {key.dtype}")
    return devices.host(key.read()).astype(np.int64, copy=False)


def _floating(name: str, dtype: Any) -> np.dtype:
    kind = np.dtype(dtype)
    if kind.kind != "f":
        raise DtypeError(f"{name} draws floating numbers, not {kind}; random.randint draws integers")
    return kind


def _drawn(key: np.ndarray, shape: Shape) -> np.ndarray:
    """`uniform_array` by the kernel, where there are kernels."""
    kernel = cpu.kernel("uniform")
    return uniform_array(key, shape) if kernel is None else kernel(key, shape)


def _drawn64(key: np.ndarray, count: int) -> np.ndarray:
    """`count` random 64-bit words under a key, each of two that follow each other."""
    pairs = words(key, 2 * count).astype(np.uint64).reshape(count, 2)
    return pairs[:, 0] << np.uint64(32) | pairs[:, 1]


def uniform(shape: int | Sequence[int], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32,
            key: Tensor | int | None = None, device: str | None = None) -> Tensor:
    """Independent numbers from [low, high), the same on every device. Without a key, the next one of the seed.

    The bounds are rounded to `dtype`, too. Raises DtypeError where that holds no fractions, or not the bounds.
    """
    sizes, kind = sizes_of(shape), _floating("uniform", dtype)
    top = _last_below(high, low, kind)
    if not STATE.get().computing:
        return Tensor.placeholder(sizes, kind)
    u = _drawn(_key(key), sizes)
    if (low, high, kind) == (0, 1, u.dtype):
        return Tensor(u, device=device)
    u = u.reshape(-1)

    def numbers(part: slice) -> np.ndarray:
        return np.minimum((low + (high - low) * u[part].astype(np.float64)).astype(kind), top)
    return Tensor(_in_parts(numbers, sizes, kind), device=device)


def _last_below(high: float, low: float, kind: np.dtype) -> Any:
    """The last number of a dtype below `high`: rounding would reach it. Infinity where there is none from `low` on."""
    with np.errstate(over="ignore"):
        first, end = kind.type(low), kind.type(high)
    if not (np.isfinite(first) and np.isfinite(end) and math.isfinite(float(high) - float(low))):
        raise DtypeError(f"uniform: {kind} does not hold all numbers from {low} to {high}")
    return np.nextafter(end, first) if first < end else kind.type(math.inf)


def normal(shape: int | Sequence[int], mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32,
           key: Tensor | int | None = None, device: str | None = None) -> Tensor:
    """Independent normal numbers (Box & Muller 1958), the same on every device. Without a key, the next of the seed.

    Raises DtypeError where `dtype` holds no fractions.
    """
    sizes, kind = sizes_of(shape), _floating("normal", dtype)
    if not STATE.get().computing:
        return Tensor.placeholder(sizes, kind)
    u = _drawn(_key(key), (2, *sizes)).reshape(2, -1)

    def numbers(part: slice) -> np.ndarray:
        a, b = u[:, part].astype(np.float64)
        return mean + std * np.sqrt(-2 * np.log1p(-a)) * np.cos(2 * np.pi * b)
    return Tensor(_in_parts(numbers, sizes, kind), device=device)


def _in_parts(numbers: Callable[[slice], np.ndarray], shape: Shape, dtype: Any) -> np.ndarray:
    """An array of what a function gives for parts of its flat indices, by several threads and within the caches."""
    out = np.empty(shape, dtype)
    line = out.reshape(-1)

    def write(first: int) -> None:
        part = slice(first, first + PART)
        line[part] = numbers(part)

    if out.size <= PART:
        write(0)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            try:
                list(threads.map(write, range(0, out.size, PART)))
            except RuntimeError:         # no thread could be started
                for first in range(0, out.size, PART):
                    write(first)
    return out


def randint(shape: int | Sequence[int], low: int, high: int | None = None, dtype: Any = np.int64,
            key: Tensor | int | None = None, device: str | None = None) -> Tensor:
    """Independent integers from [low, high), or from [0, low) with one bound. Without a key, the next one of the seed.

    Each is a random 64-bit word modulo the number of integers, so none is likelier than another by more than that
    number / 2⁶⁴. Raises ShapeError where there is no integer to draw, DtypeError where `dtype` does not hold them.
    """
    sizes, (first, end) = sizes_of(shape), (0, low) if high is None else (low, high)
    if not first < end:
        raise ShapeError(f"randint: there is no integer from {first} up to and without {end}")
    kind = np.dtype(dtype)
    if kind.kind not in "iu" or first < np.iinfo(kind).min or end - 1 > np.iinfo(kind).max:
        raise DtypeError(f"randint: {kind} does not hold the integers from {first} to {end - 1}")
    if not STATE.get().computing:
        return Tensor.placeholder(sizes, kind)
    drawn, count = _drawn64(_key(key), math.prod(sizes)), end - first
    drawn = drawn % np.uint64(count) if count < 2**64 else drawn
    return Tensor((drawn + np.array(first % 2**64, np.uint64)).astype(kind).reshape(sizes), device=device)


def permutation(x: int | Tensor | np.ndarray, key: Tensor | int | None = None, device: str | None = None) -> Tensor:
    """The integers 0 … x − 1 in random order, or the slices of a tensor along its first axis, where the tensor is.

    Every order is equally likely, but for 64-bit words that meet. Without a key, the next one of the seed.
    """
    rows = None if isinstance(x, (int, np.integer)) else x if isinstance(x, Tensor) else Tensor(x, device=device)
    if rows is not None and not rows.ndim:
        raise ShapeError("permutation: a 0-d tensor has no axis whose slices could be reordered")
    (n,) = sizes_of(x) if rows is None else rows.shape[:1]
    if not STATE.get().computing:
        return Tensor.placeholder((n,) if rows is None else rows.shape, np.int64 if rows is None else rows.dtype)
    order = np.argsort(_drawn64(_key(key), n), kind="stable")
    return Tensor(order, device=device) if rows is None else rows[order]


__all__ = ["get_state", "next_key", "normal", "permutation", "randint", "seed", "set_state", "uniform", "uniform_array"]
