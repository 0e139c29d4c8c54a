"""Recorded kernels: what the tape wrote down gives, on new numbers, the bits that calling the kernels gives."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from engine.kernels.cpu import jit_disabled, kernel, tape

pytestmark = pytest.mark.skipif(jit_disabled(), reason="NUMBA_DISABLE_JIT=1: there is nothing to record")

Array = np.ndarray
SHAPE = (24, 37)


@contextmanager
def recording() -> Iterator[tape.Tape]:
    made = tape.CURRENT.tape = tape.Tape()
    try:
        yield made
    finally:
        tape.CURRENT.tape = None


def play(made: tape.Tape) -> None:
    """Run what was recorded, on memory full of rubbish."""
    for array in made.made:
        array.reshape(-1).view(np.uint8)[...] = 0xA7
    for step in made.steps:
        if isinstance(step, tape.Call):
            step.function(*step.arrays)
        else:
            arguments = [a.table() if isinstance(a, tape.Addresses) else a for a in step.arguments]
            (step.kernel.serial if step.serial else step.kernel)(step.blocks, *arguments)


def draw(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    values = {np.int64: lambda: rng.integers(0, 5, shape), bool: lambda: rng.random(shape) < 0.5}
    return np.asarray(values.get(dtype, lambda: rng.normal(size=shape))()).astype(dtype)


def check(call: Callable[..., Any], *inputs: tuple[tuple[int, ...], Any], layout: Callable = np.array) -> None:
    """Record on some numbers, write others into the same memory, play: the results are those of a call on them."""
    arrays = [layout(draw(shape, dtype, i)) for i, (shape, dtype) in enumerate(inputs)]
    with recording() as made:
        recorded = call(*arrays)
    fresh = [layout(draw(shape, dtype, 100 + i)) for i, (shape, dtype) in enumerate(inputs)]
    for a, b in zip(arrays, fresh, strict=True):
        a[...] = b
    play(made)
    with np.errstate(invalid="ignore"):
        expected = call(*fresh)
    assert made.steps, "nothing was recorded"
    several = isinstance(expected, tuple)
    for a, b in zip(recorded if several else [recorded], expected if several else [expected], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


LAYOUTS = {"C": np.array, "Fortran": lambda x: np.array(x, order="F"),
           "transposed": lambda x: np.array(x.swapaxes(0, -1), order="C").swapaxes(0, -1) if x.ndim else x}
ONE = ["exp", "log", "sin", "cos", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "sqrt", "abs", "neg"]
TWO = ["add", "sub", "mul", "div", "pow", "maximum", "minimum", "relu_vjp", "gelu_vjp", "tanh_vjp", "sigmoid_vjp",
       "silu_vjp"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_number(name: str, layout: str, dtype: Any) -> None:
    check(lambda x: kernel(name)(x), (SHAPE, dtype), layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shapes", [(SHAPE, SHAPE), (SHAPE, ()), ((), SHAPE), (SHAPE, (37,)), ((24, 1), SHAPE),
                                    ((24, 1), (37,)), ((3, 24, 37), (24, 1)), ((2, 1, 5), (3, 1)), ((0, 4), (4,))])
@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_numbers(name: str, shapes: Any, layout: str) -> None:
    left, right = shapes
    if 0 in left:
        assert kernel(name)(np.zeros(left, np.float32), np.zeros(right, np.float32)).shape == (0, 4)
        return
    check(lambda x, y: kernel(name)(x, y), (left, np.float32), (right, np.float32), layout=LAYOUTS[layout])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sqrt", "abs", "neg", "add", "sub", "mul", "div"])
def test_small_arrays_get_the_bits_of_the_kernel(name: str, dtype: Any) -> None:
    """NumPy does them, but for recording: NaN, infinities, zeros of either sign and subnormal numbers included."""
    hard = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -3e38, 1.0, 0.3], dtype)
    x, y = np.repeat(hard, len(hard)), np.tile(hard, len(hard))
    inputs = (x,) if name in ONE else (x, y)
    with recording() as made:
        recorded = kernel(name)(*inputs)
    play(made)
    with np.errstate(all="ignore"):
        called = kernel(name)(*inputs)
    real = ~np.isnan(called)
    np.testing.assert_array_equal(np.isnan(recorded), ~real)
    np.testing.assert_array_equal(recorded[real].view(np.uint8), called[real].view(np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shapes", [(SHAPE, SHAPE, ()), (SHAPE, (), SHAPE), ((24, 1), SHAPE, (37,)), ((), SHAPE, ()),
                                    ((37,), (), ())])
def test_where(shapes: Any, layout: str) -> None:
    condition, left, right = shapes
    check(lambda c, x, y: kernel("where")(c, x, y), (condition, bool), (left, np.float32), (right, np.float32),
          layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [None, (), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_sums(axis: Any, layout: str) -> None:
    check(lambda x: kernel("sum")(x, axis=axis), ((5, 7, 300), np.float32), layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [None, (0,), (1,), (2,), (0, 1), (0, 2)])
@pytest.mark.parametrize("name", ["max", "min", "argmax"])
def test_extremes(name: str, axis: Any, layout: str) -> None:
    axis = axis[0] if name == "argmax" and axis else axis
    check(lambda x: kernel(name)(x, axis=axis, keepdims=True), ((5, 7, 30), np.float32), layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shapes", [(SHAPE, ()), (SHAPE, SHAPE), ((24, 1), (37,))])
@pytest.mark.parametrize("name", ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"])
def test_comparisons(name: str, shapes: Any, layout: str) -> None:
    for dtype in (np.int64, np.float32):
        check(lambda x, y: kernel(name)(x, y), *((shape, dtype) for shape in shapes), layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truth(layout: str) -> None:
    one = (SHAPE, bool)
    check(lambda x, y: kernel("logical_and")(x, y), one, one, layout=LAYOUTS[layout])
    check(lambda x, y: kernel("logical_or")(x, y), one, one, layout=LAYOUTS[layout])
    check(lambda x: kernel("logical_not")(x), one, layout=LAYOUTS[layout])
    for name in ("isnan", "isinf", "isfinite"):
        check(lambda x, name=name: kernel(name)(x), (SHAPE, np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clip_and_astype(layout: str) -> None:
    check(lambda x: kernel("clip")(x, low=-0.5), (SHAPE, np.float32), layout=LAYOUTS[layout])
    for given, to in [(np.float32, np.float64), (np.float64, np.float32), (np.int64, np.float32), (bool, np.float64),
                      (bool, np.int64)]:
        check(lambda x, to=to: kernel("astype")(x, dtype=to), (SHAPE, given), layout=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("residuals", [True, False])
def test_cross_entropy(reduction: str, residuals: bool, layout: str) -> None:
    def both(x: Array, ids: Array, g: Array) -> tuple[Array, ...]:
        options = {"label_smoothing": 0.1, "reduction": reduction, "ignore_index": 0}
        out, *kept = kernel("cross_entropy")(x, ids, **options)
        named = dict(zip(("top", "total", "counted"), kept, strict=False)) if residuals else {}
        return out, *kept, kernel("cross_entropy_vjp")(g, x, ids, **options, **named)

    check(both, ((24, 37), np.float32), ((24,), np.int64), ((24,) if reduction == "none" else (), np.float32),
          layout=LAYOUTS[layout])


@pytest.mark.parametrize("rule", ["adam", "sgd", "momentum"])
def test_updates(rule: str) -> None:
    """Parameters, learning rate, step, norm and divisor: all are read when the step is played."""
    def step(p: Array, q: Array, g: Array, h: Array, numbers: Array, count: Array, divisor: Array) -> tuple[Array, ...]:
        kernel("count")([count])
        slots = [[np.zeros_like(p), np.zeros_like(q)] for _ in range(2)]
        options = {"lr": numbers[0:1].reshape(()), "norm": kernel("global_norm")([g, h]), "clip_norm": 1.0,
                   "divisor": divisor, "weight_decay": [0.1, 0.0]}
        if rule == "adam":
            kernel("adam")([p, q], [g, h], *slots, **options, beta1=0.9, beta2=0.99, eps=1e-8, step=count)
        else:
            kernel("sgd")([p, q], [g, h], *slots[:rule == "momentum"], **options, momentum=0.9)
        return p, q, *slots[0], *slots[1], count, options["norm"]

    check(step, (SHAPE, np.float32), ((5,), np.float64), (SHAPE, np.float32), ((5,), np.float64), ((2,), np.float64),
          ((), np.int64), ((), np.float32))
