"""Checking gradients and ops: a slope found without calculus must equal the one that the rules give.

    from engine.check import check_op, gradcheck
    gradcheck(lambda x, w: (x @ w).tanh(), [x, w], order=2)      # any function of tensors
    check_op(my_op)                                              # one op: kernel, shapes, dtypes, gradients

`calls(op)` is a Hypothesis strategy of valid calls, read off the op's record. Only it and `check_op` need Hypothesis.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine import device as devices
from engine.autograd import grad
from engine.core import Tensor
from engine.errors import DtypeError, EngineError
from engine.record import OPS, Bool, Key, Op, Real
from engine.slopes import Oracle, leaf, random_way, unit
from engine.state import shapes_only, unfused
from engine.strategies import LAYOUTS, Call, calls, is_float

__all__ = ["Call", "CheckError", "GradcheckError", "calls", "check_gradients", "check_meaning", "check_op",
           "check_shape_rule", "gradcheck", "tolerance"]

WIDE = np.dtype(np.longdouble)       # no kernel serves it, so in this dtype every op runs its meaning


class CheckError(EngineError, AssertionError):
    """An op that does not do what its record says."""


class GradcheckError(CheckError):
    """A gradient that is not the slope."""


def tolerance(dtype: Any, terms: int = 1) -> float:
    """How far, relative to the numbers involved, a result may be off: 16 (1 + √terms) ε.

    ε is the dtype's rounding unit. `terms` is the length of the longest sum: rounding errors of a sum add up like a
    random walk, and 16 is for the handful of roundings outside the sum.
    """
    return 16 * (1 + terms**0.5) * float(np.finfo(dtype).eps)


# --- gradients ------------------------------------------------------------------------------------
def gradcheck(f: Callable[..., Tensor], inputs: Sequence[Any], order: int = 1, *, rtol: float | None = None,
              seed: int = 0, elements: int = 64) -> None:
    """Check that the engine's gradient of f is its slope, and up to `order` that the gradient's own gradient is.

    f: any function of floating tensors to one floating tensor; it must give the same result when called again.
    inputs: tensors or arrays, float32 or float64 (the slope is found in float64 either way), in any memory layout.
    rtol: allowed difference relative to the input's largest gradient; default 64 · tolerance(dtype, largest size).
    elements: how many elements of each input to check one by one, after a direction through all of them.
    Raises GradcheckError, which names the input, the element, both numbers and the error bar.
    """
    xs = [devices.host(x.array()) if isinstance(x, Tensor) else np.asarray(x) for x in inputs]
    names = [f"input {i}" + (f" ({x.name})" if isinstance(x, Tensor) and x.name else "") for i, x in enumerate(inputs)]
    _check(f, xs, names, order, 1, rtol, np.random.default_rng(seed), elements)


def _check(f: Callable[..., Tensor], xs: list[np.ndarray], names: list[str], order: int, level: int, rtol: float | None,
           rng: np.random.Generator, elements: int) -> None:
    for x, name in zip(xs, names, strict=True):
        if x.dtype.kind != "f":
            raise DtypeError(f"gradcheck: {name} is {x.dtype}; pass the floating inputs, let f close over the others")
    before = [x.copy() for x in xs]
    tensors = [leaf(x) for x in xs]
    y = f(*tensors)
    if y.dtype.kind != "f":
        raise DtypeError(f"gradcheck: f gives {y.dtype}; only a floating tensor has a gradient")
    if not np.isfinite(devices.host(y.array())).all():
        raise GradcheckError("f is not finite here, so it has no slope to check")
    u = _cotangent(y, rng)
    got = [np.zeros_like(x) for x in xs]
    if y.requires_grad:
        got = [devices.host(g.array()) for g in grad(y, tensors, leaf(u, False))]
    for x, g, b, name in zip(xs, got, before, names, strict=True):
        if g.shape != x.shape or g.dtype != x.dtype:
            raise GradcheckError(f"{name}: the gradient is {g.dtype} {g.shape}, the input {x.dtype} {x.shape}")
        if not np.array_equal(x, b, equal_nan=True):
            raise GradcheckError(f"{name}: its values were changed by the forward or the backward pass")
    oracle = Oracle(f, [x.astype(np.float64) for x in xs], u.astype(np.float64), rng)
    if not np.array_equal(oracle.here, oracle._run(oracle.xs), equal_nan=True):
        raise GradcheckError("f gives different results for the same inputs; fix its random key")
    for i in range(len(xs)):
        _compare(oracle, i, got[i], names[i] + ("" if level == 1 else f" of the gradient of order {level - 1}"),
                 rtol, rng, elements)
    if order > level:
        _check(_pulled(f, len(xs)), [*xs, u], [*names, "the cotangent"], order, level + 1, rtol, rng, elements)


def _cotangent(y: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of either sign, none near 0, of y's shape and dtype and of some memory layout."""
    u = (rng.integers(32, 97, y.shape) / 64 * rng.choice([-1, 1], y.shape)).astype(y.dtype)
    return LAYOUTS[rng.choice(["C", "Fortran", "strided", "reversed", "read-only"])](np.asarray(u))


def _pulled(f: Callable[..., Tensor], n: int) -> Callable[..., Tensor]:
    """The gradient of <u, f> as a function of f's inputs and u: all inputs' gradients in one vector."""
    def gradient(*args: Tensor) -> Tensor:
        y = f(*args[:n])
        if not y.requires_grad:
            return OPS["mul"](OPS["concat"]([OPS["reshape"](t, shape=(-1,)) for t in args[:n]]), 0.0)
        parts = grad(y, args[:n], args[n], create_graph=True)
        return OPS["concat"]([OPS["reshape"](g, shape=(-1,)) for g in parts])
    return gradient


def _compare(oracle: Oracle, i: int, got: np.ndarray, name: str, rtol: float | None, rng: np.random.Generator,
             elements: int) -> None:
    """The gradient of input i against the oracle: along a direction through all elements, then one by one."""
    x, dtype = oracle.xs[i], got.dtype
    if not x.size:
        return
    eps = float(np.finfo(dtype).eps)
    if rtol is None:
        rtol = 64 * tolerance(dtype, max(a.size for a in oracle.xs))
    units, largest = unit(x), float(np.max(np.abs(got)))
    natural = float(np.max(np.abs(oracle.u * oracle.here), initial=0.0) / np.median(units))     # of a slope: <u, f>/x
    order = rng.permutation(x.size)
    ways: list[tuple[tuple[int, ...] | None, np.ndarray]] = [(None, random_way(x, rng))]
    for j in order[:elements]:
        at = tuple(int(k) for k in np.unravel_index(j, x.shape))
        way = np.zeros(x.shape)
        way[at] = units[at]
        ways.append((at, way))
    for at, way in reversed(ways):
        value, error = oracle.slope([way if k == i else 0.0 for k in range(len(oracle.xs))])
        length = float(np.sum(np.abs(way)))
        given = float(np.sum(got.astype(np.float64) * way))
        allowed = (rtol * largest + 64 * eps * natural) * length + 4 * error
        if not abs(given - value) <= allowed:
            where = "along a random direction" if at is None else f"at {list(at)} (x = {x[at]:.6g})"
            per = 1.0 if at is None else length
            raise GradcheckError(f"{name} {where}: the rules give {given / per:.10g}, {oracle.method} "
                                 f"{value / per:.10g} ± {error / per:.2g} (allowed difference {allowed / per:.2g})")


# --- one op ---------------------------------------------------------------------------------------
def differentiable(op: Op) -> bool:
    """Whether any input of the op has a derivative."""
    return op.result not in ("bool", "int64") and (op.vjps is None or callable(op.vjps) or any(op.vjps)) and any(
        isinstance(op.kind(i), Real) for i in range(len(op.inputs)))


def terms(op: Op, call: Call) -> int:
    """The length of the longest sum in the op, or a bound of it: 1 where elementwise, else the largest input's size."""
    if op.signature and op.signature.replace("(),", "()").replace("()", "") == "->":
        return 1
    return max((a.size for a in call.arrays if a is not None), default=1)


def check_meaning(op: Op, call: Call) -> None:
    """The op's result equals its meaning's in higher precision, and no input is written to. Raises CheckError.

    The allowed difference is tolerance(dtype, terms) · largest magnitude, and what the exact result itself moves when
    each input moves by one rounding: c · (ε · scale + moved), element by element, with c = 16 (1 + √terms).
    A kernel may skip what a mask or dropout would multiply by 0, also where that is NaN or infinite.
    """
    before = [None if a is None else a.copy() for a in call.arrays]
    got = devices.host(call.run(op).array())
    for i, (a, b) in enumerate(zip(call.arrays, before, strict=True)):
        if a is not None and not np.array_equal(a, np.asarray(b), equal_nan=is_float(a)):
            raise CheckError(f"{op.name}: input {i} was written to")
    with unfused(), devices.default_device("cpu"):
        exact = call.run(op, WIDE).array()
        reals = [a for a in call.arrays if is_float(a)]
        if got.dtype.kind != "f":
            allowed = np.zeros(exact.shape)
        else:
            eps = float(np.finfo(got.dtype).eps)
            scale = max((float(np.max(np.abs(a[np.isfinite(a)]), initial=0)) for a in reals), default=0.0)
            with np.errstate(all="ignore"):
                moved = np.abs(_nudged(call, eps).run(op, WIDE).array() - exact) if reals else np.zeros(exact.shape)
                moved = float(np.max(moved[np.isfinite(moved)], initial=0.0))
                allowed = 16 * (1 + terms(op, call)**0.5) * (eps * np.maximum(np.abs(exact), scale) + moved)
    with np.errstate(all="ignore"):
        want = exact.astype(got.dtype)
        same = (got == want) | ((got != got) & (want != want))
        if got.shape == want.shape and op.fused and any(isinstance(kind, (Bool, Key)) for kind in op.domain):
            same |= (got != got) | (want != want)
        close = np.abs(got.astype(WIDE) - exact) <= allowed if got.dtype.kind == "f" else same
    if got.shape != exact.shape or not (same | close).all():
        raise CheckError(f"{op.name}({_described(call)}): {_difference(got, want, same | close)}")


def _nudged(call: Call, eps: float) -> Call:
    rng = np.random.default_rng(0)
    return Call(tuple(a.astype(WIDE) * (1 + eps * rng.choice([-1, 1], a.shape)) if is_float(a) else a
                      for a in call.arrays), call.params)


def _difference(got: np.ndarray, want: np.ndarray, fine: np.ndarray) -> str:
    if got.shape != want.shape:
        return f"the result has shape {got.shape}, the meaning's {want.shape}"
    at = tuple(int(k) for k in np.argwhere(~fine)[0])
    return f"at {list(at)} the result is {got[at]!r}, its meaning says {want[at]!r}"


def _described(call: Call) -> str:
    given = ["None" if a is None else f"{a.dtype}{list(a.shape)} strides {a.strides}" for a in call.arrays]
    return ", ".join([*given, *(f"{k}={v!r}" for k, v in call.params.items())])


def check_shape_rule(op: Op, call: Call) -> None:
    """The shape and dtype that the record promises are those that running gives, by kernel and by meaning."""
    with shapes_only():
        promised = call.on(op, [None if a is None else Tensor.placeholder(a.shape, a.dtype) for a in call.arrays])
    made = call.run(op)
    with unfused():
        meant = call.run(op)
    for what, t in (("the result", made), ("its meaning", meant)):
        if (t.array().shape, t.array().dtype) != (promised.shape, promised.dtype):
            raise CheckError(f"{op.name}({_described(call)}): its record promises {promised.dtype} {promised.shape}, "
                             f"{what} is {t.array().dtype} {t.array().shape}")


def check_gradients(op: Op, call: Call, order: int = 1, elements: int = 8) -> None:
    """The op's rules against the slope, up to `order`. Raises GradcheckError."""
    real = [i for i, a in enumerate(call.arrays) if a is not None and isinstance(op.kind(i), Real)]
    rest: list[Any] = [None if a is None or i in real else leaf(a, False) for i, a in enumerate(call.arrays)]

    def f(*xs: Tensor) -> Tensor:
        given = list(rest)
        for i, x in zip(real, xs, strict=True):
            given[i] = x
        return call.on(op, given)

    if not np.isfinite(devices.host(call.run(op).array())).all():
        return                                   # the mean of no numbers: no value, no slope
    try:
        gradcheck(f, [call.arrays[i] for i in real], order, elements=elements)
    except GradcheckError as e:
        raise GradcheckError(f"{op.name}({_described(call)}): {e}") from None


def check_op(op: Op, examples: int = 25, order: int = 2) -> None:
    """Everything that can be checked of one op, on calls drawn from its record, in float32 and float64.

    Raises CheckError or GradcheckError with the smallest call found that shows what is wrong.
    """
    from hypothesis import given, settings

    for dtype in (np.float32, np.float64):
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, report_multiple_bugs=False)
        @given(calls(op, dtype))
        def every(call: Call) -> None:
            check_meaning(op, call)
            check_shape_rule(op, call)
            if differentiable(op):
                check_gradients(op, call, order)

        every()
