"""A gradient beside the slopes: whole tensors first, then element by element, and a verdict on each."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.check.report import Report
from engine.check.slopes import FAR, Slope, Slopes, Way, random_way, unit

RTOL = 1e-5                              # of a float64 gradient: what a slope's own error bar does not cover
DEFINITE = 0.2                           # a slope with a larger relative error decides nothing …
NEGLIGIBLE = 1e-6                        # … unless its error is small beside the function's slope over larger steps


class Look(NamedTuple):
    """One displacement of one input."""
    name: str                            # "" for a single element
    at: tuple[int, ...] | None
    way: np.ndarray
    scale: float


def verdict(given: float, slope: Slope, rtol: float, rounding: float) -> str:
    """Is this number that slope? "right", "wrong", or "inconclusive" where the error bars hide the answer.

    rounding: how exact the given number itself can be, absolute.
    """
    off = 4 * slope.error + rounding
    if slope.kind == "unknown":
        return "inconclusive"
    if slope.kind == "steep":
        inside = slope.low <= given <= slope.high and (math.isinf(given) or slope.low != slope.high)
        return "right" if inside else "inconclusive"
    if not math.isfinite(given):
        return "wrong" if math.isfinite(slope.error) else "inconclusive"
    if not math.isfinite(slope.error):
        return "inconclusive"
    if slope.kind in ("kink", "jump"):
        slack = 1e-3 * (slope.high - slope.low) + rtol * max(abs(slope.low), abs(slope.high)) + off
        inside = slope.low - slack <= given <= slope.high + slack
        return "right" if inside else "wrong" if slack < 0.5 * abs(given - slope.value) else "inconclusive"
    if slope.stairs and given == 0:
        return "right"
    apart = abs(given - slope.value)
    if apart > rtol * abs(slope.value) + off + 4 * slope.silent:
        return "wrong"
    if apart > rtol * abs(slope.value) + off:
        return "right" if abs(given) <= slope.least else "inconclusive"
    largest = max(abs(slope.value), abs(given))
    plain = slope.error <= DEFINITE * largest or slope.error <= NEGLIGIBLE * slope.natural
    return "right" if plain or abs(given) <= slope.least else "inconclusive"


class Comparison:
    """Gradients to be compared with slopes, and where the findings go."""

    def __init__(self, report: Report, slopes: Slopes, names: Sequence[str], gradients: Sequence[np.ndarray], *,
                 rtol: float, eps: float, rng: np.random.Generator, runs: int, whole: bool = True,
                 elements: int | None = None, exact: Callable[[Way], float | None] | None = None,
                 unsure: Sequence[np.ndarray] | None = None, slack: Sequence[float] | None = None) -> None:
        """eps: rounding unit of the gradients. runs: how often the function may be run for an input. elements: how many
        elements of each input to look at (None: as many as the runs allow). exact: gives slopes without error where it
        can. unsure: how far each number of the gradients moves when the inputs move by a rounding.
        slack: how far off, absolutely, each number of an input's gradient may be by rounding alone."""
        self.report, self.slopes, self.names, self.rtol, self.eps, self.rng = report, slopes, names, rtol, eps, rng
        self.runs, self.whole, self.elements, self.exact = runs, whole, elements, exact
        self.gradients = [np.asarray(g, np.float64) for g in gradients]
        self.unsure = unsure or [np.zeros(g.shape) for g in self.gradients]
        self.slack = slack or [0.0] * len(self.gradients)
        self.typical: dict[int, float] = {}
        self.outside = not np.isfinite(slopes.here).all()

    def all(self, inputs: Sequence[int]) -> None:
        """Every floating input, then all together."""
        for i in inputs:
            began = self.slopes.runs
            for look in _looks(self.slopes.xs[i], self.rng, self.whole, self.elements):
                if look.at is not None and (self.slopes.runs - began > self.runs or len(self.report.wrong()) >= 8):
                    break
                if look.at is not None and not np.isfinite(self.slopes.xs[i][look.at]):
                    self.report.skipped += 1
                else:
                    self._one(look, {i: look.way}, self.names[i])
        if self.whole and len(inputs) > 1:
            for name, way, scale in _together(self.slopes.xs, inputs, self.rng):
                self._one(Look(name, None, next(iter(way.values())), scale), way, "all inputs")

    def _decided(self, look: Look, way: Way, number: float, rounding: float) -> tuple[str, Slope]:
        """The verdict on one number, and the slope that it was compared with."""
        known = self.exact(way) if self.exact is not None else None
        if known is not None:
            slope = Slope(known, 1e-13 * abs(known), known, known, "exact")
            if verdict(number, slope, self.rtol, rounding) == "right":
                return "right", slope
            seen = self.slopes.slope(way, look.scale)
            if seen.kind == "smooth":
                rounding += 64 * self.eps * seen.natural
                return verdict(number, slope, self.rtol, rounding), slope
        else:
            seen = self.slopes.slope(way, look.scale, number, self.rtol / 4)
        whole = 0.0 if look.at is not None else max(self._natural(i) for i in way) / look.scale
        rounding += 64 * self.eps * max(seen.natural, whole)
        found = verdict(number, seen, self.rtol, rounding)
        if found != "right" and look.at is not None and self._among_kinks(way, look.scale, seen, number, rounding):
            return "right", seen._replace(kind="kink")
        return found, seen

    def _among_kinks(self, way: Way, scale: float, seen: Slope, number: float, rounding: float) -> bool:
        """Whether many kinks meet at this point, as in sort, and the number is between the slopes beside them."""
        if seen.kind not in ("kink", "jump", "smooth"):
            return False
        low, high = self.slopes.nearby(way, scale, self.rng)
        slack = 1e-2 * max(abs(low), abs(high))
        if seen.kind == "smooth" and not high - low > 10 * slack:
            return False
        return low - slack - rounding <= number <= high + slack + rounding

    def _natural(self, i: int) -> float:
        """How much the function moves when all of input i moves by its own magnitude."""
        if i not in self.typical:
            part = self.slopes.moved({i: random_way(self.slopes.xs[i], self.rng)}, FAR)
            self.typical[i] = 0.0 if part is None else float(np.sum(np.abs(part))) / FAR
        return self.typical[i]

    def _one(self, look: Look, way: Way, name: str) -> None:
        with np.errstate(all="ignore"):
            parts = [np.where(w == 0, 0.0, self.gradients[i] * w) for i, w in way.items()]
            number = float(sum(np.sum(p) for p in parts))
            rounding = 16 * self.eps * float(sum(np.sum(np.abs(p)) for p in parts))
            rounding += float(sum(np.sum(16 * self.unsure[i] * np.abs(w)) for i, w in way.items()))
            rounding += float(sum(np.sum((self.slack[i] * w)**2) for i, w in way.items()))**0.5      # a random walk
        single = look.at is not None
        if not single and not math.isfinite(number):
            return                               # the elements will tell which
        found, slope = self._decided(look, way, number, rounding)
        if slope.kind == "unknown" or (self.outside and not math.isfinite(number)):
            self.report.skipped += single
            return
        if not single and (slope.kind not in ("smooth", "exact") or slope.stairs):
            return                               # several kinks at once have no interval to lie in
        self.report.compared += 1
        self.report.kinks += slope.kind in ("kink", "jump", "steep")
        if found == "right":
            if slope.kind in ("smooth", "exact") and slope.value and not slope.stairs:
                self.report.worst = max(self.report.worst, abs(number - slope.value) / abs(slope.value))
        elif found == "wrong" or single:
            i = next(iter(way))
            per = float(look.way[look.at]) if look.at is not None else 1.0
            self.report.add(found, "value", message(name, look, self.slopes.xs[i], number / per, slope, per), name=name,
                            input=i, index=look.at, given=number / per, slope=scaled(slope, per))


def scaled(slope: Slope, per: float) -> Slope:
    """The slope for a displacement of 1 instead of `per`."""
    low, high = sorted((slope.low / per, slope.high / per))
    return slope._replace(value=slope.value / per, error=slope.error / abs(per), low=low, high=high)


def message(name: str, look: Look, x: np.ndarray, given: float, slope: Slope, per: float) -> str:
    """One sentence: which input and element, both numbers, the error bar, and whether there is a kink."""
    where = f"along {look.name}" if look.at is None else f"at {list(look.at)} (x = {x[look.at]:.6g})"
    s = scaled(slope, per)
    if s.kind in ("kink", "jump"):
        return (f"{name} {where}: a {s.kind}; the rules give {given:.10g}, differences anything from {s.low:.10g} to "
                f"{s.high:.10g} ± {s.error:.2g}")
    if s.kind == "steep":
        return f"{name} {where}: the rules give {given:.10g}, differences a vertical tangent"
    method = "complex step" if s.kind == "exact" else "differences"
    side = " (from the one side that is inside the domain)" if s.kind == "edge" else ""
    return f"{name} {where}: the rules give {given:.10g}, {method}{side} {s.value:.10g} ± {s.error:.2g}"


def _looks(x: np.ndarray, rng: np.random.Generator, whole: bool, elements: int | None) -> Iterator[Look]:
    """Directions through all elements, along each group of equal ones, then single elements: remarkable ones first."""
    if not x.size:
        return
    units = unit(x)
    finite = np.isfinite(x)
    if whole and x.size > 1 and finite.any():
        yield Look("a random direction", None, random_way(x, rng), 1.0)
        yield Look("the direction of all ones", None, finite.astype(np.float64), float(np.min(units[finite])))
        values, counts = np.unique(x[finite], return_counts=True)
        for value in values[counts > 1][np.argsort(-counts[counts > 1])][:4]:
            tied = x == value
            yield Look(f"all elements equal to {value:g}", None, tied.astype(np.float64), float(units[tied][0]))
    order = remarkable(x, rng)
    for j in order[:elements]:
        at = tuple(int(k) for k in np.unravel_index(j, x.shape))
        way = np.zeros(x.shape)
        way[at] = units[at]
        yield Look("", at, way, 1.0)


def remarkable(x: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
    """Every element's number once: the first, the last, the extremes and a tied one, then the rest at random."""
    flat = np.where(np.isfinite(x), x, 0.0).ravel()
    _, first, counts = np.unique(flat, return_index=True, return_counts=True)
    some: list[Any] = [0, flat.size - 1, np.argmax(flat), np.argmin(flat), np.argmin(np.abs(flat)),
                       *first[counts > 1][:2]]
    return list(dict.fromkeys([int(j) for j in some] + rng.permutation(flat.size).tolist()))


def _together(xs: Sequence[np.ndarray], inputs: Sequence[int], rng: np.random.Generator,
              ) -> Iterator[tuple[str, Way, float]]:
    """Directions through several inputs: a random one, and along each group of equal elements of different inputs."""
    some = [i for i in inputs if xs[i].size]
    if len(some) < 2:
        return
    yield "a random direction", {i: random_way(xs[i], rng) for i in some}, 1.0
    sets = [set(np.unique(xs[i][np.isfinite(xs[i])]).tolist()) for i in some]
    shared = sorted({v for k, s in enumerate(sets) for v in s if any(v in t for t in sets[:k])})
    for value in shared[:4]:
        tied = {i: (xs[i] == value).astype(np.float64) for i, s in zip(some, sets, strict=True) if value in s}
        yield f"all elements equal to {value:g}", tied, abs(value) or 1.0
