"""The matrix-product kernel: right for every shape and layout, and the same bits on every path."""

import os

import numpy as np
import pytest

pytest.importorskip("numba")
if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    pytest.skip("kernels are switched off", allow_module_level=True)

from engine.kernels.cpu.jit import get_threads, set_threads
from engine.kernels.cpu.matmul import matmul

DTYPES = [np.float32, np.float64]
SHAPES = [
    ((1, 1), (1, 1)), ((3, 5), (5, 7)), ((14, 300), (300, 32)), ((29, 17), (17, 65)), ((130, 520), (520, 530)),
    ((600, 40), (40, 70)), ((1, 513), (513, 100)), ((7, 0), (0, 3)), ((0, 3), (3, 2)), ((3, 2), (2, 0)),
    ((2, 3, 4), (4, 5)), ((4, 1, 8, 9), (9, 33)), ((2, 300, 64), (2, 64, 128)), ((3, 20, 16), (3, 16, 20)),
    ((2, 1, 4, 5), (3, 5, 6)), ((4, 5), (3, 5, 6)), ((2, 3, 3, 4), (2, 3, 4, 16)), ((2, 2, 2, 3, 4), (2, 1, 4, 5)),
    ((0, 3, 4), (4, 2)), ((2, 3, 0), (2, 0, 4)),
]  # fmt: skip


def arrays(*shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def layouts(x):
    """The same numbers in every layout."""
    yield x
    yield np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    wide = np.full(tuple(2 * n + 1 for n in x.shape), np.nan, x.dtype)
    strided = wide[tuple(slice(1, 1 + 2 * n, 2) for n in x.shape)]
    strided[...] = x
    yield strided
    yield x[..., ::-1].copy()[..., ::-1]
    yield x[..., ::-1, :].copy()[..., ::-1, :]
    frozen = x.copy()
    frozen.flags.writeable = False
    yield frozen


@pytest.fixture
def threads():
    before = get_threads()
    yield range(1, min(2, before) + 1)
    set_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_right_and_the_same_for_any_layout_and_threads(shapes, dtype, threads):
    a, b = arrays(*shapes, dtype=dtype)
    exact = np.matmul(a.astype(np.longdouble), b.astype(np.longdouble))
    bound = np.matmul(abs(a).astype(float), abs(b).astype(float)) * (shapes[0][-1] + 1) * np.finfo(dtype).eps
    first = matmul(a, b)
    assert first.shape == exact.shape and first.dtype == dtype and first.flags.c_contiguous
    assert (abs(first - exact) <= bound).all()
    for n in threads:
        set_threads(n)
        for x in layouts(a):
            for y in layouts(b):
                assert np.array_equal(matmul(x, y), first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_is_one_chain_of_fused_multiply_adds(dtype):
    """The chain itself, computed exactly in a wider type where one step has room."""
    depth = 600
    a, b = arrays((5, depth), (depth, 37), dtype=np.float32)
    if dtype == np.float32:
        total = np.zeros((5, 37), np.float32)
        for k in range(depth):  # a float64 holds a product of float32 exactly; the sum is rounded to 53 bits first
            total = (a[:, k : k + 1].astype(float) * b[k].astype(float) + total).astype(np.float32)
        assert np.mean(matmul(a, b) == total) > 0.999  # double rounding is rare
    else:
        whole = matmul(np.round(a * 8).astype(dtype), np.round(b * 8).astype(dtype))
        assert np.array_equal(whole, np.round(a * 8).astype(int) @ np.round(b * 8).astype(int))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_neighbours(dtype):
    a, b = arrays((700, 333), (333, 90), dtype=dtype)
    whole = matmul(a, b)
    for rows in (slice(0, 1), slice(5, 7), slice(17, 50), slice(100, 699)):
        for columns in (slice(0, 1), slice(3, 20), slice(32, 64), slice(0, 89)):
            assert np.array_equal(matmul(a[rows], b[:, columns]), whole[rows, columns])
    batch = np.stack([a[:20], a[20:40], a[40:60]])
    assert np.array_equal(matmul(batch, b), whole[:60].reshape(3, 20, 90))
    assert np.array_equal(matmul(batch[:, None], b[None, None, :, :16]), whole[:60, :16].reshape(3, 1, 20, 16))
    assert np.array_equal(matmul(batch, np.broadcast_to(b, (3, 333, 90))), whole[:60].reshape(3, 20, 90))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_behind_the_sum_change_nothing(dtype):
    a, b = arrays((20, 300), (300, 40), dtype=dtype)
    longer_a, longer_b = np.zeros((20, 700), dtype), np.zeros((700, 40), dtype)
    longer_a[:, :300], longer_b[:300] = a, b
    assert np.array_equal(matmul(longer_a, longer_b), matmul(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_nan_and_infinity_stay_in_their_rows_and_columns(dtype, rows):
    a, b = arrays((rows, 50), (50, 45), dtype=dtype)
    a[0, 7], b[9, 3], b[11, 44] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = np.matmul(a.astype(float), b.astype(float))
    assert np.array_equal(np.isnan(matmul(a, b)), np.isnan(expected))
    assert np.array_equal(np.isinf(matmul(a, b)), np.isinf(expected))


def test_what_is_not_served():
    x = np.ones((2, 2))
    for other in (np.float32, np.int64, np.float16):
        assert matmul(x, x.astype(other)) is NotImplemented
    assert matmul(x.astype(int), x.astype(int)) is NotImplemented


def test_inputs_are_not_written():
    a, b = arrays((33, 65), (65, 40), dtype=np.float32)
    before = a.copy(), b.copy()
    matmul(a, b)
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])
