"""Vectors of 16 numbers: exp and the square root against NumPy; and what a function inside kernels may return."""
from __future__ import annotations

import numpy as np
import pytest

from engine.kernels.cpu import jit_disabled

pytestmark = pytest.mark.skipif(jit_disabled(), reason="NUMBA_DISABLE_JIT=1: there are no vectors")

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.72, 88.73, -87.33, -87.34, 709.78, 709.79,
           -708.3, -800]


def applied(name: str, x: np.ndarray) -> np.ndarray:
    from engine.kernels.cpu import lanes, simd
    from engine.kernels.cpu.jit import kernel

    function = getattr(lanes, name)

    def vectors(lo, hi, x, out):
        for i in range(0, len(x), simd.LANES):
            n = len(x) - i
            simd.store_tail(out, i, function(simd.load_tail(x, i, n)), n)

    vectors.__name__ = f"vectors_of_{name}"
    out = np.empty_like(x)
    kernel("T[::1], T[::1]")(vectors)(1, x, out)
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp(dtype: type) -> None:
    rng = np.random.default_rng(0)
    edge = 87.3 if dtype == np.float32 else 708.3
    x = np.concatenate([SPECIAL, rng.uniform(-edge, edge, 50_001), rng.normal(size=50_000)]).astype(dtype)
    nan = np.frombuffer(np.uint32(0x7FC00001).tobytes(), np.float32)[0]         # one with a message in its low bits
    x[100] = nan
    with np.errstate(all="ignore"):
        exact = np.exp(x.astype(np.longdouble))
        near = exact.astype(dtype)
    near[np.abs(near) < np.finfo(dtype).tiny] = 0
    got = applied("exp", x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(near))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(near))
    finite = np.isfinite(near)
    error = np.abs(got[finite] - np.where(near[finite] == 0, 0, exact[finite]))
    assert (error <= np.spacing(np.maximum(near[finite], np.finfo(dtype).tiny))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_of_sixteen_numbers_has_the_bits_of_the_op(dtype: type) -> None:
    from engine.kernels.cpu import lanes, lift
    from engine.kernels.cpu.jit import kernel

    def logarithms(lo, hi, x):
        for i in range(lo, hi):
            lanes.log_all(x[16 * i : 16 * i + 16])

    rng = np.random.default_rng(0)
    x = np.concatenate([SPECIAL, np.exp(rng.uniform(-87, 88, 50_001)), rng.uniform(0, 4, 4 * 16 * 8)]).astype(dtype)
    x = x[: len(x) - len(x) % 16]
    expected = lift.log(x)
    kernel("T[::1]")(logarithms)(len(x) // 16, x)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_square_root(dtype: type) -> None:
    x = np.abs(np.concatenate([SPECIAL, np.random.default_rng(0).normal(size=1000)])).astype(dtype)
    np.testing.assert_array_equal(applied("sqrt", x), np.sqrt(x))


def test_a_function_inside_kernels_returns_no_array() -> None:
    """It counts no references, so its caller would give back what it never got."""
    from engine.kernels.cpu.jit import jit, kernel

    @jit
    def itself(x):
        return x, 1

    def first(lo, hi, x):
        x[0] = itself(x)[0][1]

    with pytest.raises(TypeError, match="itself returns an array"):
        kernel("T[::1]")(first)(1, np.zeros(2))


def test_a_function_inside_kernels_has_no_machine_code_of_its_own() -> None:
    import numba
    from numba.core.compiler_lock import global_compiler_lock

    from engine.kernels.cpu.jit import jit

    def double(x):
        return x + x

    for compiler, address in ((jit, False), (numba.njit, True)):
        compiled = compiler(double)
        compiled.compile((numba.float32,))
        (made,) = compiled.overloads.values()
        with global_compiler_lock:
            assert bool(made.library.get_pointer_to_function(made.fndesc.llvm_func_name)) is address
