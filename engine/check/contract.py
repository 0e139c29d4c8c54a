"""What a pullback owes besides right numbers: it is linear, repeatable, writes to nothing, takes arrays as they come.

Each check here runs the pullback again on something that must not matter, and compares.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.check.layouts import SAME, repeated
from engine.check.report import Report
from engine.check.slopes import Array

Arrays = list[Array]
CLOSELY = 12                             # nudges, where rounding may be all that there is


class Broken(Exception):
    """A pullback that did not even give arrays of the right kind; the message says how."""
    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


class Pullback:
    """A function, its pullback, and the names of its inputs; every call is watched."""

    def __init__(self, f: Callable[..., Any], vjp: Callable[..., Any], names: Sequence[str]) -> None:
        self.f, self.vjp, self.names = f, vjp, list(names)
        self.kept: list[tuple[Array, Array]] = []        # what was returned, and a copy made at once
        self.bare = False                                # whether the pullback gives an array, not a tuple of one

    def forward(self, xs: Sequence[Array]) -> Array:
        """f(xs), a copy. Raises Broken where f writes to an input."""
        given = list(xs)
        before = [x.copy() for x in given]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            y = np.array(self.f(*given))
        self._untouched("the function", given, before)
        return y

    def __call__(self, g: Array, xs: Sequence[Array]) -> Arrays:
        """The gradients, copies. The function is run first, as a program would. Raises Broken."""
        self.forward([x.copy() for x in xs])
        given, before, g_before = list(xs), [x.copy() for x in xs], g.copy()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                found = self.vjp(g, *given)
            except ValueError as e:
                if "read-only" in str(e) or "not writeable" in str(e):
                    raise Broken("contract", f"the pullback writes to an array that it was given ({e})") from e
                raise
        if not np.array_equal(g, g_before, equal_nan=True):
            raise Broken("contract", "the pullback writes to the cotangent")
        self._untouched("the pullback", given, before)
        return self._arrays(found, given)

    def _untouched(self, who: str, given: Arrays, before: Arrays) -> None:
        for name, x, b in zip(self.names, given, before, strict=True):
            if not np.array_equal(x, b, equal_nan=x.dtype.kind == "f"):
                raise Broken("contract", f"{who} writes to {name}")

    def _arrays(self, found: Any, xs: Arrays) -> Arrays:
        self.bare = len(xs) == 1 and not isinstance(found, (tuple, list))
        if self.bare:
            found = (found,)
        if not isinstance(found, (tuple, list)) or len(found) != len(xs):
            size = len(found) if isinstance(found, (tuple, list)) else type(found).__name__
            raise Broken("contract", f"the pullback gives {size}, not one gradient for each of {len(xs)} inputs")
        out = []
        for name, v, x in zip(self.names, found, xs, strict=True):
            if x.dtype.kind != "f":
                if v is not None and np.any(np.asarray(v) != 0):
                    raise Broken("dtype", f"{name} is {x.dtype} and has no slope; its gradient must be None or zeros")
                out.append(np.zeros(x.shape))
                continue
            if v is None:
                raise Broken("contract", f"the gradient of {name} is None; where the function ignores it, it is zeros")
            a = np.asarray(v)
            if a.shape != x.shape:
                raise Broken("shape", f"the gradient of {name} has shape {a.shape}, the input {x.shape}")
            if a.dtype != x.dtype:
                raise Broken("dtype", f"the gradient of {name} is {a.dtype}, the input {x.dtype}")
            copy = a.copy()
            if isinstance(v, np.ndarray):
                self.kept.append((v, copy))
            out.append(copy)
        return out


def check(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays, rng: np.random.Generator) -> None:
    """Everything that needs no slope. `a` is the gradient at xs for the cotangent g, y = f(xs)."""
    kept = [(v, c) for v, c in pull.kept if not any(v is x for x in (*xs, g))]
    for check_one in (_repeatable, _linear, _layouts, _same_array_twice):
        check_one(report, pull, xs, g, a, rng)
        if report.wrong():
            return
    if any(not np.array_equal(v, c, equal_nan=True) for v, c in kept):
        report.add("wrong", "contract", "a gradient that an earlier call returned was overwritten by a later one: the "
                                        "pullback gives away a buffer that it uses again")


def _differs(report: Report, what: str, pull: Pullback, got: Arrays, want: Arrays, allowed: Sequence[Any], why: str,
             again: Callable[[], Sequence[Any]] | None = None) -> bool:
    """Whether gradients are further apart than is allowed; `again`: what is allowed after a closer look."""
    for i, (name, u, v, off) in enumerate(zip(pull.names, got, want, allowed, strict=True)):
        same = _within(u, v, off)
        if not same.all() and again is not None:
            same = _within(u, v, again()[i])
        if not same.all():
            at = tuple(int(k) for k in np.argwhere(~same)[0])
            report.add("wrong", what, f"the gradient of {name} {why}: at {list(at)} {u[at]:.10g} instead of "
                                      f"{v[at]:.10g}", name=name, index=at)
            return True
    return False


def _within(u: Array, v: Array, off: Any) -> Array:
    with np.errstate(all="ignore"):
        return (u == v) | ((u != u) & (v != v)) | (np.abs(u - v) <= off)


def _exactly(a: Arrays) -> list[float]:
    return [32 * float(np.finfo(v.dtype).tiny) for v in a]


def _repeatable(report: Report, pull: Pullback, xs: Arrays, g: Array, a: Arrays, rng: np.random.Generator) -> None:
    for _ in range(2):
        if _differs(report, "contract", pull, pull(g.copy(), [x.copy() for x in xs]), a, [0.0] * len(a),
                    "is another one when it is asked for again"):
            return


def _linear(report: Report, pull: Pullback, xs: Arrays, g: Array, a: Arrays, rng: np.random.Generator) -> None:
    def of(cotangent: Array) -> Arrays:
        return pull(np.asarray(cotangent, g.dtype), [x.copy() for x in xs])

    finite = [np.isfinite(v) for v in a]
    with np.errstate(all="ignore"):
        for factor in (4.0, -1.0, 2.0**-12, 2.0**12):
            large = [np.where(f & np.isfinite(factor * v), factor * v, np.nan) for v, f in zip(a, finite, strict=True)]
            got = [np.where(np.isnan(w), np.nan, v) for v, w in zip(of(factor * g), large, strict=True)]
            if _differs(report, "linearity", pull, got, large, _exactly(a),
                        f"is not linear in the cotangent: {factor:g} times it does not give {factor:g} times"):
                return
        none = [np.where(f, v, 0.0) for v, f in zip(of(np.zeros_like(g)), finite, strict=True)]
        if _differs(report, "linearity", pull, none, [np.zeros_like(v) for v in none], [0.0] * len(a),
                    "is not 0 for a cotangent of zeros"):
            return
        other = np.asarray(rng.uniform(-2, 2, g.shape), g.dtype)
        b, both = of(other), of(g + other)
        eps = [float(np.finfo(v.dtype).eps) for v in a]
        top = [_top(u) + _top(v) for u, v in zip(a, b, strict=True)]

        def allowed(cotangents: Arrays, times: int) -> list[float]:
            moved = noise(pull, xs, cotangents, a, rng, times)
            return [(1024 * e * (1 + max(g.size, x.size)**0.5) * t + 64 * m) if np.isfinite(t) else np.inf
                    for e, t, m, x in zip(eps, top, moved, xs, strict=True)]
        want = [np.where(np.isfinite(u + v), u + v, np.nan) for u, v in zip(a, b, strict=True)]
        both = [np.where(np.isnan(w), np.nan, v) for v, w in zip(both, want, strict=True)]
        _differs(report, "linearity", pull, both, want, allowed([g], 2),
                 "is not linear in the cotangent: that of a sum is not the sum",
                 lambda: allowed([g, other, g + other], CLOSELY))


def _top(v: Array) -> float:
    return float(np.max(np.abs(v), initial=0.0)) if np.isfinite(v).all() else np.inf


def conditioning(pull: Pullback, xs: Arrays, g: Array, a: Arrays, rng: np.random.Generator, times: int = 2) -> Arrays:
    """How far apart the gradients are at points that differ by one rounding of every input and of the cotangent.

    The point itself is left out: a rule that is wrong there alone would excuse itself.
    """
    def near() -> Arrays:
        *inputs, cotangent = nudged([*xs, g], 1.0, rng)
        return pull(cotangent, inputs)
    moved, first = [np.zeros(v.shape) for v in a], near()
    for _ in range(times):
        for m, u, v in zip(moved, near(), first, strict=True):
            with np.errstate(all="ignore"):
                np.maximum(m, np.where(np.isfinite(u - v), np.abs(u - v), 0.0), out=m)
    return moved


def noise(pull: Pullback, xs: Arrays, cotangents: Arrays, a: Arrays, rng: np.random.Generator,
          times: int) -> list[float]:
    """The largest of `conditioning` for each input, over several cotangents."""
    found = [[float(np.max(m, initial=0.0)) for m in conditioning(pull, xs, np.asarray(u), a, rng, times)]
             for u in cotangents]
    return [max(each) for each in zip(*found, strict=True)]


def nudged(xs: Arrays, roundings: float, rng: np.random.Generator) -> Arrays:
    """Every floating number moved by so many roundings up or down; equal numbers stay equal."""
    values, place = np.unique(np.concatenate([np.zeros(0), *(x.ravel() for x in xs if x.dtype.kind == "f")]),
                              return_inverse=True)
    signs, at, out = rng.choice([-1.0, 1.0], values.shape)[place], 0, []
    for x in xs:
        if x.dtype.kind == "f":
            sign, at = signs[at:at + x.size].reshape(x.shape), at + x.size
            out.append(np.asarray(x * (1 + roundings * np.finfo(x.dtype).eps * sign), x.dtype))
        else:
            out.append(x)
    return out


def _layouts(report: Report, pull: Pullback, xs: Arrays, g: Array, a: Arrays, rng: np.random.Generator) -> None:
    moved = noise(pull, xs, [g], a, rng, 2)

    def allowed(want: Arrays, moved: list[float] = moved) -> list[float]:
        return [1024 * float(np.finfo(v.dtype).eps) * (1 + max(g.size, v.size)**0.5) * _top(v) + 64 * m
                if np.isfinite(_top(v)) else np.inf for v, m in zip(want, moved, strict=True)]

    def closely(want: Arrays) -> Callable[[], list[float]]:
        return lambda: allowed(want, noise(pull, xs, [g], a, rng, CLOSELY))

    for layout, change in SAME.items():
        got = pull(change(g), [x.copy() for x in xs])
        if _differs(report, "layout", pull, got, a, allowed(a), f"is another one for a cotangent in {layout} layout",
                    closely(a)):
            return
        got = pull(g.copy(), [change(x) for x in xs])
        if _differs(report, "layout", pull, got, a, allowed(a), f"is another one for inputs in {layout} layout",
                    closely(a)):
            return
    if g.ndim and g.size > 1:
        for wide in (repeated(g), np.broadcast_to(g.ravel()[0], g.shape)):
            want = pull(wide.copy(), [x.copy() for x in xs])
            if _differs(report, "layout", pull, pull(wide, [x.copy() for x in xs]), want, allowed(want),
                        "is another one for a cotangent with stride 0, as sum's gradient has", closely(want)):
                return


def _same_array_twice(report: Report, pull: Pullback, xs: Arrays, g: Array, a: Arrays,
                      rng: np.random.Generator) -> None:
    """The same array as two inputs: the two gradients are what they are for two equal arrays."""
    for i in range(len(xs)):
        for j in range(i):
            if xs[i].shape != xs[j].shape or xs[i].dtype != xs[j].dtype:
                continue
            one = [x.copy() for x in xs]
            one[i] = one[j]
            try:
                y = pull.forward([x.copy() for x in one])
            except Broken:
                raise
            except Exception:
                continue
            if y.shape != g.shape or not np.isfinite(y).all():
                continue
            want, got = pull(g.copy(), [x.copy() for x in one]), pull(g.copy(), one)
            if _differs(report, "contract", pull, got, want, [1e-12 * _top(v) if np.isfinite(_top(v)) else np.inf
                                                              for v in want],
                        f"is another one when {pull.names[i]} and {pull.names[j]} are the same array"):
                return
