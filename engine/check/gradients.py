"""`gradcheck`: the engine's gradient of a function of tensors must be its slope, to any order."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from engine import device as devices
from engine.autograd import grad
from engine.check import contract
from engine.check.compare import Comparison
from engine.check.contract import Broken, Pullback
from engine.check.layouts import SAME
from engine.check.pullback import settle
from engine.check.report import GradcheckError, Report, script, written
from engine.check.slopes import Array, Slopes, Way, random_way, unit
from engine.core import Node, Tensor
from engine.errors import DtypeError, EngineError
from engine.record import OPS
from engine.state import STATE, unfused

STEP = 2.0**-100                         # of the complex step: nothing is subtracted, so it may be as small as we like
LONG = 1024                              # the longest sum that is reckoned with, in numbers
DENSE = (8, 32)                          # results and inputs of at most so many numbers: the whole Jacobian is compared


def tolerance(dtype: Any, terms: int = 1) -> float:
    """How far, relative to the numbers involved, a result may be off: 16 (1 + √terms) ε.

    ε is the dtype's rounding unit. `terms` is the length of the longest sum: rounding errors of a sum add up like a
    random walk, and 16 is for the handful of roundings outside the sum.
    """
    return 16 * (1 + terms**0.5) * float(np.finfo(dtype).eps)


def leaf(array: Array, requires_grad: bool = True) -> Tensor:
    """A tensor of this very array, or of one like it on the device where tensors are made, in its memory layout."""
    array = devices.laid_out(array)
    t = Tensor.wrap(array, Node(array.shape, array.dtype, STATE.get()))
    t.requires_grad = requires_grad
    return t


def gradcheck(f: Callable[..., Tensor], inputs: Any = (), order: int = 1, *, parameters: Any = None,
              rtol: float | None = None, seed: int = 0, elements: int = 64, mode: str = "auto", contract: bool = True,
              strict: bool = False, raises: bool = True) -> Report:
    """Check that the engine's gradient of f is its slope, and up to `order` that the gradient's own gradient is.

    f: any function of floating tensors to one floating tensor; it must give the same result when called again.
    inputs: tensors or arrays, float32 or float64 (the slope is found in float64 either way), in any memory layout;
    where one of them is on a card, f is given all of them there.
    parameters: also checked, as further inputs, though f reads them from elsewhere: a module with `named_parameters()`,
    a dict of tensors by name, or a list of tensors.
    rtol: relative difference that is let pass; default 64 · tolerance(dtype, largest size ≤ 1024). What else is allowed
    follows from the slope's error bar and the rounding of the numbers involved. elements: how many elements of each
    input to check one by one, after directions through all of them. mode: "dense" compares every number of the
    Jacobian, "random" one random combination of the results, "auto" chooses by size. contract: check as well that
    gradients are linear, repeatable, the same in every memory layout, for subsets of the inputs, and add up over two
    uses.

    Raises GradcheckError, which names the input, the element, both numbers and the error bar. Where the numbers cannot
    tell, the report's verdict is "inconclusive" and a warning is given (strict: the error is raised). raises=False: no
    error is raised; the report says it all.
    """
    if mode not in ("auto", "dense", "random"):
        raise ValueError(f"gradcheck: mode {mode!r}; there are auto, dense and random")
    given = [inputs] if isinstance(inputs, (Tensor, np.ndarray)) else list(inputs)
    names = [f"input {i}" + (f" ({x.name})" if isinstance(x, Tensor) and x.name else "") for i, x in enumerate(given)]
    held = _named(parameters)
    xs = [devices.host(x.array()) if isinstance(x, Tensor) else np.asarray(x) for x in (*given, *held.values())]
    names += [f"parameter {name}" for name in held]
    for x, name in zip(xs, names, strict=True):
        if x.dtype.kind != "f":
            raise DtypeError(f"gradcheck: {name} is {x.dtype}; pass the floating inputs, let f close over the others")
    report = Report()
    check = _Gradcheck(report, rtol, np.random.default_rng(seed), elements, mode, contract)
    on_card = any(isinstance(x, Tensor) and x.device == "cuda" for x in (*given, *held.values()))
    try:
        with devices.default_device("cuda") if on_card else nullcontext():
            check.level(_reading(f, list(held.values()), len(given)), xs, names, 1, order)
    except Broken as e:
        report.add("wrong", e.what, str(e))
    report.code = _script(report, xs, len(given), order, seed, bool(held))
    return settle(report, strict, raises)


def _named(parameters: Any) -> dict[str, Tensor]:
    if parameters is None:
        return {}
    if hasattr(parameters, "named_parameters"):
        return {name: t for name, t in parameters.named_parameters() if t.requires_grad}
    if hasattr(parameters, "parameters"):
        parameters = parameters.parameters()
    if isinstance(parameters, dict):
        return dict(parameters)
    return {t.name or str(i): t for i, t in enumerate(parameters)}


def _reading(f: Callable[..., Tensor], held: list[Tensor], n: int) -> Callable[..., Tensor]:
    """f as a function of its inputs and of the tensors that it reads from elsewhere."""
    if not held:
        return f

    @contextmanager
    def standing_in(others: Sequence[Tensor]) -> Iterator[None]:
        before = [(t._array, t.node) for t in held]
        try:
            for t, other in zip(held, others, strict=True):
                t._array, t.node = other._array, other.node
            yield
        finally:
            for t, (array, node) in zip(held, before, strict=True):
                t._array, t.node = array, node

    def with_parameters(*tensors: Tensor) -> Tensor:
        with standing_in(tensors[n:]):
            return f(*tensors[:n])
    return with_parameters


class _Gradcheck:
    """One run of gradcheck."""

    def __init__(self, report: Report, rtol: float | None, rng: np.random.Generator, elements: int, mode: str,
                 contract: bool) -> None:
        self.report, self.rtol, self.rng, self.elements = report, rtol, rng, elements
        self.mode, self.contract = mode, contract

    def level(self, f: Callable[..., Tensor], xs: list[Array], names: list[str], level: int, order: int) -> None:
        """The gradient of f, and of its gradient up to the order."""
        y = f(*[leaf(x) for x in xs])
        if not isinstance(y, Tensor) or y.dtype.kind != "f":
            what = y.dtype if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise DtypeError(f"gradcheck: f gives {what}; only a floating tensor has a gradient")
        if y.size and not np.isfinite(devices.host(y.array())).any():
            raise Broken("value", "f is not finite here, so it has no slope to check")
        u = self._cotangent(y)
        pull = Pullback(_forward(f), _vjp(f), names)
        here = pull.forward(xs)
        if not np.array_equal(here, pull.forward(xs), equal_nan=True):
            raise Broken("contract", "f gives different results for the same inputs; fix its random key")
        got = pull(u, xs)
        if self.contract and level == 1:
            contract.check(self.report, pull, xs, here, np.array(u), got, self.rng)
            self._subsets(f, pull, xs, u, got)
        labels = names if level == 1 else [f"{name} of the gradient of order {level - 1}" for name in names]
        if not self.report.wrong():
            for cotangent, found in self._cotangents(pull, xs, u, got):
                self._numbers(f, pull, xs, cotangent, found, labels)
                if self.report.wrong():
                    return
        if order > level and not self.report.wrong():
            self.level(_pulled(f, len(xs)), [*xs, u], [*names, "the cotangent"], level + 1, order)

    def _cotangent(self, y: Tensor) -> Array:
        """Random numbers of either sign, none near 0, of y's shape and dtype and of some memory layout."""
        u = (self.rng.integers(32, 97, y.shape) / 64 * self.rng.choice([-1, 1], y.shape)).astype(y.dtype)
        return SAME[self.rng.choice(["C", "Fortran", "strided", "reversed", "read-only"])](np.asarray(u))

    def _cotangents(self, pull: Pullback, xs: list[Array], u: Array,
                    got: list[Array]) -> Iterator[tuple[Array, list[Array]]]:
        """One random cotangent and its gradients, or, where there are few results, each result's alone."""
        dense = self.mode == "dense" or (self.mode == "auto" and self.contract and 1 < u.size <= DENSE[0]
                                         and sum(x.size for x in xs) <= DENSE[1])
        if not dense:
            yield u, got
            return
        for k in range(u.size):
            one = np.zeros(u.shape, u.dtype)
            one.flat[k] = 1
            yield one, pull(one, xs)

    def _numbers(self, f: Callable[..., Tensor], pull: Pullback, xs: list[Array], u: Array, got: list[Array],
                 names: list[str]) -> None:
        if not u.size or not any(x.size for x in xs):
            return
        slopes = Slopes(_forward(f), [x.astype(np.float64) for x in xs], u.astype(np.float64),
                        int(self.rng.integers(2**31)))
        eps = max(float(np.finfo(x.dtype).eps) for x in (*xs, u))
        rtol = self.rtol if self.rtol is not None else 64 * 16 * (1 + min(LONG, max(x.size for x in xs))**0.5) * eps
        values = float(np.max(np.abs(slopes.u * np.where(np.isfinite(slopes.here), slopes.here, 0.0)), initial=0.0))
        largest_u = float(np.max(np.abs(slopes.u), initial=0.0))
        slack, noise = [], [_rounding(m, eps * largest_u) for m in contract.conditioning(pull, xs, u, got, self.rng, 4)]
        found = 64 * float(np.finfo(np.float64).eps) * largest_u         # by the roundings of the slopes themselves
        for x, g, rounding in zip(xs, got, noise, strict=True):
            largest = float(np.max(np.abs(np.where(np.isfinite(g), g, 0.0)), initial=0.0))
            slack.append(rtol * largest + 64 * rounding + found
                         + (64 * eps * values / float(np.median(unit(x))) if x.size else 0.0))
        Comparison(self.report, slopes, names, got, rtol=max(rtol, 1e-9), eps=eps, rng=self.rng, runs=10**9,
                   elements=self.elements, exact=self._exact(f, slopes), slack=slack).all(range(len(xs)))
        self.report.runs += slopes.runs

    def _exact(self, f: Callable[..., Tensor], slopes: Slopes) -> Callable[[Way], float | None] | None:
        """Slopes by a complex step, Im f(x + ih)/h, where f is holomorphic (Squire & Trapp 1998): exact to rounding."""
        def step(way: Way) -> float | None:
            xs = [x + 1j * STEP * way.get(i, 0.0) for i, x in enumerate(slopes.xs)]
            with warnings.catch_warnings(), unfused(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                try:
                    y = devices.host(f(*[leaf(np.asarray(x)) for x in xs]).array())
                except (TypeError, ValueError, FloatingPointError, EngineError):
                    return None
            slopes.runs += 1
            if y.dtype.kind != "c" or not np.isfinite(y).all():
                return None
            return float(np.sum(slopes.u * y.imag.ravel())) / STEP

        way = {i: random_way(x, self.rng) for i, x in enumerate(slopes.xs) if x.size}
        guess = step(way)
        if guess is None:
            return None
        rough = slopes.slope(way, 1.0, guess, 1e-5)
        agrees = rough.kind == "smooth" and abs(rough.value - guess) <= 1e-5 * abs(guess) + 4 * rough.error
        return step if agrees else None

    def _subsets(self, f: Callable[..., Tensor], pull: Pullback, xs: list[Array], u: Array, got: list[Array]) -> None:
        """The gradient of one input does not depend on which others are asked for, and two uses add up."""
        if self.report.wrong() or not xs:
            return
        for i, name in enumerate(pull.names):
            tensors = [leaf(x, k == i) for k, x in enumerate(xs)]
            y = f(*tensors)
            alone = (devices.host(grad(y, tensors[i], leaf(u, False)).array()) if y.requires_grad
                     else np.zeros_like(xs[i]))
            if not np.array_equal(alone, got[i], equal_nan=True):
                self.report.add("wrong", "contract",
                                f"the gradient of {name} is another one when it alone requires one", name=name, input=i)
                return
        tensors = [leaf(x) for x in xs]
        y, z = f(*tensors), f(*tensors)
        if not y.requires_grad:
            return
        twice = grad(OPS["add"](y, z), tensors, leaf(u, False))
        for i, (t, g) in enumerate(zip(twice, got, strict=True)):
            both = devices.host(t.array())
            if not np.array_equal(both, g + g, equal_nan=True):
                apart = float(np.max(np.abs(both - (g + g)), initial=0.0))
                if apart > tolerance(g.dtype, g.size) * float(np.max(np.abs(g), initial=0.0)):
                    self.report.add("wrong", "contract", name=pull.names[i], input=i,
                                    message=f"the gradient of {pull.names[i]} over two uses is not the sum")
                    return


def _rounding(moved: Array, unit: float) -> float:
    """What roundings alone do to a gradient, of how far each element moves when inputs move by one.

    That of most elements, for a few can stand on a kink, and no more than some units of the cotangent's, where what
    cancels comes from.
    """
    return min(float(np.quantile(moved, 0.75, method="lower")), 16 * unit) if moved.size else 0.0


def _forward(f: Callable[..., Tensor]) -> Callable[..., Array]:
    return lambda *arrays: devices.host(f(*[leaf(a, False) for a in arrays]).array())


def _vjp(f: Callable[..., Tensor]) -> Callable[..., tuple[Array, ...]]:
    def pullback(g: Array, *arrays: Array) -> tuple[Array, ...]:
        tensors = [leaf(a) for a in arrays]
        y = f(*tensors)
        if not y.requires_grad:
            return tuple(np.zeros_like(a) for a in arrays)
        return tuple(devices.host(t.array()) for t in grad(y, tensors, leaf(g, False)))
    return pullback


def _pulled(f: Callable[..., Tensor], n: int) -> Callable[..., Tensor]:
    """The gradient of <u, f> as a function of f's inputs and u: all inputs' gradients in one vector."""
    def gradient(*args: Tensor) -> Tensor:
        y = f(*[_asked(t) for t in args[:n]])
        if not y.requires_grad:
            return OPS["mul"](OPS["concat"]([OPS["reshape"](t, shape=(-1,)) for t in args[:n]]), 0.0)
        parts = grad(y, args[:n], args[n], create_graph=True)
        return OPS["concat"]([OPS["reshape"](g, shape=(-1,)) for g in parts])
    return gradient


def _asked(t: Tensor) -> Tensor:
    if not t.requires_grad:
        t.requires_grad = True
    return t


def _script(report: Report, xs: list[Array], inputs: int, order: int, seed: int, parameters: bool) -> str:
    if not report.findings:
        return ""
    lines = ["import numpy as np", "from engine.check import gradcheck",
             *(f"x{i} = {written(x)}" for i, x in enumerate(xs[:inputs]))]
    more = (", parameters=…" if parameters else "") + (f", seed={seed}" if seed else "")
    return script([*lines, f"gradcheck(f, [{', '.join(f'x{i}' for i in range(inputs))}], {order}{more})"])


__all__ = ["GradcheckError", "gradcheck", "leaf", "tolerance"]
