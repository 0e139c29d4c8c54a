"""`@gradient_test`: a function of tensors becomes a property test of its gradient.

    from engine.check import gradient_test

    @gradient_test(away_from=[0.0])
    def swish(x):
        return x * x.sigmoid()

pytest runs it, whatever its name (a plug-in that comes with this package sees to that); without pytest, `swish()` does.
With arguments it is still the function itself.
"""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.check.gradients import gradcheck
from engine.check.report import GradcheckError

EXAMPLES: int | None = None              # how many examples a test draws: None = as Hypothesis is set


def gradient_test(function: Callable[..., Any] | None = None, *, signature: str | None = None, shapes: Any = None,
                  dtypes: Sequence[Any] = (np.float64, np.float32), domain: Any = (-2.0, 2.0),
                  away_from: Sequence[float] = (), order: int = 1, examples: int | None = None,
                  min_side: int = 0) -> Any:
    """Decorator: check the gradient of a function of tensors for drawn shapes, dtypes, memory layouts and numbers.

    signature: what the inputs' shapes have to do with each other, `"(n,k),(k,m)->(n,m)"`; default: they broadcast.
    shapes: a strategy of tuples of shapes instead. domain: (low, high), or one pair an input. away_from: numbers that
    no input comes near (kinks need not be avoided: they are decided by the slopes of their two sides). order: of the
    highest gradient that is checked. examples: how many are drawn (default: Hypothesis' setting, or pytest's
    `--gradient-examples`). min_side: the smallest axis. Hypothesis' `target` drives the search towards the worst error.
    Fails with a GradcheckError for the smallest inputs that show it, with code that shows it again.
    """
    options: dict[str, Any] = {"signature": signature, "shapes": shapes, "dtypes": dtypes, "domain": domain,
                               "away_from": away_from, "order": order, "examples": examples, "min_side": min_side}
    return _test(function, options) if function is not None else lambda f: _test(f, options)


def _test(f: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def test(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs) if args or kwargs else _search(f, **options)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(test, name, getattr(f, name, None))
    marked: Any = test
    marked.__signature__ = inspect.Signature()           # pytest must not take the inputs for fixtures
    marked.gradient_test = True
    return test


def _search(f: Callable[..., Any], signature: str | None, shapes: Any, dtypes: Sequence[Any], domain: Any,
            away_from: Sequence[float], order: int, examples: int | None, min_side: int) -> None:
    from hypothesis import Phase, given, settings, target
    from hypothesis import strategies as st

    from engine.check.strategies import arrays, broadcastable

    count = _count(f)
    domains = [domain] * count if not isinstance(domain[0], (tuple, list)) else list(domain)
    drawn = shapes if shapes is not None else broadcastable(count, signature, min_side=min_side)

    @st.composite
    def inputs(draw: Callable[[Any], Any]) -> list[np.ndarray]:
        dtype = draw(st.sampled_from(list(dtypes)))
        return [draw(arrays(tuple(s), dtype, domain=d, away_from=away_from))
                for s, d in zip(draw(drawn), domains, strict=True)]

    number = examples or EXAMPLES or settings().max_examples

    @settings(max_examples=number, deadline=None, report_multiple_bugs=False,
              phases=[p for p in settings().phases if p is not Phase.explain])     # its tracing is slow
    @given(inputs())
    def check(arrays: list[np.ndarray]) -> None:
        report = gradcheck(f, arrays, order, elements=8)
        if report.worst > 0:
            target(math.log10(report.worst), label="largest relative difference of a gradient, log10")

    try:
        check()
    except GradcheckError as e:
        raise _named(f, e) from None


def _named(f: Callable[..., Any], e: GradcheckError) -> GradcheckError:
    name = getattr(f, "__name__", "f")
    error = GradcheckError(f"{name}: {e}".replace("gradcheck(f, ", f"gradcheck({name}, "))
    error.report = e.report
    return error


def _count(f: Callable[..., Any]) -> int:
    """How many tensors f takes: its parameters without a default."""
    found = [p for p in inspect.signature(f).parameters.values()
             if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if not found:
        raise TypeError(f"gradient_test: {getattr(f, '__name__', f)} takes no tensor")
    return len(found)
