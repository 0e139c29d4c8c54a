"""Places that the caller did not ask for: another point, float32, a single row, no rows at all, 0-d."""
from __future__ import annotations

import numpy as np

from engine.check.compare import Comparison
from engine.check.contract import Arrays, Broken, Pullback, conditioning, nudged
from engine.check.report import Report
from engine.check.slopes import Array, Slopes, unit

LARGE = 1e18                             # beyond, something inside may well have overflown in float32
FLOAT32, FLOAT64 = 2.0**-23, 2.0**-52     # rounding units


def probe(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays, rtol: float | None,
          rng: np.random.Generator) -> None:
    """Look elsewhere: wherever the function can be run, the pullback must do as well."""
    for look in (_another_point, _float32, _one_row, _no_rows, _no_axes):
        look(report, pull, xs, y, g, a, rng)
        if report.wrong():
            return


def _run(pull: Pullback, xs: Arrays) -> Array | None:
    """f there, or None where it refuses or is not finite."""
    try:
        y = pull.forward([x.copy() for x in xs])
    except Broken:
        raise
    except Exception:
        return None
    return y if y.dtype.kind == "f" and np.isfinite(y).all() else None


def _whole(report: Report, pull: Pullback, xs: Arrays, g: Array, rng: np.random.Generator, where: str,
           elements: int = 3) -> None:
    """The numbers at another place: along whole directions and a few elements."""
    a = pull(g.copy(), [x.copy() for x in xs])
    slopes = Slopes(pull.f, xs, g)
    eps = max(float(np.finfo(x.dtype).eps) for x in xs if x.dtype.kind == "f")
    found = Report()
    Comparison(found, slopes, [f"{name} ({where})" for name in pull.names], a, rtol=1e-4 if eps < 1e-10 else 1e-2,
               eps=eps, rng=rng, runs=600, elements=elements, unsure=conditioning(pull, xs, g, a, rng, times=4)).all(
        [i for i, x in enumerate(xs) if x.dtype.kind == "f"])
    report.runs += slopes.runs
    report.findings += found.wrong()


def _another_point(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays,
                   rng: np.random.Generator) -> None:
    """A little away: a rule that remembers an earlier call, or holds at one point alone, fails here; and then at the
    first point again."""
    if not any(x.dtype.kind == "f" and x.size for x in xs) or not g.size:
        return
    other = [x if x.dtype.kind != "f" else np.asarray(np.where(np.isfinite(x), x + rng.uniform(-0.1, 0.1, x.shape)
                                                               * unit(x), x), x.dtype) for x in xs]
    z = _run(pull, other)
    if z is None or z.shape != y.shape:
        return
    _whole(report, pull, other, g, rng, "at a second point")
    again = pull(g.copy(), [x.copy() for x in xs])
    if not report.wrong() and any(not np.array_equal(u, v, equal_nan=True) for u, v in zip(again, a, strict=True)):
        report.add("wrong", "contract", "the gradient is another one after the pullback has been used at another point")


def _float32(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays,
             rng: np.random.Generator) -> None:
    """float32 against float64 at the same numbers, within what one float32 rounding of any input can do."""
    if any(x.dtype == np.float32 for x in xs) or not any(x.dtype == np.float64 for x in xs) or not g.size:
        return
    low = [x.astype(np.float32) if x.dtype == np.float64 else x for x in xs]
    z = _run(pull, low)
    if z is None or z.dtype != np.float32 or z.shape != y.shape:
        return
    same = [x.astype(np.float64) if x.dtype == np.float32 else x for x in low]
    w = _run(pull, same)
    if w is None or w.shape != y.shape:
        return
    h = np.asarray(rng.integers(32, 97, g.shape) / 64 * rng.choice([-1, 1], g.shape), np.float32)
    narrow, wide = pull(h, low), pull(h.astype(np.float64), same)
    allowed = _room(pull, same, h.astype(np.float64), wide, w, z, rng)
    for name, u, v, off in zip(pull.names, narrow, wide, allowed, strict=True):
        with np.errstate(all="ignore"):
            ok = np.isfinite(v) & (np.abs(v) < LARGE) & ((np.abs(v) > 1 / LARGE) | (v == 0))
            bad = ok & ~(np.abs(u - v) <= off) & ~(np.abs(u - v) <= 1e-5 * np.abs(v))
        if bad.any():
            at = tuple(int(k) for k in np.argwhere(bad)[0])
            report.add("wrong", "float32", f"the gradient of {name} in float32 is not that in float64: at {list(at)} "
                                           f"{u[at]:.7g} instead of {v[at]:.7g}, allowed difference {off[at]:.2g}",
                       name=name, index=at)


def _room(pull: Pullback, xs: Arrays, g: Array, a: Arrays, y: Array, low: Array, rng: np.random.Generator) -> Arrays:
    """How far the float32 gradient may be off, element by element."""
    moved = [np.zeros(v.shape) for v in a]
    for k in range(6):
        near = nudged(xs, 4.0**(k % 3) * FLOAT32 / FLOAT64, rng)
        for m, u, v in zip(moved, pull(g.copy(), near), a, strict=True):
            with np.errstate(all="ignore"):
                np.maximum(m, np.where(np.isfinite(u - v), np.abs(u - v), np.inf), out=m)
    with np.errstate(all="ignore"):              # what the function itself loses in float32, as a slope
        lost = float(np.sum(np.abs(g) * (FLOAT32 * np.abs(y) + np.abs(low.astype(np.float64) - y))))
    room = []
    for x, v, m in zip(xs, a, moved, strict=True):
        top = float(np.max(np.abs(v[np.isfinite(v)]), initial=0.0))
        sums = 1 + max(g.size, x.size)**0.5
        natural = lost / unit(x) if x.dtype.kind == "f" and x.size else np.zeros(v.shape)
        room.append(64 * FLOAT32 * sums * top + 32 * np.maximum(m, np.max(m, initial=0.0) / 8) + 64 * natural)
    return room


def _first_rows(xs: Arrays, rows: int) -> Arrays:
    return [x[:rows] if x.ndim else x for x in xs]


def _one_row(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays,
             rng: np.random.Generator) -> None:
    """The first row alone, where the function treats its rows apart from each other."""
    if not y.ndim or len(y) < 2 or not all(x.ndim and len(x) == len(y) for x in xs) or not g.size:
        return
    few = _first_rows(xs, 1)
    z = _run(pull, few)
    if z is None or z.shape != y[:1].shape or not np.allclose(z, y[:1], rtol=1e-5, atol=0):
        return
    _whole(report, pull, few, g[:1].copy(), rng, "its first row alone")


def _no_rows(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays,
             rng: np.random.Generator) -> None:
    """No rows: where the function takes that, the pullback must."""
    if not any(x.ndim and x.size for x in xs):
        return
    for none in (_first_rows(xs, 0), [x[..., :0] if x.ndim else x for x in xs]):
        z = _run(pull, none)
        if z is None or z.size:
            continue
        try:
            pull(np.zeros(z.shape, z.dtype), none)
        except Broken as e:
            report.add("wrong", "zero-size", f"{e} (inputs without any element)")
        except Exception as e:
            report.add("wrong", "zero-size", "the function takes inputs of shapes "
                       f"{', '.join(str(x.shape) for x in none)}, its pullback raises {type(e).__name__}: {e}")
        if report.wrong():
            return


def _no_axes(report: Report, pull: Pullback, xs: Arrays, y: Array, g: Array, a: Arrays,
             rng: np.random.Generator) -> None:
    """0-d inputs, where the function is elementwise: the gradient of a number is a number."""
    if y.size < 2 or not all(x.shape == y.shape for x in xs):
        return
    alone = []
    for k in (0, y.size - 1):
        point = [np.array(x.ravel()[k]) for x in xs]
        z = _run(pull, point)
        if z is None or z.shape != () or not np.allclose(z, y.ravel()[k], rtol=1e-5, atol=0, equal_nan=True):
            return
        alone.append((k, point))
    for k, point in alone:
        try:
            got = pull(np.array(g.ravel()[k]), point)
        except Broken as e:
            report.add("wrong", e.what, f"{e} (0-d inputs)")
            return
        for name, u, v in zip(pull.names, got, a, strict=True):
            if not np.allclose(u, v.ravel()[k], rtol=1e-4, atol=0, equal_nan=True):
                report.add("wrong", "value", f"the gradient of {name} as a 0-d number is {u:.10g}, in an array "
                                             f"{v.ravel()[k]:.10g}", name=name)
                return
