"""`check_vjp`: is this the pullback of that function? For plain NumPy arrays, whatever framework made the functions."""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.check import contract, probes
from engine.check.compare import RTOL, Comparison
from engine.check.contract import Broken, Pullback
from engine.check.report import GradcheckError, InconclusiveWarning, Report, script, written
from engine.check.slopes import Array, Slopes
from engine.errors import DtypeError

RUNS = 60_000                            # of the function, at most
WORK = 4e8                               # numbers that these runs may compute


def check_vjp(f: Callable[..., Any], vjp: Callable[..., Any], inputs: Any, *, rtol: float | None = None, seed: int = 0,
              runs: int | None = None, probe: bool = True, strict: bool = False, names: Sequence[str] | None = None,
              raises: bool = True) -> Report:
    """Check that `vjp(g, *inputs)` gives the gradients of <g, f(*inputs)>, one an input, and all else that it owes.

    f: takes the input arrays, gives one floating array. vjp: takes a cotangent of that array's shape and dtype, then
    the inputs; gives a tuple of arrays (None or zeros for an integer input). f is run before each call of vjp.
    inputs: arrays; floating ones are checked, in their own dtype.
    rtol: relative difference between a gradient and its slope that is let pass, besides the slope's own error bar. No
    absolute one exists, so scale does not matter. runs: how often f may be run (default 60,000, fewer where it is
    large). probe: look as well at other points, sizes and dtypes: a second point, float32, one row, no rows, 0-d.

    Raises GradcheckError, with `.report`, where something is wrong. Where the numbers cannot tell, the report's verdict
    is "inconclusive", and an InconclusiveWarning is given (strict: GradcheckError is raised). raises=False: the report
    says it all. Whatever f and vjp raise goes through.
    """
    arrays = [np.array(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    for i, x in enumerate(arrays):
        if x.dtype.kind not in "fiub":
            raise DtypeError(f"check_vjp: input {i} is {x.dtype}; it takes floating, integer and truth values")
    pull = Pullback(f, vjp, list(names) if names else [f"input {i}" for i in range(len(arrays))])
    report, rng = Report(), np.random.default_rng(seed)
    g = np.zeros(())
    try:
        y = pull.forward(arrays)
        if y.dtype.kind != "f":
            raise DtypeError(f"check_vjp: the function gives {y.dtype}; only floating numbers have a gradient")
        g = cotangent(y, rng)
        again = pull.forward([x.copy() for x in arrays])
        if again.shape != y.shape or not np.array_equal(y, again, equal_nan=True):
            raise Broken("contract", "the function gives different results for the same inputs, so no gradient of it "
                                     "can be checked; fix its random key")
        a = pull(g.copy(), [x.copy() for x in arrays])
        contract.check(report, pull, arrays, y, g, a, rng)
        if not report.wrong():
            unsure = contract.conditioning(pull, arrays, g, a, rng, times=4)
            numbers(report, f, arrays, pull.names, g, a, rtol, rng, runs, unsure)
        if probe and not report.wrong():
            probes.probe(report, pull, arrays, y, g, a, rtol, rng)
    except Broken as e:
        report.add("wrong", e.what, str(e))
    report.code = _script(report, arrays, g, pull.bare)
    return settle(report, strict, raises)


def cotangent(y: Array, rng: np.random.Generator) -> Array:
    """Random numbers of either sign, none near 0, none of equal size, of y's shape and dtype."""
    return np.asarray(rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape), y.dtype)


def numbers(report: Report, f: Callable[..., Any], xs: list[Array], names: Sequence[str], g: Array, a: list[Array],
            rtol: float | None, rng: np.random.Generator, runs: int | None, unsure: list[Array]) -> None:
    """The gradients against the slopes, every floating input."""
    if not any(x.dtype.kind == "f" and x.size for x in xs) or not g.size:
        return
    real, slopes, eps = _in_float64(f, xs, g)
    budget = runs or int(min(RUNS, max(600, WORK / (1 + sum(x.size for x in xs) + 4 * g.size))))
    least = RTOL if eps < 1e-10 else 64 * 16 * (1 + max([g.size, *(x.size for x in xs)])**0.5) * eps
    Comparison(report, slopes, names, a, rtol=rtol if rtol is not None else least, eps=eps, rng=rng,
               runs=budget // len(real), unsure=unsure).all(real)
    report.runs += slopes.runs


def _in_float64(f: Callable[..., Any], xs: list[Array], g: Array) -> tuple[list[int], Slopes, float]:
    """Which inputs are floating, the slopes (in float64 if the function can), and the gradients' rounding unit."""
    real = [i for i, x in enumerate(xs) if x.dtype.kind == "f"]
    eps = max(float(np.finfo(xs[i].dtype).eps) for i in real)
    u = np.asarray(g, np.float64)
    narrow = Slopes(f, xs, u)
    if max(eps, float(np.finfo(g.dtype).eps)) < 1e-10:
        return real, narrow, eps
    try:
        wide = Slopes(f, [x.astype(np.float64) if x.dtype.kind == "f" else x for x in xs], u)
    except Exception:
        return real, narrow, eps
    with np.errstate(all="ignore"):
        fine = wide.shape == narrow.shape and wide.dtype == np.float64 and np.allclose(
            wide.here, narrow.here, rtol=1e3 * eps, atol=1e3 * eps * np.max(np.abs(narrow.here), initial=0.0),
            equal_nan=True)
    return (real, wide, eps) if fine else (real, narrow, eps)


def settle(report: Report, strict: bool, raises: bool = True) -> Report:
    """Raise, warn, or hand the report back."""
    if raises and (report.verdict == "wrong" or (strict and report.verdict == "inconclusive")):
        first = report.first()
        text = str(first) if first else "nothing could be compared: no element is finite"
        error = GradcheckError(f"{text}\n{report.code}" if report.code else text)
        error.report = report
        raise error
    if raises and report.verdict == "inconclusive":
        text = str(report.findings[0]) if report.findings else "nothing could be compared: no element is finite"
        warnings.warn(f"the numbers cannot tell: {text}", InconclusiveWarning, stacklevel=3)
    return report


def _script(report: Report, xs: list[Array], g: Array, bare: bool) -> str:
    if not report.findings:
        return ""
    first = report.first()
    assert first is not None
    lines = ["import numpy as np", *(f"x{i} = {written(x)}" for i, x in enumerate(xs)), f"g = {written(g)}"]
    given = ", ".join(f"x{i}" for i in range(len(xs)))
    if first.index is None or first.slope is None:
        return script([*lines, f"print(vjp(g, {given}))"])
    i = first.input or 0
    step = FINE * (abs(float(xs[i][first.index])) or 1.0)
    moved = ", ".join(f"x{k} + h" if k == i else f"x{k}" for k in range(len(xs)))
    back = moved.replace("+ h", "- h")
    given = f"vjp(g, {given})" + ("" if bare else f"[{i}]")
    return script([*lines, f"h = np.zeros_like(x{i}); h{list(first.index) if first.index else '[()]'} = {step!r}",
                   f"print({given}{list(first.index) if first.index else ''})   # {first.given:.10g}",
                   f"print(np.sum(g * (f({moved}) - f({back}))) / {2 * step!r})   # {_said(first.slope)}"])


FINE = 2.0**-17                          # the relative step of the code that shows a finding again


def _said(slope: Any) -> str:
    return f"{slope.value:.10g}" if math.isclose(slope.low, slope.high) or math.isnan(slope.low) else (
        f"from {slope.low:.10g} to {slope.high:.10g}: a {slope.kind}")
