"""Slopes without calculus: the independent opinion that a gradient is checked against.

A function is run beside a point, over a ladder of steps, and never differentiated. What its results say about the
slope there comes with an error bar of its own, made of three measurements: how rough the function is (its rounding
noise, seen in high differences: Hamming 1971, Moré & Wild 2011), from which step on all smaller ones agree (Lepski's
rule: starting from large steps finds false plateaus), and whether the two sides of the point agree at all (else it is a
kink or a jump).
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LARGEST, RATIO, LEVELS = 3.6, 6.0, 19     # of the ladder: steps relative to the point's own magnitude
FAR = 0.1                                # a step that shows what the function is like around the point
FAST = 2.0**-10                          # the step that is tried first
ROUGH = (2.0**-17, 2.0**-30, 2.0**-42)   # distances over which roughness is looked for
VISIBLE = 20                             # how many times its noise something must be to be seen at all

Array = np.ndarray
Function = Callable[..., Array]
Way = dict[int, Array]                   # a displacement: of which inputs, and by how much


class Slope(NamedTuple):
    """What running a function says about its slope in one direction."""
    value: float                         # the best estimate; infinite where the tangent is vertical
    error: float                         # how far off it may be; infinite where the numbers cannot tell
    low: float                           # at a kink any slope between those of the two sides is right: the interval
    high: float
    kind: str                            # smooth | kink | jump | steep | edge (one side is outside) | unknown
    silent: float = 0.0                  # what outputs that did not move at all may still hide: half their last digit
    stairs: bool = False                 # the outputs move in steps: 0 is their slope, too
    natural: float = 0.0                 # how steep the function is over a larger step
    least: float = 0.0                   # the slope that moves the result by one rounding over the point's magnitude


class Side(NamedTuple):
    """The slope seen from one side."""
    kind: str                            # finite | jump | steep | none
    value: float = math.nan
    error: float = math.inf


NOTHING = Slope(math.nan, math.inf, math.nan, math.nan, "unknown")


class Slopes:
    """Slopes of <u, f> at the point xs, for float arrays and a function that gives one array."""

    def __init__(self, f: Function, xs: Sequence[Array], u: Array, seed: int = 0) -> None:
        """f takes arrays of the shapes of xs and may raise or give NaN outside its domain."""
        self.f, self.xs, self.u, self.runs = f, list(xs), np.asarray(u, np.float64).ravel(), 0
        here = self._run(self.xs)
        if here is None:
            raise ValueError("the function cannot be run at the point itself")
        self.here = here
        self.eps = max([float(np.finfo(x.dtype).eps) for x in self.xs if x.dtype.kind == "f"]
                       + [float(np.finfo(self.dtype).eps) if self.dtype.kind == "f" else 0.0], default=2.0**-52)
        self.rng = np.random.default_rng(seed)
        self._noise: Array | None = None

    def slope(self, way: Way, scale: float, guess: float = math.nan, rtol: float = 0.0) -> Slope:
        """The slope along a displacement of some of the inputs, for steps of about `scale`.

        guess: if two steps agree with this slope to `rtol`, no further ones are taken.
        """
        if math.isfinite(guess) and rtol:
            quick = self._quick(way, scale, guess, rtol)
            if quick is not None:
                return quick
        return self._judge(way, scale, self._ladder(way, scale))

    @property
    def noise(self) -> Array:
        """The noise of every output; measured when it is first asked for."""
        if self._noise is None:
            self._noise = self._roughness(self.rng)
        return self._noise

    # -- running the function
    def _run(self, xs: Sequence[Array]) -> Array | None:
        """All outputs in one float64 vector, or None where the function refuses."""
        self.runs += 1
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                y = np.asarray(self.f(*[x.copy() for x in xs]))
            except Exception:
                if self.runs == 1:
                    raise
                return None
        if self.runs == 1:
            self.dtype, self.shape = y.dtype, y.shape
        return np.array(y, np.float64).ravel() if y.shape == self.shape else None

    def nearby(self, way: Way, scale: float, rng: np.random.Generator) -> tuple[float, float]:
        """The least and the largest slope at points close by, off the kinks that meet at this one."""
        xs, found = self.xs, []
        try:
            for _ in range(16):
                self.xs = [np.asarray(x + 2.0**-14 * random_way(x, rng), x.dtype) if x.dtype.kind == "f" else x
                           for x in xs]
                h, here = 2.0**-28 * scale, self.here
                y = self._run(self.xs)
                if y is not None:
                    self.here = y
                    up, down = self.moved(way, h), self.moved(way, -h)
                    found += [float(np.sum(up - down)) / (2 * h)] if up is not None and down is not None else []
                self.here = here
        finally:
            self.xs = xs
        return (min(found), max(found)) if found else (math.nan, math.nan)

    def moved(self, way: Way, h: float) -> Array | None:
        """u · (f(x + h way) − f(x)), output by output; outputs that have not moved give 0. None: not finite."""
        xs = list(self.xs)
        with np.errstate(all="ignore"):
            for i, w in way.items():
                xs[i] = np.asarray(xs[i] + h * w, xs[i].dtype)
            y = self._run(xs)
            if y is None:
                return None
            still = (y == self.here) | ((y != y) & (self.here != self.here))
            part = np.where(still, 0.0, self.u * (y - self.here))
        return part if np.isfinite(part).all() else None

    def _roughness(self, rng: np.random.Generator) -> Array:
        """The noise of every output: of rounding inside the function, whatever its cause."""
        least = 4 * self.eps * np.where(np.isfinite(self.here), np.abs(self.here), 0.0) + 5e-324
        seen = [self._high_differences([d * random_way(x, rng) if x.dtype.kind == "f" else np.zeros_like(x)
                                        for x in self.xs]) for d in ROUGH]
        size, moved = seen[0]
        for closer, stirred in seen[1:]:         # where it moves afar and not near by, it is a staircase
            size = np.where(moved & ~stirred, size, np.minimum(size, closer))
        return np.maximum(least, 8 * size)

    def _high_differences(self, ways: Sequence[Array]) -> tuple[Array, Array]:
        """The size of the 4th to 6th differences of every output, where what is smooth has died out; and whether the
        output moved."""
        rows = []
        for k in range(1, 10):                   # not the point itself, which may be on a jump
            with np.errstate(all="ignore"):
                y = self._run([np.asarray(x + k * w, x.dtype) for x, w in zip(self.xs, ways, strict=True)])
            rows.append(np.full(self.here.shape, np.nan) if y is None else y)
        table = np.array(rows)
        with np.errstate(all="ignore"):
            moved = (table != table[0]).any(axis=0)
            sizes = []
            for order in range(1, 7):
                table = np.diff(table, axis=0)
                if order >= 4:
                    share = math.factorial(order)**2 / math.factorial(2 * order)
                    sizes.append(np.sqrt(np.mean(table**2, axis=0) * share))
            size = np.median(sizes, axis=0)
        return np.where(np.isfinite(size), size, 0.0), moved

    # -- one direction
    def _quick(self, way: Way, scale: float, guess: float, rtol: float) -> Slope | None:
        """The guess itself where two steps confirm it, else None."""
        h = FAST * scale
        central = []
        for step in (h, h / 4):
            up, down = self.moved(way, step), self.moved(way, -step)
            if up is None or down is None:
                return None
            central.append(float(np.sum(up - down)) / (2 * step))
        value = (16 * central[1] - central[0]) / 15
        if value == guess == 0:
            far = self.moved(way, FAR * scale), self.moved(way, -FAR * scale)
            if any(part is None or part.any() for part in far):
                return None
        off = abs(value - guess)
        return Slope(value, off, value, value, "smooth") if off <= rtol * abs(guess) else None

    def _ladder(self, way: Way, scale: float) -> list[tuple[float, Array | None, Array | None]]:
        """(step, what the outputs move forwards, and backwards), from large steps to small ones."""
        size = max(float(np.max(np.abs(self.xs[i][(w != 0) & np.isfinite(self.xs[i])]), initial=0.0))
                   for i, w in way.items())
        reach = max(float(np.max(np.abs(w), initial=0.0)) for w in way.values()) or 1.0
        rungs, h = [], LARGEST * scale
        for _ in range(2 * LEVELS):
            rungs.append((h, self.moved(way, h), self.moved(way, -h)))
            h /= RATIO
            whole = sum(up is not None and down is not None for _, up, down in rungs)
            if whole >= LEVELS or h * reach < 8 * self.eps * max(size, 1e-290):
                break
        return rungs

    def _judge(self, way: Way, scale: float, rungs: list) -> Slope:
        h = np.array([r[0] for r in rungs])
        stirred = np.zeros(self.here.shape, bool)
        for _, up, down in rungs:
            for part in (up, down):
                stirred |= part != 0 if part is not None else False
        rounding = float(np.sum(np.abs(self.u) * np.where(stirred, self.noise, 0.0)))
        silent = float(np.sum(np.abs(self.u) * np.where(stirred, 0.0, np.where(np.isfinite(self.here), self.eps
                       * np.abs(self.here), 0.0)))) / h[0]
        plus = np.array([math.nan if up is None else float(np.sum(up)) for _, up, _ in rungs]) / h
        minus = -np.array([math.nan if down is None else float(np.sum(down)) for _, _, down in rungs]) / h
        placed = self._placement(way) / h     # x + h is rounded, too
        moves = np.array([sum(float(np.sum(np.abs(p))) for p in (up, down) if p is not None) for _, up, down in rungs])
        noise = (rounding + 4 * self.eps * moves) / h
        noise_plus, noise_minus = noise + placed * _size(plus), noise + placed * _size(minus)
        sides = _side(h, plus, noise_plus), _side(h, minus, noise_minus)
        far = int(np.argmin(np.abs(h / scale - FAR)))
        natural = float(max(_size(plus)[far], _size(minus)[far]))
        values = float(np.sum(np.abs(self.u) * np.where(np.isfinite(self.here), np.abs(self.here), 0.0)))
        said = self._said(way, rungs, h, plus, minus, noise, noise_plus, noise_minus, sides)
        return said._replace(silent=silent, natural=natural, least=self.eps * values / scale)

    def _said(self, way: Way, rungs: list, h: Array, plus: Array, minus: Array, noise: Array, noise_plus: Array,
              noise_minus: Array, sides: tuple[Side, Side]) -> Slope:
        """What the slopes of all steps say together."""
        placed = self._placement(way) / h
        if "none" in (sides[0].kind, sides[1].kind):
            return _edge(*sides)
        if "jump" in (sides[0].kind, sides[1].kind):
            return _across_a_jump(h, plus, minus, noise_plus, noise_minus)
        if "steep" in (sides[0].kind, sides[1].kind):
            steep = [side.value for side in sides if side.kind == "steep"]
            value = steep[0] if all(v == steep[0] for v in steep) else math.nan
            return Slope(value, math.inf, min(steep[0], sides[0].value, sides[1].value),
                         max(steep[0], sides[0].value, sides[1].value), "steep")
        at = _kink(plus, minus, noise_plus + noise_minus)
        if at is not None:
            _, up, down = rungs[at]
            forwards, backwards = up / h[at], -down / h[at]
            low, high = float(np.sum(np.minimum(forwards, backwards))), float(np.sum(np.maximum(forwards, backwards)))
            off = float(noise_plus[at] + noise_minus[at]) + 1e-3 * (high - low)
            return Slope((low + high) / 2, off, low, high, "kink")
        central = (plus + minus) / 2
        value, error = _settled(h, central, noise + placed * _size(central), 2)
        steps = self._stairs(rungs)
        if steps:                                # seen from further away, does the staircase have a slope?
            ramp, off = _settled(h, central, noise + 4 * steps / h + placed * _size(central), 2)
            if off < 0.2 * abs(ramp):
                return Slope(ramp, off, ramp, ramp, "smooth", stairs=True)
        return Slope(value, error, value, value, "smooth", stairs=steps > 0)

    def _stairs(self, rungs: list) -> float:
        """The height of its steps where the function stands still close by and moves further away, by more than the
        rounding of its result; else 0."""
        parts = [part for _, up, down in rungs for part in (up, down) if part is not None]
        if len(parts) < 12 or not all(np.array_equal(parts[k], parts[k + 2]) for k in range(-10, -2)):
            return 0.0
        with np.errstate(all="ignore"):
            rises = np.abs(np.array(parts)) / np.abs(self.u)
            least = np.min(np.where(rises > 0, rises, np.inf), axis=0)
        moved = np.isfinite(least)
        high = moved.any() and (least[moved] > 64 * self.eps * np.abs(self.here[moved])).all()
        return float(np.sum(np.abs(self.u[moved]) * least[moved])) if high else 0.0

    def _placement(self, way: Way) -> float:
        """The relative error of a displacement of unit step, because x + h way is rounded."""
        most = 0.0
        for i, w in way.items():
            x = np.where(np.isfinite(self.xs[i]), np.abs(self.xs[i]), 0.0)[w != 0]
            eps = float(np.finfo(self.xs[i].dtype).eps)
            most = max(most, float(eps * np.max(x / np.abs(w[w != 0]), initial=0.0)))
        return most


# --- what a ladder of slopes says -----------------------------------------------------------------
def _size(slopes: Array) -> Array:
    return np.where(np.isfinite(slopes), np.abs(slopes), 0.0)


def _side(h: Array, slopes: Array, noise: Array) -> Side:
    """Whether the slopes of one side settle, and where."""
    ok = np.isfinite(slopes)
    if ok.sum() < 3:
        return Side("none")
    h, slopes, noise = h[ok], slopes[ok], noise[ok]
    seen = np.flatnonzero(np.abs(slopes) > VISIBLE * noise)
    if len(seen) >= 4 and (seen[-4:] == np.arange(seen[-1] - 3, seen[-1] + 1)).all():
        last = np.abs(slopes[seen[-4:]])
        growth = last[1:] / last[:-1]
        hidden = seen[-1] + 1 < len(slopes) and noise[seen[-1] + 1] * VISIBLE < last[-1]    # it did not go on growing
        if (growth > 0.6 * RATIO).all() and not hidden:
            return Side("jump")
        if (growth > 1.3).all() and not hidden:
            return Side("steep", math.copysign(math.inf, slopes[seen[-1]]))
    return Side("finite", *_settled(h, slopes, noise, 1))


def _settled(h: Array, slopes: Array, noise: Array, power: int) -> tuple[float, float]:
    """The limit of slopes whose bias shrinks with h**power, and its error: extrapolated, from the small end as far as
    all agree."""
    ok = np.isfinite(slopes)
    h, slopes, noise = h[ok], slopes[ok], noise[ok]
    if len(h) < 3:
        return math.nan, math.inf
    r = (h[:-1] / h[1:])**power
    better = (r * slopes[1:] - slopes[:-1]) / (r - 1)
    off = 2 * (r * noise[1:] + noise[:-1]) / (r - 1)
    low, high, pick, agreeing = -math.inf, math.inf, len(better) - 1, 0
    for k in range(len(better) - 1, -1, -1):
        if max(low, better[k] - off[k]) > min(high, better[k] + off[k]):
            break
        low, high, pick, agreeing = max(low, better[k] - off[k]), min(high, better[k] + off[k]), k, agreeing + 1
    if agreeing < 2:
        return _converging(better)
    shown = off[min(pick + 1, len(off) - 1)]     # agreement shows no more than what the next smaller step can see
    return float(better[pick]), float(shown + 1e-3 * abs(better[pick] - slopes[pick + 1]))


def _converging(values: Array) -> tuple[float, float]:
    """No two steps agree: either the values still converge, slowly, or the function is rougher than it looked."""
    gaps = np.abs(np.diff(values[-4:]))
    settling = len(gaps) == 3 and bool((gaps[1:] < 0.7 * gaps[:-1]).all())
    return float(values[-1]), float(3 * gaps[-1]) if settling else math.inf


def _kink(plus: Array, minus: Array, noise: Array) -> int | None:
    """The smallest step at which a gap between the two sides is seen, if it stays open as the steps shrink."""
    gap = np.abs(plus - minus)
    seen = np.flatnonzero(np.isfinite(gap) & (gap > VISIBLE * noise))
    if len(seen) < 2:
        return None
    last = int(seen[-1])
    smaller = noise[last + 1:]
    closed = bool(np.any(VISIBLE * smaller < 0.5 * gap[last]))       # it would have been seen there, and is not
    top = max(abs(plus[last]), abs(minus[last]))
    return None if closed or gap[last] <= 1e-3 * top or gap[last] <= 0.5 * gap[seen[-2]] else last


def _edge(plus: Side, minus: Side) -> Slope:
    """The point lies on the edge of the domain: one side alone speaks."""
    side = plus if minus.kind == "none" else minus
    if side.kind == "finite":
        return Slope(side.value, side.error, side.value, side.value, "edge")
    return Slope(side.value, math.inf, side.value, side.value, "steep") if side.kind == "steep" else NOTHING


def _across_a_jump(h: Array, plus: Array, minus: Array, noise_plus: Array, noise_minus: Array) -> Slope:
    """Slopes beside a jump, without the point itself: between neighbouring steps of one side."""
    limits = []
    for slopes, noise in ((plus, noise_plus), (minus, noise_minus)):
        rise = slopes * h
        secant = (rise[:-1] - rise[1:]) / (h[:-1] - h[1:])
        limits.append(_settled(h[:-1], secant, noise[1:] * 2, 1))
    low, high = min(v for v, _ in limits), max(v for v, _ in limits)
    error = max(e for _, e in limits)
    return Slope((low + high) / 2, error, low, high, "jump")


# --- directions -----------------------------------------------------------------------------------
def unit(x: Array) -> Array:
    """A natural displacement of each element: its own magnitude, or a typical one where it is 0 or not finite."""
    with np.errstate(all="ignore"):
        size = np.abs(x).astype(np.float64)
    usable = np.isfinite(size) & (size > 0)
    typical = float(np.median(size[usable])) if usable.any() else 1.0
    return np.where(usable, size, typical)


def random_way(x: Array, rng: np.random.Generator) -> Array:
    """A displacement of all finite elements by random shares of their natural ones, in either direction."""
    way = rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1.0, 1.0], x.shape) * unit(x)
    return np.where(np.isfinite(x), way, 0.0)
