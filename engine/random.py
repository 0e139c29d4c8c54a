"""Counter-based random numbers: the same seed gives the same bits, on either device, in any order of asking.

A key is a 0-d int64 tensor. The bits of element i of an array drawn under a key are Philox-4x32-10 of (key, i) and
depend on nothing else (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""
from __future__ import annotations

import threading
from typing import Any

import numpy as np

from engine.core import Tensor
from engine.kernels.scalar import philox_numpy
from engine.shapes import Shape
from engine.state import STATE

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
    """Go on from a state that `get_state` gave."""
    with _lock:
        _state.update(seed=int(state["seed"]), drawn=int(state["drawn"]))


def next_key() -> Tensor:
    """The next key of the seed's sequence."""
    with _lock:
        _state["drawn"] += 1
        mixed = _mix(_state["seed"] ^ _mix(_state["drawn"]))
    key = Tensor(np.asarray(np.uint64(mixed).astype(np.int64)))
    key.name = "key"
    return key


def _mix(z: int) -> int:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a bijection that scatters neighbouring integers."""
    z = (z + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def uniform_array(key: Any, shape: Shape) -> np.ndarray:
    """float32 in [0, 1), a multiple of 2⁻²⁴, for each element of `shape` in C order under an int64 key."""
    n = int(np.prod(shape, dtype=np.int64))
    words = philox_numpy(int(key), np.arange((n + 3) // 4, dtype=np.uint64)).reshape(-1)[:n]
    return ((words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def uniform(shape: Shape, low: float = 0.0, high: float = 1.0, dtype: Any = np.float32,
            key: Tensor | None = None) -> Tensor:
    """Independent numbers from [low, high). Without a key, the next one of the seed."""
    if not STATE.get().computing:
        return Tensor.placeholder(tuple(shape), dtype)
    key = next_key() if key is None else key
    return Tensor((low + (high - low) * uniform_array(key.array(), tuple(shape)).astype(np.float64)).astype(dtype))


def normal(shape: Shape, mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32,
           key: Tensor | None = None) -> Tensor:
    """Independent normal numbers (Box & Muller 1958). Without a key, the next one of the seed."""
    if not STATE.get().computing:
        return Tensor.placeholder(tuple(shape), dtype)
    key = next_key() if key is None else key
    u = uniform_array(key.array(), (2, *shape)).astype(np.float64)
    radius = np.sqrt(-2 * np.log1p(-u[0]))
    return Tensor((mean + std * radius * np.cos(2 * np.pi * u[1])).astype(dtype))


__all__ = ["get_state", "next_key", "normal", "seed", "set_state", "uniform", "uniform_array"]
