"""Slopes without calculus: the independent opinion that a gradient is checked against.

A complex step, Im f(x + ih)/h, is exact to rounding where f is holomorphic (Squire & Trapp 1998). Elsewhere differences
over a ladder of steps are taken, with an estimate of their own error.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from engine import device as devices
from engine.core import Node, Tensor
from engine.errors import EngineError
from engine.state import STATE, unfused

STEP = 2.0**-100                     # of the complex step: nothing is subtracted, so it may be as small as we like
RATIO = 8                            # between the steps of the ladder
LADDER = [2.0**-5 / RATIO**k for k in range(8)]


class Oracle:
    """Slopes of <u, f> at xs (float64), found by running f and nothing else."""

    def __init__(self, f: Callable[..., Tensor], xs: Sequence[np.ndarray], u: np.ndarray,
                 rng: np.random.Generator) -> None:
        self.f, self.xs, self.u = f, list(xs), u
        self.here = self._run(self.xs)
        self.method = "differences"
        way = [random_way(x, rng) for x in self.xs]
        exact = self._complex_step(way)
        if exact is not None:
            h = 2.0**-17
            up, down = self._moved(way, h), self._moved(way, -h)
            rough = self._dot(up - down) / (2 * h)
            if abs(exact - rough) <= 1e-5 * (abs(exact) + abs(rough)) + 1e-8 * self._dot(np.abs(up), np.abs(self.u)):
                self.method = "complex step"

    def slope(self, way: Sequence[np.ndarray | float]) -> tuple[float, float]:
        """The slope along `way` (a displacement of every input), and an estimate of its error."""
        if self.method == "complex step":
            exact = self._complex_step(way)
            if exact is not None:
                return exact, 0.0
        return self._differences(way)

    def _run(self, xs: Sequence[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            return devices.host(self.f(*[leaf(x) for x in xs]).array())

    def _moved(self, way: Sequence[np.ndarray | float], h: complex) -> np.ndarray:
        return self._run([np.asarray(x + h * w) for x, w in zip(self.xs, way, strict=True)])

    def _dot(self, y: np.ndarray, u: np.ndarray | None = None) -> float:
        return float(np.sum((self.u if u is None else u) * y, dtype=np.float64))

    def _complex_step(self, way: Sequence[np.ndarray | float]) -> float | None:
        """None where f cannot be run on complex numbers."""
        with warnings.catch_warnings(), unfused():
            warnings.simplefilter("ignore")
            try:
                y = self._moved(way, 1j * STEP)
            except (TypeError, ValueError, FloatingPointError, EngineError):
                return None
        return self._dot(y.imag) / STEP if y.dtype.kind == "c" and np.isfinite(y).all() else None

    def _differences(self, way: Sequence[np.ndarray | float]) -> tuple[float, float]:
        """Central differences over a ladder of steps, extrapolated; the largest step that all smaller ones agree with.

        Chosen from the small end, where the bias is least: starting from large steps finds false plateaus
        (Lepski's rule).
        """
        central, noise = [], []
        for h in LADDER:
            up, down = self._moved(way, h), self._moved(way, -h)
            size = self._dot(np.where(up != down, np.abs(self.here), 0), np.abs(self.u))
            central.append(self._dot(up - down) / (2 * h))
            noise.append(4 * float(np.finfo(np.float64).eps) * (size / h + abs(central[-1])))
        low, high, best, error = -np.inf, np.inf, central[-1], np.inf
        for k in range(len(LADDER) - 2, -1, -1):
            value, off = (RATIO**2 * central[k + 1] - central[k]) / (RATIO**2 - 1), 3 * noise[k + 1]
            if not np.isfinite(value) or max(low, value - off) > min(high, value + off):
                break
            low, high = max(low, value - off), min(high, value + off)
            best, error = value, RATIO * off        # the next smaller step's noise: all that agreement has shown
        return best, error


def unit(x: np.ndarray) -> np.ndarray:
    """A natural displacement of each element: its own magnitude, or a typical one where it is 0."""
    size = np.abs(x)
    typical = float(np.median(size[size > 0])) if (size > 0).any() else 1.0
    return np.where(size > 0, size, typical)


def random_way(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A displacement of all elements by random shares of their natural ones, in either direction."""
    return rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape) * unit(x)


def leaf(array: np.ndarray, requires_grad: bool = True) -> Tensor:
    """A tensor of this very array, or of one like it on the device where tensors are made, in its memory layout."""
    array = devices.laid_out(array)
    t = Tensor.wrap(array, Node(array.shape, array.dtype, STATE.get()))
    t.requires_grad = requires_grad
    return t
