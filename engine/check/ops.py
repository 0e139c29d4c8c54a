"""One op checked against its own record: its kernel, shapes, dtypes, special values, gradients, and what it saves."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import device as devices
from engine.check.gradients import gradcheck, leaf
from engine.check.report import CheckError, GradcheckError, Report
from engine.check.strategies import Call, calls, is_float
from engine.core import Tensor
from engine.errors import GraphError
from engine.kernels import cpu
from engine.record import OUT, Bool, Key, Op, Real
from engine.state import shapes_only, unfused

WIDE = np.dtype(np.longdouble)       # no kernel serves it, so in this dtype every op runs its meaning
OWN = 4                              # see check_meaning; where it counts, attention's pullback is 1.0 times as far off


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
    each input moves by one rounding: c · (ε · scale + moved), element by element, with c = 16 (1 + √terms). Where a
    kernel is outside of that, it may be OWN times as far off as the op's meaning is in that dtype: large intermediate
    results that cancel cost both the same digits, and moving the inputs does not show it.
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
        if op.fused and got.dtype.kind == "f" and got.shape == exact.shape and not (same | close).all():
            close |= np.abs(got.astype(WIDE) - exact) <= OWN * _own_error(op, call, exact)
    if got.shape != exact.shape or not (same | close).all():
        raise CheckError(f"{op.name}({_described(call)}): {_difference(got, want, same | close)}\n"
                         f"{call.code(op, 'check_meaning')}")


def _own_error(op: Op, call: Call, exact: np.ndarray) -> float:
    """How far the meaning, computed in the call's own dtype, is from the exact result at most."""
    with unfused(), devices.default_device("cpu"):
        off = np.abs(call.run(op).array().astype(WIDE) - exact)
    return float(np.max(off[np.isfinite(off)], initial=0.0))


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


def check_gradients(op: Op, call: Call, order: int = 1, elements: int = 8) -> Report | None:
    """The op's rules against the slope, up to `order`. Raises GradcheckError."""
    real = [i for i, a in enumerate(call.arrays) if a is not None and isinstance(op.kind(i), Real)]
    rest: list[Any] = [None if a is None or i in real else leaf(a, False) for i, a in enumerate(call.arrays)]

    def f(*xs: Tensor) -> Tensor:
        given = list(rest)
        for i, x in zip(real, xs, strict=True):
            given[i] = x
        return call.on(op, given)

    if not np.isfinite(devices.host(call.run(op).array())).all():
        return None                              # the mean of no numbers: no value, no slope
    try:
        return gradcheck(f, [call.arrays[i] for i in real], order, elements=elements, mode="random", contract=False)
    except GradcheckError as e:
        error = GradcheckError(f"{op.name}({_described(call)}): {str(e).splitlines()[0]}\n"
                               f"{call.code(op, 'check_gradients')}")
        error.report = e.report
        raise error from None


def check_saves(op: Op, some: Sequence[Call]) -> None:
    """Everything that the op saves for its backward pass is read by some rule, on one of the calls. Raises CheckError.

    (That no rule reads what was not saved needs no check: it is not given the other arrays.)
    """
    kept = op.saves
    ruled = kept is not None and op.vjps is not None and not (op.fused and cpu.kernel(op.name) is None)
    for i in kept if ruled and kept is not None else ():
        if i == OUT and op.residuals:
            continue                             # kept beside residuals, it only spares work
        try:
            op.saves = tuple(k for k in kept or () if k != i)
            read = any(_fails_without(op, call) for call in some)
        finally:
            op.saves = kept
        if not read:
            name = "its output" if i == OUT else op.inputs[i]
            raise CheckError(f"{op.name} saves {name}, and no rule reads it: leave it out of `saves`")


def _fails_without(op: Op, call: Call) -> bool:
    try:
        check_gradients(op, call, order=1, elements=0)
    except (GraphError, GradcheckError):
        return True
    return False


def check_op(op: Op, examples: int = 25, order: int = 2) -> None:
    """Everything that an op owes, on calls drawn from its record, in float32 and float64: the result is its meaning's,
    also for NaN, infinities and ties; shape and dtype are those promised; no input is written to; gradients are slopes,
    to `order`; nothing is saved for nothing.

    Raises CheckError or GradcheckError with the smallest call found that shows what is wrong, and code that shows it
    again.
    """
    try:
        from hypothesis import HealthCheck, Phase, given, settings, target
    except ModuleNotFoundError:
        raise ModuleNotFoundError("check_op draws its calls with Hypothesis, which is not installed: pip install "
                                  "hypothesis", name="hypothesis") from None
    some: list[Call] = []
    search = settings(max_examples=examples, deadline=None, database=None, derandomize=True, report_multiple_bugs=False,
                      phases=[Phase.generate, Phase.target, Phase.shrink],
                      suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    for dtype in (np.float32, np.float64):
        @search
        @given(calls(op, dtype), calls(op, dtype, hard=True) | calls(op, dtype, hard=True, ties=True))
        def every(call: Call, hard: Call) -> None:
            check_meaning(op, call)
            check_shape_rule(op, call)
            if differentiable(op):
                report = check_gradients(op, call, order)
                some.append(call)
                if report is not None and report.worst > 0:
                    target(math.log10(report.worst), label="largest relative difference of a gradient, log10")
            check_meaning(op, hard)

        every()
    if differentiable(op):
        check_saves(op, some[:2 * examples])
